import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { ChecksumSeeds, encodeNeedle } from "./needle.ts";

const document = readFileSync(path.join(import.meta.dirname, "FORMAT.md"), "utf8");

test("The needle that FORMAT.md shows is the one that the code writes", () => {
  const shown = /```hex needle\n([^`]*)```/.exec(document)?.[1] ?? "";
  const identity = {
    uuid: Buffer.from("000102030405060708090a0b0c0d0e0f", "hex"),
    generation: 0,
    recordMagic: Buffer.from("a1a2a3a4a5a6a7a8", "hex"),
  };
  const data = Buffer.from("hay");
  const { head, tail } = encodeNeedle(
    {
      cookie: 0x637037d6,
      metadata: Buffer.from("{}"),
      data,
      owner: { catalog: "1122334455667788", session: 1 },
      ttlSeconds: 0,
      timeMs: 1_790_000_000_000,
    },
    {
      offset: 8_192,
      ordinal: 0,
      epoch: 1,
      batchPosition: 0,
      batchCount: 1,
      watermark: 8_192,
      previousDigest: Buffer.alloc(8),
    },
    identity,
    new ChecksumSeeds(identity),
  );
  const written = Buffer.concat([head, data, tail]).toString("hex");
  expect(shown.replace(/\s/g, "")).toBe(written);
});

/** The worked examples of FORMAT.md are what the code writes, byte for byte. */

import { readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { crc32 } from "../../base/checksum.ts";
import { diskFiles } from "../../base/files.ts";
import { encodeCheckpoint } from "./checkpoint.ts";
import { DeleteLog } from "./delete-log.ts";
import { decodeDescriptor } from "./descriptor.ts";
import { batchDigest, ChecksumSeeds, encodeNeedle } from "./needle.ts";
import { OffsetIndex } from "./offset-index.ts";
import { decodeSuperblock, encodeSuperblock, type Superblock } from "./superblock.ts";

const document = readFileSync(path.join(import.meta.dirname, "../FORMAT.md"), "utf8");

function shown(name: string): string {
  const text = new RegExp(`\`\`\`hex ${name}\\n([^\`]*)\`\`\``).exec(document)?.[1] ?? "";
  return text.replace(/\s/g, "");
}

const superblock: Superblock = {
  volume: 3,
  uuid: Buffer.from("000102030405060708090a0b0c0d0e0f", "hex"),
  generation: 0,
  class: "original",
  recordMagic: Buffer.from("a1a2a3a4a5a6a7a8", "hex"),
  createdMs: 1_790_000_000_000,
  firstFree: 0,
  ttlSeconds: 0,
  hasSparseKeys: false,
};

const data = Buffer.from("hay");

function frame() {
  return encodeNeedle(
    {
      cookie: 0x637037d6,
      metadata: Buffer.from("{}"),
      data,
      owner: { catalog: "1122334455667788", session: 1 },
      codec: 0,
      contentLength: 3,
      isReservation: false,
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
    superblock,
    new ChecksumSeeds(superblock),
  );
}

test("The superblock that FORMAT.md shows is the one that the code writes, twice", () => {
  const bytes = encodeSuperblock(superblock);
  const start = bytes.subarray(0, 72);
  expect(bytes.subarray(72, 4_092).every((byte) => byte === 0)).toBe(true);
  expect(shown("superblock")).toBe(
    Buffer.concat([start, bytes.subarray(4_092, 4_096)]).toString("hex"),
  );
  expect(bytes.subarray(4_096)).toEqual(bytes.subarray(0, 4_096));
  expect(decodeSuperblock(bytes, "it")).toEqual(superblock);
});

test("The needle that FORMAT.md shows is the one that the code writes", () => {
  const { head, tail } = frame();
  expect(shown("needle")).toBe(Buffer.concat([head, data, tail]).toString("hex"));
});

test("The checkpoint that FORMAT.md shows is the one that the code writes", async () => {
  const { head, tail, ...needle } = frame();
  const index = new OffsetIndex();
  index.set(0, 8_192);
  const parts = await encodeCheckpoint(
    superblock,
    {
      index,
      tail: 8_192 + head.length + data.length + tail.length,
      epoch: 1,
      lastDigest: batchDigest([needle]),
      dataBytes: data.length,
      lastTimeMs: 1_790_000_000_000,
    },
    true,
  );
  expect(shown("checkpoint")).toBe(Buffer.concat(parts).toString("hex"));
});

test("The delete log that FORMAT.md shows is the one that the code writes", async () => {
  const folder = await mkdtemp(path.join(tmpdir(), "hayloft-format-"));
  try {
    const name = path.join(folder, "3.deleted");
    await DeleteLog.create(diskFiles, name, superblock);
    const log = await DeleteLog.open(diskFiles, name, superblock);
    await log.add(0, 1_790_000_001_000);
    await log.close();
    expect(shown("delete-log")).toBe((await readFile(name)).toString("hex"));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("The descriptor that FORMAT.md shows is one", () => {
  const text = /```json\n(\{"format"[^`]*)```/.exec(document)?.[1] ?? "";
  const [json = ""] = text.split("\n");
  expect(crc32(Buffer.from(json)).toString(16).padStart(8, "0")).toBe(text.split("\n")[1]);
  expect(decodeDescriptor(Buffer.from(text), "it")).toMatchObject({ volume: 7, state: "open" });
});

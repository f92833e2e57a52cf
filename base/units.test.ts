import { expect, test } from "vitest";
import { formatBytes, parseBytes } from "./units.ts";

test("Sizes are read as people write them", () => {
  const rows: [string, number | undefined][] = [
    ["0", 0],
    ["4096", 4_096],
    ["50MB", 50_000_000],
    ["1.5GiB", 1_610_612_736],
    ["8 kib", 8_192],
    ["", undefined],
    ["-1", undefined],
    ["1e3", undefined],
    ["10 parsecs", undefined],
    ["99999999999TB", undefined],
  ];
  for (const [text, bytes] of rows) expect(parseBytes(text), text).toBe(bytes);
});

test("Sizes are written short", () => {
  expect([0, 999, 1_000, 1_536, 1_048_576, 5 * 2 ** 30].map(formatBytes)).toEqual([
    "0 B",
    "999 B",
    "1.0 KiB",
    "1.5 KiB",
    "1.0 MiB",
    "5.0 GiB",
  ]);
});

import { expect, test } from "vitest";
import { formatBytes, formatDuration, parseBytes, parseRate } from "./units.ts";

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

test("Rates are read with and without the second", () => {
  const rows: [string, number | undefined][] = [
    ["50MB/s", 50_000_000],
    ["50MB", 50_000_000],
    ["1.5 GiB / s", 1_610_612_736],
    ["0", 0],
    ["50MB/min", undefined],
    ["/s", undefined],
    ["fast", undefined],
  ];
  for (const [text, bytes] of rows) expect(parseRate(text), text).toBe(bytes);
});

test("Times are written in their two largest units", () => {
  expect(
    [0, 42.4, 1_420, 9_999, 12_345, 60_000, 200_400, 7_500_000, 356_400_000].map(formatDuration),
  ).toEqual([
    "0 ms",
    "42 ms",
    "1.4 s",
    "10.0 s",
    "12 s",
    "1 min",
    "3 min 20 s",
    "2 h 5 min",
    "4 d 3 h",
  ]);
});

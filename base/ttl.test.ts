import { expect, test } from "vitest";
import { parseTtl, splitTtl, ttlUnitNumber } from "./ttl.ts";

test("A life is read in every unit, a bare number as minutes", () => {
  const minute = 60;
  expect(["", "0", "3m", "3", "4h", "5d", "6w", "7M", "8y"].map(parseTtl)).toEqual([
    0,
    0,
    3 * minute,
    3 * minute,
    4 * 60 * minute,
    5 * 1_440 * minute,
    6 * 10_080 * minute,
    7 * 43_200 * minute,
    8 * 525_600 * minute,
  ]);
  for (const text of ["m", "-1m", "3s", "3 m", "1.5h", "3mm", "1000y", "99999999999m"]) {
    expect(parseTtl(text), text).toBeUndefined();
  }
});

test("A life is shown with a count that fits in a byte, and never shorter than it is", () => {
  expect(splitTtl(0)).toBeUndefined();
  expect(splitTtl(180)).toEqual({ count: 3, unit: "m" });
  expect(splitTtl(256 * 60)).toEqual({ count: 5, unit: "h" });
  expect(ttlUnitNumber("m")).toBe(1);
  expect(ttlUnitNumber("y")).toBe(6);
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { openMsOf, ttlBucketSeconds } from "./ttl-bucket.ts";

test("A bucket holds every life that it is for, is less than twice as long, and fits in 32 bits", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 26 }), (minutes) => {
      const bucket = ttlBucketSeconds(minutes * 60);
      expect(bucket).toBeGreaterThanOrEqual(minutes * 60);
      expect(bucket).toBeLessThan(minutes * 60 * 2);
      expect(Number.isInteger(Math.log2(bucket / 60))).toBe(true);
      expect(bucket).toBeLessThanOrEqual(0xffff_ffff);
    }),
  );
  expect(ttlBucketSeconds(0)).toBe(0);
});

test("A volume takes needles for a quarter of their life, ten minutes at least", () => {
  expect(openMsOf(60)).toBe(600_000);
  expect(openMsOf(86_400)).toBe(21_600_000);
});

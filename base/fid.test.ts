import fc from "fast-check";
import { expect, test } from "vitest";
import { formatFid, parseFid } from "./fid.ts";

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });

test("Every fid is read back as it was written", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 0xffff_ffff }), u32, u32, (volume, ordinal, cookie) => {
      expect(parseFid(formatFid({ volume, ordinal, cookie }))).toEqual({ volume, ordinal, cookie });
    }),
  );
});

test("A fid looks like SeaweedFS's", () => {
  expect(formatFid({ volume: 3, ordinal: 1, cookie: 0x637037d6 })).toBe("3,01637037d6");
  expect(formatFid({ volume: 3, ordinal: 0, cookie: 0 })).toBe("3,0000000000");
});

test("One blob has one spelling: anything else is no fid", () => {
  for (const text of [
    "",
    "3",
    "3,",
    "3,637037d6",
    "0,01637037d6",
    "03,01637037d6",
    "3,1637037d6",
    "3,0001637037d6",
    "3,01637037D6",
    "4294967296,01637037d6",
    "3,010203040501637037d6",
    "3,01637037d6 ",
    "-3,01637037d6",
  ]) {
    expect(parseFid(text), text).toBeUndefined();
  }
});

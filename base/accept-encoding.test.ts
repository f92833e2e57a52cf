import { expect, test } from "vitest";
import { wantsCoding } from "./accept-encoding.ts";

test("A coding is wanted when it is named, not refused, and not less than the plain form", () => {
  const rows: [string | undefined, boolean][] = [
    [undefined, false],
    ["", false],
    ["gzip, deflate, br", false],
    ["gzip, zstd", true],
    ["ZSTD", true],
    ["zstd;q=0", false],
    ["zstd; q=0.000, gzip", false],
    ["gzip;q=1.0, zstd;q=0.5", true],
    ["identity, zstd;q=0.5", false],
    ["identity;q=0.5, zstd", true],
    ["*", false],
    ["xzstd", false],
  ];
  for (const [header, expected] of rows) {
    expect(wantsCoding(header, "zstd"), header).toBe(expected);
  }
});

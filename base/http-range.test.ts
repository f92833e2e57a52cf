import { expect, test } from "vitest";
import { parseRange, parseRanges } from "./http-range.ts";

test("A single range is read as RFC 9110 has it", () => {
  const rows: [string | undefined, number, ReturnType<typeof parseRange>][] = [
    [undefined, 10, undefined],
    ["bytes=0-0", 10, { start: 0, end: 1 }],
    ["bytes=2-5", 10, { start: 2, end: 6 }],
    ["bytes=2-", 10, { start: 2, end: 10 }],
    ["bytes=2-500", 10, { start: 2, end: 10 }],
    ["bytes=-3", 10, { start: 7, end: 10 }],
    ["bytes=-30", 10, { start: 0, end: 10 }],
    ["BYTES=1-2", 10, { start: 1, end: 3 }],
    ["bytes=10-", 10, "unsatisfiable"],
    ["bytes=-0", 10, "unsatisfiable"],
    ["bytes=0-", 0, "unsatisfiable"],
    ["bytes=5-2", 10, undefined],
    ["bytes=-", 10, undefined],
    ["bytes=0-1,3-4", 10, undefined],
    ["items=0-1", 10, undefined],
    ["bytes=a-b", 10, undefined],
    ["bytes=99999999999999999999-", 10, "unsatisfiable"],
  ];
  for (const [header, length, expected] of rows) {
    expect(parseRange(header, length), `${header} of ${length}`).toEqual(expected);
  }
});

test("A few ranges are read in their order, and many or too much are none", () => {
  const rows: [string | undefined, number, ReturnType<typeof parseRanges>][] = [
    [undefined, 10, undefined],
    ["bytes=2-5", 10, [{ start: 2, end: 6 }]],
    [
      "bytes=6-7, 0-1,-1",
      10,
      [
        { start: 6, end: 8 },
        { start: 0, end: 2 },
        { start: 9, end: 10 },
      ],
    ],
    ["bytes=0-1,,", 10, [{ start: 0, end: 2 }]],
    ["bytes=0-1,20-", 10, [{ start: 0, end: 2 }]],
    ["bytes=10-,20-", 10, "unsatisfiable"],
    ["bytes=0-1,5-2", 10, undefined],
    ["bytes=0-1,x", 10, undefined],
    ["bytes=", 10, undefined],
    ["bytes=0-,0-", 10, undefined],
    [`bytes=${"0-0,".repeat(16)}1-1`, 100, undefined],
    ["items=0-1", 10, undefined],
  ];
  for (const [header, length, expected] of rows) {
    expect(parseRanges(header, length), `${header} of ${length}`).toEqual(expected);
  }
});

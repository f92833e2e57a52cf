import { expect, test } from "vitest";
import { isNativePath, parseNativePath } from "./native-path.ts";

const fid = { volume: 3, key: 0x01n, runKey: 0x01n, cookie: 0x637037d6 };

test("A fid is read from all five forms", () => {
  const rows: [string, { lastSegment: string; fileName: string | undefined; extension: string }][] =
    [
      ["/3,01637037d6", { lastSegment: "3,01637037d6", fileName: undefined, extension: "" }],
      [
        "/3,01637037d6.jpg",
        { lastSegment: "3,01637037d6.jpg", fileName: undefined, extension: ".jpg" },
      ],
      ["/3/01637037d6", { lastSegment: "01637037d6", fileName: undefined, extension: "" }],
      [
        "/3/01637037d6.jpg",
        { lastSegment: "01637037d6.jpg", fileName: undefined, extension: ".jpg" },
      ],
      [
        "/3/01637037d6/my%20photo.jpg",
        { lastSegment: "my photo.jpg", fileName: "my photo.jpg", extension: ".jpg" },
      ],
    ];
  for (const [pathname, rest] of rows) {
    expect(parseNativePath(pathname), pathname).toEqual({ ...fid, ...rest });
  }
  expect(parseNativePath("/3%2C01637037d6")).toMatchObject(fid);
  expect(parseNativePath("/3,1637037D6")).toMatchObject(fid);
});

test("Keys have from 1 to 16 digits, even in number or odd, and a delta is added to them", () => {
  const keyOf = (text: string) => parseNativePath(`/3,${text}`)?.key;
  expect(keyOf("1637037d6")).toBe(1n);
  expect(keyOf("0001637037d6")).toBe(1n);
  expect(keyOf("ffffffffffffffff637037d6")).toBe(0xffff_ffff_ffff_ffffn);
  expect(keyOf("01637037d6_2")).toBe(3n);
  expect(keyOf("01637037d6_2.jpg")).toBe(3n);
  expect(keyOf("01637037d6_18446744073709551614")).toBe(0xffff_ffff_ffff_ffffn);
  expect(parseNativePath("/3/01637037d6_2/a.jpg")).toMatchObject({ key: 3n, runKey: 1n });
});

test("What is no fid is none", () => {
  const paths = [
    "/3,637037d6", // a cookie alone
    "/3,0ffffffffffffffff637037d6", // 25 digits
    "/3,01637037d6_18446744073709551615", // over 64 bits
    "/3,01637037d6_",
    "/3,01637037d6_-1",
    "/3,0x637037d601",
    "/3,01637037dg",
    "/4294967296,01637037d6",
    "/99999999999,01637037d6",
    "/3,01637037d6/a.jpg",
    "/3/01637037d6/a/b.jpg",
    "/3,%E0%A4%A",
    "/3",
    "/3/",
    "/x,01637037d6",
    "//3,01637037d6",
    "/",
    "",
  ];
  for (const pathname of paths) expect(parseNativePath(pathname), pathname).toBeUndefined();
});

test("A path that is meant to be a fid is told from all others", () => {
  for (const pathname of ["/3,x", "/3%2cx", "/3/x"]) expect(isNativePath(pathname)).toBe(true);
  for (const pathname of ["/status", "/volumes/3/needles", "/favicon.ico", "/3", "/x,1"]) {
    expect(isNativePath(pathname), pathname).toBe(false);
  }
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { bucketNameFault, formatTarget, readTarget, splitUrl } from "./target.ts";

test("Any key that UTF-8 can write is read back from its URL", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 50 }), (key) => {
      expect(readTarget(formatTarget({ bucket: "photos", key }))).toEqual({
        bucket: "photos",
        key,
      });
    }),
  );
});

test("A path is taken as it was sent", () => {
  const rows: [string, string | undefined][] = [
    ["/photos", undefined],
    ["/photos/", undefined],
    ["/photos/a//b", "a//b"],
    ["/photos//", "/"],
    ["/photos/../../etc/passwd", "../../etc/passwd"],
    ["/photos/a/./b/", "a/./b/"],
    ["/photos/%2e%2e%2Fx", "../x"],
    ["/photos/a%00b", "a\0b"],
    ["/photos/a+b%20c", "a+b c"],
    ["/photos/a%2Fb", "a/b"],
    ["/photos/%F0%9F%90%B4", "🐴"],
  ];
  for (const [path, key] of rows) expect(readTarget(path), path).toEqual({ bucket: "photos", key });
});

test("What is not percent-encoded UTF-8 is refused", () => {
  for (const path of ["/photos/%", "/photos/%zz", "/photos/%ff", "/photos/%ed%a0%80"]) {
    expect(() => readTarget(path), path).toThrow(/percent-encoded UTF-8/);
  }
});

test("A request target may be a whole URL", () => {
  expect(splitUrl("http://host:80/photos/a?w=1")).toEqual({ path: "/photos/a", query: "w=1" });
  expect(splitUrl("http://host")).toEqual({ path: "/", query: "" });
  expect(splitUrl("/photos/http://x?y?z")).toEqual({ path: "/photos/http://x", query: "y?z" });
});

test("Bucket names are S3's, less those that Hayloft keeps", () => {
  for (const name of ["photos", "a-b.c", "123", "x".repeat(63)]) {
    expect(bucketNameFault(name), name).toBeUndefined();
  }
  const bad = [
    "",
    "ab",
    "x".repeat(64),
    "Photos",
    "a_b",
    "-ab",
    "ab-",
    "a..b",
    "1.2.3.4",
    "ab/c",
    "é23",
  ];
  const kept = [
    "_i",
    "_status",
    "metrics",
    "livez",
    "readyz",
    "render",
    "cdn-cgi",
    "submit",
    "cluster",
  ];
  for (const name of [...bad, ...kept, "dir", "vol", "col"]) {
    expect(bucketNameFault(name), name).toBeDefined();
  }
});

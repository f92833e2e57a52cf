import fc from "fast-check";
import { expect, test } from "vitest";
import type { NativeMetadata } from "../volume/native-metadata.ts";
import { blobHeaders, formatDisposition, keptName, keptType, readPairs } from "./native-headers.ts";

const noPath = { fileName: undefined, extension: "" };

function headersOf(
  metadata: NativeMetadata,
  path: { fileName: string | undefined; extension: string } = noPath,
  query = "",
): Record<string, string> {
  const headers = blobHeaders(metadata, path, new URLSearchParams(query));
  return Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
}

const dangerous = {
  "content-length": "1",
  "content-type": "text/html",
  "content-encoding": "gzip",
  "content-security-policy": "default-src *",
  "transfer-encoding": "chunked",
  connection: "close",
  "set-cookie": "a=b",
  "access-control-allow-origin": "https://example.com",
  "strict-transport-security": "max-age=1",
  location: "https://example.com",
  date: "now",
  server: "me",
  etag: '"x"',
  "last-modified": "never",
  "accept-ranges": "none",
  "content-range": "bytes 0-0/1",
  "x-amz-request-id": "1",
  "x-hayloft-token": "1",
  "x-accel-redirect": "/etc/passwd",
  "x-sendfile": "/etc/passwd",
  "x-content-type-options": "none",
  "x-frame-options": "ALLOWALL",
  "x-file-store": "chunked",
  link: "</x>; rel=preload",
};

test("Of an uploader's headers only harmless ones are kept and answered", () => {
  const harmless = { "cache-control": "max-age=60", "x-album": "grün", expires: "0" };
  const given = { ...dangerous, ...harmless, "x-bad": "a\r\nset-cookie: b=c", "x-nul": "\0" };
  const sent = Object.entries(given).map(([name, value]) => [`seaweed-${name}`, value]);
  expect(readPairs({ ...Object.fromEntries(sent), "x-other": "1" })).toEqual(harmless);
  expect(readPairs({ host: "here" })).toBeUndefined();
  // An imported blob brings what nobody has looked at.
  const answered = headersOf({ pairs: given });
  expect(answered).toEqual({
    "cache-control": "max-age=60",
    "x-album": Buffer.from("grün").toString("latin1"),
    expires: "0",
    "content-type": "application/octet-stream",
    "x-content-type-options": "nosniff",
  });
});

test("Whatever is stored or asked for, no header can end before its time", () => {
  fc.assert(
    fc.property(
      fc.record({
        name: fc.string({ unit: "binary" }),
        type: fc.string({ unit: "binary" }),
        pairs: fc.dictionary(fc.string({ unit: "binary" }), fc.string({ unit: "binary" })),
      }),
      fc.string({ unit: "binary" }),
      (metadata, text) => {
        const query = new URLSearchParams(
          ["cache-control", "content-disposition", "content-type", "expires"].map(
            (name): [string, string] => [`response-${name}`, text.toWellFormed()],
          ),
        );
        const path = { fileName: text, extension: text };
        for (const [name, value] of blobHeaders(metadata, path, query)) {
          expect(name).toMatch(/^[\w.-]+$/);
          expect(value).toMatch(/^[\t\x20-\x7e\x80-\xff]*$/);
        }
      },
    ),
  );
});

test("A type is the stored one, or that of the name in the URL, of the blob, of the URL's extension", () => {
  const jpeg = "image/jpeg";
  expect(headersOf({ type: "image/png", name: "a.jpg" })["content-type"]).toBe("image/png");
  expect(headersOf({ type: "application/octet-stream", name: "a.jpg" })["content-type"]).toBe(jpeg);
  expect(headersOf({ type: "a\r\nb", name: "a.jpg" })["content-type"]).toBe(jpeg);
  expect(
    headersOf({ name: "a.png" }, { fileName: "b.JPG", extension: ".JPG" })["content-type"],
  ).toBe(jpeg);
  expect(headersOf({}, { fileName: undefined, extension: ".jpg" })["content-type"]).toBe(jpeg);
  expect(headersOf({ name: "a.unheardof" })["content-type"]).toBe("application/octet-stream");
});

test("What a browser would run is put in a sandbox, however its type came about", () => {
  const sandboxed = (metadata: NativeMetadata, path = noPath, query = "") =>
    headersOf(metadata, path, query)["content-security-policy"] === "sandbox";
  expect(sandboxed({ type: "text/html" })).toBe(true);
  expect(sandboxed({ type: "image/svg+xml" })).toBe(true);
  expect(sandboxed({ name: "a.html" })).toBe(true);
  expect(sandboxed({ type: "image/png" }, noPath, "response-content-type=text%2Fhtml")).toBe(true);
  expect(sandboxed({ type: "image/png" })).toBe(false);
  expect(headersOf({ type: "image/png" }, noPath, "response-content-type=a%0D%0Ab")).toMatchObject({
    "content-type": "image/png",
  });
});

test("A name is bare, short and without control characters; a type says more than the name", () => {
  expect(keptName("C:\\photos\\a.jpg")).toBe("a.jpg");
  expect(keptName("/photos/a\r\n.jpg")).toBe("a.jpg");
  expect(["", ".", "..", "a/", undefined, "a".repeat(256), "ü".repeat(128)].map(keptName)).toEqual(
    Array.from({ length: 7 }, () => undefined),
  );
  expect(keptName("ü".repeat(127))).toBe("ü".repeat(127));
  expect(keptType("image/jpeg", "a.jpg")).toBeUndefined();
  expect(keptType("image/jpeg", "a.png")).toBe("image/jpeg");
  expect(keptType("image/jpeg", undefined)).toBe("image/jpeg");
  expect(keptType("application/octet-stream", "a.jpg")).toBeUndefined();
  expect(keptType("text/plain; charset=latin1", "a.txt")).toBe("text/plain; charset=latin1");
  expect(keptType("nonsense", undefined)).toBeUndefined();
  expect(keptType(`image/${"x".repeat(250)}`, undefined)).toBeUndefined();
});

test("A file's name goes out in a form that old and new readers understand", () => {
  expect(formatDisposition("inline", "a b.jpg")).toBe('inline; filename="a b.jpg"');
  expect(formatDisposition("attachment", "grün.jpg")).toBe(
    "attachment; filename=\"gr_n.jpg\"; filename*=UTF-8''gr%C3%BCn.jpg",
  );
  expect(formatDisposition("inline", 'say "hi" 100%.jpg')).toBe(
    "inline; filename=\"say _hi_ 100_.jpg\"; filename*=UTF-8''say%20%22hi%22%20100%25.jpg",
  );
  expect(headersOf({ name: "a.jpg" }, noPath, "dl=true")["content-disposition"]).toBe(
    'attachment; filename="a.jpg"',
  );
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { ArchivePaths, safePath, wantedPath } from "./archive-path.ts";

const fid = "3,01637037d6";

test("A blob is called what people call it", () => {
  const path = (metadata: unknown, contentLength = 5) =>
    wantedPath({ fid, metadata, contentLength });
  const part = { bucket: "photos", key: "film/hay.mp4" };
  expect(path({ bucket: "photos", key: "2026/hay.jpg", chunk: 0 })).toBe("photos/2026/hay.jpg");
  expect(path({ ...part, chunk: 0 }, 8_388_608)).toBe("photos/film/hay.mp4.chunk-0000");
  expect(path({ ...part, chunk: 12 })).toBe("photos/film/hay.mp4.chunk-0012");
  expect(path({ name: "cat.jpg" })).toBe("cat.jpg");
  expect(path({ name: "../../cat.jpg" })).toBe("cat.jpg");
  expect(path({ name: "" })).toBe(fid);
  for (const nothing of [{}, undefined, null, 3, { bucket: 1, key: 2 }]) {
    expect(path(nothing)).toBe(fid);
  }
});

test("A path steps nowhere, and holds nothing that a terminal obeys", () => {
  const rows: [string, string][] = [
    ["../../etc/passwd", "__/__/etc/passwd"],
    ["/etc/passwd", "_/etc/passwd"],
    ["a//b/./c/", "a/_/b/_/c/_"],
    ["..\\..\\boot.ini", ".._.._boot.ini"],
    ["red\u001b[31m\nline\u0000\u202egpj", "red_[31m_line__gpj"],
    ["half \ud800 pair", "half \ufffd pair"],
  ];
  for (const [text, path] of rows) expect(safePath(text), text).toBe(path);
  const long = safePath(`${"ü".repeat(400)}.jpeg`);
  expect(Buffer.byteLength(long)).toBeLessThanOrEqual(200);
  expect(long).toMatch(/^ü+\.jpeg$/);
});

test("Paths can all be unpacked in one folder, whatever was wanted", () => {
  const name = fc.constantFrom(
    "a",
    "A",
    "b.jpg",
    "é",
    "e\u0301",
    "..",
    "",
    "_fid",
    "manifest.ndjson",
  );
  const wanted = fc
    .array(name, { minLength: 1, maxLength: 4 })
    .map((parts) => safePath(parts.join("/")));
  fc.assert(
    fc.property(fc.array(wanted, { maxLength: 60 }), (all) => {
      const paths = new ArchivePaths(all.length);
      const claimed = all.map((path, at) => paths.claim(path, `3,${at.toString(16)}`));
      const names = claimed.map((path) => path.normalize("NFC").toLowerCase());
      expect(new Set(names).size).toBe(names.length);
      for (const path of names) {
        expect(path.startsWith("/") || path.split("/").includes("..")).toBe(false);
        expect(names.some((other) => other.startsWith(`${path}/`))).toBe(false);
        expect(path).not.toBe("manifest.ndjson");
      }
    }),
    { seed: 1, numRuns: 300 },
  );
});

test("Of many different paths few get a longer name", () => {
  const paths = new ArchivePaths(20_000);
  let longer = 0;
  for (let at = 0; at < 20_000; at++) {
    const wanted = `photos/${at % 100}/hay-${at}.jpg`;
    if (paths.claim(wanted, fid) !== wanted) longer += 1;
  }
  expect(longer).toBeLessThan(20);
});

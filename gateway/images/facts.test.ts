import fc from "fast-check";
import sharp, { type Sharp } from "sharp";
import { expect, test } from "vitest";
import { readHeaderFacts, sniffFormat } from "./facts.ts";

const red = { r: 200, g: 30, b: 30 };

function paint(width: number, height: number): Sharp {
  return sharp({ create: { width, height, channels: 3, background: red } });
}

/** A box of the ISO media format: length, name, content. */
function box(name: string, ...content: Buffer[]): Buffer {
  const body = Buffer.concat(content);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + body.length);
  head.write(name, 4, "latin1");
  return Buffer.concat([head, body]);
}

function ftyp(...brands: string[]): Buffer {
  const [major = "", ...compatible] = brands;
  return box("ftyp", Buffer.from(`${major}\0\0\0\0${compatible.join("")}`, "latin1"));
}

function ispe(width: number, height: number): Buffer {
  const content = Buffer.alloc(12);
  content.writeUInt32BE(width, 4);
  content.writeUInt32BE(height, 8);
  return box("ispe", content);
}

for (const format of ["jpeg", "png", "webp", "avif", "gif", "tiff"] as const) {
  test(`A ${format} is known by its bytes`, async () => {
    expect(sniffFormat(await paint(8, 8)[format]().toBuffer())).toBe(format);
  });
}

test("HEIC and AVIF are told apart by their brands", () => {
  expect(sniffFormat(ftyp("heic", "mif1", "heic"))).toBe("heic");
  expect(sniffFormat(ftyp("heix"))).toBe("heic");
  expect(sniffFormat(ftyp("mif1", "mif1", "heic"))).toBe("heic");
  expect(sniffFormat(ftyp("msf1", "hevc"))).toBe("heic");
  expect(sniffFormat(ftyp("avif", "mif1"))).toBe("avif");
  expect(sniffFormat(ftyp("mif1", "avif"))).toBe("avif");
  expect(sniffFormat(ftyp("isom", "mp42"))).toBeUndefined();
});

test("SVG is known behind whatever may stand before its root", () => {
  const root = '<svg xmlns="http://www.w3.org/2000/svg"/>';
  for (const before of [
    "",
    "\ufeff",
    " \n",
    '<?xml version="1.0"?>\n',
    "<!-- a > b --><!DOCTYPE svg>",
  ]) {
    expect(sniffFormat(Buffer.from(before + root)), before).toBe("svg");
  }
  for (const text of ["<html><svg/></html>", "<svgx/>", "<!-- <svg/>", "svg", "<?xml?"]) {
    expect(sniffFormat(Buffer.from(text)), text).toBeUndefined();
  }
  expect(sniffFormat(Buffer.from("<!---->".repeat(100_000)))).toBeUndefined();
});

test("Any bytes, of any length, are sniffed without a throw", () => {
  const starts = [
    "",
    "RIFF____WEBPVP8X",
    "RIFF____WEBPVP8L/",
    "GIF89a",
    "\0\0\0\x18ftypmif1",
    "<svg ",
  ];
  const start = fc.constantFrom(...starts).map((text) => Buffer.from(text, "latin1"));
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 80 }), (head, tail) => {
      const bytes = Buffer.concat([head, tail]);
      for (let length = 0; length <= bytes.length; length++) {
        sniffFormat(bytes.subarray(0, length));
        readHeaderFacts(bytes.subarray(0, length));
      }
    }),
  );
});

test("The facts of a HEIC come from the largest of its pictures", () => {
  const bytes = Buffer.concat([
    ftyp("heic", "mif1"),
    ispe(512, 512),
    ispe(4_032, 3_024),
    ispe(320, 240),
  ]);
  expect(readHeaderFacts(bytes)).toMatchObject({ format: "heic", width: 4_032, height: 3_024 });
  expect(readHeaderFacts(ftyp("heic"))).toMatchObject({ format: "heic", width: 0, height: 0 });
});

test("A WebP and a GIF tell their size in their first bytes", async () => {
  const size = { width: 317, height: 211 };
  const pictures = {
    lossy: await paint(317, 211).webp().toBuffer(),
    lossless: await paint(317, 211).webp({ lossless: true }).toBuffer(),
    extended: await paint(317, 211).webp().withIccProfile("p3").toBuffer(),
    gif: await paint(317, 211).gif().toBuffer(),
  };
  for (const [name, bytes] of Object.entries(pictures)) {
    expect(readHeaderFacts(bytes.subarray(0, 40)), name).toMatchObject(size);
  }
});

test("A piece of a WebP whose orientation stands at its end tells nothing", async () => {
  const bytes = await paint(300, 200).webp().withMetadata({ orientation: 6 }).toBuffer();
  expect(readHeaderFacts(bytes.subarray(0, 40))).toBeUndefined();
});

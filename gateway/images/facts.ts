/**
 * What a picture is, found out from its first bytes: its format by content, and the facts that a
 * transform is planned with.
 *
 * Invariants:
 * - A file name or a Content-Type is never evidence; only bytes are.
 * - Nothing here decodes: these functions read a few fixed places and take bounded time on any bytes.
 */

export type ImageFormat = "jpeg" | "png" | "webp" | "avif" | "gif" | "heic" | "svg" | "tiff";

export interface ImageFacts {
  /** As stored, before the orientation is applied; 0 when the format is known and the size is not. */
  width: number;
  height: number;
  /** EXIF's 1 … 8; 1 when nothing is said. */
  orientation: number;
  format: ImageFormat;
  /** Frames of an animation; 1 for a still picture. */
  pages: number;
  hasAlpha: boolean;
}

export type DecodableFormat = "jpeg" | "png" | "webp" | "avif" | "gif";

/** The formats that the image process decodes; what is not among them never reaches it. */
const decodableFormats: readonly string[] = ["jpeg", "png", "webp", "avif", "gif"];

export function isDecodable(format: ImageFormat): format is DecodableFormat {
  return decodableFormats.includes(format);
}

const heicBrands = new Set(["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"]);
const avifBrands = new Set(["avif", "avis"]);

/** The format that the bytes begin like, or undefined for everything else. */
export function sniffFormat(bytes: Uint8Array): ImageFormat | undefined {
  const head = asBuffer(bytes);
  if (head.length >= 3 && head.readUIntBE(0, 3) === 0xffd8ff) return "jpeg";
  const start = head.toString("latin1", 0, 12);
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "png";
  if (start.startsWith("GIF87a") || start.startsWith("GIF89a")) return "gif";
  if (start.startsWith("RIFF") && start.endsWith("WEBP") && start.length === 12) return "webp";
  if (/^(?:II[*+]\0|MM\0[*+])/.test(start)) return "tiff";
  if (start.slice(4, 8) === "ftyp") return sniffBrand(head);
  return beginsLikeSvg(head) ? "svg" : undefined;
}

function sniffBrand(head: Buffer): "avif" | "heic" | undefined {
  const boxLength = head.readUInt32BE(0);
  // The major brand says what the file is; mif1 and msf1 leave that to the compatible brands.
  const brands = [head.toString("latin1", 8, 12)];
  for (let at = 16; at + 4 <= Math.min(boxLength, head.length, 256); at += 4) {
    brands.push(head.toString("latin1", at, at + 4));
  }
  for (const brand of brands) {
    if (avifBrands.has(brand)) return "avif";
    if (heicBrands.has(brand)) return "heic";
  }
  return undefined;
}

/** Steps over what may stand before the root element, one construct after the other. */
function beginsLikeSvg(head: Buffer): boolean {
  let text = head.toString("utf8", 0, 4_096).replace(/^\ufeff/, "");
  for (;;) {
    text = text.trimStart();
    const end = text.startsWith("<!--") ? "-->" : /^<[?!]/.test(text) ? ">" : undefined;
    if (end === undefined) return /^<svg[\s/>]/.test(text);
    const at = text.indexOf(end);
    if (at < 0) return false;
    text = text.slice(at + end.length);
  }
}

/**
 * The facts of a picture that is only known from a piece of it, or that we never decode, as far as
 * its header gives them; undefined when a size is needed and is not there.
 */
export function readHeaderFacts(bytes: Uint8Array): ImageFacts | undefined {
  const head = asBuffer(bytes);
  const format = sniffFormat(head);
  const still = { orientation: 1, pages: 1 };
  switch (format) {
    case "svg":
    case "tiff":
      return { ...still, width: 0, height: 0, format, hasAlpha: false };
    case "heic":
      return { ...still, ...readLargestExtent(head), format, hasAlpha: false };
    case "gif": {
      if (head.length < 10) return undefined;
      const size = { width: head.readUInt16LE(6), height: head.readUInt16LE(8) };
      return { ...still, ...size, format, hasAlpha: true };
    }
    case "webp":
      return readWebpFacts(head);
    default:
      return undefined;
  }
}

// WebP, after RIFF, length and "WEBP": the first chunk decides where the size is.
//   VP8X  20 flags u8 (2 animation, 8 EXIF, 16 alpha), 24 width - 1 u24, 27 height - 1 u24
//   VP8   23 start code 9d 01 2a, 26 width u14, 28 height u14
//   VP8L  20 signature 2f, 21 width - 1 u14, height - 1 u14, alpha u1
function readWebpFacts(head: Buffer): ImageFacts | undefined {
  if (head.length < 30) return undefined;
  const still = { orientation: 1, pages: 1, format: "webp" } as const;
  switch (head.toString("latin1", 12, 16)) {
    case "VP8X": {
      const flags = head.readUInt8(20);
      // EXIF stands at the file's end: with the orientation unknown the size says too little.
      if ((flags & 8) !== 0) return undefined;
      const size = { width: head.readUIntLE(24, 3) + 1, height: head.readUIntLE(27, 3) + 1 };
      return { ...still, ...size, hasAlpha: (flags & 16) !== 0 };
    }
    case "VP8 ": {
      if (head.readUIntBE(23, 3) !== 0x9d012a) return undefined;
      const size = {
        width: head.readUInt16LE(26) & 0x3fff,
        height: head.readUInt16LE(28) & 0x3fff,
      };
      return { ...still, ...size, hasAlpha: false };
    }
    case "VP8L": {
      if (head.readUInt8(20) !== 0x2f) return undefined;
      const bits = head.readUInt32LE(21);
      const size = { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
      return { ...still, ...size, hasAlpha: ((bits >>> 28) & 1) === 1 };
    }
    default:
      return undefined;
  }
}

/** The largest `ispe` box: a phone's HEIC has one for each tile, one for the thumbnail, one for all. */
function readLargestExtent(head: Buffer): { width: number; height: number } {
  let largest = { width: 0, height: 0 };
  const end = Math.min(head.length, 256 * 1_024);
  for (
    let at = head.indexOf("ispe");
    at >= 0 && at + 16 <= end;
    at = head.indexOf("ispe", at + 4)
  ) {
    const extent = { width: head.readUInt32BE(at + 8), height: head.readUInt32BE(at + 12) };
    if (extent.width > 0xffff || extent.height > 0xffff) continue;
    if (extent.width * extent.height > largest.width * largest.height) largest = extent;
  }
  return largest;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

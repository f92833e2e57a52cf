/** Pictures that behave like photos, made by code: large shapes, fine grain, and all between. */

import sharp from "sharp";
import { seededRandom } from "../base/random.ts";

export interface PhotoOptions {
  seed: number;
  width: number;
  height: number;
}

/** Grain at each scale: cells across the picture's width, and how far they reach from grey. */
const octaves = [
  { cells: 5, reach: 90 },
  { cells: 20, reach: 50 },
  { cells: 80, reach: 28 },
  { cells: 320, reach: 14 },
  { cells: 1_280, reach: 7 },
];

/** A JPEG that costs about as much to decode and to encode as a camera's of that size. */
export async function makePhoto({ seed, width, height }: PhotoOptions): Promise<Buffer> {
  const random = seededRandom(seed);
  const pixels = new Int16Array(width * height * 3).fill(128);
  for (const { cells, reach } of octaves) {
    const columns = Math.min(cells, width);
    const rows = Math.max(1, Math.round((columns * height) / width));
    const grain = await sharp(random.bytes(columns * rows * 3), {
      raw: { width: columns, height: rows, channels: 3 },
    })
      .resize({ width, height, fit: "fill", kernel: "cubic" })
      .raw()
      .toBuffer();
    for (let at = 0; at < pixels.length; at++) {
      pixels[at] = (pixels[at] ?? 0) + (((grain[at] ?? 128) - 128) * reach) / 128;
    }
  }
  const clamped = Buffer.from(Uint8ClampedArray.from(pixels).buffer);
  return await sharp(clamped, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 86 })
    .toBuffer();
}

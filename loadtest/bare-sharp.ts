/**
 * The baseline for pictures: sharp alone, from memory to memory, with no server around it.
 *
 *     node loadtest/bare-sharp.ts AT_ONCE PHOTO...
 *
 * For every line of input, a number, it renders so many pictures, always AT_ONCE of them under way,
 * and answers with a line: the seconds it took. UV_THREADPOOL_SIZE comes from whoever starts it.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import sharp from "sharp";

// As the server's image process has them.
sharp.concurrency(1);
sharp.cache(false);

async function render(photo: Buffer): Promise<number> {
  const bytes = await sharp(photo, { autoOrient: true, sequentialRead: true })
    .resize({ width: 512, withoutEnlargement: true })
    .toColourspace("srgb")
    .jpeg({ quality: 80 })
    .toBuffer();
  return bytes.length;
}

async function renderMany(photos: readonly Buffer[], count: number, atOnce: number): Promise<void> {
  let next = 0;
  const renderRest = async () => {
    while (next < count) {
      const photo = photos[next % photos.length];
      next += 1;
      if (photo !== undefined) await render(photo);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, renderRest));
}

const [atOnce, ...files] = process.argv.slice(2);
const photos = files.map((file) => readFileSync(file));
for await (const line of createInterface({ input: process.stdin })) {
  const startedMs = performance.now();
  await renderMany(photos, Number(line), Number(atOnce));
  console.log((performance.now() - startedMs) / 1_000);
}

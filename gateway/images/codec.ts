/**
 * Pixels: reading a picture's facts and rendering it, with sharp. Runs in the image process only;
 * the gateway never loads this file.
 *
 * Invariants:
 * - libvips sees bytes in memory of five formats, and neither a file name nor another format.
 * - What comes out is upright, sRGB, without metadata, and of exactly the size that was planned.
 */

import { createHash } from "node:crypto";
import sharp, { type Sharp } from "sharp";
import { Failure } from "../../base/failure.ts";
import { type ImageFacts, isDecodable, sniffFormat } from "./facts.ts";
import { type RenderPlan, sourcePixelsMax } from "./transform.ts";

// One thread a picture, many pictures: threads inside one would only fight for the same cores.
sharp.concurrency(1);
// No two inputs are alike, so libvips' cache would only hold on to memory.
sharp.cache(false);
sharp.block({ operation: ["VipsForeignLoad"] });
sharp.unblock({
  operation: [
    "VipsForeignLoadJpegBuffer",
    "VipsForeignLoadPngBuffer",
    "VipsForeignLoadWebpBuffer",
    "VipsForeignLoadHeifBuffer",
    "VipsForeignLoadNsgifBuffer",
  ],
});

/** How each format is written. Measured: loadtest's bench and README.md. */
const profile = {
  jpeg: { progressive: false, mozjpeg: false, chromaSubsampling: "4:2:0" },
  // Effort 4 makes files 5 % smaller and takes 40 % longer.
  webp: { effort: 2 },
  avif: { effort: 1, chromaSubsampling: "4:2:0" },
  png: { compressionLevel: 6 },
} as const;

const white = { r: 255, g: 255, b: 255, alpha: 1 };
const transparent = { r: 0, g: 0, b: 0, alpha: 0 };

/** Other versions or settings make other bytes of the same picture. */
export const encoderRevision: string = createHash("sha256")
  .update(JSON.stringify([sharp.versions, profile]))
  .digest("hex")
  .slice(0, 16);

/** Facts of a picture of which `head` is the beginning or all; throws what libvips says. */
export async function readFacts(head: Uint8Array): Promise<ImageFacts> {
  const format = sniffFormat(head);
  if (format === undefined || !isDecodable(format)) throw undecodable(undefined);
  // A header is read and nothing decoded: the facts of a picture too big to decode are wanted too.
  const input = sharp(head, { limitInputPixels: false, failOn: "none" });
  const { width, height, orientation = 1, pages = 1, hasAlpha } = await input.metadata();
  return { width, height, orientation, format, pages, hasAlpha };
}

/** The rendered bytes, in memory that can be handed to another thread. */
export async function render(
  source: Uint8Array,
  plan: RenderPlan,
  { limitMs }: { limitMs: number },
): Promise<Uint8Array> {
  const format = sniffFormat(source);
  if (format === undefined || !isDecodable(format)) throw undecodable(undefined);
  try {
    const { data, info } = await makePipeline(source, plan)
      .timeout({ seconds: Math.max(1, Math.ceil(limitMs / 1_000)) })
      .toUint8Array();
    if (info.width !== plan.outWidth || info.height !== plan.outHeight) {
      throw new Error(
        `${info.width}x${info.height} came out, not ${plan.outWidth}x${plan.outHeight}`,
      );
    }
    return data;
  } catch (error) {
    throw undecodable(error);
  }
}

/** Any picture, for a first run of the encoders. */
export async function makeWarmUpPicture(): Promise<Uint8Array> {
  const create = { width: 256, height: 192, channels: 3, background: "#b5651d" } as const;
  return await sharp({ create }).jpeg().toBuffer();
}

function makePipeline(source: Uint8Array, plan: RenderPlan): Sharp {
  const { resize, outWidth: width, outHeight: height, format, quality } = plan;
  const background = format === "jpeg" ? white : transparent;
  // Orienting as an option of the input, and not as a step, keeps the shrinking while decoding.
  const picture = sharp(source, {
    autoOrient: true,
    failOn: "error", // cut-off files fail, harmless oddities of cameras pass
    limitInputPixels: sourcePixelsMax,
    sequentialRead: true,
  });
  if (resize !== "none") {
    picture.resize({ width, height, fit: resize === "scale" ? "fill" : resize, background });
  }
  picture.toColourspace("srgb");
  switch (format) {
    case "jpeg":
      return picture.flatten({ background }).jpeg({ ...profile.jpeg, ...given(quality) });
    case "webp":
      return picture.webp({ ...profile.webp, ...given(quality) });
    case "avif":
      return picture.avif({ ...profile.avif, ...given(quality) });
    case "png":
      return picture.png(profile.png);
  }
}

function given(quality: number | undefined): { quality?: number } {
  return quality === undefined ? {} : { quality };
}

function undecodable(cause: unknown): Failure {
  // The first line is libvips' reason; the ones below repeat it for every try.
  const [reason = ""] = cause instanceof Error ? cause.message.split("\n") : [];
  const why = reason === "" ? "it is not an image that can be read" : reason.slice(0, 120);
  return new Failure("unprocessable", `Cannot decode the picture: ${why}`, { cause });
}

/**
 * SeaweedFS's chunk manifests: a blob that lists the blobs which another, larger one is made of.
 *
 * They are put together where every chunk lies in this very store; elsewhere their readers do that.
 */

import { z } from "zod";
import type { ByteBudget } from "../../base/byte-budget.ts";
import { Failure, messageOf } from "../../base/failure.ts";
import type { ByteRange } from "../../base/http-range.ts";
import { codecs } from "../volume/needle.ts";
import type { Volume } from "../volume/volume.ts";

interface Chunk {
  fid: string;
  offset: number;
  size: number;
}

export interface ChunkManifest {
  name?: string | undefined;
  mime?: string | undefined;
  size: number;
  /** Without gaps, in the order of their bytes. */
  chunks: Chunk[];
}

/** A chunk that lies in this store, whether or not its needle still is there. */
export interface LocalChunk extends Chunk {
  volume: Volume;
  ordinal: number;
  cookie: number;
}

/** Far more than goes into one blob of JSON that anybody writes. */
export const manifestBytesMax = 4_194_304;

const count = z.number().int().nonnegative().default(0);

const schema = z.object({
  name: z.string().optional(),
  mime: z.string().optional(),
  size: count,
  chunks: z
    .array(z.object({ fid: z.string().max(64), offset: count, size: count }))
    .max(100_000)
    .default([]),
});

/** The manifest that `content` holds; fails with `unsupported` if it is none, or has holes. */
export function parseManifest(content: Buffer): ChunkManifest {
  let manifest: ChunkManifest;
  try {
    manifest = schema.parse(JSON.parse(content.toString("utf8")));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new Failure("unsupported", `Cannot read the chunk manifest: ${why}`);
  }
  manifest.chunks.sort((left, right) => left.offset - right.offset);
  let end = 0;
  for (const { offset, size, fid } of manifest.chunks) {
    if (offset !== end) {
      throw new Failure(
        "unsupported",
        `Cannot put the chunks together: ${fid} begins at ${offset}, and those before end at ${end}`,
      );
    }
    end += size;
  }
  if (end !== manifest.size) {
    throw new Failure(
      "unsupported",
      `Cannot put the chunks together: they have ${end} bytes, and the whole ${manifest.size}`,
    );
  }
  return manifest;
}

/** The bytes from `start` up to `end` of what `chunks` are put together. */
export async function* chunkPieces(
  chunks: readonly LocalChunk[],
  { start, end }: ByteRange,
  /** Memory for chunks that were compressed. */
  contents: ByteBudget,
): AsyncGenerator<Buffer> {
  for (const { volume, ordinal, cookie, fid, offset, size } of chunks) {
    if (offset + size <= start || offset >= end) continue;
    const needle = await volume.find(ordinal, cookie);
    if (needle === undefined) {
      throw new Failure("corrupt", `Cannot read chunk ${fid}: it is not there any more`);
    }
    try {
      const { contentLength, codec } = needle.head;
      if (contentLength !== size) {
        throw new Failure("corrupt", `Cannot read chunk ${fid}: it has ${contentLength} bytes`);
      }
      const from = Math.max(start - offset, 0);
      const to = Math.min(end - offset, size);
      if (codec === codecs.none) {
        yield* needle.pieces(from, to);
        continue;
      }
      const giveBack = contents.take(contentLength);
      try {
        yield (await needle.content()).subarray(from, to);
      } finally {
        giveBack();
      }
    } finally {
      needle.close();
    }
  }
}

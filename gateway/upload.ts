/**
 * From a stream of bytes to stored chunks: what PUT and form uploads have in common.
 *
 * Invariants:
 * - One chunk (8 MiB) is in memory at a time; the next is read when the last is as durable as asked.
 * - What was stored for an upload that then fails is handed back to be deleted: nothing stays behind.
 */

import type { Hash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { ByteBudget } from "../base/byte-budget.ts";
import { md5, sha256 } from "../base/checksum.ts";
import { Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { type Catalog, mayAbandon } from "../catalog/catalog.ts";
import type { ChunkRef, ImageFacts, NewVersion, PutConditions } from "../catalog/model.ts";
import type { Durability } from "../store/client.ts";
import type { Blobs } from "./blobs.ts";
import { sniffFormat } from "./images/facts.ts";
import type { Images } from "./images/images.ts";

const chunkBytes = 8 * 1_048_576;
/** Of all uploads that run at once. */
const chunksBytesMax = 512 * 1_048_576;

export interface UploadSource {
  parts: AsyncIterable<Buffer>;
  /** Bytes to come, where that was said. */
  declaredBytes: number | undefined;
  /** More than this is refused. */
  bytesMax: number;
  durability: Durability;
  /** Of the copies; see bucket-placement.ts. */
  placement: string;
  bucket: string;
  key: string;
  version: string;
  /** Media type that was given, if any. */
  contentType: string | undefined;
  /** MD5 that the bytes must have, 32 hex digits, if any was given. */
  md5?: string | undefined;
  requestId: string;
}

export interface StoredUpload {
  chunks: ChunkRef[];
  size: number;
  /** MD5, 32 hex digits. */
  etag: string;
  contentType: string;
  image: ImageFacts | undefined;
}

const defaultType = "application/octet-stream";

const typeByFormat: Record<ImageFacts["format"], string> = {
  jpeg: "image/jpeg",
  png: "image/png",
  webp: "image/webp",
  avif: "image/avif",
  gif: "image/gif",
  heic: "image/heic",
  svg: "image/svg+xml",
  tiff: "image/tiff",
};

export class Uploader {
  readonly #budget = new ByteBudget(chunksBytesMax);
  readonly #catalog: Catalog;
  readonly #blobs: Blobs;
  readonly #images: Images;
  readonly #log: Log;

  constructor(options: { catalog: Catalog; blobs: Blobs; images: Images; log: Log }) {
    this.#catalog = options.catalog;
    this.#blobs = options.blobs;
    this.#images = options.images;
    this.#log = options.log;
  }

  /** Stores all of the source, under no name yet. If it fails nothing stays. */
  async store(source: UploadSource): Promise<StoredUpload> {
    const chunks: ChunkRef[] = [];
    const giveBack = this.#budget.take(Math.min(source.declaredBytes ?? chunkBytes, chunkBytes));
    try {
      return await this.#store(source, chunks);
    } catch (error) {
      await this.abandon(chunks);
      throw error;
    } finally {
      giveBack();
    }
  }

  /** Gives what was stored its name. If that fails for certain nothing stays. */
  async commit(
    version: NewVersion,
    conditions: PutConditions = {},
  ): Promise<{ versionId: string; modifiedMs: number }> {
    try {
      return await this.#catalog.putVersion(version, conditions);
    } catch (error) {
      // Where the outcome is not known the version may turn out to be there, and needs its chunks.
      if (mayAbandon(error)) await this.abandon(version.chunks);
      throw error;
    }
  }

  /** Has chunks deleted that no version names, and none ever will. */
  async abandon(chunks: readonly ChunkRef[]): Promise<void> {
    if (chunks.length === 0) return;
    try {
      await this.#catalog.abandon(chunks);
    } catch (error) {
      // They stay as orphans, which their owner tells; the upload's own failure matters more.
      this.#log.warn({ reason: messageOf(error), chunks }, "chunks could not be abandoned");
    }
  }

  async #store(source: UploadSource, chunks: ChunkRef[]): Promise<StoredUpload> {
    const { declaredBytes, bytesMax, bucket, key, version, contentType } = source;
    const { durability, placement, requestId } = source;
    if (declaredBytes !== undefined && declaredBytes > bytesMax) throw tooLarge(bytesMax);
    const whole = md5();
    let size = 0;
    let facts: Promise<ImageFacts | undefined> | undefined;
    let type = contentType ?? defaultType;
    for await (const { bytes, digest } of readChunks(source, whole)) {
      size += bytes.length;
      if (facts === undefined) {
        const format = sniffFormat(bytes);
        if (contentType === undefined && format !== undefined) type = typeByFormat[format];
        facts = this.#readFacts(bytes, requestId);
      }
      const metadata = { bucket, key, version, chunk: chunks.length, type, sha256: digest };
      const wanted = { durability, placement, requestId, earlier: chunks };
      chunks.push(await this.#blobs.put(bytes, metadata, wanted));
    }
    if (declaredBytes !== undefined && size !== declaredBytes) {
      throw new Failure(
        "bad-request",
        `Cannot store the object: ${declaredBytes} bytes were announced and ${size} came`,
        { code: "IncompleteBody" },
      );
    }
    const etag = whole.digest("hex");
    if (source.md5 !== undefined && source.md5 !== etag) {
      throw new Failure(
        "bad-request",
        "Cannot store the object: its MD5 is not the announced one",
        {
          code: "BadDigest",
        },
      );
    }
    return { chunks, size, etag, contentType: type, image: await facts };
  }

  /** A photo is kept even when its facts can't be read now: they are read when they are first needed. */
  async #readFacts(chunk: Buffer, requestId: string): Promise<ImageFacts | undefined> {
    try {
      return await this.#images.facts(chunk);
    } catch (error) {
      this.#log.warn({ requestId, reason: messageOf(error) }, "image facts could not be read");
      return undefined;
    }
  }
}

/**
 * The source as chunks, all but the last of `chunkBytes`, each with its SHA-256; `whole` takes in all.
 * Hashed as it comes in: a whole chunk at once would hold up every other request.
 */
async function* readChunks(
  { parts, declaredBytes, bytesMax }: UploadSource,
  whole: Hash,
): AsyncGenerator<{ bytes: Buffer; digest: string }> {
  let left = declaredBytes;
  // An announced length is memory for as much, but only up to a chunk: announcing costs nothing.
  const makeChunk = () => Buffer.allocUnsafe(Math.min(left ?? 65_536, chunkBytes));
  let size = 0;
  let chunk: Buffer = makeChunk();
  let digest = sha256();
  let filled = 0;
  for await (const part of parts) {
    size += part.length;
    if (size > bytesMax) throw tooLarge(bytesMax);
    whole.update(part);
    let at = 0;
    while (at < part.length) {
      if (filled === chunkBytes) {
        yield { bytes: chunk, digest: digest.digest("hex") };
        if (left !== undefined) left = Math.max(left - filled, 0);
        // The facts may still be read from the first chunk; every other one is done with by now, and
        // written over: new buffers of this size cost more to collect than they cost to fill.
        if (size - part.length <= chunkBytes) chunk = makeChunk();
        digest = sha256();
        filled = 0;
      }
      if (filled === chunk.length) chunk = grow(chunk);
      const count = part.copy(chunk, filled, at);
      digest.update(part.subarray(at, at + count));
      at += count;
      filled += count;
    }
  }
  if (filled > 0) yield { bytes: chunk.subarray(0, filled), digest: digest.digest("hex") };
}

function grow(chunk: Buffer): Buffer {
  const grown = Buffer.allocUnsafe(Math.min(Math.max(chunk.length * 2, 65_536), chunkBytes));
  chunk.copy(grown);
  return grown;
}

/** The body of a request as it comes in; ends with a failure when it is cut off or stalls. */
export async function* readParts(
  request: IncomingMessage,
  { stallMs = 30_000 }: { stallMs?: number } = {},
): AsyncGenerator<Buffer> {
  let stalled = false;
  const timer = setTimeout(() => {
    stalled = true;
    request.destroy();
  }, stallMs);
  try {
    // Leaving early must not end the connection: the answer is still to go out on it.
    for await (const part of request.iterator({ destroyOnReturn: false })) {
      timer.refresh();
      yield part as Buffer;
      timer.refresh();
    }
  } catch (error) {
    throw stalled
      ? new Failure("timeout", `Cannot store the object: nothing came for ${stallMs / 1_000} s`)
      : new Failure("bad-request", "Cannot store the object: the request was cut off", {
          code: "IncompleteBody",
          cause: error,
        });
  } finally {
    clearTimeout(timer);
  }
}

function tooLarge(bytesMax: number): Failure {
  return new Failure("too-large", `Cannot store the object: it is over ${bytesMax} bytes`);
}

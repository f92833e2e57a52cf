/**
 * Blobs in the stores, as the rest of the gateway sees them: put one, read one, read a part of one. How, is in
 * blob-writes.ts and blob-reads.ts; here are the objects that are made of several.
 */

import { ByteBudget } from "../base/byte-budget.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import type { ByteRange } from "../base/http-range.ts";
import type { Random } from "../base/random.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import type { ChunkRef } from "../catalog/model.ts";
import type { VolumeDirectory } from "../directory/client.ts";
import type { BlobMetadata, BlobOwner, DeleteReply, StoreClient } from "../store/client.ts";
import { BlobCounts } from "./blob-counts.ts";
import { BlobReads } from "./blob-reads.ts";
import { BlobWrites, type PutOptions } from "./blob-writes.ts";
import { CopyHealth } from "./copy-health.ts";
import { Hedges } from "./hedges.ts";
import { type Piece, readAhead } from "./read-ahead.ts";

export interface BlobsOptions {
  directory: VolumeDirectory;
  stores: Pick<StoreClient, "append" | "delete" | "pull" | "stream">;
  random: Random;
  owner: BlobOwner;
  clock?: Clock;
  runtime?: Runtime;
}

/** Of all readers: sixteen of large objects at full speed, and the rest as fast as one copy sends. */
const aheadBytesMax = 256 * 1_048_576;

export class Blobs {
  readonly counts: BlobCounts = new BlobCounts();
  readonly #reads: BlobReads;
  readonly #writes: BlobWrites;
  readonly #ahead = new ByteBudget(aheadBytesMax);

  constructor({ clock = systemClock, runtime = systemRuntime, ...options }: BlobsOptions) {
    const { counts } = this;
    const hedges = new Hedges();
    const health = new CopyHealth(clock);
    this.#reads = new BlobReads({ ...options, clock, runtime, counts, hedges, health });
    this.#writes = new BlobWrites({ ...options, clock, counts });
  }

  /** Stores a blob, as durably as asked. */
  async put(data: Uint8Array, metadata: BlobMetadata, options: PutOptions): Promise<ChunkRef> {
    return await this.#writes.put(data, metadata, options);
  }

  /** The whole blob in memory. One that every store says it does not have is `not-found`. */
  async read(chunk: ChunkRef, requestId: string): Promise<Buffer> {
    return await this.#reads.read(chunk, requestId);
  }

  /** All of an object, in parts that are only valid while they are handed over. */
  async pull(
    chunks: readonly ChunkRef[],
    onPart: (part: Buffer) => void,
    asker: { requestId: string; signal?: AbortSignal },
  ): Promise<void> {
    for (const chunk of chunks) await this.#reads.pull(chunk, onPart, asker);
  }

  /** The bytes of `range` of the object that is made of `chunks`. */
  streamChunks(
    chunks: readonly ChunkRef[],
    { start, end }: ByteRange,
    requestId: string,
  ): AsyncGenerator<Buffer> {
    const pieces: Piece[] = [];
    let offset = 0;
    for (const chunk of chunks) {
      const from = Math.max(start - offset, 0);
      const to = Math.min(end - offset, chunk.length);
      if (from < to) pieces.push({ chunk, range: { start: from, end: to } });
      offset += chunk.length;
    }
    const open = ({ chunk, range }: Piece, signal: AbortSignal) =>
      this.#reads.stream(chunk, range, { requestId, signal });
    return readAhead(pieces, open, this.#ahead);
  }

  /** Deletes blobs wherever they are; those that a store with a copy did not answer for are `unknown`. */
  async delete(fids: readonly string[]): Promise<DeleteReply["outcomes"]> {
    return await this.#writes.delete(fids);
  }
}

/**
 * Blobs in the stores, as the rest of the gateway sees them: put one, read one, read a part of one.
 *
 * Invariants:
 * - A put that a volume can't take goes to another one inside the same request, until its deadline.
 * - A read that is cut off goes on where it was; no byte is sent twice.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { Failure, type FailureKind } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import type { ByteRange } from "../base/http-range.ts";
import type { Random } from "../base/random.ts";
import type { ChunkRef } from "../catalog/model.ts";
import type { VolumeDirectory } from "../directory/client.ts";
import type {
  BlobMetadata,
  BlobOwner,
  DeleteReply,
  Durability,
  StoreClient,
} from "../store/client.ts";

export interface BlobsOptions {
  directory: VolumeDirectory;
  stores: StoreClient;
  random: Random;
  owner: BlobOwner;
}

// Long enough for a store that was killed to be back, short enough for a client to wait.
const putLimitMs = 12_000;
const readLimitMs = 8_000;
const retryMs = { first: 25, last: 500 };

/** What another volume, or the same store a moment later, may do better. */
const passing: readonly FailureKind[] = ["unavailable", "timeout", "busy", "full", "internal"];

export class Blobs {
  readonly #options: BlobsOptions;

  constructor(options: BlobsOptions) {
    this.#options = options;
  }

  /** Stores a blob, as durably as asked. */
  async put(
    data: Uint8Array,
    metadata: BlobMetadata,
    { durability, requestId }: { durability: Durability; requestId: string },
  ): Promise<ChunkRef> {
    const { directory, stores, random, owner } = this.#options;
    const deadlineMs = performance.now() + putLimitMs;
    const avoid = new Set<number>();
    let last: Failure | undefined;
    while (performance.now() < deadlineMs) {
      const choice = directory.chooseWritable("original", avoid, random.fraction());
      if (choice === undefined) {
        if (directory.isFull("original") || last?.kind === "full") break;
        // Those that failed may be back after the next change; so may be others.
        avoid.clear();
        await directory.change(retryMs.last);
        continue;
      }
      try {
        const fid = await stores.append({
          ...choice,
          data,
          metadata,
          owner,
          durability,
          requestId,
        });
        return { fid, length: data.length };
      } catch (error) {
        if (!isPassing(error) && !isUnknownVolume(error)) throw error;
        last = error as Failure;
        avoid.add(choice.volume);
      }
    }
    if (directory.isFull("original") || last?.kind === "full") {
      throw new Failure("full", "Cannot store the object: the disks are full", { cause: last });
    }
    throw new Failure("unavailable", "Cannot store the object now: no store takes it", {
      cause: last,
      retryAfterSeconds: 2,
    });
  }

  /** The whole blob in memory. A fid that no store has is `not-found`. */
  async read(fid: string, requestId: string): Promise<Buffer> {
    return await this.#retry(fid, (address) => this.#options.stores.read(address, fid, requestId));
  }

  /**
   * All of an object, in parts that are only valid while they are handed over. A blob whose store fails
   * midway can't be taken back: that is the failure of the whole.
   */
  async pull(
    chunks: readonly ChunkRef[],
    onPart: (part: Buffer) => void,
    { requestId, signal }: { requestId: string; signal?: AbortSignal },
  ): Promise<void> {
    for (const { fid } of chunks) {
      let isBegun = false;
      await this.#retry(
        fid,
        (address) =>
          this.#options.stores.pull({
            address,
            fid,
            requestId,
            signal,
            onPart: (part) => {
              isBegun = true;
              onPart(part);
            },
          }),
        () => !isBegun,
      );
    }
  }

  /** A part of a blob, as it comes in; goes on after an interruption. */
  async *stream(fid: string, range: ByteRange, requestId: string): AsyncGenerator<Buffer> {
    let at = range.start;
    for (let attempt = 1; at < range.end; attempt++) {
      const rest = { start: at, end: range.end };
      const body = await this.#retry(fid, (address) =>
        this.#options.stores.stream({ address, fid, range: rest, requestId }),
      );
      try {
        for await (const part of body as AsyncIterable<Buffer>) {
          at += part.length;
          yield part;
        }
        if (at < range.end) throw new Failure("unavailable", `Cannot read blob ${fid} to its end`);
      } catch (error) {
        if (attempt === 3) {
          if (error instanceof Failure) throw error;
          throw new Failure("unavailable", `Cannot read blob ${fid} to its end`, { cause: error });
        }
      } finally {
        body.destroy();
      }
    }
  }

  /** The bytes of `range` of the object that is made of `chunks`. */
  async *streamChunks(
    chunks: readonly ChunkRef[],
    { start, end }: ByteRange,
    requestId: string,
  ): AsyncGenerator<Buffer> {
    let offset = 0;
    for (const { fid, length } of chunks) {
      const from = Math.max(start - offset, 0);
      const to = Math.min(end - offset, length);
      if (from < to) yield* this.stream(fid, { start: from, end: to }, requestId);
      offset += length;
      if (offset >= end) return;
    }
  }

  /** Deletes blobs; those of stores that can't be reached now are `unknown`. */
  async delete(fids: readonly string[]): Promise<DeleteReply["outcomes"]> {
    const { directory, stores } = this.#options;
    const outcomes: DeleteReply["outcomes"] = {};
    const byAddress = Map.groupBy(fids, (fid) => directory.addressesOf(volumeOf(fid))[0]);
    for (const [address, group] of byAddress) {
      let reply: DeleteReply | undefined;
      try {
        if (address !== undefined) reply = await stores.delete(address, group);
      } catch (error) {
        if (!isPassing(error)) throw error; // one store that is away must not keep the others waiting
      }
      for (const fid of group) outcomes[fid] = reply?.outcomes[fid] ?? "unknown";
    }
    return outcomes;
  }

  /** Asks every store that has the blob, and again while that may help. */
  async #retry<Value>(
    fid: string,
    read: (address: string) => Promise<Value>,
    mayRetry: () => boolean = () => true,
  ): Promise<Value> {
    const deadlineMs = performance.now() + readLimitMs;
    let delayMs = retryMs.first;
    for (;;) {
      let last: unknown;
      for (const address of this.#options.directory.addressesOf(volumeOf(fid))) {
        try {
          return await read(address);
        } catch (error) {
          if (!isPassing(error) || !mayRetry()) throw error;
          last = error;
        }
      }
      if (performance.now() + delayMs > deadlineMs) {
        throw new Failure("unavailable", `Cannot read blob ${fid} now: no store answers for it`, {
          cause: last,
          retryAfterSeconds: 2,
        });
      }
      await sleep(delayMs);
      delayMs = Math.min(delayMs * 2, retryMs.last);
    }
  }
}

function volumeOf(fid: string): number {
  return parseFid(fid)?.volume ?? 0;
}

function isPassing(error: unknown): boolean {
  return error instanceof Failure && passing.includes(error.kind);
}

/** The map was older than the store. */
function isUnknownVolume(error: unknown): boolean {
  return error instanceof Failure && error.kind === "not-found";
}

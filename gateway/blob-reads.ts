/**
 * Reading blobs from whichever copy has them: whole, part by part, or as a stream.
 *
 * Invariants:
 * - A copy that is bad, or has nothing, or does not answer is read around while there is another.
 * - What is cut off goes on where it was, on any copy; no byte is handed over twice.
 * - A blob is as long as the catalog says, or its copy is bad.
 */

import type { Readable } from "node:stream";
import { Failure } from "../base/failure.ts";
import type { ByteRange } from "../base/http-range.ts";
import type { Runtime } from "../base/runtime.ts";
import type { ChunkRef } from "../catalog/model.ts";
import type { StoreClient } from "../store/client.ts";
import {
  CopyRace,
  type RaceOptions,
  type RaceTrack,
  standstillMs,
  type Turn,
} from "./copy-race.ts";
import { CopySearch, type SearchParts } from "./copy-search.ts";

export interface BlobReadsOptions extends RaceTrack, SearchParts {
  stores: Pick<StoreClient, "pull" | "stream">;
}

interface Asker {
  requestId: string;
  signal?: AbortSignal | undefined;
}

export class BlobReads {
  readonly #options: BlobReadsOptions;

  constructor(options: BlobReadsOptions) {
    this.#options = options;
  }

  /** The whole blob in memory. */
  async read(chunk: ChunkRef, requestId: string): Promise<Buffer> {
    const data = Buffer.allocUnsafeSlow(chunk.length);
    let filled = 0;
    await this.pull(
      chunk,
      (part) => {
        filled += part.copy(data, filled);
      },
      { requestId },
    );
    return data;
  }

  /** The whole blob, in parts that are only valid while they are handed over. */
  async pull(chunk: ChunkRef, onPart: (part: Buffer) => void, asker: Asker): Promise<void> {
    const search = new CopySearch(this.#options, chunk.fid);
    let at = 0;
    const handOver = (part: Buffer) => {
      at += part.length;
      if (at > chunk.length) throw lengthFailure(chunk);
      try {
        onPart(part);
      } catch (error) {
        throw new ReceiverFailure(error);
      }
    };
    do {
      const from = at;
      await this.#race(chunk, search, asker, async (turn) => {
        if (from === 0) await this.#pullWhole(turn, chunk, handOver, asker);
        else await this.#pushRest(turn, chunk, from, handOver, asker);
      }).catch((error: unknown) => {
        if (error instanceof ReceiverFailure) throw error.cause;
        ignoreCopies(error);
        if (at > from) search.moved();
      });
    } while (at < chunk.length);
  }

  /** A part of a blob, as it comes in and is taken. */
  async *stream(chunk: ChunkRef, range: ByteRange, asker: Asker): AsyncGenerator<Buffer> {
    const search = new CopySearch(this.#options, chunk.fid);
    let at = range.start;
    while (at < range.end) {
      const from = at;
      const opened = await this.#race(chunk, search, asker, async (turn) => ({
        address: turn.address,
        body: await this.#open(turn, chunk.fid, { start: from, end: range.end }, asker),
      })).catch(ignoreCopies);
      if (opened === undefined) continue;
      const { body, address } = opened;
      const onAbort = () => body.destroy(new Failure("unavailable", "nobody waits for it"));
      asker.signal?.addEventListener("abort", onAbort, { once: true });
      try {
        for await (const part of this.#parts(body, search)) {
          at += part.length;
          if (at > range.end) throw lengthFailure(chunk);
          yield part;
        }
        if (at < range.end) throw lengthFailure(chunk);
      } catch (error) {
        if (asker.signal?.aborted === true) throw error;
        search.note(address, error, true);
        if (at > from) search.moved();
      } finally {
        asker.signal?.removeEventListener("abort", onAbort);
        body.destroy();
      }
    }
  }

  /** One race over those copies that are worth asking; fails with `CopiesFailed` when none of them did it. */
  async #race<Value>(
    { length }: ChunkRef,
    search: CopySearch,
    { signal }: Asker,
    begin: (turn: Turn) => Promise<Value>,
  ): Promise<Value> {
    const candidates = await search.candidates();
    const failed = new Set<unknown>();
    const onFailure: RaceOptions<Value>["onFailure"] = (address, error, hasBegun) => {
      if (error instanceof ReceiverFailure) return;
      failed.add(error);
      search.note(address, error, hasBegun);
    };
    const { hasOthers } = search;
    const race = { candidates, hasOthers, lengthBytes: length, signal, begin, onFailure };
    try {
      return await new CopyRace(this.#options, race).run();
    } catch (error) {
      throw failed.has(error) ? new CopiesFailed() : error;
    }
  }

  async #pullWhole(
    turn: Turn,
    chunk: ChunkRef,
    handOver: (part: Buffer) => void,
    { requestId }: Asker,
  ): Promise<void> {
    const { address, signal } = turn;
    let isWhole = chunk.length === 0;
    await this.#options.stores.pull({
      address,
      fid: chunk.fid,
      requestId,
      signal,
      onLength: (bytes) => {
        if (bytes !== chunk.length) throw lengthFailure(chunk);
        isWhole = true;
      },
      onPart: (part) => {
        if (!turn.claim()) throw lateFailure();
        turn.moved();
        handOver(part);
      },
    });
    if (!isWhole) throw lengthFailure(chunk);
  }

  async #pushRest(
    turn: Turn,
    chunk: ChunkRef,
    from: number,
    handOver: (part: Buffer) => void,
    asker: Asker,
  ): Promise<void> {
    const body = await this.#open(turn, chunk.fid, { start: from, end: chunk.length }, asker);
    let at = from;
    for await (const part of body as AsyncIterable<Buffer>) {
      // A stream that was given up still has what it had read before.
      if (!turn.claim()) throw lateFailure();
      at += part.length;
      turn.moved();
      handOver(part);
    }
    if (at < chunk.length) throw lengthFailure(chunk);
  }

  /** A stream that has claimed its race. */
  async #open(turn: Turn, fid: string, range: ByteRange, { requestId }: Asker): Promise<Readable> {
    const { address, signal } = turn;
    const body = await this.#options.stores.stream({ address, fid, range, requestId, signal });
    if (turn.claim()) return body;
    body.on("error", () => undefined);
    body.destroy();
    throw lateFailure();
  }

  /** What comes; where another copy could go on it may not stand still for long. */
  async *#parts(body: Readable, { hasOthers }: CopySearch): AsyncGenerator<Buffer> {
    const parts = (body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
    for (;;) {
      const next = parts.next();
      const result = await (hasOthers ? within(this.#options.runtime, standstillMs, next) : next);
      if (result.done === true) return;
      yield result.value;
    }
  }
}

/** All copies that were asked have failed; the search knows how. */
class CopiesFailed extends Error {}

/** What the receiver of a blob said to it, as `cause`: not the copy's fault. */
class ReceiverFailure extends Failure {
  constructor(cause: unknown) {
    super("internal", "Cannot take what came in", { cause });
  }
}

function ignoreCopies(error: unknown): undefined {
  if (!(error instanceof CopiesFailed)) throw error;
}

/** The promise's value, or a `timeout` if it does not come. */
async function within<Value>(
  runtime: Runtime,
  limitMs: number,
  promise: Promise<Value>,
): Promise<Value> {
  const late = Promise.withResolvers<never>();
  const cancel = runtime.after(limitMs, () => {
    late.reject(new Failure("timeout", "Cannot read on: nothing comes"));
  });
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    cancel();
    promise.catch(() => undefined); // it may still fail, when the stream is given up
  }
}

function lengthFailure({ fid, length }: ChunkRef): Failure {
  return new Failure("corrupt", `Cannot read blob ${fid}: it is not ${length} bytes long`);
}

function lateFailure(): Failure {
  return new Failure("unavailable", "Cannot hand over: another copy was faster");
}

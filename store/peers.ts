/** The other stores that have copies of a volume, seen as calls: a simulation puts others in their place. */

import { Failure, messageOf } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import type { ByteRange } from "../base/http-range.ts";
import type { Runtime } from "../base/runtime.ts";
import { batchHeader, encodeBatchHead } from "./batch-head.ts";
import type { Batch } from "./volume/batch.ts";
import type { Replicate } from "./volume/volume-writer.ts";

export interface PeerVolume {
  /** `host:port` of the store. */
  address: string;
  volume: number;
  signal: AbortSignal;
}

export interface Peers {
  /** Has a replica take a batch; returns when that has it as durable as it says. Never tried again. */
  append(to: PeerVolume, batch: Batch): Promise<void>;
  /** Bytes of a sealed volume's file. */
  readFile(from: PeerVolume & { generation: number }, range: ByteRange): Promise<Buffer>;
  /** Ordinals that were deleted there. */
  deletes(from: PeerVolume): Promise<Iterable<number>>;
}

/** The signal ends a call before this does. */
const callTimeoutMs = 30_000;
const ordinalBytes = 4;

export class HttpPeers implements Peers {
  readonly #caller: Caller;

  constructor(caller: Caller) {
    this.#caller = caller;
  }

  async append({ address, volume, signal }: PeerVolume, batch: Batch): Promise<void> {
    const [first] = batch.buffers;
    const isOne = batch.buffers.length === 1 && first !== undefined;
    await this.#caller.call({
      method: "POST",
      address,
      path: `/volumes/${volume}/batches`,
      headers: { [batchHeader]: encodeBatchHead(batch) },
      body: isOne ? first : Buffer.concat(batch.buffers),
      timeoutMs: callTimeoutMs,
      signal,
    });
  }

  async readFile(
    { address, volume, generation, signal }: PeerVolume & { generation: number },
    { start, end }: ByteRange,
  ): Promise<Buffer> {
    const { status, body } = await this.#caller.call({
      method: "GET",
      address,
      path: `/volumes/${volume}/file?generation=${generation}`,
      headers: { range: `bytes=${start}-${end - 1}` },
      timeoutMs: callTimeoutMs,
      signal,
    });
    if (status !== 206) throw new Failure("internal", `Cannot read from ${address}: no range came`);
    return body;
  }

  async deletes({ address, volume, signal }: PeerVolume): Promise<Iterable<number>> {
    const { body } = await this.#caller.call({
      method: "GET",
      address,
      path: `/volumes/${volume}/deletes`,
      timeoutMs: callTimeoutMs,
      signal,
    });
    const count = Math.floor(body.length / ordinalBytes);
    return Array.from({ length: count }, (_, at) => body.readUInt32LE(at * ordinalBytes));
  }
}

/** What `call` gives, or `timeout` after `timeoutMs`; its signal is aborted then. */
export async function withinTime<Result>(
  runtime: Runtime,
  timeoutMs: number,
  call: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  const late = Promise.withResolvers<never>();
  const cancel = runtime.after(timeoutMs, () => {
    const failure = new Failure("timeout", `no answer within ${timeoutMs} ms`);
    late.reject(failure);
    controller.abort(failure);
  });
  try {
    return await Promise.race([call(controller.signal), late.promise]);
  } finally {
    cancel();
  }
}

/** Brings each batch of a primary to all the others at once. */
export function replicateTo({
  peers,
  runtime,
  timeoutMs,
  volume,
  addresses,
}: {
  peers: Peers;
  runtime: Runtime;
  /** A replica that does not answer within this time counts as lost. */
  timeoutMs: number;
  volume: number;
  addresses: readonly string[];
}): Replicate {
  return async (batch) => {
    // Joined once for all of them.
    const whole = batch.buffers.length === 1 ? batch.buffers : [Buffer.concat(batch.buffers)];
    const sent = { ...batch, buffers: whole };
    await Promise.all(
      addresses.map(async (address) => {
        try {
          await withinTime(runtime, timeoutMs, (signal) =>
            peers.append({ address, volume, signal }, sent),
          );
        } catch (error) {
          throw new Failure("unavailable", `the copy at ${address} was lost: ${messageOf(error)}`, {
            cause: error,
          });
        }
      }),
    );
  };
}

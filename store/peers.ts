/** The other stores that have copies of a volume, seen as calls: a simulation puts others in their place. */

import { Failure, messageOf } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import type { Runtime } from "../base/runtime.ts";
import { batchHeader, encodeBatchHead } from "./batch-head.ts";
import { type CopySource, HttpCopySource, type PlacedVolume } from "./copy-source.ts";
import type { Batch } from "./volume/batch.ts";
import type { Replicate } from "./volume/volume-writer.ts";

export interface Peers extends CopySource {
  /** Has a replica take a batch; returns when that has it as durable as it says. Never tried again. */
  append(to: PlacedVolume, batch: Batch): Promise<void>;
}

/** The signal ends a call before this does. */
const callTimeoutMs = 30_000;

export class HttpPeers extends HttpCopySource implements Peers {
  readonly #caller: Caller;

  constructor(caller: Caller) {
    super(caller);
    this.#caller = caller;
  }

  async append({ address, volume, signal }: PlacedVolume, batch: Batch): Promise<void> {
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

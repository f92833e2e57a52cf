/**
 * Ends the open life of a copy where the directory decided that it ended, and has it answer reads.
 *
 * Invariants:
 * - What this copy is short of comes from one that has it, and is verified on the way (volume.ts).
 * - A copy that was away, or was filled, answers reads only with the deletes of the others merged: they may
 *   have come while it did not have the needles yet.
 */

import { Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Order } from "../directory/client.ts";
import { type Peers, withinTime } from "./peers.ts";
import type { SealedAt, Volume } from "./volume/volume.ts";

type SealPoint = NonNullable<(Order & { kind: "seal" })["at"]>;

const callMs = 10_000;

export interface SealingContext {
  peers: Peers;
  runtime: Runtime;
  log: Log;
  /** This store's id. */
  store: string;
}

export async function sealVolumeAt(
  volume: Volume,
  point: SealPoint,
  context: SealingContext,
): Promise<void> {
  const { epoch, lengthBytes, lastDigest, members } = point;
  const at = { epoch, lengthBytes, lastDigest, members: members.map(({ store }) => store) };
  const sources = point.from
    .filter(({ store }) => store !== context.store)
    .map(({ address }) => address);
  const wasServing = volume.report().isServing;
  let isFilled = false;
  try {
    await volume.sealAt(at);
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== "precondition-failed") throw error;
    await fill(volume, at, sources, context);
    isFilled = true;
    await volume.sealAt(at);
  }
  if (wasServing && !isFilled) return;
  await mergeDeletes(volume, sources, context);
  volume.serve();
}

/** From the first that has what is missing. */
async function fill(
  volume: Volume,
  at: SealedAt,
  sources: readonly string[],
  { peers, runtime, log }: SealingContext,
): Promise<void> {
  const { volume: id, generation } = volume.superblock;
  const failures: unknown[] = [];
  for (const address of sources) {
    try {
      const startedBytes = volume.report().lengthBytes;
      await volume.fill(at, (start, length) =>
        withinTime(runtime, callMs, (signal) =>
          peers.readFile(
            { address, volume: id, generation, signal },
            { start, end: start + length },
          ),
        ),
      );
      const filledBytes = at.lengthBytes - startedBytes;
      log.info({ volume: id, address, filledBytes }, "volume filled from another copy");
      return;
    } catch (error) {
      log.warn({ volume: id, address, reason: messageOf(error) }, "a volume can't be filled");
      failures.push(error);
    }
  }
  // Where every copy goes on from another batch than this one, no waiting helps.
  const isOther = (error: unknown) => error instanceof Failure && error.kind === "corrupt";
  const kind = failures.length > 0 && failures.every(isOther) ? "corrupt" : "unavailable";
  const why = failures.length === 0 ? "no copy has it" : failures.map(messageOf).join("; ");
  throw new Failure(kind, `Cannot fill volume ${id} up to ${at.lengthBytes}: ${why}`);
}

/** Of all that can be reached; one has to be, if there are others. */
async function mergeDeletes(
  volume: Volume,
  sources: readonly string[],
  { peers, runtime, log }: SealingContext,
): Promise<void> {
  const { volume: id } = volume.superblock;
  let isAnswered = sources.length === 0;
  for (const address of sources) {
    let ordinals: Iterable<number>;
    try {
      ordinals = await withinTime(runtime, callMs, (signal) =>
        peers.deletes({ address, volume: id, signal }),
      );
    } catch (error) {
      log.warn({ volume: id, address, reason: messageOf(error) }, "deletes can't be asked for");
      continue;
    }
    await volume.mergeDeletes(ordinals);
    isAnswered = true;
  }
  if (isAnswered) return;
  throw new Failure(
    "unavailable",
    `Cannot tell what is deleted in volume ${id}: nobody answers at ${sources.join(", ")}`,
  );
}

/**
 * Writing and deleting blobs: a volume that takes them is chosen, and another one if it does not.
 *
 * Invariants:
 * - A put that a volume can't take goes to another one inside the same request, until its deadline.
 * - A blob counts as deleted when every store with a copy of its volume has said so.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import type { Random } from "../base/random.ts";
import type { ChunkRef } from "../catalog/model.ts";
import type { VolumeDirectory, WritableVolume } from "../directory/client.ts";
import type {
  BlobMetadata,
  BlobOwner,
  DeleteReply,
  Durability,
  StoreClient,
} from "../store/client.ts";
import type { BlobCounts } from "./blob-counts.ts";
import { CopyHealth } from "./copy-health.ts";
import { isPassing } from "./passing.ts";

export interface BlobWritesOptions {
  directory: Pick<
    VolumeDirectory,
    "chooseWritable" | "change" | "refresh" | "isFull" | "want" | "whyNone" | "memberAddressesOf"
  >;
  stores: Pick<StoreClient, "append" | "delete">;
  clock: Clock;
  random: Random;
  counts: BlobCounts;
  owner: BlobOwner;
}

export interface PutOptions {
  durability: Durability;
  /** `placementText` of how many copies there are to be, and how far apart. */
  placement: string;
  requestId: string;
  /** Chunks of the same object that are stored already: this one goes elsewhere if it can. */
  earlier?: readonly ChunkRef[];
}

type Outcome = DeleteReply["outcomes"][string];

// Long enough for a store that was killed to be back, short enough for a client to wait.
const putLimitMs = 12_000;

// A primary gives a replica four seconds before it says that it has lost it, and a put that is still at
// that one has to hear it. A primary that hangs itself leaves time for two others.
const attemptLimitMs = 5_000;

/** With less than that a blob would most likely be stored for nobody. */
const attemptMsMin = 250;

const changeLimitMs = 500;

/** Of a large object: enough to take turns over. */
const earlierMax = 32;

export class BlobWrites {
  readonly #options: BlobWritesOptions;
  readonly #health: CopyHealth;
  /** Puts in flight by volume. */
  readonly #queues = new Map<number, number>();

  constructor(options: BlobWritesOptions) {
    this.#options = options;
    // Of its own: a store that reads well may have lost a replica, and the other way round.
    this.#health = new CopyHealth(options.clock);
  }

  /** Stores a blob, as durably as asked. */
  async put(
    data: Uint8Array,
    metadata: BlobMetadata,
    { durability, placement, requestId, earlier = [] }: PutOptions,
  ): Promise<ChunkRef> {
    const { directory, stores, clock, random, counts, owner } = this.#options;
    directory.want(placement);
    const rankOf = this.#rankBy(earlier.slice(-earlierMax));
    const queueOf = ({ volume }: WritableVolume) => this.#queues.get(volume) ?? 0;
    const deadlineMs = clock.monotonicMs() + putLimitMs;
    const avoid = new Set<number>();
    let last: Failure | undefined;
    for (;;) {
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs < attemptMsMin) break;
      const wanted = { class: "original" as const, placement, avoid, rankOf, queueOf };
      const choice = directory.chooseWritable(wanted, random);
      if (choice === undefined) {
        if (directory.isFull("original", placement) || last?.kind === "full") break;
        // Those that failed may be back after the next change; so may be others.
        avoid.clear();
        // The map is asked for anew: a poll that was lost on its way would say nothing for half a minute.
        void directory.refresh(changeLimitMs);
        await directory.change(Math.min(changeLimitMs, leftMs));
        continue;
      }
      if (last !== undefined) counts.putRetries += 1;
      const { volume, address } = choice;
      const timeoutMs = Math.min(attemptLimitMs, leftMs);
      const blob = { data, metadata, owner, durability };
      this.#queues.set(volume, queueOf(choice) + 1);
      try {
        const fid = await stores.append({ address, volume, ...blob, requestId, timeoutMs });
        this.#health.answered(address);
        return { fid, length: data.length };
      } catch (error) {
        if (!isPassing(error) && !isOutdated(error)) throw error;
        if (error.kind === "timeout" || error.kind === "unavailable") this.#health.failed(address);
        last = error;
        avoid.add(volume);
      } finally {
        this.#leaveQueue(volume);
      }
    }
    if (directory.isFull("original", placement) || last?.kind === "full") {
      throw new Failure("full", "Cannot store the object: the disks are full", { cause: last });
    }
    const why = directory.whyNone(placement) ?? "no store takes it";
    throw new Failure("unavailable", `Cannot store the object now: ${why}`, {
      cause: last,
      retryAfterSeconds: 2,
    });
  }

  /** Deletes blobs wherever they are; those that a store with a copy did not answer for are `unknown`. */
  async delete(fids: readonly string[]): Promise<DeleteReply["outcomes"]> {
    const { directory, stores } = this.#options;
    const membersOf = (fid: string) => directory.memberAddressesOf(volumeOf(fid));
    const byAddress = new Map<string, string[]>();
    for (const fid of fids) {
      for (const address of membersOf(fid)) {
        const group = byAddress.get(address) ?? [];
        byAddress.set(address, group);
        group.push(fid);
      }
    }
    const replies = new Map<string, DeleteReply>();
    await Promise.all(
      [...byAddress].map(async ([address, group]) => {
        try {
          replies.set(address, await stores.delete(address, group));
        } catch (error) {
          // One store that is away must not keep the others waiting.
          if (!(error instanceof Failure)) throw error;
        }
      }),
    );
    return Object.fromEntries(
      fids.map((fid) => {
        const said = membersOf(fid).map((each) => replies.get(each)?.outcomes[fid] ?? "unknown");
        return [fid, combine(said)];
      }),
    );
  }

  /** Primaries that failed come last; then those, and of them the volumes, that have the fewest of `earlier`. */
  #rankBy(earlier: readonly ChunkRef[]): (choice: WritableVolume) => number {
    const volumes = new Map<number, number>();
    for (const { fid } of earlier) add(volumes, volumeOf(fid), 1);
    const { directory } = this.#options;
    const primaries = new Map<string, number>();
    for (const [volume, count] of volumes) {
      const [primary] = directory.memberAddressesOf(volume);
      if (primary !== undefined) add(primaries, primary, count);
    }
    const base = earlierMax + 1;
    return ({ volume, address }) =>
      (this.#health.isFine(address) ? 0 : base * base) +
      (primaries.get(address) ?? 0) * base +
      (volumes.get(volume) ?? 0);
  }

  #leaveQueue(volume: number): void {
    const left = (this.#queues.get(volume) ?? 1) - 1;
    if (left === 0) this.#queues.delete(volume);
    else this.#queues.set(volume, left);
  }
}

function add<Key>(counts: Map<Key, number>, key: Key, count: number): void {
  counts.set(key, (counts.get(key) ?? 0) + count);
}

function volumeOf(fid: string): number {
  return parseFid(fid)?.volume ?? 0;
}

/** What all stores with a copy have said, as one: the worst. */
function combine(said: readonly Outcome[]): Outcome {
  if (said.length === 0 || said.includes("unknown")) return "unknown";
  if (said.includes("corrupt")) return "corrupt";
  return said.includes("deleted") ? "deleted" : "absent";
}

/** The map was older than the store: the volume is not there, or belongs to another epoch. */
function isOutdated(error: unknown): error is Failure {
  return error instanceof Failure && (error.kind === "not-found" || error.kind === "conflict");
}

/**
 * The volume map as a directory has it that does not lead: the leader's, followed by long polls. It stands
 * while nobody leads. Before any leader has told one, it is what is on record, and takes no writes.
 */

import { createHash } from "node:crypto";
import type { Kysely } from "kysely";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { pause, type Runtime } from "../base/runtime.ts";
import { Bell } from "./bell.ts";
import type { MapVolume, VolumeClass, VolumeMap } from "./protocol.ts";
import type { DirectoryTables } from "./schema.ts";

export interface FollowedMapOptions {
  database: Kysely<DirectoryTables>;
  /** Asks a directory for its map. */
  ask: (address: string, after: string, signal: AbortSignal) => Promise<VolumeMap>;
  /** Who leads, if that is known and another. */
  leader: () => string | undefined;
  clock: Clock;
  runtime: Runtime;
  log: Log;
}

/** How often what is on record, and who leads, is looked at anew. */
const lookMs = 250;

export class FollowedMap {
  readonly #options: FollowedMapOptions;
  readonly #stopping = new AbortController();
  readonly #changes = new Bell();
  #map: VolumeMap | undefined;
  #running: Promise<void> | undefined;

  constructor(options: FollowedMapOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running ??= this.#follow();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** Goes on from a map that is newer: this directory has led. */
  replace(map: VolumeMap): void {
    this.#map = map;
    this.#changes.ring();
  }

  async current(): Promise<VolumeMap> {
    return this.#map ?? (await mapOnRecord(this.#options.database));
  }

  /** The map once its version is another than `version`, or after `waitMs` as it is. */
  async after(version: string, waitMs: number, signal: AbortSignal): Promise<VolumeMap> {
    const { clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + waitMs;
    const ends = AbortSignal.any([signal, this.#stopping.signal]);
    for (;;) {
      const { rings } = this.#changes;
      const map = await this.current();
      const leftMs = deadlineMs - clock.monotonicMs();
      if (map.version !== version || leftMs <= 0 || ends.aborted) return map;
      if (rings === this.#changes.rings) await this.#changes.next(Math.min(leftMs, 1_000), ends);
    }
  }

  async #follow(): Promise<void> {
    const { ask, leader, runtime, log } = this.#options;
    const { signal } = this.#stopping;
    let isAnswered = true;
    while (!signal.aborted) {
      const address = leader();
      if (address === undefined) {
        await pause(runtime, lookMs);
        continue;
      }
      try {
        const map = await ask(address, this.#map?.version ?? "", signal);
        isAnswered = true;
        if (map.version === this.#map?.version) continue;
        this.#map = map;
        this.#changes.ring();
      } catch (error) {
        if (signal.aborted) return;
        if (isAnswered) log.warn({ address, reason: messageOf(error) }, "the leader has no map");
        isAnswered = false;
        await pause(runtime, lookMs);
      }
    }
  }
}

/** Where volumes are by the database alone: which of them take appends is not in it. */
async function mapOnRecord(database: Kysely<DirectoryTables>): Promise<VolumeMap> {
  const rows = await database
    .selectFrom("volumes")
    .innerJoin("stores", "stores.store", "volumes.store")
    .select(["volumes.volume", "volumes.class", "stores.address"])
    .where("volumes.state", "not in", ["dropped", "importing"])
    .orderBy("volumes.volume")
    .execute();
  const volumes = rows.map(
    ({ volume, class: volumeClass, address }): MapVolume => ({
      volume,
      class: volumeClass as VolumeClass,
      isWritable: false,
      addresses: [address],
      isFull: false,
      freeBytes: 0,
    }),
  );
  const digest = createHash("sha256").update(JSON.stringify(volumes)).digest("hex");
  return { version: `record.${digest.slice(0, 16)}`, volumes, isOnRecord: true };
}

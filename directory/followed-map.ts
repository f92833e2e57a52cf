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
import { Wants, wantText } from "./wants.ts";

export interface FollowedMapOptions {
  database: Kysely<DirectoryTables>;
  /** Asks a directory for its map; `wants` are the kinds of volumes that gateways write to. */
  ask: (
    address: string,
    after: string,
    signal: AbortSignal,
    wants: readonly string[],
  ) => Promise<VolumeMap>;
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
  readonly #changes: Bell;
  /** What gateways said here, for the leader to hear. */
  readonly #wants = new Wants();
  #asking: AbortController | undefined;
  #map: VolumeMap | undefined;
  #running: Promise<void> | undefined;

  constructor(options: FollowedMapOptions) {
    this.#options = options;
    this.#changes = new Bell(options.runtime);
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
  async after(
    version: string,
    waitMs: number,
    signal: AbortSignal,
    wants: readonly string[] = [],
  ): Promise<VolumeMap> {
    const { clock } = this.#options;
    if (this.#wants.add(wants, clock.monotonicMs())) this.#asking?.abort();
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
    const { ask, leader, runtime, clock, log } = this.#options;
    const { signal } = this.#stopping;
    let isAnswered = true;
    while (!signal.aborted) {
      const address = leader();
      if (address === undefined) {
        await pause(runtime, lookMs);
        continue;
      }
      const asking = new AbortController();
      this.#asking = asking;
      try {
        const wants = this.#wants.all(clock.monotonicMs()).map(wantText);
        const either = AbortSignal.any([signal, asking.signal]);
        const map = await ask(address, this.#map?.version ?? "", either, wants);
        isAnswered = true;
        if (map.version === this.#map?.version) continue;
        this.#map = map;
        this.#changes.ring();
      } catch (error) {
        if (signal.aborted) return;
        if (asking.signal.aborted) continue; // there is something else to ask for
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
    .innerJoin("replicas", "replicas.volume", "volumes.volume")
    .innerJoin("stores", "stores.store", "replicas.store")
    .select(["volumes.volume", "volumes.class", "volumes.placement", "stores.address"])
    .where("volumes.state", "not in", ["dropped", "importing"])
    .where("replicas.state", "in", ["member", "moving"])
    .orderBy("volumes.volume")
    .orderBy("replicas.position")
    .execute();
  const volumes = [...Map.groupBy(rows, ({ volume }) => volume).values()].flatMap((copies) => {
    const [first] = copies;
    if (first === undefined) return [];
    const addresses = copies.map(({ address }) => address);
    const entry: MapVolume = {
      volume: first.volume,
      class: first.class as VolumeClass,
      placement: first.placement,
      isWritable: false,
      addresses,
      memberAddresses: addresses,
      isFull: false,
      freeBytes: 0,
    };
    return [entry];
  });
  const digest = createHash("sha256").update(JSON.stringify(volumes)).digest("hex");
  return { version: `record.${digest.slice(0, 16)}`, volumes, unmet: [], isOnRecord: true };
}

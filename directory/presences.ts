/**
 * What stores last said, in memory alone: it comes again.
 *
 * Invariants:
 * - A store that is on record has a presence, also before it calls: its silence counts from the start.
 * - A report of changes counts only on top of a whole one of the same run.
 */

import { type StoreState, storeState } from "./plan.ts";
import type { Heartbeat, VolumeStatus } from "./protocol.ts";
import type { StoreRecord } from "./records.ts";

export interface Presence {
  readonly store: string;
  address: string;
  machine: string;
  rack: string;
  dataCentre: string;
  /** Empty until it calls. */
  run: string;
  /** Whether this run has told all that it has. */
  isKnown: boolean;
  /** As it was last noticed: `notice` keeps it. */
  state: StoreState;
  seenMs: number;
  /** When it last told all. */
  wholeMs: number;
  beat: number;
  freeBytes: number;
  totalBytes: number;
  readonly volumes: Map<number, VolumeStatus>;
  unreadable: readonly number[];
  /** Volumes that it may not serve, with the reason. */
  readonly refused: Map<number, string>;
  /** Orders that this run was sent: a reply is not hurried for them again. */
  sentOrders: ReadonlySet<number>;
  /** The same for ranges: how many ordinals of which volume. */
  sentWishes: Map<number, number>;
}

interface News {
  presence: Presence;
  /** Volumes of which another thing is known now. */
  changed: Set<number>;
  isNewRun: boolean;
  /** It has space again, or none any more, or was not live. */
  isOtherwise: boolean;
  wantsWhole: boolean;
}

/** A store is asked for all now and then, should the two of them have come to differ. */
const wholeMsMax = 900_000;

export class Presences {
  readonly #byStore = new Map<string, Presence>();
  readonly #limits: { suspectMs: number; lostMs: number };

  constructor(limits: { suspectMs: number; lostMs: number }) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#byStore.size;
  }

  get(store: string): Presence | undefined {
    return this.#byStore.get(store);
  }

  values(): Iterable<Presence> {
    return this.#byStore.values();
  }

  /** A store on record that has not called yet. */
  expect({ store, address, machine, rack, dataCentre }: StoreRecord, nowMs: number): void {
    if (this.#byStore.has(store)) return;
    this.#byStore.set(store, {
      ...{ store, address, machine, rack, dataCentre },
      ...{ run: "", isKnown: false, state: "live", seenMs: nowMs, wholeMs: nowMs, beat: 0 },
      ...{ freeBytes: 0, totalBytes: 0, volumes: new Map(), unreadable: [] },
      ...{ refused: new Map(), sentOrders: new Set(), sentWishes: new Map() },
    });
  }

  takeIn(heartbeat: Heartbeat, nowMs: number): News {
    const { store, run, address, machine, rack, dataCentre, isWhole, beat = 0 } = heartbeat;
    this.expect({ ...heartbeat, isDraining: false, joinedMs: 0 }, nowMs);
    const presence = this.#byStore.get(store) as Presence;
    const isNewRun = presence.run !== run;
    const isOtherwise =
      isNewRun ||
      presence.state !== "live" ||
      presence.freeBytes > 0 !== heartbeat.freeBytes > 0 ||
      presence.address !== address ||
      presence.machine !== machine ||
      presence.rack !== rack ||
      presence.dataCentre !== dataCentre;
    const changed = new Set<number>();
    if (isNewRun) {
      for (const volume of presence.volumes.keys()) changed.add(volume);
      presence.isKnown = false;
      presence.beat = 0;
      presence.sentOrders = new Set();
      presence.sentWishes = new Map();
    }
    Object.assign(presence, { run, address, machine, rack, dataCentre });
    const { freeBytes, totalBytes } = heartbeat;
    Object.assign(presence, { freeBytes, totalBytes, seenMs: nowMs, state: "live" });
    // Overtaken: what it says was true before what is known.
    if (beat < presence.beat) {
      return { presence, changed: new Set(), isNewRun, isOtherwise, wantsWhole: false };
    }
    presence.beat = beat;
    if (!isWhole && !presence.isKnown) {
      return { presence, changed, isNewRun, isOtherwise, wantsWhole: true };
    }
    if (isWhole) {
      const reported = new Set(heartbeat.volumes.map(({ volume }) => volume));
      for (const volume of presence.volumes.keys()) {
        if (reported.has(volume)) continue;
        presence.volumes.delete(volume);
        changed.add(volume);
      }
      presence.isKnown = true;
      presence.wholeMs = nowMs;
    }
    for (const volume of heartbeat.gone) {
      if (presence.volumes.delete(volume)) changed.add(volume);
    }
    for (const status of heartbeat.volumes) {
      const before = presence.volumes.get(status.volume);
      if (before === undefined || !isSame(before, status)) changed.add(status.volume);
      presence.volumes.set(status.volume, status);
    }
    if (heartbeat.unreadable.join() !== presence.unreadable.join()) {
      for (const volume of [...presence.unreadable, ...heartbeat.unreadable]) changed.add(volume);
      presence.unreadable = heartbeat.unreadable;
    }
    for (const volume of presence.refused.keys()) {
      if (!presence.volumes.has(volume)) presence.refused.delete(volume);
    }
    const wantsWhole = nowMs - presence.wholeMs > wholeMsMax;
    return { presence, changed, isNewRun, isOtherwise, wantsWhole };
  }

  /** Notices who has fallen silent since it was last called, and returns them. */
  notice(nowMs: number): Presence[] {
    const fallen: Presence[] = [];
    for (const presence of this.#byStore.values()) {
      const state = storeState(nowMs - presence.seenMs, this.#limits);
      if (state === presence.state) continue;
      presence.state = state;
      fallen.push(presence);
    }
    return fallen;
  }

  /** Nobody could be heard for so long. */
  forgive(deafMs: number): void {
    for (const presence of this.#byStore.values()) presence.seenMs += deafMs;
  }
}

function isSame(before: VolumeStatus, after: VolumeStatus): boolean {
  for (const key of statusKeys) {
    if (before[key] === after[key]) continue;
    if (key !== "members" || before.members.join() !== after.members.join()) return false;
  }
  const { operation: left } = before;
  const { operation: right } = after;
  return left?.kind === right?.kind && left?.doneBytes === right?.doneBytes;
}

// Named one by one: this is compared for every volume of every heartbeat.
const statusKeys = [
  ...(["uuid", "epoch", "generation", "state", "isWritable", "isServing", "members"] as const),
  ...(["closedBecause", "canReopen", "lengthBytes", "lastDigest", "digest", "dataBytes"] as const),
  ...(["needleCount", "deletedCount", "deletesDigest", "damagedBytes", "deadBytes"] as const),
  ...(["class", "ttlSeconds", "expiresMs", "scrubbedMs", "createdMs", "trashBytes"] as const),
  "hasSparseKeys",
] as const satisfies readonly (keyof VolumeStatus)[];

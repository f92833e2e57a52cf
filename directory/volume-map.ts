/**
 * The map of volumes for gateways, kept up volume by volume: with millions of them it is not made anew for
 * every heartbeat. Its number grows when something changes that gateways act on; free space alone does not.
 */

import type { Runtime } from "../base/runtime.ts";
import { Bell } from "./bell.ts";
import type { Ledger } from "./ledger.ts";
import type { Presences } from "./presences.ts";
import type { MapVolume } from "./protocol.ts";
import { membersOf, type VolumeRecord } from "./records.ts";

export class MapBook {
  readonly changes: Bell;
  readonly #entries = new Map<number, MapVolume>();
  readonly #presences: Presences;
  #number = 0;
  #isNews = false;

  constructor({ presences, runtime }: { presences: Presences; runtime: Runtime }) {
    this.changes = new Bell(runtime);
    this.#presences = presences;
  }

  get number(): number {
    return this.#number;
  }

  /** Looks at a volume again; `announce` is to follow. */
  update(ledger: Ledger, volume: number): void {
    const record = ledger.volumes.get(volume);
    const entry = record === undefined ? undefined : mapEntry(record, ledger, this.#presences);
    const before = this.#entries.get(volume);
    if (entry === undefined) {
      if (before !== undefined) this.#isNews = true;
      this.#entries.delete(volume);
      return;
    }
    if (before === undefined || !isSame(before, entry)) this.#isNews = true;
    this.#entries.set(volume, entry);
  }

  /** Tells whoever waits, if there is anything new. */
  announce(): void {
    if (!this.#isNews) return;
    this.#isNews = false;
    this.#number += 1;
    this.changes.ring();
  }

  /** By id. Free space is as stores last said. */
  volumes(ledger: Ledger): MapVolume[] {
    const volumes = [...this.#entries.values()].sort((left, right) => left.volume - right.volume);
    return volumes.map((entry) => {
      if (!entry.isWritable) return entry;
      const record = ledger.volumes.get(entry.volume);
      const freeBytes = record === undefined ? 0 : freeBytesOf(record, this.#presences);
      return { ...entry, freeBytes };
    });
  }
}

/** How gateways see a volume; undefined while there is nothing to see. */
function mapEntry(
  record: VolumeRecord,
  ledger: Pick<Ledger, "stores">,
  presences: Pick<Presences, "get">,
): MapVolume | undefined {
  const { volume, state, epoch } = record;
  if (state === "creating" || state === "dropping" || state === "dropped") return undefined;
  const members = membersOf(record);
  const copies = members.map(({ store }) => {
    const presence = presences.get(store);
    const isRefused = presence?.refused.has(volume) === true;
    return {
      address: presence?.address ?? ledger.stores.get(store)?.address ?? "",
      isLive: presence?.state === "live",
      isLost: presence?.state === "lost",
      status: isRefused ? undefined : presence?.volumes.get(volume),
    };
  });
  if (copies.every(({ status }) => status === undefined)) return undefined;
  // What stands alone is served whatever its store was told last, and a silent store keeps its place: it
  // may be back before another answer is known.
  const serving = copies.filter(({ status }) => status?.isServing === true);
  const live = serving.filter(({ isLive }) => isLive);
  const silent = serving.filter(({ isLive, isLost }) => !isLive && (!isLost || live.length === 0));
  const addresses = [...live, ...silent].map(({ address }) => address);
  const primary = copies[0]?.status;
  const isWritable =
    state === "open" &&
    primary?.isWritable === true &&
    primary.epoch === epoch &&
    copies.every(({ isLive, status }) => isLive && status !== undefined && status.epoch === epoch);
  const freeBytes = freeBytesOf(record, presences);
  return {
    volume,
    class: record.class,
    placement: record.placement,
    isWritable,
    addresses,
    memberAddresses: copies.map(({ address }) => address),
    // Of a store that has not called since the directory's start nobody knows that it is full.
    isFull: state === "open" && copies.every(({ status }) => status) && freeBytes === 0,
    freeBytes,
  };
}

function freeBytesOf(record: VolumeRecord, presences: Pick<Presences, "get">): number {
  const free = membersOf(record).map(({ store }) => presences.get(store)?.freeBytes ?? 0);
  return free.length === 0 ? 0 : Math.min(...free);
}

function isSame(left: MapVolume, right: MapVolume): boolean {
  return (
    left.isWritable === right.isWritable &&
    left.isFull === right.isFull &&
    left.class === right.class &&
    left.placement === right.placement &&
    left.addresses.join() === right.addresses.join() &&
    left.memberAddresses.join() === right.memberAddresses.join()
  );
}

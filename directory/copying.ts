/**
 * Copies on the move: repair, drain and balance. All three are the same to a volume: it lacks a copy where
 * it is to be, gets one, and once that is verified and serves, what is too many goes (plan-life.ts).
 *
 * Invariant: a store takes and gives only so many copies at a time; the others wait here, without a row.
 */

import { Failure } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Keeper } from "./keeper.ts";
import { type Draft, type Ledger, replicaRecord } from "./ledger.ts";
import { copyBody } from "./order-text.ts";
import { domainOf, type Target } from "./place.ts";
import { planBalance } from "./plan-balance.ts";
import { requireDrainable } from "./plan-drain.ts";
import { conditionOf, healthOf } from "./plan-life.ts";
import {
  planRepair,
  type RepairLimits,
  type RepairStore,
  type ShortVolume,
} from "./plan-repair.ts";
import type { Presence, Presences } from "./presences.ts";
import { membersOf, placementOf, type VolumeRecord } from "./records.ts";

export interface CopyingOptions extends RepairLimits {
  /** Per second and copy; 0 if as fast as can be. */
  rateBytes: number;
}

export const copyingDefaults: CopyingOptions = {
  incomingMax: 2,
  outgoingMax: 2,
  rateBytes: 50_000_000,
};

/** Volumes looked at in one go: the rest has its turn when these are under way. */
const shortMax = 20_000;

export class Copying {
  readonly #keeper: Keeper;
  readonly #presences: Presences;
  readonly #random: Random;
  readonly #log: Log;
  readonly #options: CopyingOptions;
  /** Where a volume that moves is to go, if that was chosen. */
  readonly #targets = new Map<number, string>();
  #isBalancing = false;

  constructor({
    keeper,
    presences,
    random,
    log,
    options,
  }: {
    keeper: Keeper;
    presences: Presences;
    random: Random;
    log: Log;
    options: CopyingOptions;
  }) {
    this.#keeper = keeper;
    this.#presences = presences;
    this.#random = random;
    this.#log = log;
    this.#options = options;
  }

  /** Orders the copies that can be made now. */
  repair(draft: Draft): void {
    const { short } = this.#keeper;
    if (short.size === 0) return;
    const volumes: ShortVolume[] = [];
    for (const volume of short) {
      if (volumes.length >= shortMax) break;
      const each = this.#shortVolume(draft, volume);
      if (each !== undefined) volumes.push(each);
    }
    if (volumes.length === 0) return;
    const steps = planRepair({
      short: volumes,
      stores: this.#repairStores(draft),
      limits: this.#options,
      fraction: () => this.#random.fraction(),
    });
    const { rateBytes } = this.#options;
    for (const { volume, from, to, isInPlace } of steps) {
      this.#log.info({ volume, from, to }, "a volume is copied");
      const record = draft.volume(volume);
      if (record === undefined) continue;
      const joined = isInPlace
        ? record
        : draft.alter(volume, {
            replicas: [
              ...record.replicas.filter(({ store }) => store !== to),
              replicaRecord(to, "joining"),
            ],
          });
      const view = this.#keeper.viewOf(draft, joined);
      draft.addOrder(to, copyBody(view, to, { first: from, rateBytes }));
      this.#targets.delete(volume);
      this.#keeper.tend(draft, volume);
    }
  }

  /** Marks volumes to be moved from full stores to empty ones; nothing while volumes lack copies. */
  balance(draft: Draft, ledger: Ledger): number[] {
    if (this.#keeper.short.size > 0) return [];
    const presences = [...this.#presences.values()].filter((presence) =>
      this.#keeper.canTake(draft, presence),
    );
    const { isOn, moves } = planBalance({
      stores: presences.map(({ store, totalBytes }) => ({
        ...{ store, totalBytes, usedBytes: this.memberBytes(ledger, store) },
      })),
      isOn: this.#isBalancing,
      movesMax: presences.length,
      volumesOf: (store) => this.#movable(draft, ledger, store),
      canMove: (volume, from, to) => this.#canMove(draft, volume, { from, to }),
    });
    this.#isBalancing = isOn;
    for (const { volume, from, to } of moves) this.#mark(draft, volume, { from, to });
    return moves.map(({ volume }) => volume);
  }

  /** Moves a copy of a volume from one store to another, at an operator's wish. */
  move(draft: Draft, volume: number, { from, to }: { from: string; to: string }): void {
    const record = draft.volume(volume);
    if (record === undefined || record.state === "dropped" || record.state === "dropping") {
      throw new Failure("not-found", `Cannot find volume ${volume}`);
    }
    const fail = (why: string) => new Failure("conflict", `Cannot move volume ${volume}: ${why}`);
    if (record.state !== "sealed") throw fail("it is open, so it has to be sealed first");
    const replica = record.replicas.find(({ store }) => store === from);
    if (replica?.state !== "member") throw fail(`store ${from} has no copy that could move`);
    if (record.replicas.some(({ store }) => store === to)) {
      throw fail(`store ${to} has something of it already`);
    }
    const target = this.#presences.get(to);
    if (target === undefined || !this.#keeper.canTake(draft, target)) {
      throw fail(`store ${to} takes no copies now`);
    }
    if (target.freeBytes <= (record.sealedLength ?? 0)) throw fail(`store ${to} has no space`);
    if (!this.#canMove(draft, volume, { from, to })) {
      const { spread } = placementOf(record);
      throw fail(`another copy is in the ${spread} of store ${to}`);
    }
    this.#mark(draft, volume, { from, to });
  }

  /** Has a store emptied; fails where its copies have no other place. Returns the volumes concerned. */
  drain(draft: Draft, ledger: Ledger, store: string): number[] {
    const record = draft.store(store);
    if (record === undefined) throw new Failure("not-found", `Cannot find store ${store}`);
    const volumes: number[] = [];
    const byPlacement = new Map<string, { count: number; lengthBytes: number }>();
    for (const volume of ledger.volumesOf(store)) {
      const each = draft.volume(volume);
      if (each === undefined || !membersOf(each).some((replica) => replica.store === store))
        continue;
      volumes.push(volume);
      const sum = byPlacement.get(each.placement) ?? { count: 0, lengthBytes: 0 };
      const lengthBytes = this.#lengthOf(each, store);
      const next = { count: sum.count + 1, lengthBytes: sum.lengthBytes + lengthBytes };
      byPlacement.set(each.placement, next);
    }
    const targets = [...this.#presences.values()].filter(
      (presence) => presence.store !== store && this.#keeper.canTake(draft, presence),
    );
    requireDrainable({
      name: record.address,
      copies: [...byPlacement].map(([placement, sum]) => ({ placement, ...sum })),
      targets,
    });
    draft.putStore({ ...record, isDraining: true });
    return volumes;
  }

  /** Lets a store keep what it has. Returns the volumes concerned. */
  undrain(draft: Draft, ledger: Ledger, store: string): number[] {
    const record = draft.store(store);
    if (record === undefined) throw new Failure("not-found", `Cannot find store ${store}`);
    draft.putStore({ ...record, isDraining: false });
    const volumes = [...ledger.volumesOf(store)];
    for (const volume of volumes) {
      const { replicas = [] } = draft.volume(volume) ?? {};
      if (!replicas.some((replica) => replica.store === store && replica.state === "moving")) {
        continue;
      }
      const next = replicas.map((replica) =>
        replica.store === store && replica.state === "moving"
          ? replicaRecord(store, "member")
          : replica,
      );
      draft.alter(volume, { replicas: next });
    }
    return volumes;
  }

  /** Bytes of copies that the store is to keep, or to get. */
  memberBytes(ledger: Ledger, store: string): number {
    let sum = 0;
    for (const volume of ledger.volumesOf(store)) {
      const record = ledger.volumes.get(volume);
      const replica = record?.replicas.find((each) => each.store === store);
      if (record === undefined || replica === undefined) continue;
      if (replica.state === "member" || replica.state === "joining") {
        sum += this.#lengthOf(record, store);
      }
    }
    return sum;
  }

  #lengthOf(record: VolumeRecord, store: string): number {
    const reported = this.#presences.get(store)?.volumes.get(record.volume)?.lengthBytes;
    return record.sealedLength ?? reported ?? 0;
  }

  #mark(draft: Draft, volume: number, { from, to }: { from: string; to: string }): void {
    const record = draft.volume(volume);
    if (record === undefined) return;
    this.#log.info({ volume, from, to }, "a copy is to move");
    this.#targets.set(volume, to);
    const replicas = record.replicas.map((replica) =>
      replica.store === from ? replicaRecord(from, "moving") : replica,
    );
    draft.alter(volume, { replicas });
  }

  #movable(draft: Draft, ledger: Ledger, store: string) {
    const movable: { volume: number; lengthBytes: number }[] = [];
    for (const volume of ledger.volumesOf(store)) {
      const record = draft.volume(volume);
      if (record?.state !== "sealed" || record.replicas.some(({ state }) => state !== "member")) {
        continue;
      }
      if (draft.ordersFor(volume).length > 0) continue;
      const { copies } = this.#keeper.viewOf(draft, record);
      if (copies.some((copy) => conditionOf(record, copy) !== "whole")) continue;
      movable.push({ volume, lengthBytes: record.sealedLength ?? 0 });
    }
    return movable;
  }

  #canMove(draft: Draft, volume: number, { from, to }: { from: string; to: string }): boolean {
    const record = draft.volume(volume);
    const target = this.#presences.get(to);
    if (record === undefined || target === undefined) return false;
    if (target.freeBytes <= (record.sealedLength ?? 0)) return false;
    if (record.replicas.some(({ store }) => store === to)) return false;
    const { spread } = placementOf(record);
    return membersOf(record)
      .filter(({ store }) => store !== from)
      .every(({ store }) => {
        const place = this.#presences.get(store);
        return place === undefined || domainOf(place, spread) !== domainOf(target, spread);
      });
  }

  #shortVolume(draft: Draft, volume: number): ShortVolume | undefined {
    const record = draft.volume(volume);
    if (record === undefined) return undefined;
    const view = this.#keeper.viewOf(draft, record);
    const { wantedCount, presentCount, missingCount, sources } = healthOf(view);
    // One thing at a time is done to a volume that takes long.
    const isBusy = view.pending.some(({ kind }) => kind === "compact" || kind === "import");
    const isCopying = view.pending.some(({ kind }) => kind === "copy");
    if (missingCount === 0 || sources.length === 0 || isBusy || isCopying) return undefined;
    const bad = new Set(["damaged", "missing", "differs"]);
    const failed = this.#keeper.setbacks;
    const isBad = (copy: (typeof view.copies)[number]) => bad.has(conditionOf(record, copy));
    return {
      ...{ volume, wantedCount, presentCount, sources },
      lengthBytes: record.sealedLength ?? 0,
      spread: placementOf(record).spread,
      kept: view.copies
        .filter((copy) => copy.replica.state === "member" && copy.state !== "lost" && !isBad(copy))
        .map(({ place, replica }) => ({ ...place, store: replica.store })),
      avoid: new Set([
        ...record.replicas.map(({ store }) => store),
        ...failed.storesOf("copy", volume),
      ]),
      replaceable: view.copies
        .filter((copy) => copy.replica.state === "member" && copy.state === "live" && isBad(copy))
        .map(({ replica }) => replica.store)
        .filter((store) => !failed.hasFailed("copy", volume, store)),
      target: this.#chosenTarget(draft, record),
    };
  }

  /** The store that was chosen for a volume that moves, as long as it still can take it. */
  #chosenTarget(draft: Draft, record: VolumeRecord): string | undefined {
    const to = this.#targets.get(record.volume);
    const from = record.replicas.find(({ state }) => state === "moving")?.store;
    const target = to === undefined ? undefined : this.#presences.get(to);
    if (
      to !== undefined &&
      from !== undefined &&
      target !== undefined &&
      this.#keeper.canTake(draft, target) &&
      this.#canMove(draft, record.volume, { from, to })
    ) {
      return to;
    }
    this.#targets.delete(record.volume);
    return undefined;
  }

  #repairStores(draft: Draft): RepairStore[] {
    const stores: RepairStore[] = [];
    for (const presence of this.#presences.values()) {
      if (presence.state !== "live" || presence.run === "") continue;
      const incoming = draft.ordersOf(presence.store).filter(({ kind }) => kind === "copy").length;
      stores.push({ ...asTarget(draft, this.#keeper, presence), incoming, outgoing: 0 });
    }
    const byId = new Map(stores.map((store) => [store.store, store]));
    for (const store of stores) {
      for (const { kind, order } of store.incoming > 0 ? draft.ordersOf(store.store) : []) {
        if (kind !== "copy" || order.kind !== "copy") continue;
        const source = byId.get(order.from[0]?.store ?? "");
        if (source !== undefined) source.outgoing += 1;
      }
    }
    return stores;
  }
}

function asTarget(draft: Draft, keeper: Keeper, presence: Presence): Target {
  const { store, machine, rack, dataCentre, freeBytes } = presence;
  const isOpen = keeper.canTake(draft, presence);
  return { store, machine, rack, dataCentre, freeBytes: isOpen ? freeBytes : 0 };
}

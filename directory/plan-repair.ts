/**
 * Which copies to make now, as a pure function: for volumes that have too few, the most endangered first,
 * from many stores to many, so that a lost store is made good by all that are left.
 */

import { chooseTarget, domainOf, type Place, type Target } from "./place.ts";
import type { Spread } from "./placement.ts";

/** A sealed volume that is to get a copy. */
export interface ShortVolume {
  volume: number;
  lengthBytes: number;
  wantedCount: number;
  /** Copies that are there. */
  presentCount: number;
  spread: Spread;
  /** Where copies are that stay. */
  kept: readonly Place[];
  /** Stores to copy from, the best first. */
  sources: readonly string[];
  /** Stores that can't take it: they have something of it, or failed lately. */
  avoid: ReadonlySet<string>;
  /** Stores with a bad copy that may be replaced where it is. */
  replaceable: readonly string[];
  /** The store that it is to go to, if that was chosen already. */
  target?: string | undefined;
}

/** A store as a place to copy to, with what it is busy with. */
export interface RepairStore extends Target {
  incoming: number;
  outgoing: number;
}

export interface CopyStep {
  volume: number;
  from: string;
  to: string;
  /** It takes the place of a bad one at the same store. */
  isInPlace: boolean;
}

export interface RepairLimits {
  /** Copies that a store takes, and gives, at a time. */
  incomingMax: number;
  outgoingMax: number;
}

export function planRepair({
  short,
  stores,
  limits,
  fraction,
}: {
  short: readonly ShortVolume[];
  /** Live stores. Those that take no new copies have a `freeBytes` of 0. */
  stores: readonly RepairStore[];
  limits: RepairLimits;
  fraction: () => number;
}): CopyStep[] {
  const byId = new Map(stores.map((store) => [store.store, { ...store }]));
  let open = [...byId.values()].filter(({ incoming }) => incoming < limits.incomingMax);
  const steps: CopyStep[] = [];
  for (const each of [...short].sort(byDanger)) {
    if (open.length === 0) break;
    const source = leastBusy(each.sources, byId, limits);
    if (source === undefined) continue;
    const target = targetFor(each, open, fraction());
    if (target === undefined) continue;
    steps.push({
      volume: each.volume,
      from: source.store,
      to: target.store,
      isInPlace: each.replaceable.includes(target.store),
    });
    source.outgoing += 1;
    target.incoming += 1;
    target.freeBytes -= each.lengthBytes;
    if (target.incoming >= limits.incomingMax) open = open.filter((store) => store !== target);
  }
  return steps;
}

/** Fewest copies first; then the largest share missing; the smaller of equals is safe the sooner. */
function byDanger(left: ShortVolume, right: ShortVolume): number {
  return (
    left.presentCount - right.presentCount ||
    left.presentCount / left.wantedCount - right.presentCount / right.wantedCount ||
    left.lengthBytes - right.lengthBytes ||
    left.volume - right.volume
  );
}

function leastBusy(
  sources: readonly string[],
  stores: ReadonlyMap<string, RepairStore>,
  { outgoingMax }: RepairLimits,
): RepairStore | undefined {
  let best: RepairStore | undefined;
  for (const source of sources) {
    const store = stores.get(source);
    if (store === undefined || store.outgoing >= outgoingMax) continue;
    if (best === undefined || store.outgoing < best.outgoing) best = store;
  }
  return best;
}

function targetFor(
  { lengthBytes, spread, kept, avoid, replaceable, target, sources }: ShortVolume,
  open: readonly RepairStore[],
  fraction: number,
): RepairStore | undefined {
  const taken = new Set(kept.map((place) => domainOf(place, spread)));
  const targets = open.filter(
    ({ store, freeBytes }) =>
      freeBytes > lengthBytes && !avoid.has(store) && (target === undefined || store === target),
  );
  const chosen = chooseTarget({ targets, spread, taken, fraction });
  if (chosen !== undefined || target !== undefined) return chosen;
  // Nowhere else: a whole copy in the place of a bad one is as good, if the disk is.
  return open.find(({ store }) => replaceable.includes(store) && !sources.includes(store));
}

/**
 * Which volumes to make ahead of demand, as a pure function: of each class and placement that is wanted,
 * every store with space is the primary of so many that take appends, so that each has its share of the work.
 */

import { toFailure } from "../base/failure.ts";
import { placeCopies, type Target } from "./place.ts";
import type { UnmetWant } from "./protocol.ts";
import { placementOf } from "./records.ts";
import { type Want, wantText } from "./wants.ts";

/** A volume that takes appends, or will in a moment. */
export interface OpenVolume extends Want {
  primary: string;
}

interface Creation {
  want: Want;
  /** Stores that get a copy, the primary first. */
  members: string[];
}

/** At least so many of each, so that one that closes is not missed. */
const volumesMin = 2;

export function planGrowth({
  wants,
  open,
  targets,
  fraction,
}: {
  wants: readonly Want[];
  open: readonly OpenVolume[];
  /** Live stores that new volumes may be made on. */
  targets: readonly Target[];
  fraction: () => number;
}): { creations: Creation[]; unmet: UnmetWant[] } {
  const counts = new Map<string, number>();
  const keyOf = (want: Want, primary: string) => `${wantText(want)} ${primary}`;
  for (const volume of open) {
    const key = keyOf(volume, volume.primary);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const creations: Creation[] = [];
  const unmet: UnmetWant[] = [];
  for (const want of wants) {
    const placement = placementOf(want);
    try {
      // Where it can't be met at all, the reason is the same for all of them.
      if (targets.length === 0) placeCopies({ placement, targets, fraction });
      const perStore = perStoreCount(want, targets.length);
      for (const primary of primariesFor(want, targets)) {
        const count = counts.get(keyOf(want, primary.store)) ?? 0;
        for (let made = count; made < perStore; made++) {
          const members = placeCopies({ placement, targets, primary, fraction });
          creations.push({ want, members: members.map(({ store }) => store) });
        }
      }
    } catch (error) {
      unmet.push({ want: wantText(want), reason: toFailure(error).message });
    }
  }
  return { creations, unmet };
}

/** How many volumes of a kind each store is the primary of. */
function perStoreCount(want: Want, storeCount: number): number {
  // Two of the usual kind, so that group commit has company and one that closes is not missed.
  if (want.class === "original" && placementOf(want).copies === 1) return 2;
  return storeCount < volumesMin ? Math.ceil(volumesMin / Math.max(storeCount, 1)) : 1;
}

/** The journal is written by few, and read from its beginning: it is not spread over all stores. */
function primariesFor(want: Want, targets: readonly Target[]): readonly Target[] {
  if (want.class !== "journal") return targets.filter(({ freeBytes }) => freeBytes > 0);
  const byId = [...targets].sort((left, right) => (left.store < right.store ? -1 : 1));
  return byId.filter(({ freeBytes }) => freeBytes > 0).slice(0, volumesMin);
}

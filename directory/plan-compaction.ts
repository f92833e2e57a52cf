/**
 * Which volumes are worth rewriting, as a pure function: compaction copies what lives to a new file, so it
 * costs what it copies and brings what it leaves out.
 */

import type { CompactionStep, VolumeStatus } from "./protocol.ts";

export interface CompactionPolicy {
  /** The share of dead bytes from which a volume is worth it. */
  garbageRatioMin: number;
  /** The share of live bytes up to which a volume goes first, because next to nothing is copied. */
  drainLiveRatioMax: number;
}

export const compactionDefaults: CompactionPolicy = {
  garbageRatioMin: 0.3,
  drainLiveRatioMax: 0.1,
};

/** Less than this is not worth a new file; it is for whoever asks by hand. */
const deadBytesMin = 1_048_576;

/**
 * What to compact, the cheapest first by bytes copied for a byte freed. By itself: one volume of a store at a
 * time, and none where little is dead. `byHand`: all that the ratios name.
 */
export function planCompaction(
  volumes: readonly (VolumeStatus & { store: string })[],
  { garbageRatioMin, drainLiveRatioMax }: CompactionPolicy,
  { byHand = false }: { byHand?: boolean } = {},
): CompactionStep[] {
  const steps = volumes
    .filter((status) => isCandidate(status) && (byHand || status.deadBytes >= deadBytesMin))
    .flatMap((status): CompactionStep[] => {
      const { volume, store, lengthBytes, deadBytes } = status;
      const copyBytes = Math.max(lengthBytes - deadBytes, 0);
      const isDrained = copyBytes / lengthBytes <= drainLiveRatioMax;
      if (!isDrained && deadBytes / lengthBytes < garbageRatioMin) return [];
      const strategy = isDrained ? "drain" : "garbage";
      return [{ volume, store, strategy, copyBytes, freedBytes: deadBytes }];
    })
    .sort(
      (left, right) =>
        Number(left.strategy === "garbage") - Number(right.strategy === "garbage") ||
        left.copyBytes / left.freedBytes - right.copyBytes / right.freedBytes ||
        left.volume - right.volume,
    );
  if (byHand) return steps;
  const busy = new Set(
    volumes.flatMap(({ store, operation }) => (operation?.kind === "compact" ? [store] : [])),
  );
  return steps.filter(({ store }) => {
    if (busy.has(store)) return false;
    busy.add(store);
    return true;
  });
}

function isCandidate(status: VolumeStatus): boolean {
  const { state, operation, hasSparseKeys, ttlSeconds, deadBytes, lengthBytes } = status;
  // What has a TTL goes as a whole before long.
  const isGoingAnyway = status.class === "native" && ttlSeconds > 0;
  return (
    state === "sealed" &&
    operation === undefined &&
    !hasSparseKeys &&
    !isGoingAnyway &&
    deadBytes > 0 &&
    lengthBytes > 0
  );
}

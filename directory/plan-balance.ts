/**
 * Which sealed volumes to move so that stores are equally full, as a pure function.
 *
 * Fullness counts the copies that are wanted, over the size of the disk: free space would lie, for what was
 * moved away stays in the trash for days. A move goes from above the mean to below it and never beyond, so
 * nothing is moved twice, and no more than has to be.
 */

export interface BalanceStore {
  store: string;
  /** Bytes of copies that stay there or are on their way to it. */
  usedBytes: number;
  totalBytes: number;
}

export interface MovableVolume {
  volume: number;
  lengthBytes: number;
}

interface BalanceMove {
  volume: number;
  lengthBytes: number;
  from: string;
  to: string;
}

/** Moving starts when the fullest and the emptiest are so far apart, and ends when they are nearly equal. */
const startGap = 0.1;
const endGap = 0.02;

export function planBalance({
  stores,
  isOn,
  movesMax,
  volumesOf,
  canMove,
}: {
  /** Live stores that may take and give. */
  stores: readonly BalanceStore[];
  /** Whether moving has started before. */
  isOn: boolean;
  movesMax: number;
  volumesOf: (store: string) => readonly MovableVolume[];
  /** Whether the volume's other copies are far enough from the target. */
  canMove: (volume: number, from: string, to: string) => boolean;
}): { isOn: boolean; moves: BalanceMove[] } {
  const sized = stores.filter(({ totalBytes }) => totalBytes > 0).map((store) => ({ ...store }));
  const used = sized.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  const total = sized.reduce((sum, { totalBytes }) => sum + totalBytes, 0);
  if (sized.length < 2 || used === 0) return { isOn: false, moves: [] };
  const mean = used / total;
  const fullnessOf = ({ usedBytes, totalBytes }: BalanceStore) => usedBytes / totalBytes;
  const gap = () => {
    const fullness = sized.map(fullnessOf);
    return Math.max(...fullness) - Math.min(...fullness);
  };
  if (gap() < (isOn ? endGap : startGap)) return { isOn: false, moves: [] };
  const moves: BalanceMove[] = [];
  const moved = new Set<number>();
  while (moves.length < movesMax && gap() >= endGap) {
    const sources = sized
      .filter((store) => fullnessOf(store) > mean)
      .sort((left, right) => fullnessOf(right) - fullnessOf(left));
    const targets = sized
      .filter((store) => fullnessOf(store) < mean)
      .sort((left, right) => fullnessOf(left) - fullnessOf(right));
    const move = firstMove(sources, targets);
    if (move === undefined) break;
    const { source, target, volume } = move;
    source.usedBytes -= volume.lengthBytes;
    target.usedBytes += volume.lengthBytes;
    moved.add(volume.volume);
    moves.push({ ...volume, from: source.store, to: target.store });
  }
  return { isOn: true, moves };

  function firstMove(sources: readonly BalanceStore[], targets: readonly BalanceStore[]) {
    for (const source of sources) {
      const excess = source.usedBytes - mean * source.totalBytes;
      // The largest first: fewer moves for the same bytes.
      const volumes = volumesOf(source.store)
        .filter(({ volume, lengthBytes }) => lengthBytes > 0 && !moved.has(volume))
        .filter(({ lengthBytes }) => lengthBytes <= excess)
        .sort((left, right) => right.lengthBytes - left.lengthBytes);
      for (const target of targets) {
        const room = mean * target.totalBytes - target.usedBytes;
        const volume = volumes.find(
          ({ volume: id, lengthBytes }) =>
            lengthBytes <= room && canMove(id, source.store, target.store),
        );
        if (volume !== undefined) return { source, target, volume };
      }
    }
    return undefined;
  }
}

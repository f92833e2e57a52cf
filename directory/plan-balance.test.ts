import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { type MovableVolume, planBalance } from "./plan-balance.ts";

const totalBytes = 1_000_000;

/** Stores with volumes by chance, each about so full. */
function fill(fullness: readonly number[], seed: number): Map<string, MovableVolume[]> {
  const random = seededRandom(seed);
  let volume = 0;
  return new Map(
    fullness.map((share, at) => {
      const volumes: MovableVolume[] = [];
      let used = 0;
      while (used < share * totalBytes) {
        volume += 1;
        const lengthBytes = 1 + Math.floor(random.fraction() * 8_000);
        used += lengthBytes;
        volumes.push({ volume, lengthBytes });
      }
      return [`${at}`, volumes];
    }),
  );
}

const usedOf = (volumes: readonly MovableVolume[] = []) =>
  volumes.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);

/** Plans and moves until there is nothing to move; returns what was moved. */
function balance(
  held: Map<string, MovableVolume[]>,
  movesMax: number,
): { bytes: number; again: number } {
  let isOn = false;
  let bytes = 0;
  let again = 0;
  const moved = new Set<number>();
  for (;;) {
    const plan = planBalance({
      stores: [...held].map(([store, volumes]) => ({
        store,
        totalBytes,
        usedBytes: usedOf(volumes),
      })),
      ...{ isOn, movesMax },
      volumesOf: (store) => held.get(store) ?? [],
      canMove: () => true,
    });
    isOn = plan.isOn;
    if (plan.moves.length === 0) return { bytes, again };
    for (const { volume, lengthBytes, from, to } of plan.moves) {
      bytes += lengthBytes;
      if (moved.has(volume)) again += 1;
      moved.add(volume);
      held.set(
        from,
        (held.get(from) ?? []).filter((each) => each.volume !== volume),
      );
      held.get(to)?.push({ volume, lengthBytes });
    }
  }
}

for (let seed = 1; seed <= 5; seed++) {
  test(`An empty store beside four full ones is filled with what has to be moved, once (seed ${seed})`, () => {
    const held = fill([0.8, 0.8, 0.8, 0.8, 0], seed);
    const ideal = [...held.values()].reduce((sum, volumes) => sum + usedOf(volumes), 0) / 5;
    const { bytes, again } = balance(held, 5);
    expect(bytes / ideal).toBeLessThan(1.1);
    expect(bytes / ideal).toBeGreaterThan(0.9);
    expect(again).toBe(0);
    const fullness = [...held.values()].map((volumes) => usedOf(volumes) / totalBytes);
    expect(Math.max(...fullness) - Math.min(...fullness)).toBeLessThan(0.03);
    expect(balance(held, 5).bytes).toBe(0);
  });
}

test("Stores that differ a little are left alone", () => {
  expect(balance(fill([0.5, 0.55, 0.58], 1), 5).bytes).toBe(0);
});

test("What may not be moved stays", () => {
  const held = fill([0.8, 0], 1);
  const stores = [...held].map(([store, volumes]) => ({
    ...{ store, totalBytes, usedBytes: usedOf(volumes) },
  }));
  const volumesOf = (store: string) => held.get(store) ?? [];
  const plan = { stores, isOn: false, movesMax: 9, volumesOf };
  expect(planBalance({ ...plan, canMove: () => false }).moves).toEqual([]);
  expect(planBalance({ ...plan, canMove: () => true }).moves).toHaveLength(9);
});

/**
 * The directory's balancing carried to its end, in memory: four full stores and an empty one, volumes with two
 * copies each on stores of their own. How many bytes are moved, and how many would have to be.
 *
 *     node loadtest/engine/balance.ts [seed]
 *
 * Prints one line of JSON.
 */

import { type Random, seededRandom } from "../../base/random.ts";
import { type MovableVolume, planBalance } from "../../directory/plan-balance.ts";

const fullStores = 4;
const copiesOfVolume = 2;
const totalBytes = 10e12;
const fullBytes = 0.8 * totalBytes;
/** Most are sealed at the largest size, some sooner. */
const lengthBytesMin = 4e9;
const lengthBytesMax = 34e9;

export interface BalanceResult {
  volumeCount: number;
  copyCount: number;
  storedBytes: number;
  movedBytes: number;
  moveCount: number;
  /** The mean of all stores: what the empty one has to get. */
  idealBytes: number;
  /** Copies that were moved more than once. */
  movedAgainCount: number;
  /** Between the fullest and the emptiest in the end, as a share of a disk. */
  gapLeft: number;
  planMs: number;
}

export function measureBalance(seed: number): BalanceResult {
  const held = fillStores(seededRandom(seed));
  const storedBytes = sum([...held.values()].map(usedOf));
  const result = { moveCount: 0, movedBytes: 0, movedAgainCount: 0, planMs: 0 };
  const copyCount = sum([...held.values()].map((volumes) => volumes.size));
  const moved = new Set<MovableVolume>();
  for (let isOn = false; ; ) {
    const startedMs = performance.now();
    const plan = planBalance({
      stores: [...held].map(([store, volumes]) => ({
        ...{ store, totalBytes, usedBytes: usedOf(volumes) },
      })),
      // As the directory asks: as many at a time as there are stores.
      ...{ isOn, movesMax: held.size },
      volumesOf: (store) => [...(held.get(store)?.values() ?? [])],
      canMove: (volume, _from, to) => held.get(to)?.has(volume) === false,
    });
    result.planMs += performance.now() - startedMs;
    isOn = plan.isOn;
    if (plan.moves.length === 0) break;
    for (const { volume, from, to } of plan.moves) {
      const copy = held.get(from)?.get(volume);
      if (copy === undefined) throw new Error(`Cannot move volume ${volume}: ${from} has none`);
      held.get(from)?.delete(volume);
      held.get(to)?.set(volume, copy);
      result.moveCount += 1;
      result.movedBytes += copy.lengthBytes;
      if (moved.has(copy)) result.movedAgainCount += 1;
      moved.add(copy);
    }
  }
  const fullness = [...held.values()].map((volumes) => usedOf(volumes) / totalBytes);
  return {
    ...result,
    ...{ volumeCount: copyCount / copiesOfVolume, copyCount, storedBytes },
    idealBytes: storedBytes / held.size,
    gapLeft: Math.max(...fullness) - Math.min(...fullness),
  };
}

type Held = Map<string, Map<number, MovableVolume>>;

function fillStores(random: Random): Held {
  const names = Array.from({ length: fullStores }, (_, at) => `full-${at + 1}`);
  const held: Held = new Map(names.map((name) => [name, new Map()]));
  for (let volume = 1; ; volume++) {
    const roomy = names.filter((name) => usedOf(held.get(name)) < fullBytes);
    if (roomy.length < copiesOfVolume) break;
    const spread = (lengthBytesMax - lengthBytesMin) * Math.sqrt(random.fraction());
    const lengthBytes = Math.round(lengthBytesMin + spread);
    for (let copy = 0; copy < copiesOfVolume; copy++) {
      const [name = ""] = roomy.splice(Math.floor(random.fraction() * roomy.length), 1);
      held.get(name)?.set(volume, { volume, lengthBytes });
    }
  }
  held.set("empty", new Map());
  return held;
}

function usedOf(volumes: ReadonlyMap<number, MovableVolume> = new Map()): number {
  return sum([...volumes.values()].map(({ lengthBytes }) => lengthBytes));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

if (import.meta.main) {
  const [seed = 1] = process.argv.slice(2).map(Number);
  process.stdout.write(`${JSON.stringify(measureBalance(seed))}\n`);
}

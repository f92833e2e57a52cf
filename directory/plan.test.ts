import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { chooseWeighted, ordersToSend, storeState } from "./plan.ts";
import type { Order } from "./protocol.ts";

const compact = (order: number, volume: number): Order => ({
  ...{ order, kind: "compact", volume, generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: false },
});
const verify = (order: number, volume: number): Order => ({
  ...{ order, kind: "verify", volume, rateBytes: 0 },
});
const sealed = (order: Order) => ({ order, volumeState: "sealed" as const });
const numbersOf = (orders: Order[]) => orders.map(({ order }) => order);

test("Of orders that take long, one of a kind and one for a volume is sent, and all that are short", () => {
  const seal: Order = { order: 9, kind: "seal", volume: 1 };
  const pending = [verify(3, 1), compact(4, 1), compact(5, 2), compact(6, 3), verify(7, 3), seal];
  const send = (isRunning: (order: Order) => boolean) =>
    numbersOf(ordersToSend(pending.map(sealed), isRunning));
  expect(send(() => false)).toEqual([3, 5, 9]);
  expect(send(({ order }) => order === 6)).toEqual([3, 6, 9]);
});

test("A compaction is not sent before its volume is sealed", () => {
  const waiting = { order: compact(1, 1), volumeState: "sealing" as const };
  expect(ordersToSend([waiting], () => true)).toEqual([]);
  expect(numbersOf(ordersToSend([waiting, sealed(compact(2, 2))], () => false))).toEqual([2]);
});

test("A silent store is suspect, then lost", () => {
  const limits = { suspectMs: 3_000, lostMs: 30_000 };
  expect([0, 2_999, 3_000, 29_999, 30_000].map((ms) => storeState(ms, limits))).toEqual([
    "live",
    "live",
    "suspect",
    "suspect",
    "lost",
  ]);
});

test("A weighted choice takes each in proportion to its weight, and none of weight zero", () => {
  const random = seededRandom(3);
  const taken = new Map<number, number>();
  for (let draw = 0; draw < 10_000; draw++) {
    const choice = chooseWeighted([1, 0, 3], (weight) => weight, random.fraction());
    if (choice !== undefined) taken.set(choice, (taken.get(choice) ?? 0) + 1);
  }
  expect(taken.get(0)).toBeUndefined();
  expect((taken.get(3) ?? 0) / (taken.get(1) ?? 1)).toBeGreaterThan(2.7);
  expect((taken.get(3) ?? 0) / (taken.get(1) ?? 1)).toBeLessThan(3.3);
  expect(chooseWeighted([], () => 1, 0.5)).toBeUndefined();
});

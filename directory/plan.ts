/** Small decisions of the directory, as pure functions. The life of a volume is in plan-life.ts. */

import type { Order, OrderKind } from "./protocol.ts";
import type { VolumeState } from "./records.ts";

/** How many orders of a kind that takes the disk's time a store works on at once; no bound for the others. */
const heavyMax: Partial<Record<OrderKind, number>> = { compact: 1, verify: 1, import: 1, copy: 4 };

/**
 * Whether a store carries it out in the background, while others go on: it moves many bytes, or waits for
 * other stores.
 */
export function isLongOrder(order: { kind: OrderKind; at?: unknown }): boolean {
  if (order.kind === "seal") return order.at !== undefined;
  return order.kind === "rejoin" || heavyMax[order.kind] !== undefined;
}

/** A reply has no more orders than these: the rest comes with the next. */
const ordersMax = 500;

/**
 * The orders of one store that it is to hear of now. Of those that take the disk's time: few of a kind, so
 * that readers have some too, one for a volume, and a compaction once the volume is sealed. What runs
 * already comes first.
 */
export function ordersToSend(
  pending: readonly { order: Order; volumeState: VolumeState | undefined }[],
  isRunning: (order: Order) => boolean,
): Order[] {
  const byNumber = [...pending].sort((left, right) => left.order.order - right.order.order);
  const heavy = byNumber.filter(({ order }) => heavyMax[order.kind] !== undefined);
  const chosen = new Set<Order>();
  const countOf = new Map<OrderKind, number>();
  const busyVolumes = new Set<number>();
  for (const { order, volumeState } of [
    ...heavy.filter(({ order }) => isRunning(order)),
    ...heavy.filter(({ order }) => !isRunning(order)),
  ]) {
    const { kind, volume } = order;
    const count = countOf.get(kind) ?? 0;
    if (kind === "compact" && volumeState !== "sealed") continue;
    if (count >= (heavyMax[kind] ?? 0) || busyVolumes.has(volume)) continue;
    countOf.set(kind, count + 1);
    busyVolumes.add(volume);
    chosen.add(order);
  }
  return byNumber
    .flatMap(({ order }) =>
      heavyMax[order.kind] !== undefined && !chosen.has(order) ? [] : [order],
    )
    .slice(0, ordersMax);
}

export type StoreState = "live" | "suspect" | "lost";

/** Whether a store that was silent for so long may still be asked. */
export function storeState(
  silentMs: number,
  { suspectMs, lostMs }: { suspectMs: number; lostMs: number },
): StoreState {
  if (silentMs < suspectMs) return "live";
  return silentMs < lostMs ? "suspect" : "lost";
}

/** One of `choices`, with a chance in proportion to its weight; undefined if there are none. */
export function chooseWeighted<Choice>(
  choices: readonly Choice[],
  weightOf: (choice: Choice) => number,
  fraction: number,
): Choice | undefined {
  const total = choices.reduce((sum, choice) => sum + weightOf(choice), 0);
  let left = fraction * total;
  for (const choice of choices) {
    left -= weightOf(choice);
    if (left < 0) return choice;
  }
  return choices.at(-1);
}

/** How orders ended, for whoever asks: in memory alone, and only so many. Those that have not are in the ledger. */

import type { Order, OrderStatus } from "./protocol.ts";

/** An order with its end: `reason` tells why it could not be carried out. */
export interface EndedOrder {
  order: Order;
  reason: string | undefined;
}

const endedMax = 1_000;

export class OrderBook {
  readonly #ended = new Map<number, OrderStatus>();

  /** To be called once it is committed that they ended. */
  remember(ended: readonly EndedOrder[]): void {
    for (const { order, reason } of ended) {
      const { order: number, kind, volume } = order;
      const state = reason === undefined ? "done" : "failed";
      this.#ended.set(number, { order: number, kind, volume, state, reason });
      for (const oldest of this.#ended.keys()) {
        if (this.#ended.size <= endedMax) break;
        this.#ended.delete(oldest);
      }
    }
  }

  ended(order: number): OrderStatus | undefined {
    return this.#ended.get(order);
  }
}

/**
 * Orders: rows while they are to be carried out, and for a while a memory of how they ended.
 *
 * Invariants:
 * - An order is a committed row before anyone hears of it, and a row until its store says how it ended.
 * - What ended is remembered in memory alone, and only so much of it.
 */

import type { Kysely, Transaction } from "kysely";
import { nextNumber } from "./counters.ts";
import type { VolumeState } from "./plan.ts";
import type { Heartbeat, Order, OrderStatus } from "./protocol.ts";
import type { DirectoryTables } from "./schema.ts";

export type OrderBody = Order extends infer Each
  ? Each extends Order
    ? Omit<Each, "order">
    : never
  : never;

/** An order with its end: `reason` tells why it could not be carried out. */
export interface EndedOrder {
  order: Order;
  reason: string | undefined;
}

export interface PendingOrder {
  order: Order;
  store: string;
  volumeState: VolumeState | undefined;
}

const endedMax = 1_000;

export class OrderBook {
  readonly #ended = new Map<number, OrderStatus>();

  /** Returns the new order's number. */
  async add(
    transaction: Transaction<DirectoryTables>,
    store: string,
    body: OrderBody,
  ): Promise<number> {
    const order = await nextNumber(transaction, "order");
    const { volume, kind } = body;
    const text = JSON.stringify({ order, ...body });
    await transaction
      .insertInto("orders")
      .values({ order_number: order, store, volume, kind, body: text })
      .execute();
    return order;
  }

  /** What is to be carried out, of one store or for one volume, in order. */
  async pending(
    database: Kysely<DirectoryTables>,
    of: { store: string } | { volume: number } | { order: number },
  ): Promise<PendingOrder[]> {
    const all = database
      .selectFrom("orders")
      .leftJoin("volumes", "volumes.volume", "orders.volume")
      .select(["orders.body", "orders.store", "volumes.state"])
      .orderBy("orders.order_number");
    const some =
      "store" in of
        ? all.where("orders.store", "=", of.store)
        : "volume" in of
          ? all.where("orders.volume", "=", of.volume)
          : all.where("orders.order_number", "=", of.order);
    return (await some.execute()).map(({ body, store, state }) => ({
      order: JSON.parse(body) as Order,
      store,
      volumeState: (state ?? undefined) as VolumeState | undefined,
    }));
  }

  /** Takes out what a store says has ended; what it says of another's orders counts for nothing. */
  async end(
    transaction: Transaction<DirectoryTables>,
    { store, done, failed }: Heartbeat,
  ): Promise<EndedOrder[]> {
    if (done.length + failed.length === 0) return [];
    const reasonOf = new Map(failed.map(({ order, reason }) => [order, reason]));
    const reported = new Set([...done, ...reasonOf.keys()]);
    const ended = (await this.pending(transaction, { store }))
      .filter(({ order }) => reported.has(order.order))
      .map(({ order }) => ({ order, reason: reasonOf.get(order.order) }));
    for (const { order } of ended) {
      await transaction.deleteFrom("orders").where("order_number", "=", order.order).execute();
    }
    return ended;
  }

  /** To be called once it is committed that they ended. */
  remember(ended: readonly EndedOrder[]): void {
    for (const { order, reason } of ended) {
      const { order: number, kind, volume } = order;
      const state = reason === undefined ? "done" : "failed";
      this.#ended.set(number, { order: number, kind, volume, state, reason });
    }
    for (const oldest of [...this.#ended.keys()].slice(0, -endedMax)) this.#ended.delete(oldest);
  }

  /** How an order ended, if it did not long ago. */
  ended(order: number): OrderStatus | undefined {
    return this.#ended.get(order);
  }
}

/** What a store is told in the reply to a heartbeat, and whether that is worth hurrying the reply for. */

import type { Runtime } from "../base/runtime.ts";
import type { Assigner } from "./assigner.ts";
import { Bell } from "./bell.ts";
import type { Keeper } from "./keeper.ts";
import { Draft, type Ledger } from "./ledger.ts";
import { renewed } from "./order-text.ts";
import { ordersToSend } from "./plan.ts";
import type { Presence, Presences } from "./presences.ts";
import type { Heartbeat, HeartbeatReply, Order } from "./protocol.ts";

type Reply = Pick<HeartbeatReply, "orders" | "reserve">;

export class Replies {
  readonly #presences: Presences;
  readonly #keeper: Keeper;
  readonly #assigner: Assigner;
  readonly #runtime: Runtime;
  /** Per store: there may be something to say in the reply that is held. */
  readonly #bells = new Map<string, Bell>();

  constructor({
    presences,
    keeper,
    assigner,
    runtime,
  }: {
    presences: Presences;
    keeper: Keeper;
    assigner: Assigner;
    runtime: Runtime;
  }) {
    this.#presences = presences;
    this.#keeper = keeper;
    this.#assigner = assigner;
    this.#runtime = runtime;
  }

  bellOf(store: string): Bell {
    let bell = this.#bells.get(store);
    if (bell === undefined) {
      bell = new Bell(this.#runtime);
      this.#bells.set(store, bell);
    }
    return bell;
  }

  make({ store, run }: Heartbeat, ledger: Ledger | undefined): Reply {
    const presence = this.#presences.get(store);
    // A process that was succeeded while its reply was held has nothing to carry out any more.
    if (presence?.run !== run || ledger === undefined) return { orders: [], reserve: [] };
    const isRunning = ({ order, kind, volume }: Order) =>
      presence.sentOrders.has(order) || presence.volumes.get(volume)?.operation?.kind === kind;
    const pending = ledger.ordersOf(store).map(({ order, volume }) => ({
      order,
      volumeState: ledger.volumes.get(volume)?.state,
    }));
    const orders = pending.length === 0 ? [] : ordersToSend(pending, isRunning);
    return {
      orders: orders.map((order) => this.#renewed(ledger, order, store)),
      reserve: this.#assigner.wishesOf(store),
    };
  }

  /** Whether there is something in it that this run of the store was not sent before. */
  isNews({ store }: Heartbeat, { orders, reserve }: Reply): boolean {
    const presence = this.#presences.get(store);
    return (
      orders.some(({ order }) => presence?.sentOrders.has(order) !== true) ||
      reserve.some(({ volume, count }) => (presence?.sentWishes.get(volume) ?? 0) < count)
    );
  }

  noteSent({ store, run }: Heartbeat, { orders, reserve }: Reply): void {
    const presence = this.#presences.get(store);
    if (presence?.run !== run) return;
    presence.sentOrders = new Set(orders.map(({ order }) => order));
    presence.sentWishes = new Map(reserve.map(({ volume, count }) => [volume, count]));
  }

  /** A wish that was granted is over: the next for the same volume is news again. */
  forgetGranted({ store, sentWishes }: Presence): void {
    const wished = new Set(this.#assigner.wishesOf(store).map(({ volume }) => volume));
    for (const volume of [...sentWishes.keys()]) {
      if (!wished.has(volume)) sentWishes.delete(volume);
    }
  }

  #renewed(ledger: Ledger, order: Order, store: string): Order {
    const record = ledger.volumes.get(order.volume);
    if (record === undefined) return order;
    return renewed(order, this.#keeper.viewOf(new Draft(ledger), record), store);
  }
}

/**
 * The directory: which store has which volume, who may write it, and what stores are to do.
 *
 * Invariants:
 * - What decides who may write (volume ids, epochs, states, orders) is committed before anyone hears of
 *   it, and a volume id is never given out twice.
 * - An order is sent with every heartbeat reply until the store reports it done.
 * - What stores report (lengths, space) is kept in memory alone: it comes again.
 */

import type { Kysely, Transaction } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { type Change, type OrderRecord, planStore, storeState, type VolumeRecord } from "./plan.ts";
import type {
  DirectoryStatus,
  Heartbeat,
  HeartbeatReply,
  MapVolume,
  Order,
  VolumeClass,
  VolumeMap,
} from "./protocol.ts";
import type { DirectoryTables } from "./schema.ts";

export interface DirectoryOptions {
  database: Kysely<DirectoryTables>;
  clock: Clock;
  random: Random;
  log: Log;
  /** Silence after which a store gets no new writes, and after which it is given up. */
  suspectMs?: number;
  lostMs?: number;
}

/** What a live store last said. */
interface Presence {
  heartbeat: Heartbeat;
  seenMs: number;
  /** Volumes that the store may not serve (two claim one id). */
  refused: Set<number>;
}

export class Directory {
  readonly #options: Required<DirectoryOptions>;
  readonly #presences = new Map<string, Presence>();
  readonly #boot: string;
  #mapNumber = 0;
  #mapText = "";
  readonly #mapWaiters = new Set<() => void>();
  /** Heartbeats change the database one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: DirectoryOptions) {
    this.#options = { suspectMs: 3_000, lostMs: 30_000, ...options };
    // A restarted directory must not seem to have the map that its predecessor gave out.
    this.#boot = options.random.bytes(6).toString("hex");
  }

  /** Takes in a report; the reply holds all orders that the store has not reported done. */
  async heartbeat(heartbeat: Heartbeat): Promise<HeartbeatReply> {
    const turn = this.#turn.then(() => this.#takeIn(heartbeat));
    this.#turn = turn.catch(() => undefined);
    return { orders: await turn };
  }

  map(): VolumeMap {
    this.#refreshMap();
    return { version: `${this.#boot}.${this.#mapNumber}`, volumes: this.#mapVolumes() };
  }

  /** The map once its version is another than `version`, or after `waitMs` as it is. */
  async mapAfter(version: string, waitMs: number, signal: AbortSignal): Promise<VolumeMap> {
    const deadline = this.#options.clock.monotonicMs() + waitMs;
    for (;;) {
      const map = this.map();
      const leftMs = deadline - this.#options.clock.monotonicMs();
      if (map.version !== version || leftMs <= 0 || signal.aborted) return map;
      // Looked at anew now and then, because a store falls silent without saying so.
      await this.#mapChange(Math.min(leftMs, 500), signal);
    }
  }

  status(): DirectoryStatus {
    const stores = [...this.#presences.values()].map((presence) => {
      const { store, address, freeBytes, totalBytes, volumes } = presence.heartbeat;
      return { store, address, state: this.#stateOf(presence), freeBytes, totalBytes, volumes };
    });
    return { stores };
  }

  async #takeIn(heartbeat: Heartbeat): Promise<Order[]> {
    const { clock, log } = this.#options;
    const refused = new Set<number>();
    const orders = await this.#options.database.transaction().execute(async (transaction) => {
      const before = await transaction
        .selectFrom("stores")
        .select(["run", "address"])
        .where("store", "=", heartbeat.store)
        .executeTakeFirst();
      const isNewRun = before?.run !== heartbeat.run;
      // Only what changes is written: a heartbeat a second must not cost a sync a second.
      if (isNewRun || before.address !== heartbeat.address)
        await this.#join(transaction, heartbeat);
      if (heartbeat.done.length > 0) {
        await transaction
          .deleteFrom("orders")
          .where("store", "=", heartbeat.store)
          .where("order_number", "in", heartbeat.done)
          .execute();
      }
      if (isNewRun) {
        // Epochs belong to a run: what the last one was told to begin is void.
        await transaction
          .deleteFrom("orders")
          .where("store", "=", heartbeat.store)
          .where("kind", "=", "begin-epoch")
          .execute();
      }
      // A volume that can't be opened is not lost, and its id never free.
      const { unreadable } = heartbeat;
      if (unreadable.length > 0) await raiseVolumeCounter(transaction, Math.max(...unreadable));
      const changes = planStore({
        records: await volumesOf(transaction, heartbeat.store),
        reports: heartbeat.volumes,
        pending: await pendingOf(transaction, heartbeat.store),
        isNewRun,
        hasSpace: heartbeat.freeBytes > 0,
      });
      for (const change of changes) {
        if (change.kind === "refuse") {
          refused.add(change.volume);
          log.error({ store: heartbeat.store, ...change }, "a volume is refused");
          continue;
        }
        if (change.kind === "seal") {
          log.warn({ store: heartbeat.store, ...change }, "a volume is sealed");
        }
        if (change.kind === "adopt" && (await isOnRecordElsewhere(transaction, change.status))) {
          // One copy of a volume is all that is kept so far, and the record says who has it.
          refused.add(change.status.volume);
          const { volume, uuid } = change.status;
          log.error({ store: heartbeat.store, volume, uuid }, "a volume is on record elsewhere");
          continue;
        }
        await this.#commit(transaction, heartbeat.store, change);
      }
      const rows = await transaction
        .selectFrom("orders")
        .select("body")
        .where("store", "=", heartbeat.store)
        .orderBy("order_number")
        .execute();
      return rows.map(({ body }) => JSON.parse(body) as Order);
    });
    this.#presences.set(heartbeat.store, {
      heartbeat,
      seenMs: clock.monotonicMs(),
      refused,
    });
    this.#refreshMap();
    return orders;
  }

  async #join(transaction: Transaction<DirectoryTables>, heartbeat: Heartbeat): Promise<void> {
    const { store, address, run } = heartbeat;
    await transaction
      .insertInto("stores")
      .values({ store, address, run, joined_ms: this.#options.clock.nowMs() })
      .onConflict((conflict) => conflict.column("store").doUpdateSet({ address, run }))
      .execute();
  }

  async #commit(
    transaction: Transaction<DirectoryTables>,
    store: string,
    change: Exclude<Change, { kind: "refuse" }>,
  ): Promise<void> {
    switch (change.kind) {
      case "create":
        await this.#create(transaction, store, change.class);
        break;
      case "begin-epoch": {
        const { volume, epoch } = change;
        await transaction
          .updateTable("volumes")
          .set({ epoch })
          .where("volume", "=", volume)
          .execute();
        await addOrder(transaction, store, { kind: "begin-epoch", volume, epoch });
        break;
      }
      case "seal": {
        const { volume } = change;
        await transaction
          .updateTable("volumes")
          .set({ state: "sealing" })
          .where("volume", "=", volume)
          .execute();
        await addOrder(transaction, store, { kind: "seal", volume });
        break;
      }
      case "sealed":
        await transaction
          .updateTable("volumes")
          .set({ state: "sealed", sealed_length: change.lengthBytes })
          .where("volume", "=", change.volume)
          .execute();
        break;
      case "adopt":
        await this.#adopt(transaction, store, change);
        break;
    }
  }

  async #create(
    transaction: Transaction<DirectoryTables>,
    store: string,
    volumeClass: VolumeClass,
  ): Promise<void> {
    const { random } = this.#options;
    const volume = await nextNumber(transaction, "volume");
    const record = {
      volume,
      uuid: random.bytes(16).toString("hex"),
      class: volumeClass,
      generation: 0,
      epoch: 1,
    };
    const recordMagic = random.bytes(8).toString("hex");
    await transaction
      .insertInto("volumes")
      .values({ ...record, record_magic: recordMagic, state: "open", sealed_length: null, store })
      .execute();
    const createdMs = Math.floor(this.#options.clock.nowMs());
    const body = { ...record, recordMagic, members: [store], createdMs };
    await addOrder(transaction, store, { kind: "create", ...body });
  }

  async #adopt(
    transaction: Transaction<DirectoryTables>,
    store: string,
    { status }: { status: Heartbeat["volumes"][number] },
  ): Promise<void> {
    const { volume, uuid, generation, epoch, lengthBytes } = status;
    this.#options.log.warn(
      { store, volume, uuid },
      "a volume that is not on record is adopted, to be read only",
    );
    await transaction
      .insertInto("volumes")
      .values({
        volume,
        uuid,
        class: status.class,
        generation,
        record_magic: "",
        epoch,
        state: status.state === "sealed" ? "sealed" : "sealing",
        sealed_length: status.state === "sealed" ? lengthBytes : null,
        store,
      })
      .execute();
    if (status.state === "open") await addOrder(transaction, store, { kind: "seal", volume });
    await raiseVolumeCounter(transaction, volume);
  }

  #stateOf({ seenMs }: Presence): "live" | "suspect" | "lost" {
    const silentMs = this.#options.clock.monotonicMs() - seenMs;
    return storeState(silentMs, this.#options);
  }

  #mapVolumes(): MapVolume[] {
    const volumes: MapVolume[] = [];
    for (const presence of this.#presences.values()) {
      const state = this.#stateOf(presence);
      const { address, freeBytes } = presence.heartbeat;
      for (const status of presence.heartbeat.volumes) {
        if (presence.refused.has(status.volume)) continue;
        volumes.push({
          volume: status.volume,
          class: status.class as VolumeClass,
          isWritable: status.isWritable && state === "live",
          // A silent store keeps its place: it may be back before another answer is known.
          addresses: [address],
          isFull: status.state === "open" && freeBytes === 0,
          freeBytes,
        });
      }
    }
    return volumes.sort((left, right) => left.volume - right.volume);
  }

  /** Resolves when the map gets a new number, after `waitMs`, or when nobody waits any more. */
  #mapChange(waitMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const settle = () => {
        clearTimeout(timer);
        this.#mapWaiters.delete(settle);
        signal.removeEventListener("abort", settle);
        resolve();
      };
      const timer = setTimeout(settle, waitMs);
      this.#mapWaiters.add(settle);
      signal.addEventListener("abort", settle, { once: true });
    });
  }

  /** Numbers the map anew when what gateways act on has changed; free space alone is no change. */
  #refreshMap(): void {
    const text = JSON.stringify(this.#mapVolumes().map(({ freeBytes: _, ...rest }) => rest));
    if (text === this.#mapText) return;
    this.#mapText = text;
    this.#mapNumber += 1;
    for (const wake of [...this.#mapWaiters]) wake();
  }
}

async function isOnRecordElsewhere(
  transaction: Transaction<DirectoryTables>,
  { volume, uuid }: { volume: number; uuid: string },
): Promise<boolean> {
  const other = await transaction
    .selectFrom("volumes")
    .select("store")
    .where((where) => where.or([where("volume", "=", volume), where("uuid", "=", uuid)]))
    .executeTakeFirst();
  return other !== undefined;
}

/** Ids up to `volume` are never given out again. */
async function raiseVolumeCounter(
  transaction: Transaction<DirectoryTables>,
  volume: number,
): Promise<void> {
  await transaction
    .updateTable("counters")
    .set({ value: volume })
    .where("name", "=", "volume")
    .where("value", "<", volume)
    .execute();
}

async function volumesOf(
  transaction: Transaction<DirectoryTables>,
  store: string,
): Promise<VolumeRecord[]> {
  const rows = await transaction
    .selectFrom("volumes")
    .select(["volume", "uuid", "class", "generation", "epoch", "state", "store"])
    .where("store", "=", store)
    .execute();
  return rows as VolumeRecord[];
}

async function pendingOf(
  transaction: Transaction<DirectoryTables>,
  store: string,
): Promise<OrderRecord[]> {
  const rows = await transaction
    .selectFrom("orders")
    .select(["order_number", "store", "volume", "kind"])
    .where("store", "=", store)
    .execute();
  return rows.map(({ order_number, ...rest }) => ({ order: order_number, ...rest }) as OrderRecord);
}

async function nextNumber(
  transaction: Transaction<DirectoryTables>,
  name: "volume" | "order",
): Promise<number> {
  await transaction
    .updateTable("counters")
    .set((row) => ({ value: row("value", "+", 1) }))
    .where("name", "=", name)
    .execute();
  const row = await transaction
    .selectFrom("counters")
    .select("value")
    .where("name", "=", name)
    .executeTakeFirst();
  if (row === undefined) {
    throw new Failure(
      "corrupt",
      `Cannot number a ${name}: the directory's database has no counter`,
    );
  }
  return row.value;
}

type OrderBody = Order extends infer Each
  ? Each extends Order
    ? Omit<Each, "order">
    : never
  : never;

async function addOrder(
  transaction: Transaction<DirectoryTables>,
  store: string,
  body: OrderBody,
): Promise<void> {
  const order = await nextNumber(transaction, "order");
  const { volume, kind } = body;
  await transaction
    .insertInto("orders")
    .values({ order_number: order, store, volume, kind, body: JSON.stringify({ order, ...body }) })
    .execute();
}

/**
 * The directory: which store has which volume, who may write it, and what stores are to do.
 *
 * Invariants:
 * - What decides who may write (volume ids, epochs, states, orders) is committed before anyone hears of
 *   it, and a volume id is never given out twice, not even when its volume is gone.
 * - An order is sent with heartbeat replies until the store reports it done, or that it can't be.
 * - What stores report (lengths, space) is kept in memory alone: it comes again.
 */

import type { Kysely, Transaction } from "kysely";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { Assigner, type Assignment, type AssignRequest, type NativeVolume } from "./assigner.ts";
import { Bell } from "./bell.ts";
import { nextNumber, raiseCounter } from "./counters.ts";
import type { Transact } from "./lease.ts";
import { type EndedOrder, OrderBook } from "./order-book.ts";
import {
  type Change,
  isLongOrder,
  type OrderRecord,
  ordersToSend,
  planStore,
  storeState,
  type VolumeRecord,
} from "./plan.ts";
import { type CompactionPolicy, compactionDefaults, planCompaction } from "./plan-compaction.ts";
import type {
  DirectoryStatus,
  Heartbeat,
  HeartbeatReply,
  MapVolume,
  Order,
  OrderKind,
  StoreStatus,
  VolumeClass,
  VolumeMap,
  VolumeStatus,
} from "./protocol.ts";
import type { DirectoryTables } from "./schema.ts";
import { openMsOf } from "./ttl-bucket.ts";

/** When volumes are compacted without anybody asking, and how fast. */
export interface CompactionOptions extends CompactionPolicy {
  /** Per second and store; 0 if as fast as can be. */
  rateBytes: number;
}

export interface DirectoryOptions {
  database: Kysely<DirectoryTables>;
  clock: Clock;
  random: Random;
  log: Log;
  /** Silence after which a store gets no new writes, and after which it is given up. */
  suspectMs?: number;
  lostMs?: number;
  compaction?: CompactionOptions | "off";
  /** How long `assign` waits for a volume. */
  assignWaitMsMax?: number;
  /** How transactions run, where the right to change the database can be lost; else by themselves. */
  transact?: Transact;
}

/** What a live store last said, and was told. */
interface Presence {
  heartbeat: Heartbeat;
  seenMs: number;
  /** Volumes that the store may not serve (two claim one id). */
  refused: Set<number>;
  /** Orders that this run of the store was sent: a reply is not hurried for them again. */
  sentOrders: Set<number>;
  /** The same for ranges: how many ordinals of which volume. */
  sentWishes: Map<number, number>;
}

const heartbeatWaitMsMax = 1_000;

/** How long before a volume with a TTL is sealed it is assigned no more: the PUTs have to come first. */
const lastAssignMs = 60_000;

/** After an order of a kind can't be carried out, how long the same is not ordered again by itself. */
const setbackMs: Partial<Record<OrderKind, number>> = {
  create: 10_000,
  seal: 60_000,
  drop: 60_000,
  compact: 86_400_000,
};

export class Directory {
  readonly orders: OrderBook = new OrderBook();
  readonly #options: Required<DirectoryOptions>;
  readonly #assigner: Assigner;
  readonly #presences = new Map<string, Presence>();
  readonly #boot: string;
  readonly #startedMs: number;
  #mapNumber = 0;
  #mapText = "";
  readonly #mapChanges = new Bell();
  /** Per store: there may be something to say in the reply that is held. */
  readonly #news = new Map<string, Bell>();
  /** By kind and volume, what could not be carried out, and until when it is left at that. */
  readonly #setbacks = new Map<string, OrderRecord & { untilMs: number }>();
  /** The database is changed by one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: DirectoryOptions) {
    this.#options = {
      suspectMs: 3_000,
      lostMs: 30_000,
      compaction: { ...compactionDefaults, rateBytes: 20_000_000 },
      assignWaitMsMax: 10_000,
      transact: (work) => options.database.transaction().execute(work),
      ...options,
    };
    const { clock, random } = options;
    // A restarted directory must not seem to have the map, or the ranges, that its predecessor gave out.
    this.#boot = random.bytes(6).toString("hex");
    this.#startedMs = clock.monotonicMs();
    this.#assigner = new Assigner({
      clock,
      random,
      boot: this.#boot,
      stores: () =>
        this.status().stores.map((store) => ({ ...store, isLive: store.state === "live" })),
      grow: (store, ttlSeconds) => this.#grow(store, ttlSeconds),
      wake: (store) => this.wake(store),
      waitMsMax: this.#options.assignWaitMsMax,
    });
  }

  /**
   * Takes in a report; the reply holds all orders that the store is to know of. While there is nothing in it
   * that this run of the store was not sent before, it is held for as long as the heartbeat allows.
   */
  async heartbeat(heartbeat: Heartbeat, signal?: AbortSignal): Promise<HeartbeatReply> {
    await this.#takeIn(heartbeat);
    const bell = this.#newsOf(heartbeat.store);
    const deadline = AbortSignal.timeout(Math.min(heartbeat.waitMs ?? 0, heartbeatWaitMsMax));
    const isOver = () => deadline.aborted || signal?.aborted === true || !heartbeat.waitMs;
    const ends = signal === undefined ? deadline : AbortSignal.any([deadline, signal]);
    for (;;) {
      const { rings } = bell;
      const reply = await this.#replyTo(heartbeat);
      if (isOver() || this.#isNews(heartbeat, reply)) {
        // Whoever has hung up did not hear it.
        if (signal?.aborted !== true) this.#noteSent(heartbeat, reply);
        return reply;
      }
      if (bell.rings === rings) await bell.next(heartbeatWaitMsMax, ends);
    }
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
      await this.#mapChanges.next(Math.min(leftMs, 500), signal);
    }
  }

  status(): DirectoryStatus {
    const stores = [...this.#presences.values()].map((presence) => {
      const { store, address, freeBytes, totalBytes, volumes } = presence.heartbeat;
      return { store, address, state: this.#stateOf(presence), freeBytes, totalBytes, volumes };
    });
    return { stores };
  }

  /** Stores with the volumes that they may serve: none that is refused. */
  servedStores(): StoreStatus[] {
    return this.status().stores.map((store) => {
      const refused = this.#presences.get(store.store)?.refused;
      const volumes = store.volumes.filter(({ volume }) => refused?.has(volume) !== true);
      return { ...store, volumes };
    });
  }

  /** Every volume that is served, with its store's id. */
  servedVolumes(): (VolumeStatus & { store: string })[] {
    return this.servedStores().flatMap(({ store, volumes }) =>
      volumes.map((status) => ({ ...status, store })),
    );
  }

  /** Whether a store has something under that id, of whatever kind. */
  isReported(volume: number): boolean {
    return [...this.#presences.values()].some(
      ({ heartbeat: { volumes, unreadable } }) =>
        unreadable.includes(volume) || volumes.some((status) => status.volume === volume),
    );
  }

  /** Fids of class `native` that nobody has. */
  async assign(request: AssignRequest, signal?: AbortSignal): Promise<Assignment> {
    return await this.#assigner.assign(request, signal);
  }

  /** Whether it is too early to say that a volume is nowhere: not every known store has called. */
  async isWarmingUp(): Promise<boolean> {
    const { clock, database, lostMs } = this.#options;
    if (clock.monotonicMs() - this.#startedMs >= lostMs) return false;
    const known = await database.selectFrom("stores").select("store").execute();
    return known.some(({ store }) => !this.#presences.has(store));
  }

  /** Runs `work` in a transaction, alone. */
  async change<Result>(
    work: (transaction: Transaction<DirectoryTables>) => Promise<Result>,
  ): Promise<Result> {
    const turn = this.#turn.then(() => this.#options.transact(work));
    this.#turn = turn.catch(() => undefined);
    return await turn;
  }

  /** Lets a store hear at once of what was ordered. */
  wake(store: string): void {
    this.#newsOf(store).ring();
  }

  /** Ends the open life of a volume; returns the order's number. */
  async orderSeal(
    transaction: Transaction<DirectoryTables>,
    store: string,
    volume: number,
  ): Promise<number> {
    await setState(transaction, volume, "sealing");
    return await this.orders.add(transaction, store, { kind: "seal", volume });
  }

  async #takeIn(heartbeat: Heartbeat): Promise<void> {
    const { store, run, unreadable } = heartbeat;
    const refused = new Set<number>();
    const { isNewRun, ended, native } = await this.change(async (transaction) => {
      const isNewRun = await this.#join(transaction, heartbeat);
      const ended = await this.orders.end(transaction, heartbeat);
      for (const each of ended) await this.#settle(transaction, heartbeat, each);
      if (isNewRun) {
        // Epochs belong to a run: what the last one was told to begin is void.
        await transaction
          .deleteFrom("orders")
          .where("store", "=", store)
          .where("kind", "=", "begin-epoch")
          .execute();
      }
      // A volume that can't be opened is not lost, and its id never free.
      if (unreadable.length > 0) {
        await raiseCounter(transaction, "volume", Math.max(...unreadable));
      }
      const records = await volumesOf(transaction, store);
      await this.#commitChanges(transaction, heartbeat, { records, isNewRun, refused });
      await this.#compactByItself(transaction, heartbeat, records);
      return { isNewRun, ended, native: await nativeVolumesOf(transaction, heartbeat, refused) };
    });
    this.orders.remember(ended);
    const previous = this.#presences.get(store);
    const isSameRun = !isNewRun && previous?.heartbeat.run === run;
    this.#presences.set(store, {
      heartbeat,
      seenMs: this.#options.clock.monotonicMs(),
      refused,
      sentOrders: isSameRun ? previous.sentOrders : new Set(),
      sentWishes: isSameRun ? previous.sentWishes : new Map(),
    });
    this.#assigner.takeIn(store, native, heartbeat.grants);
    this.#forgetGranted(store);
    this.#refreshMap();
  }

  /** Puts the store on record; returns whether this is a run that was not heard of before. */
  async #join(
    transaction: Transaction<DirectoryTables>,
    { store, address, run }: Heartbeat,
  ): Promise<boolean> {
    const before = await transaction
      .selectFrom("stores")
      .select(["run", "address"])
      .where("store", "=", store)
      .executeTakeFirst();
    const isNewRun = before?.run !== run;
    // Only what changes is written: a heartbeat a second must not cost a sync a second.
    if (isNewRun || before.address !== address) {
      await transaction
        .insertInto("stores")
        .values({ store, address, run, joined_ms: this.#options.clock.nowMs() })
        .onConflict((conflict) => conflict.column("store").doUpdateSet({ address, run }))
        .execute();
    }
    return isNewRun;
  }

  /** What follows from the end of an order, beyond what the store's report shows. */
  async #settle(
    transaction: Transaction<DirectoryTables>,
    { store, volumes }: Heartbeat,
    { order, reason }: EndedOrder,
  ): Promise<void> {
    const { volume, kind } = order;
    const status = volumes.find((each) => each.volume === volume);
    const isIneffective = kind === "compact" && (status?.generation ?? 0) < order.generation;
    if (reason !== undefined || isIneffective) {
      const why = reason ?? "the generation is the same as before";
      this.#options.log.error({ store, ...order, recordMagic: undefined, why }, "an order failed");
      const untilMs = this.#options.clock.monotonicMs() + (setbackMs[kind] ?? 0);
      this.#setbacks.set(`${kind}/${volume}`, { ...order, store, untilMs });
    }
    if (reason === undefined) {
      if (kind === "drop") {
        await setState(transaction, volume, "dropped");
        await transaction.deleteFrom("orders").where("volume", "=", volume).execute();
      }
      return;
    }
    switch (kind) {
      case "create":
        // Nothing was ever acknowledged of it.
        await setState(transaction, volume, "dropped");
        break;
      case "begin-epoch": {
        const records = await volumesOf(transaction, store);
        const isOpen = records.some((each) => each.volume === volume && each.state === "open");
        if (isOpen) await this.orderSeal(transaction, store, volume);
        break;
      }
      case "import":
        // Its id is free to be tried again, after a wrong path for example.
        await transaction
          .deleteFrom("volumes")
          .where("volume", "=", volume)
          .where("state", "=", "importing")
          .execute();
        break;
      default:
        break;
    }
  }

  async #commitChanges(
    transaction: Transaction<DirectoryTables>,
    heartbeat: Heartbeat,
    {
      records,
      isNewRun,
      refused,
    }: { records: VolumeRecord[]; isNewRun: boolean; refused: Set<number> },
  ): Promise<void> {
    const { log, clock } = this.#options;
    const { store } = heartbeat;
    const before = this.#presences.get(store)?.refused;
    const refuse = (volume: number, reason: string) => {
      refused.add(volume);
      if (before?.has(volume) !== true) log.error({ store, volume, reason }, "a volume is refused");
    };
    const setbacks = this.#setbacksOf(store);
    const changes = planStore({
      records,
      reports: heartbeat.volumes,
      pending: [...(await this.#pendingOf(transaction, store)), ...setbacks],
      isNewRun,
      hasSpace: heartbeat.freeBytes > 0 && !setbacks.some(({ kind }) => kind === "create"),
      nowMs: clock.nowMs(),
    });
    for (const change of changes) {
      if (change.kind === "refuse") {
        refuse(change.volume, change.reason);
      } else if (
        change.kind === "adopt" &&
        (await isOnRecordElsewhere(transaction, change.status))
      ) {
        // One copy of a volume is all that is kept so far, and the record says who has it.
        refuse(
          change.status.volume,
          `it is on record elsewhere, by its id or ${change.status.uuid}`,
        );
      } else {
        if (change.kind === "seal") log.warn({ store, ...change }, "a volume is sealed");
        await this.#commit(transaction, store, change);
      }
    }
  }

  async #commit(
    transaction: Transaction<DirectoryTables>,
    store: string,
    change: Exclude<Change, { kind: "refuse" }>,
  ): Promise<void> {
    const { log } = this.#options;
    switch (change.kind) {
      case "create":
        await this.#create(transaction, store, { class: change.class, ttlSeconds: 0 });
        break;
      case "begin-epoch": {
        const { volume, epoch } = change;
        await transaction
          .updateTable("volumes")
          .set({ epoch })
          .where("volume", "=", volume)
          .execute();
        await this.orders.add(transaction, store, { kind: "begin-epoch", volume, epoch });
        break;
      }
      case "seal":
        await this.orderSeal(transaction, store, change.volume);
        break;
      case "sealed":
        await transaction
          .updateTable("volumes")
          .set({ state: "sealed", sealed_length: change.lengthBytes })
          .where("volume", "=", change.volume)
          .execute();
        break;
      case "compacted":
        log.info({ store, ...change }, "a volume was compacted");
        await transaction
          .updateTable("volumes")
          .set({ generation: change.generation })
          .where("volume", "=", change.volume)
          .execute();
        break;
      case "drop": {
        const { volume, uuid } = change;
        log.info({ store, volume, uuid }, "a volume is dropped: all in it has expired");
        await setState(transaction, volume, "dropping");
        await this.orders.add(transaction, store, { kind: "drop", volume, uuid });
        break;
      }
      case "adopt":
        await this.#adopt(transaction, store, change.status);
        break;
    }
  }

  async #create(
    transaction: Transaction<DirectoryTables>,
    store: string,
    { class: volumeClass, ttlSeconds }: { class: VolumeClass; ttlSeconds: number },
  ): Promise<void> {
    const { random, clock } = this.#options;
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
      .values({
        ...record,
        record_magic: recordMagic,
        state: "open",
        sealed_length: null,
        store,
        ttl_seconds: ttlSeconds,
      })
      .execute();
    const createdMs = Math.floor(clock.nowMs());
    const body = { ...record, recordMagic, members: [store], createdMs, ttlSeconds };
    await this.orders.add(transaction, store, { kind: "create", ...body });
  }

  async #adopt(
    transaction: Transaction<DirectoryTables>,
    store: string,
    status: VolumeStatus,
  ): Promise<void> {
    const { volume, uuid, generation, epoch, lengthBytes, ttlSeconds } = status;
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
        ttl_seconds: ttlSeconds,
      })
      .execute();
    if (status.state === "open") {
      await this.orders.add(transaction, store, { kind: "seal", volume });
    }
    await raiseCounter(transaction, "volume", volume);
  }

  /** Orders the compaction that is most worth it, unless the store has one to do. */
  async #compactByItself(
    transaction: Transaction<DirectoryTables>,
    { store, volumes }: Heartbeat,
    records: readonly VolumeRecord[],
  ): Promise<void> {
    const { compaction, clock, log } = this.#options;
    if (compaction === "off" || !volumes.some(({ deadBytes }) => deadBytes > 0)) return;
    const pending = await this.#pendingOf(transaction, store);
    if (pending.some(({ kind }) => kind === "compact")) return;
    const setbacks = this.#setbacksOf(store).filter(({ kind }) => kind === "compact");
    const busy = new Set([...pending, ...setbacks].filter(isLongOrder).map(({ volume }) => volume));
    const sealed = new Map(
      records
        .filter(({ state, volume }) => state === "sealed" && !busy.has(volume))
        .map((record) => [record.volume, record]),
    );
    const candidates = volumes.filter(({ volume, uuid }) => sealed.get(volume)?.uuid === uuid);
    const [step] = planCompaction(
      candidates.map((status) => ({ ...status, store })),
      compaction,
    );
    const record = step === undefined ? undefined : sealed.get(step.volume);
    if (record === undefined) return;
    log.info(step, "a volume is compacted");
    await this.orders.add(transaction, store, {
      kind: "compact",
      volume: record.volume,
      generation: record.generation + 1,
      ttlCutoffMs: Math.floor(clock.nowMs()),
      rateBytes: compaction.rateBytes,
      purge: false,
    });
  }

  /** Makes a native volume at a store, unless one is on its way. */
  #grow(store: string, ttlSeconds: number): void {
    const { log } = this.#options;
    const growing = this.change(async (transaction) => {
      if (this.#setbacksOf(store).some(({ kind }) => kind === "create")) return;
      const pending = await this.orders.pending(transaction, { store });
      const isOnItsWay = pending.some(
        ({ order }) =>
          order.kind === "create" && order.class === "native" && order.ttlSeconds === ttlSeconds,
      );
      if (!isOnItsWay) await this.#create(transaction, store, { class: "native", ttlSeconds });
    });
    growing.then(
      () => this.wake(store),
      (error: unknown) => log.error({ store, err: error }, "a volume can't be ordered"),
    );
  }

  async #pendingOf(
    transaction: Transaction<DirectoryTables>,
    store: string,
  ): Promise<OrderRecord[]> {
    const pending = await this.orders.pending(transaction, { store });
    return pending.map(({ order }) => ({ ...order, store }));
  }

  #setbacksOf(store: string): OrderRecord[] {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [key, { untilMs }] of this.#setbacks) {
      if (untilMs <= nowMs) this.#setbacks.delete(key);
    }
    return [...this.#setbacks.values()].filter((setback) => setback.store === store);
  }

  async #replyTo({ store, run, volumes }: Heartbeat): Promise<HeartbeatReply> {
    const presence = this.#presences.get(store);
    const pending = await this.orders.pending(this.#options.database, { store });
    const isRunning = ({ order, kind, volume }: Order) =>
      presence?.sentOrders.has(order) === true ||
      volumes.some((status) => status.volume === volume && status.operation?.kind === kind);
    // A process that was succeeded while its reply was held has nothing to carry out any more.
    const isCurrent = presence?.heartbeat.run === run;
    return {
      orders: isCurrent ? ordersToSend(pending, isRunning) : [],
      boot: this.#boot,
      reserve: isCurrent ? this.#assigner.wishesOf(store) : [],
    };
  }

  #isNews({ store }: Heartbeat, { orders, reserve }: HeartbeatReply): boolean {
    const presence = this.#presences.get(store);
    return (
      orders.some(({ order }) => presence?.sentOrders.has(order) !== true) ||
      reserve.some(({ volume, count }) => (presence?.sentWishes.get(volume) ?? 0) < count)
    );
  }

  #noteSent({ store, run }: Heartbeat, { orders, reserve }: HeartbeatReply): void {
    const presence = this.#presences.get(store);
    if (presence?.heartbeat.run !== run) return;
    presence.sentOrders = new Set(orders.map(({ order }) => order));
    presence.sentWishes = new Map(reserve.map(({ volume, count }) => [volume, count]));
  }

  /** A wish that was granted is over: the next for the same volume is news again. */
  #forgetGranted(store: string): void {
    const wished = new Set(this.#assigner.wishesOf(store).map(({ volume }) => volume));
    const sent = this.#presences.get(store)?.sentWishes;
    for (const volume of [...(sent?.keys() ?? [])]) {
      if (!wished.has(volume)) sent?.delete(volume);
    }
  }

  #newsOf(store: string): Bell {
    const bell = this.#news.get(store) ?? new Bell();
    this.#news.set(store, bell);
    return bell;
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

  /** Numbers the map anew when what gateways act on has changed; free space alone is no change. */
  #refreshMap(): void {
    const text = JSON.stringify(this.#mapVolumes().map(({ freeBytes: _, ...rest }) => rest));
    if (text === this.#mapText) return;
    this.#mapText = text;
    this.#mapNumber += 1;
    this.#mapChanges.ring();
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

async function setState(
  transaction: Transaction<DirectoryTables>,
  volume: number,
  state: VolumeRecord["state"],
): Promise<void> {
  await transaction.updateTable("volumes").set({ state }).where("volume", "=", volume).execute();
}

async function volumesOf(
  transaction: Transaction<DirectoryTables>,
  store: string,
): Promise<VolumeRecord[]> {
  const rows = await transaction
    .selectFrom("volumes")
    .select(["volume", "uuid", "class", "generation", "epoch", "state", "store", "ttl_seconds"])
    .where("store", "=", store)
    .execute();
  return rows.map(
    ({ ttl_seconds, ...rest }) => ({ ...rest, ttlSeconds: ttl_seconds }) as VolumeRecord,
  );
}

/** Volumes of the store that fids can be assigned of. Of an adopted one the secret is not on record. */
async function nativeVolumesOf(
  transaction: Transaction<DirectoryTables>,
  { store, volumes }: Heartbeat,
  refused: ReadonlySet<number>,
): Promise<NativeVolume[]> {
  const rows = await transaction
    .selectFrom("volumes")
    .select(["volume", "uuid", "record_magic", "ttl_seconds"])
    .where("store", "=", store)
    .where("class", "=", "native")
    .where("state", "=", "open")
    .where("record_magic", "!=", "")
    .execute();
  return rows.flatMap(({ volume, uuid, record_magic, ttl_seconds }) => {
    const status = volumes.find((each) => each.volume === volume);
    if (status?.state !== "open" || status.closedBecause !== undefined) return [];
    if (refused.has(volume)) return [];
    return [
      {
        volume,
        uuid: Buffer.from(uuid, "hex"),
        recordMagic: Buffer.from(record_magic, "hex"),
        ttlSeconds: ttl_seconds,
        isWritable: status.isWritable,
        assignableUntilMs:
          ttl_seconds === 0
            ? Number.POSITIVE_INFINITY
            : status.createdMs + openMsOf(ttl_seconds) - lastAssignMs,
      },
    ];
  });
}

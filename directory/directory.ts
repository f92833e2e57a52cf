/**
 * The directory: which stores have which volume, who may write it, and what stores are to do.
 *
 * Reports come in, each volume they tell something new of is looked at (keeper.ts), and what follows is
 * committed; only then it is an order, and the map another. Time is looked at too: a store that falls
 * silent says nothing.
 *
 * Invariants:
 * - What decides who may write (volume ids, epochs, states, members, orders) is committed before anyone
 *   hears of it, and a volume id is never given out twice, not even when its volume is gone.
 * - An order is sent with heartbeat replies until the store reports it done, or that it can't be.
 * - What stores report (lengths, space) is kept in memory alone: it comes again.
 * - A heartbeat that brings no news costs no look at the database.
 */

import type { Kysely } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import { Assigner, type Assignment, type AssignRequest } from "./assigner.ts";
import { Copying, type CopyingOptions, copyingDefaults } from "./copying.ts";
import { Keeper } from "./keeper.ts";
import type { Transact } from "./lease.ts";
import { Draft, Ledger } from "./ledger.ts";
import { nativeVolumesOf } from "./native-volumes.ts";
import { type EndedOrder, OrderBook } from "./order-book.ts";
import { chooseWeighted, isLongOrder } from "./plan.ts";
import { type CompactionPolicy, compactionDefaults, planCompaction } from "./plan-compaction.ts";
import { type Presence, Presences } from "./presences.ts";
import type {
  DirectoryStatus,
  Heartbeat,
  HeartbeatReply,
  Shortfall,
  StoreStatus,
  VolumeDetails,
  VolumeMap,
  VolumeStatus,
} from "./protocol.ts";
import { membersOf, onePlacementText } from "./records.ts";
import { Replies } from "./replies.ts";
import type { DirectoryTables } from "./schema.ts";
import { directoryStatus, shortfallOf, volumeDetails } from "./status.ts";
import { MapBook } from "./volume-map.ts";
import { Wants } from "./wants.ts";

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
  runtime?: Runtime;
  /** Silence after which a store gets no new writes, and after which it is given up. */
  suspectMs?: number;
  lostMs?: number;
  /** Silence after which a volume is sealed without waiting for a member any longer. */
  sealWaitMs?: number;
  compaction?: CompactionOptions | "off";
  copying?: CopyingOptions;
  /** Whether copies are moved so that stores are equally full. */
  isBalancing?: boolean;
  /** How long `assign` waits for a volume. */
  assignWaitMsMax?: number;
  /** How transactions run, where the right to change the database can be lost; else by themselves. */
  transact?: Transact;
}

const heartbeatWaitMsMax = 1_000;

/** How often time is looked at, and how much later than that means that this process stood still. */
const tickMs = 250;
const stoodStillMs = 1_000;

const repairMs = 1_000;
const balanceMs = 10_000;

/** With more stores, what each of them needs is looked at once in a tick, not whenever one has news. */
const fewStores = 100;

/** Volumes looked at anew in one tick; more have their turn in the next. */
const tendMax = 5_000;

export class Directory {
  readonly orders: OrderBook = new OrderBook();
  readonly #options: Required<DirectoryOptions>;
  readonly #assigner: Assigner;
  readonly #presences: Presences;
  readonly #keeper: Keeper;
  readonly #copying: Copying;
  readonly #map: MapBook;
  readonly #replies: Replies;
  readonly #wants = new Wants();
  readonly #boot: string;
  readonly #startedMs: number;
  /** What is on record; undefined before it is read, and after a commit that nobody knows the end of. */
  #ledger: Ledger | undefined;
  /** The database is changed by one after the other. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Volumes to be looked at. */
  readonly #dirty = new Set<number>();
  #isGrowthDue = true;
  #grownMs = Number.NEGATIVE_INFINITY;
  #tickedMs = Number.NEGATIVE_INFINITY;
  #repairedMs = Number.NEGATIVE_INFINITY;
  #balancedMs = Number.NEGATIVE_INFINITY;
  #stopTicking: (() => void) | undefined;

  constructor(options: DirectoryOptions) {
    const { clock, random, log } = options;
    const limits = { suspectMs: 3_000, lostMs: 30_000 };
    this.#options = {
      runtime: systemRuntime,
      ...limits,
      sealWaitMs: (options.suspectMs ?? limits.suspectMs) + 4_000,
      compaction: { ...compactionDefaults, rateBytes: 20_000_000 },
      copying: copyingDefaults,
      isBalancing: true,
      assignWaitMsMax: 10_000,
      transact: (work) => options.database.transaction().execute(work),
      ...options,
    };
    const { runtime } = this.#options;
    // A restarted directory must not seem to have the map, or the ranges, that its predecessor gave out.
    this.#boot = random.bytes(6).toString("hex");
    this.#startedMs = clock.monotonicMs();
    this.#presences = new Presences(this.#options);
    const presences = this.#presences;
    this.#keeper = new Keeper({ clock, random, log, presences, limits: this.#options });
    const { copying } = this.#options;
    this.#copying = new Copying({ keeper: this.#keeper, presences, random, log, options: copying });
    this.#map = new MapBook({ presences, runtime });
    this.#assigner = new Assigner({
      ...{ clock, random, runtime, boot: this.#boot },
      stores: () => this.#assignable(),
      grow: (store, ttlSeconds) => this.#growNative(store, ttlSeconds),
      wake: (store) => this.wake(store),
      waitMsMax: this.#options.assignWaitMsMax,
    });
    const [keeper, assigner] = [this.#keeper, this.#assigner];
    this.#replies = new Replies({ presences, keeper, assigner, runtime });
  }

  /** Looks at the time every now and then, until `close`. Heartbeats do so too. */
  start(): void {
    const { runtime, clock, log } = this.#options;
    let dueMs = clock.monotonicMs() + tickMs;
    const next = () => {
      this.#stopTicking = runtime.after(tickMs, () => {
        // Who stood still can't tell who was silent meanwhile.
        const lateMs = clock.monotonicMs() - dueMs;
        if (lateMs > stoodStillMs) this.#presences.forgive(lateMs);
        this.tick()
          .catch((error: unknown) => log.error({ err: error }, "the directory can't go on"))
          .finally(() => {
            dueMs = clock.monotonicMs() + tickMs;
            if (this.#stopTicking !== undefined) next();
          });
      });
    };
    next();
  }

  close(): void {
    this.#stopTicking?.();
    this.#stopTicking = undefined;
  }

  /** Reads what is on record, unless that was done; the database is asked for it once. */
  async load(): Promise<void> {
    if (this.#ledger === undefined) await this.change(() => undefined);
  }

  /**
   * Takes in a report; the reply holds all orders that the store is to know of. While there is nothing in it
   * that this run of the store was not sent before, it is held for as long as the heartbeat allows.
   */
  async heartbeat(heartbeat: Heartbeat, signal?: AbortSignal): Promise<HeartbeatReply> {
    const { store, waitMs = 0 } = heartbeat;
    const wantsWhole = await this.#takeIn(heartbeat);
    const bell = this.#replies.bellOf(store);
    let isOver = waitMs === 0 || wantsWhole;
    const heldMs = Math.min(waitMs, heartbeatWaitMsMax);
    const cancel = isOver
      ? undefined
      : this.#options.runtime.after(heldMs, () => {
          isOver = true;
          bell.ring();
        });
    for (;;) {
      const { rings } = bell;
      const said = this.#replies.make(heartbeat, this.#ledger);
      const reply = { ...said, boot: this.#boot, wantsWhole };
      if (isOver || signal?.aborted === true || this.#replies.isNews(heartbeat, reply)) {
        cancel?.();
        // Whoever has hung up did not hear it.
        if (signal?.aborted !== true) this.#replies.noteSent(heartbeat, reply);
        return reply;
      }
      if (bell.rings === rings) await bell.next(heartbeatWaitMsMax, signal);
    }
  }

  map(): VolumeMap {
    this.#notice();
    const ledger = this.#ledger;
    return {
      version: `${this.#boot}.${this.#map.number}`,
      volumes: ledger === undefined ? [] : this.#map.volumes(ledger),
      unmet: this.#keeper.unmet,
    };
  }

  /**
   * The map once its version is another than `version`, or after `waitMs` as it is. `wants` are kinds of
   * volumes that the gateway writes to: what is news is made at once.
   */
  async mapAfter(
    version: string,
    waitMs: number,
    signal: AbortSignal,
    wants: readonly string[] = [],
  ): Promise<VolumeMap> {
    const { clock } = this.#options;
    if (this.#wants.add(wants, clock.monotonicMs())) {
      this.#isGrowthDue = true;
      this.#grownMs = Number.NEGATIVE_INFINITY;
      await this.#decide();
    }
    const deadline = clock.monotonicMs() + waitMs;
    for (;;) {
      this.#notice();
      const leftMs = deadline - clock.monotonicMs();
      const isNews = version !== `${this.#boot}.${this.#map.number}`;
      if (isNews || leftMs <= 0 || signal.aborted) return this.map();
      // Looked at anew now and then, because a store falls silent without saying so.
      await this.#map.changes.next(Math.min(leftMs, 500), signal);
    }
  }

  status(): DirectoryStatus {
    this.#notice();
    return directoryStatus(this.#parts());
  }

  volumeDetails(volume: number): VolumeDetails | undefined {
    this.#notice();
    return volumeDetails(this.#parts(), volume);
  }

  shortfall(): Shortfall {
    return shortfallOf(this.#parts());
  }

  /** How many stores are in which state. */
  storeCounts(): Record<StoreStatus["state"], number> {
    this.#notice();
    const counts = { live: 0, suspect: 0, lost: 0 };
    for (const { state } of this.#presences.values()) counts[state] += 1;
    return counts;
  }

  /** Stores with the volumes that they may serve: none that is refused, or only left over. */
  servedStores(): StoreStatus[] {
    return this.status().stores.map((store) => {
      const volumes = store.volumes.filter((status) => this.#isServed(store.store, status));
      return { ...store, volumes };
    });
  }

  /** Every copy that is served, with its store's id. */
  servedVolumes(): (VolumeStatus & { store: string })[] {
    const served: (VolumeStatus & { store: string })[] = [];
    for (const { store, volumes } of this.#presences.values()) {
      for (const status of volumes.values()) {
        if (this.#isServed(store, status)) served.push({ ...status, store });
      }
    }
    return served;
  }

  /** Whether a store has something under that id, of whatever kind. */
  isReported(volume: number): boolean {
    return [...this.#presences.values()].some(
      ({ volumes, unreadable }) => unreadable.includes(volume) || volumes.has(volume),
    );
  }

  /** Fids of class `native` that nobody has. */
  async assign(request: AssignRequest, signal?: AbortSignal): Promise<Assignment> {
    return await this.#assigner.assign(request, signal);
  }

  /** Makes native volumes ahead of demand; fails with `full` where no store that may have one has space. */
  async growNative(
    count: number,
    { ttlSeconds, address, within }: Pick<AssignRequest, "ttlSeconds" | "address" | "within">,
  ): Promise<void> {
    const { random } = this.#options;
    await this.change((draft) => {
      const targets = [...this.#presences.values()].filter(
        (presence) =>
          (address === undefined || presence.address === address) &&
          within?.has(presence.store) !== false &&
          presence.freeBytes > 0 &&
          this.#keeper.canTake(draft, presence),
      );
      const want = { class: "native", placement: onePlacementText } as const;
      for (let made = 0; made < count; made++) {
        const target = chooseWeighted(targets, ({ freeBytes }) => freeBytes, random.fraction());
        if (target === undefined) {
          throw new Failure("full", "Cannot grow: no store that may have a volume has space");
        }
        this.#keeper.create(draft, { ...want, members: [target.store], ttlSeconds });
      }
    });
  }

  /** Whether it is too early to say that a volume is nowhere: not every known store has called. */
  async isWarmingUp(): Promise<boolean> {
    const { clock, lostMs } = this.#options;
    if (clock.monotonicMs() - this.#startedMs >= lostMs) return false;
    await this.load();
    return [...this.#presences.values()].some(({ run }) => run === "");
  }

  /**
   * Lets `work` look at what is on record and change it, alone; what it changed is committed when this
   * returns. Nothing else writes to the database.
   */
  async change<Result>(work: (draft: Draft) => Result | Promise<Result>): Promise<Result> {
    const turn = this.#turn.then(async () => {
      const ledger = this.#ledger ?? (await this.#read());
      const draft = new Draft(ledger);
      const result = await work(draft);
      if (draft.isEmpty) return result;
      try {
        await this.#options.transact((transaction) => draft.write(transaction));
      } catch (error) {
        // It may have been committed all the same: what is on record is read again.
        this.#ledger = undefined;
        throw error;
      }
      draft.takeEffect();
      for (const volume of draft.changedVolumes) this.#map.update(ledger, volume);
      for (const store of draft.orderedStores) this.wake(store);
      this.#map.announce();
      return result;
    });
    this.#turn = turn.catch(() => undefined);
    return await turn;
  }

  /** Lets a store hear at once of what was ordered. */
  wake(store: string): void {
    this.#replies.bellOf(store).ring();
  }

  /** Ends the open life of a volume; returns the orders for it. */
  orderSeal(draft: Draft, volume: number): number[] {
    return this.#keeper.close(draft, volume, "an operator has it sealed");
  }

  /** Moves a copy of a volume to another store. */
  async move(volume: number, ends: { from: string; to: string }): Promise<void> {
    await this.change((draft) => {
      this.#copying.move(draft, volume, { from: this.#find(ends.from), to: this.#find(ends.to) });
      this.#keeper.tend(draft, volume);
      this.#copying.repair(draft);
    });
  }

  /** Has all copies moved away from a store, or takes that back. */
  async drain(nameOrAddress: string, { undo }: { undo: boolean }): Promise<void> {
    await this.load();
    const store = this.#find(nameOrAddress);
    const volumes = await this.change((draft) => {
      const ledger = this.#parts().ledger;
      return undo
        ? this.#copying.undrain(draft, ledger, store)
        : this.#copying.drain(draft, ledger, store);
    });
    for (const volume of volumes) this.#dirty.add(volume);
    this.#isGrowthDue = true;
    this.#repairedMs = Number.NEGATIVE_INFINITY;
    await this.#decide();
  }

  /** Looks at what changes with time alone. */
  async tick(): Promise<void> {
    await this.load();
    this.#lookAtTime();
    await this.#decide();
  }

  async #read(): Promise<Ledger> {
    const { database, clock } = this.#options;
    const ledger = await Ledger.load(database);
    this.#ledger = ledger;
    for (const record of ledger.stores.values()) {
      this.#presences.expect(record, clock.monotonicMs());
    }
    for (const volume of ledger.volumes.keys()) this.#dirty.add(volume);
    return ledger;
  }

  #parts() {
    const ledger = this.#ledger ?? new Ledger();
    const { keeper, copying, presences } = {
      ...{ keeper: this.#keeper, copying: this.#copying, presences: this.#presences },
    };
    return { ledger, keeper, copying, presences };
  }

  /** Returns whether the store has to tell all that it has. */
  async #takeIn(heartbeat: Heartbeat): Promise<boolean> {
    const { clock } = this.#options;
    if (this.#ledger === undefined) await this.load();
    const { store, done, failed } = heartbeat;
    const news = this.#presences.takeIn(heartbeat, clock.monotonicMs());
    const { presence, changed, isNewRun } = news;
    for (const volume of changed) {
      this.#keeper.hear(presence, volume);
      this.#dirty.add(volume);
      // One that is gone takes nothing any more.
      if (!presence.volumes.has(volume)) this.#isGrowthDue = true;
    }
    if (news.isOtherwise) {
      this.#isGrowthDue = true;
      for (const volume of this.#ledger?.volumesOf(store) ?? []) this.#dirty.add(volume);
    }
    if (clock.monotonicMs() - this.#tickedMs >= tickMs) this.#lookAtTime();
    const hasEnded = done.length + failed.length > 0;
    if (hasEnded || isNewRun || this.#dirty.size > 0 || this.#mayGrow()) {
      await this.#decide(heartbeat, presence);
    }
    const ledger = this.#ledger;
    const isNative = (volume: number) => ledger?.volumes.get(volume)?.class === "native";
    const concernsNative = [...changed].some(isNative) || heartbeat.grants.length > 0;
    if (concernsNative || hasEnded || isNewRun) {
      const native = ledger === undefined ? [] : nativeVolumesOf(ledger, presence);
      this.#assigner.takeIn(store, native, heartbeat.grants);
      this.#replies.forgetGranted(presence);
    }
    return news.wantsWhole;
  }

  /** Notes what time has changed. */
  #lookAtTime(): void {
    const { clock } = this.#options;
    const nowMs = clock.monotonicMs();
    this.#tickedMs = nowMs;
    this.#notice();
    const expired = this.#keeper.setbacks.expire(nowMs);
    if (expired.size > 0) this.#isGrowthDue = true;
    const ledger = this.#ledger;
    if (ledger === undefined) return;
    for (const volume of expired) this.#dirty.add(volume);
    for (const volume of this.#keeper.impatient(ledger)) this.#dirty.add(volume);
  }

  /** Looks at all that is to be looked at, and commits what follows. */
  async #decide(heartbeat?: Heartbeat, presence?: Presence): Promise<void> {
    const dirty: number[] = [];
    for (const volume of this.#dirty) {
      // A store that comes or goes concerns many: the others have their turn with the next heartbeat.
      if (dirty.length >= tendMax) break;
      dirty.push(volume);
      this.#dirty.delete(volume);
    }
    const ended = await this.change((draft) => {
      const ended =
        heartbeat === undefined || presence === undefined
          ? []
          : this.#endOrders(draft, heartbeat, presence);
      for (const { order } of ended) this.#keeper.tend(draft, order.volume);
      for (const volume of dirty) this.#keeper.tend(draft, volume);
      if (draft.isActivityChanged) this.#isGrowthDue = true;
      if (this.#mayGrow()) {
        this.#isGrowthDue = false;
        this.#grownMs = this.#options.clock.monotonicMs();
        this.#keeper.grow(draft, this.#wants.all(this.#options.clock.monotonicMs()));
      }
      if (presence !== undefined) this.#compactByItself(draft, presence);
      this.#copyByItself(draft, ended);
      return ended;
    });
    this.orders.remember(ended);
    const ledger = this.#ledger;
    if (ledger === undefined) return;
    for (const volume of dirty) this.#map.update(ledger, volume);
    this.#map.announce();
  }

  #mayGrow(): boolean {
    if (!this.#isGrowthDue) return false;
    const { clock } = this.#options;
    return this.#presences.size <= fewStores || clock.monotonicMs() - this.#grownMs >= tickMs;
  }

  /** Puts the store on record, and takes out what it says has ended. */
  #endOrders(draft: Draft, heartbeat: Heartbeat, presence: Presence): EndedOrder[] {
    const { store, address, run, machine, rack, dataCentre, done, failed, unreadable } = heartbeat;
    const before = draft.store(store);
    const next = { store, address, run, machine, rack, dataCentre };
    // Only what changes is written: a heartbeat a second must not cost a sync a second.
    if (
      before === undefined ||
      Object.entries(next).some(([key, value]) => before[key as "run"] !== value)
    ) {
      const { isDraining = false, joinedMs = this.#options.clock.nowMs() } = before ?? {};
      draft.putStore({ ...next, isDraining, joinedMs: Math.floor(joinedMs) });
    }
    if (before?.run !== run) {
      // Epochs belong to a run: what the last one was told to begin is void.
      for (const { number, kind } of draft.ordersOf(store)) {
        if (kind === "begin-epoch") draft.endOrder(number);
      }
    }
    // A volume that can't be opened is not lost, and its id never free.
    for (const volume of unreadable) draft.raiseVolume(volume);
    const reasonOf = new Map(failed.map(({ order, reason }) => [order, reason]));
    return [...new Set([...done, ...reasonOf.keys()])].flatMap((number): EndedOrder[] => {
      const record = draft.order(number);
      // What it says of another's orders counts for nothing.
      if (record?.store !== store) return [];
      draft.endOrder(number);
      const ended = { order: record.order, reason: reasonOf.get(number) };
      this.#keeper.settle(draft, presence, ended);
      if (record.kind === "create" && ended.reason !== undefined) this.#isGrowthDue = true;
      return [ended];
    });
  }

  /** Orders copies, once in a while and whenever one has ended. */
  #copyByItself(draft: Draft, ended: readonly EndedOrder[]): void {
    const nowMs = this.#options.clock.monotonicMs();
    const hasRoom = ended.some(({ order }) => order.kind === "copy");
    if (hasRoom || nowMs - this.#repairedMs >= repairMs) {
      this.#repairedMs = nowMs;
      this.#copying.repair(draft);
    }
    const { isBalancing } = this.#options;
    const ledger = this.#ledger;
    if (!isBalancing || ledger === undefined || nowMs - this.#balancedMs < balanceMs) return;
    this.#balancedMs = nowMs;
    for (const volume of this.#copying.balance(draft, ledger)) this.#dirty.add(volume);
  }

  /**
   * Orders the compaction that is most worth it, unless the store has one to do. Volumes with several copies
   * are left alone: until copies agree on what is dead, each would make another file of it.
   */
  #compactByItself(draft: Draft, { store, volumes }: Presence): void {
    const { compaction, clock, log } = this.#options;
    if (compaction === "off") return;
    const dead = [...volumes.values()].filter(({ deadBytes }) => deadBytes > 0);
    if (dead.length === 0) return;
    const pending = draft.ordersOf(store);
    if (pending.some(({ kind }) => kind === "compact")) return;
    const busy = new Set([
      ...pending.filter(isLongOrder).map(({ volume }) => volume),
      ...this.#keeper.setbacks.failuresOf(store, "compact"),
    ]);
    const candidates = dead.filter(({ volume, uuid }) => {
      const record = draft.volume(volume);
      const isAlone = record?.replicas.length === 1 && record.replicas[0]?.store === store;
      return record?.state === "sealed" && record.uuid === uuid && isAlone && !busy.has(volume);
    });
    const [step] = planCompaction(
      candidates.map((status) => ({ ...status, store })),
      compaction,
    );
    const record = step === undefined ? undefined : draft.volume(step.volume);
    if (record === undefined) return;
    log.info(step, "a volume is compacted");
    draft.addOrder(store, {
      kind: "compact",
      volume: record.volume,
      generation: record.generation + 1,
      ttlCutoffMs: Math.floor(clock.nowMs()),
      rateBytes: compaction.rateBytes,
      purge: false,
    });
  }

  /** Makes a native volume at a store, unless one is on its way. */
  #growNative(store: string, ttlSeconds: number): void {
    const growing = this.change((draft) => {
      const presence = this.#presences.get(store);
      if (presence === undefined || !this.#keeper.canTake(draft, presence)) return;
      if (this.#keeper.setbacks.hasFailedAt("create", store)) return;
      const isOnItsWay = draft.ordersOf(store).some(({ order }) => {
        if (order.kind !== "create") return false;
        return order.class === "native" && order.ttlSeconds === ttlSeconds;
      });
      if (isOnItsWay) return;
      const want = { class: "native", placement: onePlacementText } as const;
      this.#keeper.create(draft, { ...want, members: [store], ttlSeconds });
    });
    growing.catch((error: unknown) => {
      this.#options.log.error({ store, err: error }, "a volume can't be ordered");
    });
  }

  /** Notices who has fallen silent. */
  #notice(): void {
    const ledger = this.#ledger;
    for (const { store } of this.#presences.notice(this.#options.clock.monotonicMs())) {
      this.#isGrowthDue = true;
      for (const volume of ledger?.volumesOf(store) ?? []) {
        this.#dirty.add(volume);
        if (ledger !== undefined) this.#map.update(ledger, volume);
      }
    }
    this.#map.announce();
  }

  #isServed(store: string, { volume }: VolumeStatus): boolean {
    const record = this.#ledger?.volumes.get(volume);
    if (record === undefined) return false;
    if (this.#presences.get(store)?.refused.has(volume) === true) return false;
    return membersOf(record).some((replica) => replica.store === store);
  }

  #assignable() {
    this.#notice();
    const called = [...this.#presences.values()].filter(({ run }) => run !== "");
    return called.map(({ store, address, freeBytes, state }) => ({
      ...{ store, address, freeBytes },
      isLive: state === "live" && this.#ledger?.stores.get(store)?.isDraining !== true,
    }));
  }

  /** The id of a store by its id or address. */
  #find(nameOrAddress: string): string {
    for (const { store, address } of this.#presences.values()) {
      if (store === nameOrAddress || address === nameOrAddress) return store;
    }
    return nameOrAddress;
  }
}

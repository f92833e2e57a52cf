/**
 * Keeps each volume as it ought to be: looks at it through plan-life.ts, and writes the steps that follow
 * into a draft.
 *
 * Invariant: whatever it remembers beside the ledger (since when something is amiss) may be lost: it only
 * makes it wait.
 */

import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { type Draft, type Ledger, replicaRecord } from "./ledger.ts";
import type { EndedOrder } from "./order-book.ts";
import { type OrderView, orderBody } from "./order-text.ts";
import type { Target } from "./place.ts";
import { storeState } from "./plan.ts";
import { type OpenVolume, planGrowth } from "./plan-growth.ts";
import {
  type CopyView,
  conditionOf,
  doDeletesDiffer,
  healthOf,
  planVolume,
  type Step,
  type VolumeView,
} from "./plan-life.ts";
import type { Presence, Presences } from "./presences.ts";
import type { OrderKind, UnmetWant, VolumeStatus } from "./protocol.ts";
import {
  membersOf,
  onePlacementText,
  placementOf,
  type ReplicaRecord,
  type VolumeRecord,
} from "./records.ts";
import { Setbacks } from "./setbacks.ts";
import type { Want } from "./wants.ts";

export interface KeeperOptions {
  clock: Clock;
  random: Random;
  log: Log;
  presences: Presences;
  limits: { suspectMs: number; lostMs: number; sealWaitMs: number };
}

/** A volume takes this many steps at once at most: a plan that has not settled by then waits for news. */
const roundsMax = 8;

export class Keeper {
  readonly setbacks: Setbacks = new Setbacks();
  /** Sealed volumes that are to get more copies. */
  readonly short: Set<number> = new Set();
  readonly #options: KeeperOptions;
  readonly #startedMs: number;
  readonly #surplusSince = new Map<number, number>();
  readonly #differSince = new Map<number, number>();
  readonly #waiting = new Set<number>();
  #unmet: UnmetWant[] = [];

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#startedMs = options.clock.monotonicMs();
  }

  /** Wants that could not be met when that was last tried. */
  get unmet(): UnmetWant[] {
    return this.#unmet;
  }

  /** Volumes that change with time alone. */
  *impatient(ledger: Ledger): Iterable<number> {
    yield* this.#waiting;
    yield* this.#surplusSince.keys();
    yield* this.#differSince.keys();
    for (const volume of ledger.active) {
      const record = ledger.volumes.get(volume);
      if (record?.state !== "open" || record.ttlSeconds > 0) yield volume;
    }
    for (const volume of ledger.expiring) yield volume;
  }

  /** Brings a volume on its way as far as it goes by what is known. */
  tend(draft: Draft, volume: number): void {
    this.#judgeReports(draft, volume);
    for (let round = 0; round < roundsMax; round++) {
      const record = draft.volume(volume);
      if (record === undefined) return;
      const view = this.viewOf(draft, record);
      const steps = planVolume(view);
      if (steps.length === 0) {
        this.#watch(view);
        return;
      }
      for (const step of steps) this.#take(draft, volume, step);
    }
  }

  viewOf(draft: Draft, record: VolumeRecord): VolumeView & OrderView {
    const { clock, limits } = this.#options;
    const { volume } = record;
    const nowMs = clock.monotonicMs();
    const sinceMs = (since: Map<number, number>) => nowMs - (since.get(volume) ?? nowMs);
    return {
      record,
      copies: this.copiesOf(record, (store) => draft.store(store)?.isDraining === true),
      pending: draft.ordersFor(volume),
      hasFailed: (kind, store) => this.setbacks.hasFailed(kind, volume, store),
      hasEnded: (kind, store) => {
        const run = this.#options.presences.get(store)?.run ?? "";
        return this.setbacks.hasEnded(kind, volume, store, run);
      },
      addressOf: (store) =>
        this.#options.presences.get(store)?.address ?? draft.store(store)?.address ?? "",
      nowMs: clock.nowMs(),
      sealWaitMs: limits.sealWaitMs,
      surplusMs: sinceMs(this.#surplusSince),
      differMs: sinceMs(this.#differSince),
    };
  }

  copiesOf(record: VolumeRecord, isDraining: (store: string) => boolean): CopyView[] {
    const { clock, presences, limits } = this.#options;
    const nowMs = clock.monotonicMs();
    return record.replicas.map((replica): CopyView => {
      const { store } = replica;
      const presence = presences.get(store);
      const silentMs = nowMs - (presence?.seenMs ?? this.#startedMs);
      const status = presence?.volumes.get(record.volume);
      return {
        replica,
        place: presence ?? { machine: store, rack: "", dataCentre: "" },
        state: presence?.state ?? storeState(silentMs, limits),
        silentMs,
        run: presence?.run ?? "",
        isKnown: presence?.isKnown ?? false,
        isDraining: isDraining(store),
        isUnreadable: presence?.unreadable.includes(record.volume) ?? false,
        report: status?.uuid === record.uuid ? status : undefined,
      };
    });
  }

  /** What the end of an order means beyond what the store's report shows. */
  settle(draft: Draft, presence: Presence, { order, reason }: EndedOrder): void {
    const { log, clock } = this.#options;
    const { volume, kind } = order;
    const { store, run } = presence;
    const generation = presence.volumes.get(volume)?.generation ?? 0;
    const isIneffective = kind === "compact" && generation < order.generation;
    const why = reason ?? (isIneffective ? "the generation is the same as before" : undefined);
    if (why !== undefined) {
      log.error({ store, ...order, recordMagic: undefined, why }, "an order failed");
    }
    const ended = { kind, volume, store, run: why === undefined ? run : undefined };
    this.setbacks.note(ended, clock.monotonicMs());
    if (reason === undefined) return;
    const record = draft.volume(volume);
    if (kind === "create" && record?.state === "creating") {
      const replicas = record.replicas.filter((replica) => replica.store !== store);
      draft.alter(volume, { replicas });
      this.#take(draft, volume, { kind: "cancel", reason });
    }
    if (kind === "import" && record?.state === "importing") {
      // Its id is free to be tried again, after a wrong path for example.
      draft.removeVolume(volume);
    }
  }

  /** Makes volumes ahead of demand. */
  grow(draft: Draft, wants: readonly Want[]): void {
    const { random, presences } = this.#options;
    const open: OpenVolume[] = [];
    for (const record of draft.activeVolumes()) {
      if (record.class === "native") continue;
      const primary = this.#writerOf(draft, record);
      if (primary === undefined) continue;
      open.push({ class: record.class, placement: record.placement, primary });
    }
    const targets: Target[] = [];
    for (const presence of presences.values()) {
      if (this.canTake(draft, presence) && !this.setbacks.hasFailedAt("create", presence.store)) {
        targets.push(presence);
      }
    }
    const fraction = () => random.fraction();
    const { creations, unmet } = planGrowth({ wants, open, targets, fraction });
    this.#unmet = unmet;
    for (const { want, members } of creations) this.create(draft, { ...want, members });
  }

  /** Whether new copies may be put on the store. */
  canTake(draft: Draft, presence: Presence): boolean {
    const { state, run, store } = presence;
    return state === "live" && run !== "" && draft.store(store)?.isDraining !== true;
  }

  create(
    draft: Draft,
    want: Want & { members: readonly string[]; ttlSeconds?: number },
  ): VolumeRecord {
    const { random } = this.#options;
    const record: VolumeRecord = {
      volume: draft.nextVolume(),
      uuid: random.bytes(16).toString("hex"),
      class: want.class,
      generation: 0,
      recordMagic: random.bytes(8).toString("hex"),
      epoch: 1,
      state: "creating",
      placement: want.placement,
      ttlSeconds: want.ttlSeconds ?? 0,
      isFinal: false,
      sealedLength: null,
      sealedDigest: null,
      replicas: want.members.map((store) => replicaRecord(store, "member")),
    };
    draft.putVolume(record);
    for (const store of want.members) {
      draft.addOrder(store, orderBody("create", this.viewOf(draft, record), store));
    }
    return record;
  }

  /** Ends the open life of a volume for ever; returns the orders for it. */
  close(draft: Draft, volume: number, reason: string): number[] {
    const record = draft.volume(volume);
    if (record?.state !== "open") return [];
    const epochs = this.viewOf(draft, record).copies.map(({ report }) => report?.epoch ?? 0);
    const epoch = Math.max(record.epoch, ...epochs) + 1;
    this.#take(draft, volume, { kind: "close", epoch, isFinal: true, reason });
    return draft.ordersFor(volume).map(({ number }) => number);
  }

  /** The store that is, or is about to be, written to; undefined of a volume that takes nothing. */
  #writerOf(draft: Draft, { volume, state, replicas }: VolumeRecord): string | undefined {
    const store = replicas[0]?.store;
    if (store === undefined || (state !== "open" && state !== "creating")) return undefined;
    const isThere = this.#options.presences.get(store)?.volumes.has(volume) === true;
    const isComing = draft
      .ordersFor(volume)
      .some((order) => order.kind === "create" && order.store === store);
    return isThere || isComing ? store : undefined;
  }

  /** Finds out which stores may not serve what they report under the id. */
  #judgeReports(draft: Draft, volume: number): void {
    for (const presence of this.#reportersOf(draft, volume)) {
      const status = presence.volumes.get(volume);
      const reason = status && this.#objection(draft, presence, status);
      if (reason === undefined) {
        presence.refused.delete(volume);
      } else if (presence.refused.get(volume) !== reason) {
        const { store } = presence;
        this.#options.log.error({ store, volume, reason }, "a volume is refused");
        presence.refused.set(volume, reason);
      }
    }
  }

  #reportersOf(draft: Draft, volume: number): Presence[] {
    const { presences } = this.#options;
    const reporters = new Set<Presence>(this.#strangers.get(volume));
    this.#strangers.delete(volume);
    for (const { store } of draft.volume(volume)?.replicas ?? []) {
      const presence = presences.get(store);
      if (presence !== undefined) reporters.add(presence);
    }
    return [...reporters];
  }

  /** Stores that report a volume of which they are not on record. */
  readonly #strangers = new Map<number, Set<Presence>>();

  /** A store has said something new of a volume. */
  hear(presence: Presence, volume: number): void {
    const known = this.#strangers.get(volume);
    if (known === undefined) this.#strangers.set(volume, new Set([presence]));
    else known.add(presence);
  }

  /** Why a store may not serve a volume, if so. Takes what nobody knows on record. */
  #objection(draft: Draft, { store }: Presence, status: VolumeStatus): string | undefined {
    const { volume, uuid } = status;
    const record = draft.volume(volume);
    if (record === undefined) {
      if (draft.volumeOfUuid(uuid) !== undefined) return `${uuid} is on record under another id`;
      this.#adopt(draft, store, status);
      return undefined;
    }
    if (record.uuid !== uuid) return `its uuid is ${uuid}, on record is ${record.uuid}`;
    if (record.state === "dropped") return "it was dropped";
    if (record.replicas.some((replica) => replica.store === store)) return undefined;
    if (placementOf(record).copies === 1) {
      // The one copy is where the record says.
      return "it is on record elsewhere";
    }
    draft.alter(volume, { replicas: [...record.replicas, replicaRecord(store, "surplus")] });
    return undefined;
  }

  /** A volume that nothing is on record of: it is read, and never written again. */
  #adopt(draft: Draft, store: string, status: VolumeStatus): void {
    const { volume, uuid, generation, epoch, lengthBytes, lastDigest, ttlSeconds } = status;
    this.#options.log.warn(
      { store, volume, uuid },
      "a volume that is not on record is adopted, to be read only",
    );
    const isSealed = status.state === "sealed";
    draft.putVolume({
      ...{ volume, uuid, generation, epoch, ttlSeconds },
      class: status.class as VolumeRecord["class"],
      recordMagic: "",
      state: isSealed ? "sealed" : "sealing",
      placement: onePlacementText,
      isFinal: true,
      sealedLength: isSealed ? lengthBytes : null,
      sealedDigest: isSealed ? lastDigest : null,
      replicas: [replicaRecord(store, "member")],
    });
    draft.raiseVolume(volume);
  }

  #take(draft: Draft, volume: number, step: Step): void {
    const { log } = this.#options;
    switch (step.kind) {
      case "opened":
        draft.alter(volume, { state: "open", replicas: this.#withRuns(draft, volume) });
        break;
      case "cancel":
        log.warn({ volume, reason: step.reason }, "a volume was not made");
        this.#drop(draft, volume);
        break;
      case "close":
        log.warn({ volume, reason: step.reason }, "a volume is sealed");
        this.#close(draft, volume, step);
        break;
      case "begin":
        this.#withdraw(draft, volume, ["fence", "begin-epoch"]);
        draft.alter(volume, {
          ...{ state: "open", epoch: step.epoch },
          replicas: this.#withRuns(draft, volume),
        });
        this.#orderAll(draft, volume, "begin-epoch");
        break;
      case "sealed": {
        const { lengthBytes, lastDigest } = step;
        this.#withdraw(draft, volume, ["fence", "begin-epoch", "create"]);
        const { replicas } = draft.alter(volume, {
          ...{ state: "sealed", sealedLength: lengthBytes, sealedDigest: lastDigest },
          replicas: this.#withRuns(draft, volume, () => ""),
        });
        if (replicas.length > 1) this.#orderAll(draft, volume, "seal");
        break;
      }
      case "compacted": {
        const { generation, lengthBytes, lastDigest } = step;
        log.info({ volume, generation }, "a volume was compacted");
        const isSealed = draft.volume(volume)?.state === "sealed";
        const end = { sealedLength: lengthBytes, sealedDigest: lastDigest };
        draft.alter(volume, { generation, ...(isSealed ? end : {}) });
        break;
      }
      case "drop":
        log.info({ volume }, "a volume is dropped: all in it has expired");
        this.#drop(draft, volume);
        break;
      case "dropped":
        for (const { number } of draft.ordersFor(volume)) draft.endOrder(number);
        draft.alter(volume, { state: "dropped", replicas: [] });
        break;
      case "replica":
        this.#setReplica(draft, volume, step);
        break;
      case "order":
        if (step.order === "delete-copy") {
          const { store } = step;
          this.#setReplica(draft, volume, { store, state: "leaving", reason: "it is not needed" });
        }
        this.#order(draft, volume, step.store, step.order);
        break;
      case "withdraw":
        draft.endOrder(step.order);
        break;
    }
  }

  #close(
    draft: Draft,
    volume: number,
    { epoch, isFinal }: { epoch: number; isFinal: boolean },
  ): void {
    const record = draft.volume(volume);
    if (record === undefined) return;
    this.#withdraw(draft, volume, ["begin-epoch", "create", "fence"]);
    if (membersOf(record).length === 1) {
      draft.alter(volume, { state: "sealing", isFinal });
      this.#orderAll(draft, volume, "seal");
    } else {
      draft.alter(volume, { state: "sealing", epoch, isFinal });
      this.#orderAll(draft, volume, "fence");
    }
  }

  #drop(draft: Draft, volume: number): void {
    for (const { number } of draft.ordersFor(volume)) draft.endOrder(number);
    const { replicas } = draft.alter(volume, { state: "dropping" });
    for (const { store } of replicas) this.#order(draft, volume, store, "drop");
  }

  #setReplica(
    draft: Draft,
    volume: number,
    step: { store: string; state: ReplicaRecord["state"] | "gone"; reason: string },
  ): void {
    const { store, state, reason } = step;
    const { replicas } = draft.alter(volume, {});
    this.#options.log.info({ volume, store, state, reason }, "a copy of a volume changes");
    if (state === "gone" || state === "surplus") {
      for (const order of draft.ordersFor(volume)) {
        if (order.store === store) draft.endOrder(order.number);
      }
    }
    const next = replicas.flatMap((replica) => {
      if (replica.store !== store) return [replica];
      return state === "gone" ? [] : [replicaRecord(store, state)];
    });
    draft.alter(volume, { replicas: next });
  }

  #withRuns(
    draft: Draft,
    volume: number,
    runOf: (store: string) => string = (store) => this.#options.presences.get(store)?.run ?? "",
  ): ReplicaRecord[] {
    const replicas = draft.volume(volume)?.replicas ?? [];
    return replicas.map(({ store, state }) => replicaRecord(store, state, runOf(store)));
  }

  #withdraw(draft: Draft, volume: number, kinds: readonly OrderKind[]): void {
    for (const { number, kind } of draft.ordersFor(volume)) {
      if (kinds.includes(kind)) draft.endOrder(number);
    }
  }

  #orderAll(draft: Draft, volume: number, kind: "begin-epoch" | "fence" | "seal"): void {
    const record = draft.volume(volume);
    for (const { store } of record === undefined ? [] : membersOf(record)) {
      this.#order(draft, volume, store, kind);
    }
  }

  #order(draft: Draft, volume: number, store: string, kind: Parameters<typeof orderBody>[0]): void {
    const record = draft.volume(volume);
    if (record === undefined) return;
    draft.addOrder(store, orderBody(kind, this.viewOf(draft, record), store));
  }

  /** Notes what is amiss with a volume that is to be looked at again. */
  #watch(view: VolumeView): void {
    const { record, copies } = view;
    const { volume, state } = record;
    const nowMs = this.#options.clock.monotonicMs();
    const isSealed = state === "sealed";
    const isRated = isSealed && (copies.length > 1 || placementOf(record).copies > 1);
    const memberCount = isRated ? membersOf(record).length : 0;
    note(this.#surplusSince, memberCount > placementOf(record).copies);
    note(this.#differSince, isRated && doDeletesDiffer(view));
    const isWaiting = isSealed && copies.some((copy) => conditionOf(record, copy) === "waiting");
    if (isWaiting) this.#waiting.add(volume);
    else this.#waiting.delete(volume);
    if (isSealed && healthOf(view).missingCount > 0) this.short.add(volume);
    else this.short.delete(volume);

    function note(since: Map<number, number>, isSo: boolean): void {
      if (!isSo) since.delete(volume);
      else if (!since.has(volume)) since.set(volume, nowMs);
    }
  }
}

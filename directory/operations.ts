/**
 * What operators have done to volumes: compact, verify, seal, import. Each becomes an order, committed before
 * it is answered; the answer does not wait for the end, which `status` tells.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Random } from "../base/random.ts";
import type { Directory } from "./directory.ts";
import { type Draft, replicaRecord } from "./ledger.ts";
import { isLongOrder } from "./plan.ts";
import { compactionDefaults, planCompaction } from "./plan-compaction.ts";
import type {
  CompactAllAnswer,
  CompactAllRequest,
  CompactionStep,
  CompactVolumeRequest,
  ImportVolumeRequest,
  OrderKind,
  OrderStatus,
  OrdersAnswer,
  VerifyVolumeRequest,
} from "./protocol.ts";
import { membersOf, onePlacementText, type VolumeRecord } from "./records.ts";

interface CompactionTerms {
  rateBytes: number;
  purge: boolean;
}

export class Operations {
  readonly #directory: Directory;
  readonly #clock: Clock;
  readonly #random: Random;

  constructor(directory: Directory, { clock, random }: { clock: Clock; random: Random }) {
    this.#directory = directory;
    this.#clock = clock;
    this.#random = random;
  }

  /** Compacts a volume however little is dead in it. One that is open is sealed first. */
  async compact(volume: number, request: CompactVolumeRequest): Promise<OrdersAnswer> {
    return await this.#order((draft) => {
      const record = readVolume(draft, volume);
      const pending = pendingOf(draft, volume, "compact");
      if (pending.length > 0) return pending;
      requireOneCopy(record);
      if (this.#isBelow(volume, request.garbageRatioMin)) return [];
      // The compaction is on record from now on, and sent once the seal is: a restart forgets neither.
      if (record.state === "open") this.#directory.orderSeal(draft, volume);
      return [this.#addCompaction(draft, record, request)];
    });
  }

  /** Compacts all that is worth it, one after the other at each store; or only tells what that would be. */
  async compactAll(
    { dryRun, garbageRatioMin, ...terms }: CompactAllRequest,
    { only = () => true }: { only?: (status: { class: string }) => boolean } = {},
  ): Promise<CompactAllAnswer> {
    let steps: CompactionStep[] = [];
    const { orders } = await this.#order((draft) => {
      const volumes = this.#directory.servedVolumes().filter((status) => {
        const record = draft.volume(status.volume);
        if (record?.state !== "sealed" || record.replicas.length !== 1 || !only(status))
          return false;
        return !draft.ordersFor(status.volume).some(isLongOrder);
      });
      // Whoever asks for a share of dead bytes means it for nearly empty volumes too.
      const drainLiveRatioMax = Math.min(compactionDefaults.drainLiveRatioMax, 1 - garbageRatioMin);
      steps = planCompaction(volumes, { garbageRatioMin, drainLiveRatioMax }, { byHand: true });
      return (dryRun ? [] : steps).map(({ volume }) =>
        this.#addCompaction(draft, readVolume(draft, volume), terms),
      );
    });
    return { steps, orders };
  }

  /** Reads every byte of each copy of a volume and compares it with its checksums. */
  async verify(volume: number, { rateBytes }: VerifyVolumeRequest): Promise<OrdersAnswer> {
    return await this.#order((draft) => {
      const members = membersOf(readVolume(draft, volume));
      const pending = pendingOf(draft, volume, "verify");
      if (pending.length > 0) return pending;
      return members.map(({ store }) =>
        draft.addOrder(store, { kind: "verify", volume, rateBytes }),
      );
    });
  }

  /** Ends the open life of a volume. Nothing is ordered where it is over already. */
  async seal(volume: number): Promise<OrdersAnswer> {
    return await this.#order((draft) => {
      const { state } = readVolume(draft, volume);
      if (state === "open") return this.#directory.orderSeal(draft, volume);
      return [...pendingOf(draft, volume, "seal"), ...pendingOf(draft, volume, "fence")];
    });
  }

  /** Takes over a volume of SeaweedFS from its files on the store's machine, under the id that it had. */
  async import({ volume, dat, idx, store: wanted }: ImportVolumeRequest): Promise<OrdersAnswer> {
    return await this.#order((draft) => {
      const store = this.#chooseStore(wanted);
      if (draft.volume(volume) !== undefined || this.#directory.isReported(volume)) {
        throw new Failure("conflict", `Cannot import volume ${volume}: its id was used before`);
      }
      const uuid = this.#random.bytes(16).toString("hex");
      const recordMagic = this.#random.bytes(8).toString("hex");
      const epoch = 1;
      draft.putVolume({
        ...{ volume, uuid, class: "native", generation: 0, recordMagic, epoch },
        ...{ state: "importing", placement: onePlacementText, ttlSeconds: 0, isFinal: true },
        ...{ sealedLength: null, sealedDigest: null },
        replicas: [replicaRecord(store, "member")],
      });
      draft.raiseVolume(volume);
      const createdMs = Math.floor(this.#clock.nowMs());
      const order = draft.addOrder(store, {
        kind: "import",
        ...{ volume, uuid, recordMagic, createdMs, epoch, members: [store], dat, idx },
      });
      return [order];
    });
  }

  /** Where an order stands, or undefined if it is not known (any more). */
  async status(number: number): Promise<OrderStatus | undefined> {
    return await this.#directory.change((draft): OrderStatus | undefined => {
      const pending = draft.order(number);
      if (pending === undefined) return this.#directory.orders.ended(number);
      const { kind, volume, store } = pending;
      const operation = this.#reported(volume, store)?.operation;
      return {
        ...{ order: number, kind, volume, state: "pending" },
        operation: operation?.kind === kind ? operation : undefined,
      };
    });
  }

  async #order(work: (draft: Draft) => number[]): Promise<OrdersAnswer> {
    return { orders: await this.#directory.change(work) };
  }

  #addCompaction(
    draft: Draft,
    { volume, generation, replicas }: VolumeRecord,
    { rateBytes, purge }: CompactionTerms,
  ): number {
    return draft.addOrder(replicas[0]?.store ?? "", {
      kind: "compact",
      volume,
      generation: generation + 1,
      ttlCutoffMs: Math.floor(this.#clock.nowMs()),
      rateBytes,
      purge,
    });
  }

  #reported(volume: number, store?: string) {
    return this.#directory
      .servedVolumes()
      .find((status) => status.volume === volume && (store ?? status.store) === status.store);
  }

  #isBelow(volume: number, garbageRatioMin: number | undefined): boolean {
    const status = this.#reported(volume);
    if (garbageRatioMin === undefined || status === undefined) return false;
    return status.deadBytes < garbageRatioMin * status.lengthBytes;
  }

  #chooseStore(wanted: string | undefined): string {
    const { stores } = this.#directory.status();
    const choices = stores.filter(
      ({ store, address }) => wanted === undefined || wanted === store || wanted === address,
    );
    const [choice] = choices;
    if (choice === undefined) {
      throw wanted === undefined
        ? new Failure("unavailable", "Cannot import a volume: no store has called yet", {
            retryAfterSeconds: 1,
          })
        : new Failure("not-found", `Cannot import a volume: no store is called ${wanted}`);
    }
    if (choices.length > 1) {
      const names = choices.map(({ address }) => address).join(", ");
      throw new Failure(
        "bad-request",
        `Cannot import a volume: there are several stores, name one of ${names}`,
      );
    }
    return choice.store;
  }
}

function pendingOf(draft: Draft, volume: number, kind: OrderKind): number[] {
  return draft
    .ordersFor(volume)
    .filter((order) => order.kind === kind)
    .map(({ number }) => number);
}

function readVolume(draft: Draft, volume: number): VolumeRecord {
  const record = draft.volume(volume);
  if (record === undefined || record.state === "dropped" || record.state === "dropping") {
    throw new Failure("not-found", `Cannot find volume ${volume}`);
  }
  if (record.state === "importing" || record.state === "creating") {
    const what = record.state === "importing" ? "imported" : "made";
    throw new Failure("conflict", `Cannot use volume ${volume} yet: it is being ${what}`);
  }
  return record;
}

/** Until copies agree on what is dead in them, each would make another file of it. */
function requireOneCopy({ volume, replicas }: VolumeRecord): void {
  if (replicas.length === 1) return;
  throw new Failure(
    "conflict",
    `Cannot compact volume ${volume}: it has ${replicas.length} copies, and so far only volumes with one are compacted`,
  );
}

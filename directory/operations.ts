/**
 * What operators have done to volumes: compact, verify, seal, import. Each becomes an order, committed before
 * it is answered; the answer does not wait for the end, which `status` tells.
 */

import type { Transaction } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Random } from "../base/random.ts";
import { raiseCounter } from "./counters.ts";
import type { Directory } from "./directory.ts";
import { isLongOrder, type VolumeState } from "./plan.ts";
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
import type { DirectoryTables } from "./schema.ts";

interface VolumeRow {
  volume: number;
  store: string;
  generation: number;
  state: VolumeState;
}

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
    return await this.#order(async (transaction) => {
      const row = await readVolume(transaction, volume);
      const pending = await this.#pendingOf(transaction, volume, "compact");
      if (pending !== undefined) return { stores: [], orders: [pending] };
      if (this.#isBelow(volume, request.garbageRatioMin)) return { stores: [], orders: [] };
      // The compaction is on record from now on, and sent once the seal is: a restart forgets neither.
      if (row.state === "open") {
        await this.#directory.orderSeal(transaction, row.store, volume);
      }
      const order = await this.#addCompaction(transaction, row, request);
      return { stores: [row.store], orders: [order] };
    });
  }

  /** Compacts all that is worth it, one after the other at each store; or only tells what that would be. */
  async compactAll(
    { dryRun, garbageRatioMin, ...terms }: CompactAllRequest,
    { only = () => true }: { only?: (status: { class: string }) => boolean } = {},
  ): Promise<CompactAllAnswer> {
    let steps: CompactionStep[] = [];
    const { orders } = await this.#order(async (transaction) => {
      const rows = new Map<number, VolumeRow>();
      for (const row of await readSealed(transaction)) rows.set(row.volume, row);
      const pending = await transaction.selectFrom("orders").select(["volume", "kind"]).execute();
      for (const { volume, kind } of pending) {
        if (isLongOrder({ kind: kind as OrderKind })) rows.delete(volume);
      }
      const volumes = this.#directory
        .servedVolumes()
        .filter((status) => rows.has(status.volume) && only(status));
      // Whoever asks for a share of dead bytes means it for nearly empty volumes too.
      const drainLiveRatioMax = Math.min(compactionDefaults.drainLiveRatioMax, 1 - garbageRatioMin);
      steps = planCompaction(volumes, { garbageRatioMin, drainLiveRatioMax }, { byHand: true });
      const orders: number[] = [];
      const stores: string[] = [];
      for (const { volume, store } of dryRun ? [] : steps) {
        const row = rows.get(volume);
        if (row === undefined) continue;
        orders.push(await this.#addCompaction(transaction, row, terms));
        stores.push(store);
      }
      return { stores, orders };
    });
    return { steps, orders };
  }

  /** Reads every byte of a volume and compares it with its checksums. */
  async verify(volume: number, { rateBytes }: VerifyVolumeRequest): Promise<OrdersAnswer> {
    return await this.#order(async (transaction) => {
      const { store } = await readVolume(transaction, volume);
      const pending = await this.#pendingOf(transaction, volume, "verify");
      if (pending !== undefined) return { stores: [], orders: [pending] };
      const body = { kind: "verify", volume, rateBytes } as const;
      const order = await this.#directory.orders.add(transaction, store, body);
      return { stores: [store], orders: [order] };
    });
  }

  /** Ends the open life of a volume. Nothing is ordered where it is over already. */
  async seal(volume: number): Promise<OrdersAnswer> {
    return await this.#order(async (transaction) => {
      const { store, state } = await readVolume(transaction, volume);
      if (state === "open") {
        const order = await this.#directory.orderSeal(transaction, store, volume);
        return { stores: [store], orders: [order] };
      }
      const pending = await this.#pendingOf(transaction, volume, "seal");
      return { stores: [], orders: pending === undefined ? [] : [pending] };
    });
  }

  /** Takes over a volume of SeaweedFS from its files on the store's machine, under the id that it had. */
  async import({ volume, dat, idx, store: wanted }: ImportVolumeRequest): Promise<OrdersAnswer> {
    return await this.#order(async (transaction) => {
      const store = this.#chooseStore(wanted);
      await this.#requireUnused(transaction, volume);
      const uuid = this.#random.bytes(16).toString("hex");
      const recordMagic = this.#random.bytes(8).toString("hex");
      const epoch = 1;
      await transaction
        .insertInto("volumes")
        .values({
          volume,
          uuid,
          class: "native",
          generation: 0,
          record_magic: recordMagic,
          epoch,
          state: "importing",
          sealed_length: null,
          store,
          ttl_seconds: 0,
        })
        .execute();
      await raiseCounter(transaction, "volume", volume);
      const createdMs = Math.floor(this.#clock.nowMs());
      const order = await this.#directory.orders.add(transaction, store, {
        kind: "import",
        ...{ volume, uuid, recordMagic, createdMs, epoch, members: [store], dat, idx },
      });
      return { stores: [store], orders: [order] };
    });
  }

  /** Where an order stands, or undefined if it is not known (any more). */
  async status(number: number): Promise<OrderStatus | undefined> {
    const { orders } = this.#directory;
    return await this.#directory.change(async (transaction) => {
      const [pending] = await orders.pending(transaction, { order: number });
      if (pending === undefined) return orders.ended(number);
      const { order, kind, volume } = pending.order;
      const operation = this.#reported(volume)?.operation;
      return {
        ...{ order, kind, volume, state: "pending" },
        operation: operation?.kind === kind ? operation : undefined,
      };
    });
  }

  /** Runs `work` in a transaction and wakes the stores that have new orders after it. */
  async #order(
    work: (transaction: Transaction<DirectoryTables>) => Promise<{
      stores: string[];
      orders: number[];
    }>,
  ): Promise<OrdersAnswer> {
    const { stores, orders } = await this.#directory.change(work);
    for (const store of new Set(stores)) this.#directory.wake(store);
    return { orders };
  }

  async #addCompaction(
    transaction: Transaction<DirectoryTables>,
    { volume, store, generation }: VolumeRow,
    { rateBytes, purge }: CompactionTerms,
  ): Promise<number> {
    return await this.#directory.orders.add(transaction, store, {
      kind: "compact",
      volume,
      generation: generation + 1,
      ttlCutoffMs: Math.floor(this.#clock.nowMs()),
      rateBytes,
      purge,
    });
  }

  async #pendingOf(
    transaction: Transaction<DirectoryTables>,
    volume: number,
    kind: OrderKind,
  ): Promise<number | undefined> {
    const pending = await this.#directory.orders.pending(transaction, { volume });
    return pending.find(({ order }) => order.kind === kind)?.order.order;
  }

  #reported(volume: number) {
    return this.#directory.servedVolumes().find((status) => status.volume === volume);
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

  async #requireUnused(transaction: Transaction<DirectoryTables>, volume: number): Promise<void> {
    const row = await transaction
      .selectFrom("volumes")
      .select("volume")
      .where("volume", "=", volume)
      .executeTakeFirst();
    if (row !== undefined || this.#directory.isReported(volume)) {
      throw new Failure("conflict", `Cannot import volume ${volume}: its id was used before`);
    }
  }
}

async function readVolume(
  transaction: Transaction<DirectoryTables>,
  volume: number,
): Promise<VolumeRow> {
  const row = await transaction
    .selectFrom("volumes")
    .select(["volume", "store", "generation", "state"])
    .where("volume", "=", volume)
    .executeTakeFirst();
  if (row === undefined || row.state === "dropped" || row.state === "dropping") {
    throw new Failure("not-found", `Cannot find volume ${volume}`);
  }
  if (row.state === "importing") {
    throw new Failure("conflict", `Cannot use volume ${volume} yet: it is being imported`);
  }
  return row as VolumeRow;
}

async function readSealed(transaction: Transaction<DirectoryTables>): Promise<VolumeRow[]> {
  const rows = await transaction
    .selectFrom("volumes")
    .select(["volume", "store", "generation", "state"])
    .where("state", "=", "sealed")
    .execute();
  return rows as VolumeRow[];
}

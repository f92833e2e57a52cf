/**
 * What is on record, in memory as it is in SQL: looked at for every heartbeat, written rarely.
 *
 * A change is made in a draft that lies over the ledger: whoever decides reads through it and writes into
 * it, then its rows are committed, and then the ledger takes them in.
 *
 * Invariants:
 * - The ledger holds committed rows alone: what it says may be said to others.
 * - One draft at a time (`Directory.change`). A draft whose commit failed is thrown away with the ledger:
 *   nobody knows what of it is on the disk.
 */

import type { Kysely, Transaction } from "kysely";
import { Failure } from "../base/failure.ts";
import type { Order, OrderKind, VolumeClass } from "./protocol.ts";
import type {
  OrderRecord,
  ReplicaRecord,
  ReplicaState,
  StoreRecord,
  VolumeRecord,
  VolumeState,
} from "./records.ts";
import type { DirectoryTables } from "./schema.ts";

export type OrderBody = Order extends infer Each
  ? Each extends Order
    ? Omit<Each, "order">
    : never
  : never;

const counterNames = ["volume", "order"] as const;
type CounterName = (typeof counterNames)[number];

/** Rows of one statement: SQLite takes 32,766 values in one, and a volume has 14. */
const rowsMax = 500;

const activeStates: ReadonlySet<VolumeState> = new Set<VolumeState>([
  "importing",
  "creating",
  "open",
  "sealing",
  "dropping",
]);

export class Ledger {
  readonly stores: Map<string, StoreRecord> = new Map();
  readonly volumes: Map<number, VolumeRecord> = new Map();
  readonly orders: Map<number, OrderRecord> = new Map();
  readonly counters: Record<CounterName, number> = { volume: 0, order: 0 };
  /** Volumes that are not at rest. */
  readonly active: Set<number> = new Set();
  /** Sealed volumes that end by themselves. */
  readonly expiring: Set<number> = new Set();
  readonly #volumesByStore = new Map<string, Set<number>>();
  readonly #ordersByStore = new Map<string, Map<number, OrderRecord>>();
  readonly #ordersByVolume = new Map<number, Map<number, OrderRecord>>();
  /** Made when it is first asked for: only volumes that nobody knows are looked up by it. */
  #volumeByUuid: Map<string, number> | undefined;

  static async load(database: Kysely<DirectoryTables>): Promise<Ledger> {
    const ledger = new Ledger();
    for (const row of await database.selectFrom("counters").selectAll().execute()) {
      if (row.name === "volume" || row.name === "order") {
        ledger.counters[row.name] = Number(row.value);
      }
    }
    for (const row of await database.selectFrom("stores").selectAll().execute()) {
      ledger.putStore({
        store: row.store,
        address: row.address,
        run: row.run,
        machine: row.machine,
        rack: row.rack,
        dataCentre: row.data_centre,
        isDraining: Number(row.is_draining) === 1,
        joinedMs: Number(row.joined_ms),
      });
    }
    const replicas = new Map<number, ReplicaRecord[]>();
    for (const row of await database
      .selectFrom("replicas")
      .selectAll()
      .orderBy("volume")
      .orderBy("position")
      .execute()) {
      const volume = Number(row.volume);
      const replica = replicaRecord(row.store, row.state as ReplicaState, row.run);
      const others = replicas.get(volume);
      if (others === undefined) replicas.set(volume, [replica]);
      else others.push(replica);
    }
    for (const row of await database.selectFrom("volumes").selectAll().execute()) {
      const volume = Number(row.volume);
      ledger.putVolume({
        volume,
        uuid: row.uuid,
        class: row.class as VolumeClass,
        generation: Number(row.generation),
        recordMagic: row.record_magic,
        epoch: Number(row.epoch),
        state: row.state as VolumeState,
        placement: row.placement,
        ttlSeconds: Number(row.ttl_seconds),
        isFinal: Number(row.is_final) === 1,
        sealedLength: row.sealed_length === null ? null : Number(row.sealed_length),
        sealedDigest: row.sealed_digest,
        replicas: replicas.get(volume) ?? [],
      });
    }
    for (const row of await database.selectFrom("orders").selectAll().execute()) {
      ledger.putOrder({
        number: Number(row.order_number),
        store: row.store,
        volume: Number(row.volume),
        kind: row.kind as OrderKind,
        order: JSON.parse(row.body) as Order,
      });
    }
    return ledger;
  }

  /** Volumes that the store has, or had, or is to get. */
  volumesOf(store: string): ReadonlySet<number> {
    return this.#volumesByStore.get(store) ?? none;
  }

  ordersOf(store: string): OrderRecord[] {
    return [...(this.#ordersByStore.get(store)?.values() ?? [])];
  }

  ordersFor(volume: number): OrderRecord[] {
    return [...(this.#ordersByVolume.get(volume)?.values() ?? [])];
  }

  volumeOfUuid(uuid: string): number | undefined {
    this.#volumeByUuid ??= new Map(
      [...this.volumes.values()].map((record) => [record.uuid, record.volume]),
    );
    return this.#volumeByUuid.get(uuid);
  }

  putStore(record: StoreRecord): void {
    this.stores.set(record.store, record);
  }

  putVolume(record: VolumeRecord): void {
    const { volume, uuid, state, replicas } = record;
    for (const { store } of this.volumes.get(volume)?.replicas ?? []) {
      this.#volumesByStore.get(store)?.delete(volume);
    }
    this.volumes.set(volume, record);
    for (const { store } of replicas) addTo(this.#volumesByStore, store, volume);
    if (activeStates.has(state)) this.active.add(volume);
    else this.active.delete(volume);
    if (state === "sealed" && record.ttlSeconds > 0) this.expiring.add(volume);
    else this.expiring.delete(volume);
    this.#volumeByUuid?.set(uuid, volume);
  }

  removeVolume(volume: number): void {
    const record = this.volumes.get(volume);
    if (record === undefined) return;
    for (const { store } of record.replicas) this.#volumesByStore.get(store)?.delete(volume);
    this.volumes.delete(volume);
    this.active.delete(volume);
    this.expiring.delete(volume);
    this.#volumeByUuid?.delete(record.uuid);
  }

  putOrder(record: OrderRecord): void {
    const { number, store, volume } = record;
    this.orders.set(number, record);
    putIn(this.#ordersByStore, store, record);
    putIn(this.#ordersByVolume, volume, record);
  }

  removeOrder(number: number): void {
    const record = this.orders.get(number);
    if (record === undefined) return;
    this.orders.delete(number);
    takeFrom(this.#ordersByStore, record.store, number);
    takeFrom(this.#ordersByVolume, record.volume, number);
  }
}

const none: ReadonlySet<number> = new Set();

function addTo<Key>(sets: Map<Key, Set<number>>, key: Key, value: number): void {
  const set = sets.get(key);
  if (set === undefined) sets.set(key, new Set([value]));
  else set.add(value);
}

function putIn<Key>(maps: Map<Key, Map<number, OrderRecord>>, key: Key, record: OrderRecord): void {
  const map = maps.get(key);
  if (map === undefined) maps.set(key, new Map([[record.number, record]]));
  else map.set(record.number, record);
}

function takeFrom<Key>(maps: Map<Key, Map<number, OrderRecord>>, key: Key, number: number): void {
  const map = maps.get(key);
  map?.delete(number);
  if (map?.size === 0) maps.delete(key);
}

const replicaRecords = new Map<string, ReplicaRecord>();

/** The same object for the same values: there are millions of them, and few differ. */
export function replicaRecord(store: string, state: ReplicaState, run = ""): ReplicaRecord {
  if (run !== "") return { store, state, run };
  const key = `${store}/${state}`;
  let record = replicaRecords.get(key);
  if (record === undefined) {
    record = { store, state, run };
    replicaRecords.set(key, record);
  }
  return record;
}

/** Changes that lie over the ledger until they are committed. */
export class Draft {
  readonly #ledger: Ledger;
  readonly #stores = new Map<string, StoreRecord>();
  /** Undefined is a row that goes. */
  readonly #volumes = new Map<number, VolumeRecord | undefined>();
  readonly #added = new Map<number, OrderRecord>();
  readonly #ended = new Set<number>();
  readonly #counters: Record<CounterName, number>;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
    this.#counters = { ...ledger.counters };
  }

  get isEmpty(): boolean {
    return (
      this.#stores.size + this.#volumes.size + this.#added.size + this.#ended.size === 0 &&
      counterNames.every((name) => this.#counters[name] === this.#ledger.counters[name])
    );
  }

  /** Stores that have an order in this draft which they have not heard of. */
  get orderedStores(): Set<string> {
    return new Set([...this.#added.values()].map(({ store }) => store));
  }

  /** Whether volumes change that are not at rest, before or after. */
  get isActivityChanged(): boolean {
    for (const [volume, record] of this.#volumes) {
      if (this.#ledger.active.has(volume)) return true;
      if (record !== undefined && activeStates.has(record.state)) return true;
    }
    return false;
  }

  get changedVolumes(): number[] {
    return [...this.#volumes.keys()];
  }

  store(store: string): StoreRecord | undefined {
    return this.#stores.get(store) ?? this.#ledger.stores.get(store);
  }

  putStore(record: StoreRecord): void {
    this.#stores.set(record.store, record);
  }

  volume(volume: number): VolumeRecord | undefined {
    return this.#volumes.has(volume) ? this.#volumes.get(volume) : this.#ledger.volumes.get(volume);
  }

  putVolume(record: VolumeRecord): void {
    this.#volumes.set(record.volume, record);
  }

  /** Replaces some values of a row; returns the row as it is now. */
  alter(volume: number, change: Partial<VolumeRecord>): VolumeRecord {
    const record = this.volume(volume);
    if (record === undefined) {
      throw new Failure("not-found", `Cannot change volume ${volume}: it is not on record`);
    }
    const next = { ...record, ...change };
    this.putVolume(next);
    return next;
  }

  removeVolume(volume: number): void {
    this.#volumes.set(volume, undefined);
  }

  volumeOfUuid(uuid: string): number | undefined {
    for (const record of this.#volumes.values()) {
      if (record?.uuid === uuid) return record.volume;
    }
    return this.#ledger.volumeOfUuid(uuid);
  }

  /** Volumes that are not at rest, and those that this draft touches. */
  *activeVolumes(): Iterable<VolumeRecord> {
    for (const volume of this.#ledger.active) {
      const record = this.volume(volume);
      if (record !== undefined && activeStates.has(record.state)) yield record;
    }
    for (const [volume, record] of this.#volumes) {
      if (record === undefined || this.#ledger.active.has(volume)) continue;
      if (activeStates.has(record.state)) yield record;
    }
  }

  /** A volume id that was never given out. */
  nextVolume(): number {
    this.#counters.volume += 1;
    return this.#counters.volume;
  }

  /** Ids up to `volume` are never given out again. */
  raiseVolume(volume: number): void {
    this.#counters.volume = Math.max(this.#counters.volume, volume);
  }

  /** Returns the new order's number. */
  addOrder(store: string, body: OrderBody): number {
    this.#counters.order += 1;
    const number = this.#counters.order;
    const { volume, kind } = body;
    this.#added.set(number, { number, store, volume, kind, order: { order: number, ...body } });
    return number;
  }

  /** It has ended, or is of no use any more. */
  endOrder(number: number): void {
    if (!this.#added.delete(number)) this.#ended.add(number);
  }

  order(number: number): OrderRecord | undefined {
    if (this.#ended.has(number)) return undefined;
    return this.#added.get(number) ?? this.#ledger.orders.get(number);
  }

  ordersOf(store: string): OrderRecord[] {
    return this.#over(this.#ledger.ordersOf(store), (order) => order.store === store);
  }

  ordersFor(volume: number): OrderRecord[] {
    return this.#over(this.#ledger.ordersFor(volume), (order) => order.volume === volume);
  }

  async write(transaction: Transaction<DirectoryTables>): Promise<void> {
    for (const name of counterNames) {
      const value = this.#counters[name];
      if (value === this.#ledger.counters[name]) continue;
      await transaction
        .updateTable("counters")
        .set({ value })
        .where("name", "=", name)
        .where("value", "<", value)
        .execute();
    }
    for (const row of this.#stores.values()) await writeStore(transaction, row);
    await this.#writeVolumes(transaction);
    for (const numbers of chunks([...this.#ended])) {
      await transaction.deleteFrom("orders").where("order_number", "in", numbers).execute();
    }
    for (const orders of chunks([...this.#added.values()])) {
      const rows = orders.map(({ number, store, volume, kind, order }) => ({
        ...{ order_number: number, store, volume, kind, body: JSON.stringify(order) },
      }));
      await transaction.insertInto("orders").values(rows).execute();
    }
  }

  /** To be called once it is committed. */
  takeEffect(): void {
    const ledger = this.#ledger;
    Object.assign(ledger.counters, this.#counters);
    for (const record of this.#stores.values()) ledger.putStore(record);
    for (const [volume, record] of this.#volumes) {
      if (record === undefined) ledger.removeVolume(volume);
      else ledger.putVolume(record);
    }
    for (const number of this.#ended) ledger.removeOrder(number);
    for (const order of this.#added.values()) ledger.putOrder(order);
  }

  #over(committed: OrderRecord[], isOne: (order: OrderRecord) => boolean): OrderRecord[] {
    if (this.#ended.size + this.#added.size === 0) return committed;
    return [
      ...committed.filter(({ number }) => !this.#ended.has(number)),
      ...[...this.#added.values()].filter(isOne),
    ];
  }

  async #writeVolumes(transaction: Transaction<DirectoryTables>): Promise<void> {
    const removed: number[] = [];
    const rows: VolumeRecord[] = [];
    const replaced: VolumeRecord[] = [];
    for (const [volume, record] of this.#volumes) {
      if (record === undefined) {
        removed.push(volume);
        continue;
      }
      rows.push(record);
      const before = this.#ledger.volumes.get(volume)?.replicas;
      if (!isSame(before ?? [], record.replicas)) replaced.push(record);
    }
    for (const volumes of chunks(removed)) {
      await transaction.deleteFrom("replicas").where("volume", "in", volumes).execute();
      await transaction.deleteFrom("volumes").where("volume", "in", volumes).execute();
    }
    for (const records of chunks(rows)) await writeVolumes(transaction, records);
    for (const records of chunks(replaced)) {
      const volumes = records.map(({ volume }) => volume);
      await transaction.deleteFrom("replicas").where("volume", "in", volumes).execute();
      const replicas = records.flatMap(({ volume, replicas }) =>
        replicas.map((replica, position) => ({ volume, position, ...replica })),
      );
      for (const some of chunks(replicas)) {
        await transaction.insertInto("replicas").values(some).execute();
      }
    }
  }
}

async function writeStore(
  transaction: Transaction<DirectoryTables>,
  record: StoreRecord,
): Promise<void> {
  const { store, address, run, machine, rack, dataCentre, isDraining, joinedMs } = record;
  const rest = {
    ...{ address, run, machine, rack, data_centre: dataCentre },
    is_draining: isDraining ? 1 : 0,
  };
  await transaction
    .insertInto("stores")
    .values({ store, joined_ms: joinedMs, ...rest })
    .onConflict((conflict) => conflict.column("store").doUpdateSet(rest))
    .execute();
}

async function writeVolumes(
  transaction: Transaction<DirectoryTables>,
  records: readonly VolumeRecord[],
): Promise<void> {
  const rows = records.map((record) => ({
    volume: record.volume,
    uuid: record.uuid,
    class: record.class,
    generation: record.generation,
    record_magic: record.recordMagic,
    epoch: record.epoch,
    state: record.state,
    placement: record.placement,
    ttl_seconds: record.ttlSeconds,
    is_final: record.isFinal ? 1 : 0,
    sealed_length: record.sealedLength,
    sealed_digest: record.sealedDigest,
  }));
  await transaction
    .insertInto("volumes")
    .values(rows)
    .onConflict((conflict) =>
      conflict.column("volume").doUpdateSet((row) => ({
        generation: row.ref("excluded.generation"),
        epoch: row.ref("excluded.epoch"),
        state: row.ref("excluded.state"),
        is_final: row.ref("excluded.is_final"),
        sealed_length: row.ref("excluded.sealed_length"),
        sealed_digest: row.ref("excluded.sealed_digest"),
      })),
    )
    .execute();
}

function isSame(left: readonly ReplicaRecord[], right: readonly ReplicaRecord[]): boolean {
  return (
    left.length === right.length &&
    left.every(({ store, state, run }, at) => {
      const other = right[at];
      return other?.store === store && other.state === state && other.run === run;
    })
  );
}

function* chunks<Item>(items: readonly Item[]): Iterable<Item[]> {
  for (let at = 0; at < items.length; at += rowsMax) yield items.slice(at, at + rowsMax);
}

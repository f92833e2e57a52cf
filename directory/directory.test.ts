import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Kysely } from "kysely";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeLog } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { kyselyOn, migrate, openSqlite } from "../base/sqlite.ts";
import { Directory } from "./directory.ts";
import type { Heartbeat, Order, VolumeStatus } from "./protocol.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";

let folder: string;
let database: Kysely<DirectoryTables>;
let nowMs: number;

const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
const log = makeLog("test", "silent");

beforeEach(async () => {
  nowMs = 1_000_000;
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-directory-"));
  await openDatabase();
});

afterEach(async () => {
  await database.destroy();
  rmSync(folder, { recursive: true, force: true });
});

async function openDatabase(): Promise<void> {
  database = kyselyOn<DirectoryTables>(openSqlite(path.join(folder, "directory.sqlite"), "write"));
  await migrate(database, directoryMigrations);
}

const makeDirectory = (seed = 1) =>
  new Directory({ database, clock, random: seededRandom(seed), log });

/** A store that does as it is told, without any disk. */
class FakeStore {
  readonly id: string;
  run = "1".repeat(16);
  volumes = new Map<number, VolumeStatus>();
  unreadable: number[] = [];
  done: number[] = [];

  constructor(id: string) {
    this.id = id.padStart(16, "0");
  }

  report(): Heartbeat {
    return {
      store: this.id,
      run: this.run,
      address: "127.0.0.1:8080",
      freeBytes: 1e12,
      totalBytes: 2e12,
      volumes: [...this.volumes.values()],
      unreadable: this.unreadable,
      done: this.done,
    };
  }

  carryOut(orders: Order[]): void {
    this.done = orders.map(({ order }) => order);
    for (const order of orders) {
      const volume = this.volumes.get(order.volume);
      if (order.kind === "create") {
        this.volumes.set(order.volume, {
          volume: order.volume,
          class: order.class,
          uuid: order.uuid,
          generation: order.generation,
          epoch: order.epoch,
          state: "open",
          isWritable: true,
          lengthBytes: 8_192,
          dataBytes: 0,
          needleCount: 0,
          deletedCount: 0,
          damagedBytes: 0,
        });
      } else if (volume !== undefined && order.kind === "begin-epoch") {
        this.volumes.set(order.volume, { ...volume, epoch: order.epoch, isWritable: true });
      } else if (volume !== undefined) {
        this.volumes.set(order.volume, { ...volume, state: "sealed", isWritable: false });
      }
    }
  }

  restart(run: string): void {
    this.run = run.repeat(16);
    this.done = [];
    for (const [id, volume] of this.volumes) this.volumes.set(id, { ...volume, isWritable: false });
  }

  async beat(directory: Directory): Promise<Order[]> {
    const { orders } = await directory.heartbeat(this.report());
    this.carryOut(orders);
    return orders;
  }
}

test("A new store gets volumes of its own, and gateways see them once they are there", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  expect((await store.beat(directory)).map(({ kind }) => kind)).toEqual(["create", "create"]);
  expect(directory.map().volumes).toEqual([]);
  expect(await store.beat(directory)).toEqual([]);
  expect(directory.map().volumes.map(({ volume, isWritable }) => [volume, isWritable])).toEqual([
    [1, true],
    [2, true],
  ]);
});

test("An order comes again until it is reported done, over a restart of the directory too", async () => {
  const store = new FakeStore("a");
  const first = await makeDirectory().heartbeat(store.report());
  expect(await makeDirectory(2).heartbeat(store.report())).toEqual(first);
  store.carryOut(first.orders);
  expect(await store.beat(makeDirectory(3))).toEqual([]);
});

test("Each run of a store gets an epoch of its own", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  await store.beat(directory);
  await store.beat(directory);
  for (const [at, run] of ["2", "3", "4"].entries()) {
    store.restart(run);
    expect(await store.beat(directory)).toMatchObject([
      { kind: "begin-epoch", volume: 1, epoch: at + 2 },
      { kind: "begin-epoch", volume: 2, epoch: at + 2 },
    ]);
    await store.beat(directory);
  }
});

test("The epoch that a run did not begin before it died is not given to the next", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  await store.beat(directory);
  await store.beat(directory);
  store.restart("2");
  await directory.heartbeat(store.report()); // the orders never arrive
  store.restart("3");
  const orders = await store.beat(directory);
  expect(orders.map((order) => order.kind === "begin-epoch" && order.epoch)).toEqual([3, 3]);
});

test("Volume ids are given out once, whatever becomes of stores and directories", async () => {
  const seen = new Set<number>();
  for (let at = 0; at < 5; at++) {
    const store = new FakeStore(`${at}`);
    for (const { volume } of await store.beat(makeDirectory(at))) {
      expect(seen.has(volume)).toBe(false);
      seen.add(volume);
    }
  }
  expect(seen.size).toBe(10);
});

test("A silent store takes no writes, and is read where it was", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  await store.beat(directory);
  await store.beat(directory);
  nowMs += 3_000;
  expect(directory.status().stores[0]?.state).toBe("suspect");
  expect(directory.map().volumes.every(({ isWritable }) => !isWritable)).toBe(true);
  expect(directory.map().volumes[0]?.addresses).toEqual(["127.0.0.1:8080"]);
  await store.beat(directory);
  expect(directory.map().volumes.every(({ isWritable }) => isWritable)).toBe(true);
});

test("With the database gone, what stores have is read and never written, and ids skip ahead", async () => {
  const store = new FakeStore("a");
  await store.beat(makeDirectory());
  await store.beat(makeDirectory());
  await database.destroy();
  rmSync(folder, { recursive: true, force: true });
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-directory-"));
  await openDatabase();
  const directory = makeDirectory(9);
  store.restart("2");
  const orders = await store.beat(directory);
  expect(orders.filter(({ kind }) => kind === "seal").map(({ volume }) => volume)).toEqual([1, 2]);
  await store.beat(directory);
  await store.beat(directory);
  const map = directory.map().volumes;
  expect(map.map(({ volume, isWritable }) => [volume, isWritable])).toEqual([
    [1, false],
    [2, false],
    [3, true],
    [4, true],
  ]);
});

test("The id of a volume that a store can't open is never given out again", async () => {
  const store = new FakeStore("a");
  store.unreadable = [7];
  expect((await store.beat(makeDirectory())).map(({ volume }) => volume)).toEqual([8, 9]);
});

test("An open volume that is not there any more is replaced by another", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  await store.beat(directory);
  await store.beat(directory);
  store.volumes.delete(1);
  expect(await store.beat(directory)).toMatchObject([{ kind: "create", volume: 3 }]);
});

test("Of two stores that claim one volume, the one on record is believed", async () => {
  const directory = makeDirectory();
  const first = new FakeStore("a");
  await first.beat(directory);
  await first.beat(directory);
  const second = new FakeStore("b");
  second.volumes = new Map([...first.volumes].slice(0, 1));
  await second.beat(directory);
  await second.beat(directory);
  const claimed = directory.map().volumes.filter(({ volume }) => volume === 1);
  expect(claimed).toHaveLength(1);
});

test("A map's version tells another content, and waiting ends when it comes", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  const signal = new AbortController().signal;
  const { version } = directory.map();
  const waiting = directory.mapAfter(version, 60_000, signal);
  await store.beat(directory);
  await store.beat(directory);
  const map = await waiting;
  expect(map.version).not.toBe(version);
  expect(map.volumes).toHaveLength(2);
  await store.beat(directory);
  expect(directory.map().version).toBe(map.version);
  expect(makeDirectory(5).map().version).not.toBe(version);
});

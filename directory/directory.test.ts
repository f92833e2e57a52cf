import type { Kysely } from "kysely";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeLog } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { Directory, type DirectoryOptions } from "./directory.ts";
import { FakeStore } from "./fake-store.ts";
import { Operations } from "./operations.ts";
import type { DirectoryTables } from "./schema.ts";
import { makeTestDatabase, type TestDatabase } from "./test-database.ts";

let made: TestDatabase;
let database: Kysely<DirectoryTables>;
let nowMs: number;

const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
const log = makeLog("test", "silent");

beforeEach(async () => {
  nowMs = 1_000_000;
  await openDatabase();
});

afterEach(async () => {
  await made.destroy();
});

async function openDatabase(): Promise<void> {
  made = await makeTestDatabase();
  database = made.database;
}

const makeDirectory = (seed = 1, options: Partial<DirectoryOptions> = {}) =>
  new Directory({ database, clock, random: seededRandom(seed), log, ...options });

const makeOperations = (directory: Directory, seed = 77) =>
  new Operations(directory, { clock, random: seededRandom(seed) });

/** A store with its two volumes of class original. */
async function makeStore(directory: Directory, id = "a"): Promise<FakeStore> {
  const store = new FakeStore(id);
  await store.beat(directory);
  await store.beat(directory);
  return store;
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
  const { orders } = await makeDirectory(2).heartbeat(store.report());
  expect(orders).toEqual(first.orders);
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
  await made.destroy();
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

const calm = { rateBytes: 0, purge: false };

test("A held reply leaves at once when something is ordered, and else at the end of its time", async () => {
  const directory = makeDirectory();
  const store = await makeStore(directory);
  const startedMs = performance.now();
  expect((await directory.heartbeat(store.report(60))).orders).toEqual([]);
  expect(performance.now() - startedMs).toBeGreaterThan(50);
  const held = directory.heartbeat(store.report(1_000));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const [order] = (await makeOperations(directory).seal(1)).orders;
  expect((await held).orders).toMatchObject([{ kind: "seal", volume: 1, order }]);
  expect(performance.now() - startedMs).toBeLessThan(900);
});

test("Whoever has hung up is not held, nor taken to have heard", async () => {
  const directory = makeDirectory();
  const store = await makeStore(directory);
  const gone = new AbortController();
  const held = directory.heartbeat(store.report(1_000), gone.signal);
  await new Promise((resolve) => setTimeout(resolve, 20));
  gone.abort();
  await held;
  await makeOperations(directory).seal(1);
  const startedMs = performance.now();
  const { orders } = await directory.heartbeat(store.report(1_000));
  expect(orders.filter(({ kind }) => kind === "seal")).toHaveLength(1);
  expect(performance.now() - startedMs).toBeLessThan(500);
});

test("An order that was sent is in every reply, and hurries none", async () => {
  const directory = makeDirectory();
  const store = await makeStore(directory);
  store.isSlow = true;
  await makeOperations(directory).verify(1, { rateBytes: 0 });
  expect((await directory.heartbeat(store.report(1_000))).orders).toHaveLength(1);
  const startedMs = performance.now();
  expect((await directory.heartbeat(store.report(60))).orders).toHaveLength(1);
  expect(performance.now() - startedMs).toBeGreaterThan(50);
});

test("A compaction of an open volume waits for its seal, over a restart of the directory too", async () => {
  let directory = makeDirectory();
  const store = await makeStore(directory);
  const [number = 0] = (await makeOperations(directory).compact(1, calm)).orders;
  directory = makeDirectory(2);
  let operations = makeOperations(directory);
  expect(await operations.status(number)).toMatchObject({ state: "pending", kind: "compact" });
  expect((await store.beat(directory)).map(({ kind }) => kind)).toEqual(["seal", "create"]);
  directory = makeDirectory(3);
  operations = makeOperations(directory);
  const orders = (await store.beat(directory)).filter(({ kind }) => kind !== "create");
  expect(orders).toMatchObject([
    { order: number, kind: "compact", volume: 1, generation: 1, purge: false, ttlCutoffMs: nowMs },
  ]);
  await store.beat(directory);
  expect(await operations.status(number)).toMatchObject({ state: "done" });
  expect((await operations.compact(1, calm)).orders).toHaveLength(1);
  expect(await store.beat(directory)).toMatchObject([{ kind: "compact", generation: 2 }]);
});

test("An order that can't be carried out is forgotten, with its reason for whoever asks", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  const store = await makeStore(directory);
  store.failures.set("verify", "the disk has gone bad");
  const [number = 0] = (await operations.verify(1, { rateBytes: 5 })).orders;
  await store.beat(directory);
  expect(await store.beat(directory)).toEqual([]);
  expect(await operations.status(number)).toEqual({
    order: number,
    kind: "verify",
    volume: 1,
    state: "failed",
    reason: "the disk has gone bad",
  });
  expect(await operations.status(999)).toBeUndefined();
});

test("A seal that fails is tried again after a while, not at every heartbeat", async () => {
  const directory = makeDirectory();
  const store = await makeStore(directory);
  store.failures.set("seal", "no");
  store.set(1, { closedBecause: "it is full", isWritable: false });
  const sealsOf = async () =>
    (await store.beat(directory)).filter(({ kind }) => kind === "seal").length;
  expect([await sealsOf(), await sealsOf(), await sealsOf()]).toEqual([1, 0, 0]);
  nowMs += 60_001;
  expect(await sealsOf()).toBe(1);
});

test("A volume that can't be made is not asked for again at once", async () => {
  const directory = makeDirectory();
  const store = new FakeStore("a");
  store.failures.set("create", "unknown class");
  expect(await store.beat(directory)).toHaveLength(2);
  expect(await store.beat(directory)).toHaveLength(0);
  nowMs += 10_001;
  expect((await store.beat(directory)).map(({ volume }) => volume)).toEqual([3, 4]);
});

test("The most wasteful sealed volume is compacted by itself, one at a time at a store", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  const store = await makeStore(directory);
  for (const volume of [1, 2]) await operations.seal(volume);
  await store.beat(directory);
  store.isSlow = true;
  store.set(1, { lengthBytes: 100e6, deadBytes: 40e6 });
  store.set(2, { lengthBytes: 100e6, deadBytes: 60e6 });
  await store.beat(directory); // on record as sealed from here on
  const compactions = async () =>
    (await store.beat(directory)).filter(({ kind }) => kind === "compact");
  expect(await compactions()).toMatchObject([
    { volume: 2, generation: 1, rateBytes: 20_000_000, purge: false },
  ]);
  expect(await compactions()).toHaveLength(1);
  store.isSlow = false;
  await store.beat(directory);
  expect(await compactions()).toMatchObject([{ volume: 1 }]);
  expect(await compactions()).toEqual([]);
});

test("A volume that can't be compacted is left alone for a day; by hand it may be tried again", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  const store = await makeStore(directory);
  await operations.seal(1);
  await store.beat(directory);
  store.set(1, { lengthBytes: 100e6, deadBytes: 60e6 });
  store.failures.set("compact", "needle 7 does not verify");
  await store.beat(directory);
  const compactions = async () =>
    (await store.beat(directory)).filter(({ kind }) => kind === "compact").length;
  expect([await compactions(), await compactions(), await compactions()]).toEqual([1, 0, 0]);
  expect((await operations.compact(1, calm)).orders).toHaveLength(1);
  expect([await compactions(), await compactions()]).toEqual([1, 0]);
  nowMs += 86_400_001;
  expect([await compactions(), await compactions()]).toEqual([1, 0]);
});

test("Compaction that is off is left to operators", async () => {
  const directory = makeDirectory(1, { compaction: "off" });
  const store = await makeStore(directory);
  await makeOperations(directory).seal(1);
  await store.beat(directory);
  store.set(1, { lengthBytes: 100e6, deadBytes: 60e6 });
  await store.beat(directory);
  expect(await store.beat(directory)).toEqual([]);
});

test("All that is worth it is told in a dry run, and ordered without", async () => {
  const directory = makeDirectory(1, { compaction: "off" });
  const operations = makeOperations(directory);
  const store = await makeStore(directory);
  for (const volume of [1, 2]) await operations.seal(volume);
  await store.beat(directory);
  await store.beat(directory);
  await store.beat(directory);
  store.set(1, { lengthBytes: 1_000, deadBytes: 400 });
  store.set(2, { lengthBytes: 1_000, deadBytes: 950 });
  store.set(3, { lengthBytes: 1_000, deadBytes: 950 }); // open
  await store.beat(directory);
  const request = { garbageRatioMin: 0.3, ...calm };
  const dry = await operations.compactAll({ ...request, dryRun: true });
  expect(dry.orders).toEqual([]);
  expect(dry.steps).toMatchObject([
    { volume: 2, strategy: "drain", copyBytes: 50, freedBytes: 950 },
    { volume: 1, strategy: "garbage", copyBytes: 600, freedBytes: 400 },
  ]);
  const wet = await operations.compactAll({ ...request, dryRun: false });
  expect(wet.steps).toEqual(dry.steps);
  expect(wet.orders).toHaveLength(2);
  expect((await operations.compactAll({ ...request, dryRun: false })).orders).toEqual([]);
  // One after the other.
  expect(await store.beat(directory)).toMatchObject([{ kind: "compact", volume: 2 }]);
  expect(await store.beat(directory)).toMatchObject([{ kind: "compact", volume: 1 }]);
});

test("Of a volume below the wanted share nothing is ordered; of one that is not there, it is said", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  await makeStore(directory);
  expect(await operations.compact(1, { ...calm, garbageRatioMin: 0.5 })).toEqual({ orders: [] });
  await expect(operations.compact(99, calm)).rejects.toMatchObject({ kind: "not-found" });
});

test("An imported volume keeps its id, which must never have been used", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  const store = await makeStore(directory);
  const files = { dat: "/old/7.dat", idx: "/old/7.idx" };
  await expect(operations.import({ volume: 1, ...files })).rejects.toMatchObject({
    kind: "conflict",
  });
  await operations.import({ volume: 7, ...files });
  expect(await store.beat(directory)).toMatchObject([
    { kind: "import", volume: 7, members: [store.id], ...files },
  ]);
  await store.beat(directory);
  await expect(operations.import({ volume: 7, ...files })).rejects.toMatchObject({
    kind: "conflict",
  });
  expect(await store.beat(directory)).toEqual([]);
  store.failures.set("import", "there is no such file");
  const [failed = 0] = (await operations.import({ volume: 5, ...files })).orders;
  await store.beat(directory);
  await store.beat(directory);
  expect(await operations.status(failed)).toMatchObject({ state: "failed" });
  store.failures.clear();
  expect((await operations.import({ volume: 5, ...files })).orders).toHaveLength(1);
  store.volumes.delete(1);
  const orders = await store.beat(directory);
  expect(orders.find(({ kind }) => kind === "create")).toMatchObject({ volume: 8 });
});

test("With several stores, the one that imports has to be named", async () => {
  const directory = makeDirectory();
  const operations = makeOperations(directory);
  await makeStore(directory, "a");
  const second = await makeStore(directory, "b");
  const request = { volume: 70, dat: "a", idx: "b" };
  await expect(operations.import(request)).rejects.toMatchObject({ kind: "bad-request" });
  await expect(operations.import({ ...request, store: "nobody" })).rejects.toMatchObject({
    kind: "not-found",
  });
  await operations.import({ ...request, store: second.id });
  expect(await second.beat(directory)).toMatchObject([{ kind: "import", volume: 70 }]);
});

test("A volume whose needles expire is sealed after a while, dropped when all have, and its id stays used", async () => {
  const directory = makeDirectory();
  const store = await makeStore(directory);
  const request = { count: 1, dataBytes: 0, ttlSeconds: 3_840 };
  let isOver = false;
  const beating = store.beatUntil(directory, () => isOver);
  const { fid } = await directory.assign(request);
  isOver = true;
  await beating;
  const volume = Number(fid.split(",")[0]);
  expect(store.volumes.get(volume)).toMatchObject({ class: "native", ttlSeconds: 3_840 });
  store.set(volume, { needleCount: 1 });

  nowMs += 960_000;
  expect(await store.beat(directory)).toMatchObject([{ kind: "seal", volume }]);
  const expiresMs = nowMs + 3_840_000;
  store.set(volume, { expiresMs });
  await store.beat(directory);
  nowMs = expiresMs + 60_000;
  expect(await store.beat(directory)).toEqual([]);
  nowMs += 1;
  const before = store.volumes.get(volume);
  expect(await store.beat(directory)).toMatchObject([{ kind: "drop", volume, uuid: before?.uuid }]);
  await store.beat(directory);
  expect(directory.map().volumes.map((entry) => entry.volume)).not.toContain(volume);

  // Back from a copy of the disk: served to nobody, and not dropped twice.
  if (before !== undefined) store.volumes.set(volume, before);
  expect(await store.beat(directory)).toEqual([]);
  expect(directory.map().volumes.map((entry) => entry.volume)).not.toContain(volume);
});

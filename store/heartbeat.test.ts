import { mkdtempSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Kysely } from "kysely";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeLog } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { systemRuntime } from "../base/runtime.ts";
import { kyselyOn, migrate, openSqlite } from "../base/sqlite.ts";
import { DirectoryClient, type Order, type VolumeStatus } from "../directory/client.ts";
// biome-ignore-start lint/style/noRestrictedImports: the real other end of the talk
import { Directory } from "../directory/directory.ts";
import { emptyStatus, FakeStore } from "../directory/fake-store.ts";
import { Operations } from "../directory/operations.ts";
import { type DirectoryTables, directoryMigrations } from "../directory/schema.ts";
import { makeDirectoryServer } from "../directory/server.ts";
// biome-ignore-end lint/style/noRestrictedImports: the real other end of the talk
import { HeartbeatLoop, type HeartbeatStore } from "./heartbeat.ts";

const token = "a".repeat(64);
const log = makeLog("test", "silent");
const clock = { nowMs: () => 1_000_000, monotonicMs: () => performance.now() };

let folder: string;
let database: Kysely<DirectoryTables>;
let directory: Directory;
let server: Server | undefined;
let address: string;
let caller: Caller;
let client: DirectoryClient;
let loop: HeartbeatLoop | undefined;
let store: ObedientStore;
let beats: number;

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-heartbeat-"));
  database = kyselyOn<DirectoryTables>(openSqlite(path.join(folder, "directory.sqlite"), "write"));
  await migrate(database, directoryMigrations);
  caller = new Caller(token);
  store = new ObedientStore();
  beats = 0;
  await serve(0);
});

afterEach(async () => {
  await loop?.stop();
  await caller.close();
  if (server !== undefined) await closeServer(server, 0);
  await database.destroy();
  rmSync(folder, { recursive: true, force: true });
});

async function serve(port: number): Promise<void> {
  const seams = { clock, random: systemRandom };
  directory = new Directory({ database, log, ...seams, compaction: "off" });
  const operations = new Operations(directory, seams);
  server = makeDirectoryServer({
    ...{ directory, operations, token, log, native: "off", rateBytes: 0 },
  });
  server.prependListener("request", ({ url }) => {
    if (url === "/heartbeat") beats += 1;
  });
  address = formatAddress(await listen(server, { host: "127.0.0.1", port }));
  client = new DirectoryClient(caller, address);
}

/** What a loop sees of a store: orders go to a fake one, some of them slowly. */
class ObedientStore implements HeartbeatStore {
  readonly fake = new FakeStore("a");
  /** Orders in the order in which they were begun. */
  readonly begun: Order[] = [];
  /** Ends the orders that take long. */
  readonly release = new Map<number, (error?: Error) => void>();
  /** Thrown once for each order of the kind. */
  readonly failures = new Map<Order["kind"], Error[]>();
  readonly reserved: { volume: number; first: number; count: number }[] = [];

  get id(): string {
    return this.fake.id;
  }
  get unreadable(): readonly number[] {
    return [];
  }
  space(): { freeBytes: number; totalBytes: number } {
    return { freeBytes: 1e12, totalBytes: 2e12 };
  }
  async measureSpace(): Promise<void> {}
  reports(): VolumeStatus[] {
    return [...this.fake.volumes.values()];
  }
  async carryOut(order: Order): Promise<void> {
    this.begun.push(order);
    const error = this.failures.get(order.kind)?.shift();
    if (error !== undefined) throw error;
    if (order.kind === "verify" || order.kind === "compact") {
      await new Promise<void>((resolve, reject) => {
        this.release.set(order.order, (reason) => {
          if (reason === undefined) resolve();
          else reject(reason);
        });
      });
    }
    this.fake.apply(order);
  }
  async reserve(volume: number, count: number): Promise<{ first: number; count: number }> {
    const first = this.fake.reserve(volume, count);
    this.reserved.push({ volume, first, count });
    return { first, count };
  }
}

function startLoop(run = "1"): HeartbeatLoop {
  loop = new HeartbeatLoop({
    store,
    directory: client,
    run: run.repeat(16),
    address: "127.0.0.1:8080",
    log,
  });
  loop.start();
  return loop;
}

async function until(isSo: () => boolean | Promise<boolean>, limitMs = 5_000): Promise<void> {
  const giveUpAtMs = performance.now() + limitMs;
  while (!(await isSo())) {
    if (performance.now() > giveUpAtMs) throw new Error("it did not come to pass");
    await pause(2);
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const kindsBegun = () => store.begun.map(({ kind }) => kind);
const isOpenAt = (volume: number) => () =>
  directory.map().volumes.some((entry) => entry.volume === volume && entry.isWritable);

test("A store that starts has its volumes on the map at once", async () => {
  const startedMs = performance.now();
  startLoop();
  await until(isOpenAt(2));
  expect(performance.now() - startedMs).toBeLessThan(900);
  expect(kindsBegun()).toEqual(["create", "create"]);
});

test("In calm times there is about a heartbeat a second, and an order leaves at once all the same", async () => {
  startLoop();
  await until(isOpenAt(2));
  await pause(100);
  beats = 0;
  await pause(1_200);
  expect(beats).toBeLessThanOrEqual(2);
  const startedMs = performance.now();
  const [order = 0] = (await client.sealVolume(1)).orders;
  await until(async () => (await client.order(order)).state === "done");
  expect(performance.now() - startedMs).toBeLessThan(500);
});

test("News does not wait for a reply that is held", async () => {
  const running = startLoop();
  await until(isOpenAt(2));
  await pause(100);
  store.fake.set(1, { isWritable: false, closedBecause: "it is full" });
  const startedMs = performance.now();
  running.hurry();
  await until(isOpenAt(3));
  expect(performance.now() - startedMs).toBeLessThan(500);
  expect(running.isAnswered).toBe(true);
});

test("However often there is news, heartbeats are answered", async () => {
  const running = startLoop();
  const hurrying = setInterval(() => running.hurry(), 1);
  await until(isOpenAt(2));
  clearInterval(hurrying);
});

test("An order that takes long is begun once, and holds up nothing", async () => {
  startLoop();
  await until(isOpenAt(2));
  const [verify = 0] = (await client.verifyVolume(1)).orders;
  await until(() => store.release.has(verify));
  const [seal = 0] = (await client.sealVolume(2)).orders;
  await until(async () => (await client.order(seal)).state === "done");
  await pause(1_100); // it comes with further replies
  expect(kindsBegun().filter((kind) => kind === "verify")).toHaveLength(1);
  expect(await client.order(verify)).toMatchObject({ state: "pending" });
  const startedMs = performance.now();
  store.release.get(verify)?.();
  await until(async () => (await client.order(verify)).state === "done");
  expect(performance.now() - startedMs).toBeLessThan(500);
});

test("An order in the background that fails is reported with its reason, whatever kind of failure it is", async () => {
  startLoop();
  await until(isOpenAt(2));
  const [verify = 0] = (await client.verifyVolume(1)).orders;
  await until(() => store.release.has(verify));
  store.release.get(verify)?.(new Error("the disk is gone"));
  await until(async () => (await client.order(verify)).state === "failed");
  expect(await client.order(verify)).toMatchObject({ reason: "the disk is gone" });
});

test("A short order that fails for good is given up, one that may go well is tried again", async () => {
  startLoop();
  await until(isOpenAt(2));
  store.failures.set("seal", [new Failure("unavailable", "not now")]);
  const [again = 0] = (await client.sealVolume(1)).orders;
  await until(async () => (await client.order(again)).state === "done");
  store.failures.set("seal", [new Failure("conflict", "never")]);
  const [never = 0] = (await client.sealVolume(2)).orders;
  await until(async () => (await client.order(never)).state === "failed");
  expect(await client.order(never)).toMatchObject({ reason: "never" });
});

test("Ordinals are reserved as the directory wants them, and assigned but once over its restart", async () => {
  startLoop();
  await until(isOpenAt(2));
  const request = { count: 10, ttlSeconds: 0, dataBytes: 0 };
  const startedMs = performance.now();
  const before = await directory.assign(request);
  expect(performance.now() - startedMs).toBeLessThan(900);
  if (server !== undefined) await closeServer(server, 0);
  await serve(Number(address.split(":")[1]));
  await until(async () => (await client.status()).stores.length > 0);
  const after = await directory.assign(request);
  expect(store.reserved.map(({ count }) => count)).toEqual([1_024, 1_024]);
  expect(parseFid(before.fid)).toMatchObject({ volume: 3, ordinal: 0 });
  expect(parseFid(after.fid)).toMatchObject({ volume: 3, ordinal: 1_024 });
});

test("Assigning on and on waits for no held reply", async () => {
  startLoop();
  await until(isOpenAt(2));
  const startedMs = performance.now();
  for (let at = 0; at < 120; at++) {
    await directory.assign({ count: 5_000, ttlSeconds: 0, dataBytes: 0 });
  }
  expect(performance.now() - startedMs).toBeLessThan(900);
  expect(store.reserved.length).toBeGreaterThan(3);
});

test("While the directory is away it is looked for, and the end of an order waits for it", async () => {
  const running = startLoop();
  await until(isOpenAt(2));
  const [verify = 0] = (await client.verifyVolume(1)).orders;
  await until(() => store.release.has(verify));
  const port = Number(address.split(":")[1]);
  if (server !== undefined) await closeServer(server, 0);
  await until(() => !running.isAnswered);
  store.release.get(verify)?.();
  await serve(port);
  await until(async () => (await client.order(verify)).state === "done");
  expect(kindsBegun().filter((kind) => kind === "verify")).toHaveLength(1);
});

test("A stop does not wait for a held reply, nor for what runs in the background", async () => {
  const running = startLoop();
  await until(isOpenAt(2));
  const [verify = 0] = (await client.verifyVolume(1)).orders;
  await until(() => store.release.has(verify));
  const startedMs = performance.now();
  await running.stop();
  expect(performance.now() - startedMs).toBeLessThan(500);
});

test("A seal that has to wait for another copy is tried again, holds up nothing, and needs no timer but the runtime's", async () => {
  const at = { epoch: 2, lengthBytes: 9_000, lastDigest: "0".repeat(16), members: [], from: [] };
  const orders: Order[] = [
    { order: 1, kind: "seal", volume: 1, at },
    { order: 2, kind: "fence", volume: 2, epoch: 2 },
    { order: 3, kind: "seal", volume: 3, at },
  ];
  const waiting: (() => void)[] = [];
  const runtime = {
    ...systemRuntime,
    after(_: number, action: () => void) {
      waiting.push(action);
      return () => undefined;
    },
  };
  const done = new Set<number>();
  const failed = new Map<number, string>();
  const tries = new Map<number, number>();
  const beat: HeartbeatStore = {
    id: "a".repeat(16),
    unreadable: [],
    space: () => ({ freeBytes: 1, totalBytes: 1 }),
    measureSpace: async () => undefined,
    reports: () => [],
    reserve: async () => ({ first: 0, count: 1 }),
    async carryOut({ order }) {
      const count = (tries.get(order) ?? 0) + 1;
      tries.set(order, count);
      if (order === 1 && count < 3) throw new Failure("unavailable", "nobody has it yet");
      if (order === 3) throw new Failure("corrupt", "another batch");
    },
  };
  const talk = new HeartbeatLoop({
    store: beat,
    runtime,
    directory: {
      async heartbeat(sent) {
        for (const order of sent.done) done.add(order);
        for (const { order, reason } of sent.failed) failed.set(order, reason);
        await new Promise((resolve) => setImmediate(resolve));
        const open = orders.filter(({ order }) => !done.has(order) && !failed.has(order));
        return { orders: open, boot: "b".repeat(12), reserve: [], wantsWhole: false };
      },
    },
    run: "1".repeat(16),
    address: "127.0.0.1:1",
    log,
  });
  talk.start();
  await until(() => done.has(2) && failed.has(3));
  expect(tries.get(1)).toBe(1);
  for (let at = 0; at < 2; at++) {
    await until(() => waiting.length > 0);
    for (const action of waiting.splice(0)) action();
    await until(() => (tries.get(1) ?? 0) > at + 1);
  }
  const ticking = setInterval(() => {
    for (const action of waiting.splice(0)) action();
  }, 5);
  await until(() => done.has(1));
  expect(failed.get(3)).toBe("another batch");
  const stopping = talk.stop();
  await stopping;
  clearInterval(ticking);
});

test("A reservation that waits for a lost replica keeps no heartbeat waiting, and is made once", async () => {
  const replica = Promise.withResolvers<void>();
  let reserved = 0;
  const beat: HeartbeatStore = {
    id: "a".repeat(16),
    unreadable: [],
    space: () => ({ freeBytes: 1, totalBytes: 1 }),
    measureSpace: async () => undefined,
    reports: () => [{ ...emptyStatus, volume: 1, class: "native" }],
    carryOut: async () => undefined,
    async reserve() {
      reserved += 1;
      await replica.promise;
      return { first: 0, count: 8 };
    },
  };
  let beatCount = 0;
  let granted = 0;
  const talk = new HeartbeatLoop({
    store: beat,
    directory: {
      async heartbeat({ grants }) {
        beatCount += 1;
        granted = grants.length;
        await new Promise((resolve) => setImmediate(resolve));
        const reserve = granted === 0 ? [{ volume: 1, count: 8 }] : [];
        return { orders: [], boot: "b".repeat(12), reserve, wantsWhole: false };
      },
    },
    run: "1".repeat(16),
    address: "127.0.0.1:1",
    log,
  });
  talk.start();
  await until(() => beatCount > 5);
  expect(reserved).toBe(1);
  replica.resolve();
  await until(() => granted === 1);
  expect(reserved).toBe(1);
  await talk.stop();
});

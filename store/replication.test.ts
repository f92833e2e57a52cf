import { OrdinalSet } from "./volume/ordinal-set.ts";
/** Two stores with real disks and real sockets between them, and the orders of a directory given by hand. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { diskFiles } from "../base/files.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeRegistry } from "../base/metrics.ts";
import { seededRandom } from "../base/random.ts";
import type { Order } from "../directory/client.ts";
import { type BlobMetadata, StoreClient } from "./client.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { HttpPeers, type Peers } from "./peers.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";

const volume = 3;
const secret = ClusterSecret.of("ab".repeat(32));
const log = pino({ level: "silent" });
const random = seededRandom(5);
/** From the next epoch on. A disk that is busy with other tests is no lost replica. */
let replicaTimeoutMs: number;
const metadata: BlobMetadata = {
  ...{ bucket: "photos", key: "hay", version: "v1", chunk: 0 },
  ...{ type: "image/jpeg", sha256: "".repeat(64) },
};

/** A store's process, as far as one can be had within another. */
class Shard {
  readonly folder = mkdtempSync(path.join(tmpdir(), "hayloft-replication-"));
  readonly caller = new Caller(secret);
  #store: Store | undefined;
  #server: Server | undefined;
  address = "";
  closedCount = 0;

  get store(): Store {
    if (this.#store === undefined) throw new Error("Cannot use a store that does not run");
    return this.#store;
  }

  async start(): Promise<void> {
    this.#store = await Store.open({
      ...{ files: diskFiles, clock: systemClock, random, log, folder: this.folder },
      ...{ volumeBytes: 1_073_741_824, reserveBytes: 0, trashMs: 0 },
      peers: this.#peers(),
      get replicaTimeoutMs() {
        return replicaTimeoutMs;
      },
      onVolumeClosed: () => {
        this.closedCount += 1;
      },
    });
    await this.serve();
  }

  async serve(): Promise<void> {
    const { store } = this;
    const metrics = makeStoreMetrics(store, makeRegistry("store"));
    const options = { store, secret, log, metrics, onVolumeClosed: () => undefined };
    this.#server = makeStoreServer(options);
    const port = Number(this.address.split(":")[1] ?? 0);
    this.address = formatAddress(await listen(this.#server, { host: "127.0.0.1", port }));
  }

  async hangUp(): Promise<void> {
    if (this.#server !== undefined) await closeServer(this.#server, 0);
    this.#server = undefined;
  }

  async stop(): Promise<void> {
    await this.hangUp();
    await this.#store?.close();
    this.#store = undefined;
  }

  async end(): Promise<void> {
    await this.stop();
    await this.caller.close();
    rmSync(this.folder, { recursive: true });
  }

  bytes(): Buffer {
    return readFileSync(path.join(this.folder, `${volume}.g0.volume`));
  }

  /** Batches go over sockets; what a copy is filled with comes from the other's file at once. */
  #peers(): Peers {
    const http = new HttpPeers(this.caller);
    const find = (address: string) => shards.find((shard) => shard.address === address);
    return {
      append: (to, batch) => http.append(to, batch),
      readFile: async ({ address }, { start, end }) =>
        find(address)?.bytes().subarray(start, end) ?? Buffer.alloc(0),
      deletes: async ({ address }) =>
        find(address)?.store.volume(volume)?.deleted() ?? new OrdinalSet(),
      leaves: (from) => http.leaves(from),
    };
  }
}

let shards: [Shard, Shard];
let client: StoreClient;
let caller: Caller;
let orderCount = 0;

beforeEach(async () => {
  replicaTimeoutMs = 20_000;
  shards = [new Shard(), new Shard()];
  for (const shard of shards) await shard.start();
  caller = new Caller(secret);
  client = new StoreClient(caller);
  const uuid = random.bytes(16).toString("hex");
  const recordMagic = random.bytes(8).toString("hex");
  await order({
    ...{ kind: "create", volume, uuid, class: "original", generation: 0, recordMagic },
    ...{ epoch: 1, members: members(), createdMs: 1_790_000_000_000, ttlSeconds: 0 },
  });
});

afterEach(async () => {
  client.close();
  await caller.close();
  for (const shard of shards) await shard.end();
});

const members = () => shards.map(({ store, address }) => ({ store: store.id, address }));
const reports = () => shards.map(({ store }) => store.volume(volume)?.report());

type Content<Kind> = Kind extends { order: number } ? Omit<Kind, "order"> : never;

/** Carried out by the replica first, as heartbeats may have it. */
async function order(content: Content<Order>): Promise<void> {
  orderCount += 1;
  for (const { store } of shards.toReversed()) {
    await store.carryOut({ ...content, order: orderCount } as Order);
  }
}

async function append(data: Buffer, durability: "disk" | "memory" = "disk"): Promise<string> {
  const owner = { catalog: "c".repeat(16), session: 7 };
  const { address } = shards[0];
  return await client.append({
    ...{ address, volume, data, metadata, owner, durability, requestId: "r1" },
  });
}

const read = (shard: Shard, fid: string) => client.read(shard.address, fid, "r2");

function expectEqual(): void {
  const [primary, replica] = shards;
  expect(replica.bytes().equals(primary.bytes())).toBe(true);
  const [one, other] = reports();
  expect(other).toMatchObject({ lengthBytes: one?.lengthBytes, lastDigest: one?.lastDigest });
}

test("What the primary answers for is at the replica too, small and large, in memory or on disk", async () => {
  const contents = [10, 100_000, 20_000_000].map((length) => random.bytes(length));
  const fids = await Promise.all([
    ...contents.map((data) => append(data)),
    ...contents.map((data) => append(data, "memory")),
  ]);
  expectEqual();
  for (const [at, fid] of fids.entries()) {
    for (const shard of shards) {
      expect((await read(shard, fid)).equals(contents[at % 3] ?? Buffer.alloc(0))).toBe(true);
    }
  }
  expect(reports()[1]).toMatchObject({ isWritable: false, isServing: true });
  await expect(
    client.append({
      ...{ address: shards[1].address, volume, data: Buffer.from("x"), metadata },
      ...{ owner: { catalog: "c".repeat(16), session: 7 }, durability: "disk", requestId: "r3" },
    }),
  ).rejects.toMatchObject({ kind: "unavailable" });
});

test("A batch without the secret, without a head or of no volume is refused", async () => {
  const [, { address }] = shards;
  const path = `/volumes/${volume}/batches`;
  const call = { method: "POST", address, path, timeoutMs: 1_000 } as const;
  const stranger = new Caller(ClusterSecret.of("cd".repeat(32)));
  await expect(stranger.call(call)).rejects.toMatchObject({ kind: "forbidden" });
  await stranger.close();
  await expect(caller.call(call)).rejects.toMatchObject({ kind: "bad-request" });
  await expect(caller.call({ ...call, path: "/volumes/9/batches" })).rejects.toMatchObject({
    kind: "not-found",
  });
  await append(Buffer.from("goes on"));
  expectEqual();
});

test("Without its replica the primary refuses and says so at once, and after a fence both go on", async () => {
  const fid = await append(Buffer.from("kept"));
  await shards[1].hangUp();
  await expect(append(Buffer.from("lost"))).rejects.toMatchObject({ kind: "unavailable" });
  expect(shards[0].closedCount).toBe(1);
  expect(reports()[0]?.closedBecause).toContain(shards[1].address);
  expect((await read(shards[0], fid)).toString()).toBe("kept");
  await shards[1].serve();
  await expect(append(Buffer.from("not yet"))).rejects.toMatchObject({ kind: "unavailable" });
  await order({ kind: "fence", volume, epoch: 2 });
  expect(reports()).toMatchObject([
    { epoch: 2, closedBecause: undefined },
    { epoch: 2, closedBecause: undefined },
  ]);
  await order({ kind: "begin-epoch", volume, epoch: 3, members: members() });
  const other = await append(Buffer.from("goes on"));
  expectEqual();
  for (const shard of shards) expect((await read(shard, other)).toString()).toBe("goes on");
});

test("A replica that hangs costs its time limit, and nothing of the batch is acknowledged", async () => {
  const [primary, replica] = shards;
  replicaTimeoutMs = 300;
  await order({ kind: "fence", volume, epoch: 2 });
  await order({ kind: "begin-epoch", volume, epoch: 3, members: members() });
  const taking = replica.store.volume(volume);
  if (taking === undefined) throw new Error("there is no replica");
  const late = Promise.withResolvers<void>();
  taking.takeBatch = () => late.promise;
  await expect(append(Buffer.from("lost"))).rejects.toMatchObject({
    kind: "unavailable",
    message: expect.stringContaining("300 ms"),
  });
  await primary.store.carryOut({ order: 9, kind: "fence", volume, epoch: 4 });
  expect(reports()[0]).toMatchObject({ epoch: 4, needleCount: 0 });
  late.resolve();
});

test("A replica that was restarted serves nothing until it is sealed, filled and has the others' deletes", async () => {
  const [primary, replica] = shards;
  const first = await append(random.bytes(1_000));
  const second = await append(random.bytes(1_000));
  const before = replica.bytes();
  const kept = random.bytes(2_000_000);
  const third = await append(kept);
  await replica.stop();
  // It comes back as if the last batch had not reached its disk.
  await diskFiles.replace(path.join(replica.folder, `${volume}.g0.volume`), before);
  const descriptor = path.join(replica.folder, `${volume}.json`);
  const text = readFileSync(descriptor, "utf8");
  expect(text).toContain("closedLength");
  await rewriteDescriptor(descriptor);
  await replica.start();
  await expect(read(replica, first)).rejects.toMatchObject({
    kind: "unavailable",
    message: expect.stringContaining("yet"),
  });
  expect((await client.delete(primary.address, [first])).outcomes[first]).toBe("deleted");

  await order({ kind: "fence", volume, epoch: 2 });
  const [point] = reports();
  if (point === undefined) throw new Error("there is no primary");
  const { lengthBytes, lastDigest } = point;
  const [from] = members();
  if (from === undefined) throw new Error("there is no primary");
  const at = { epoch: 2, lengthBytes, lastDigest, members: members(), from: [from] };
  orderCount += 1;
  for (const { store } of shards) {
    await store.carryOut({ order: orderCount, kind: "seal", volume, at });
  }
  expectEqual();
  expect(reports()).toMatchObject([
    { state: "sealed", isServing: true, deletedCount: 1 },
    { state: "sealed", isServing: true, deletedCount: 1 },
  ]);
  expect((await read(replica, third)).equals(kept)).toBe(true);
  expect((await read(replica, second)).length).toBe(1_000);
  await expect(read(replica, first)).rejects.toMatchObject({ kind: "not-found" });
  await expect(append(Buffer.from("sealed"))).rejects.toMatchObject({ kind: "unavailable" });
});

/** Without the length at which the store stopped: it was killed. */
async function rewriteDescriptor(file: string): Promise<void> {
  const { decodeDescriptor, writeDescriptor } = await import("./volume/descriptor.ts");
  const { closedLength, ...rest } = decodeDescriptor(readFileSync(file), file);
  expect(closedLength).toBeDefined();
  await writeDescriptor(diskFiles, file, rest);
}

test("A seal that nobody can fill for stays to be done, and a copy alone has nobody to ask", async () => {
  const [primary, replica] = shards;
  await append(Buffer.from("one"));
  const [one] = reports();
  if (one === undefined) throw new Error("there is no primary");
  const { lengthBytes, lastDigest } = one;
  await order({ kind: "fence", volume, epoch: 2 });
  const at = { epoch: 2, lengthBytes: lengthBytes + 800, lastDigest, members: members(), from: [] };
  const sealing = replica.store.carryOut({ order: 7, kind: "seal", volume, at });
  await expect(sealing).rejects.toMatchObject({ kind: "unavailable" });
  const alone = { ...at, lengthBytes, from: members().slice(0, 1) };
  await primary.store.carryOut({ order: 8, kind: "seal", volume, at: alone });
  expect(reports()[0]).toMatchObject({ state: "sealed", isServing: true });
});

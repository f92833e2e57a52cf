import { mkdtempSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { sha256 } from "../base/checksum.ts";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { parseFid } from "../base/fid.ts";
import { diskFiles } from "../base/files.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeRegistry } from "../base/metrics.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { type BlobMetadata, type Durability, StoreClient } from "./client.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";

const volume = 3;
const secret = ClusterSecret.of("ab".repeat(32));
const log = pino({ level: "silent" });

let folder: string;
let random: Random;
let store: Store;
let server: Server;
let address: string;
let caller: Caller;
let client: StoreClient;

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-store-"));
  random = seededRandom(5);
  store = await Store.open({
    files: diskFiles,
    clock: systemClock,
    random,
    log,
    folder,
    volumeBytes: 1_073_741_824,
    reserveBytes: 0,
    trashMs: 0,
  });
  await store.carryOut({
    order: 1,
    kind: "create",
    volume,
    uuid: random.bytes(16).toString("hex"),
    class: "original",
    generation: 0,
    recordMagic: random.bytes(8).toString("hex"),
    epoch: 1,
    members: [{ store: store.id, address: "127.0.0.1:1" }],
    createdMs: 1_790_000_000_000,
    ttlSeconds: 0,
  });
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  server = makeStoreServer({ store, secret, log, metrics, onVolumeClosed: () => undefined });
  address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  caller = new Caller(secret);
  client = new StoreClient(caller);
});

afterEach(async () => {
  client.close();
  await caller.close();
  await closeServer(server, 1_000);
  await store.close();
  rmSync(folder, { recursive: true });
});

interface SentBlob {
  data: Buffer;
  metadata: BlobMetadata;
}

function blobOf(data: Buffer, more: Partial<BlobMetadata> = {}): SentBlob {
  const digest = sha256().update(data).digest("hex");
  const metadata = { bucket: "photos", key: "hay", version: "v1", chunk: 0, sha256: digest };
  return { data, metadata: { ...metadata, type: "image/jpeg", ...more } };
}

function call(durability: Durability) {
  const owner = { catalog: "c".repeat(16), session: 7 };
  return { address, volume, owner, durability, requestId: "r1" };
}

const countsOf = () => store.volume(volume)?.counts ?? { syncs: 0, appends: 0 };
const needleCount = () => store.volume(volume)?.report().needleCount;

test("A batch of blobs comes back as it was, in ordinals that follow each other, for one sync", async () => {
  await client.append({ ...call("disk"), ...blobOf(Buffer.from("first")) });
  const blobs = Array.from({ length: 100 }, (_, at) =>
    at % 10 === 0
      ? blobOf(Buffer.from(`{"number":${at}}`.repeat(at)), { type: "application/json" })
      : blobOf(random.bytes(at * 37)),
  );
  const { syncs } = countsOf();
  const fids = await client.appendAll({ ...call("disk"), blobs });
  expect(countsOf()).toEqual({ syncs: syncs + 1, appends: 101 });
  expect(fids.map((fid) => parseFid(fid)?.ordinal)).toEqual(blobs.map((_, at) => at + 1));
  for (const [at, { data, metadata }] of blobs.entries()) {
    expect((await client.read(address, fids[at] ?? "", "r2")).equals(data)).toBe(true);
    const { ordinal = 0, cookie = 0 } = parseFid(fids[at] ?? "") ?? {};
    const needle = await store.volume(volume)?.find(ordinal, cookie);
    expect(JSON.parse(String(needle?.metadata))).toEqual(metadata);
    expect(needle?.head.owner).toEqual(call("disk").owner);
    needle?.close();
  }
});

test("Reads take the fast way as soon as it is known how to sign them", async () => {
  const { data, metadata } = blobOf(random.bytes(1_000));
  const fid = await client.append({ ...call("disk"), data, metadata });
  const strange = new StoreClient(new Caller(secret));
  let byHttp = 0;
  server.on("request", () => {
    byHttp += 1;
  });
  for (const [reader, refused] of [
    [client, 0],
    [strange, 8],
  ] as const) {
    byHttp = 0;
    const readAll = () =>
      Promise.all(Array.from({ length: 8 }, () => reader.read(address, fid, "r")));
    for (let round = 0; round < 5; round++) await readAll();
    expect(byHttp).toBe(refused);
  }
  strange.close();
});

test("A batch of none is stored", async () => {
  expect(await client.appendAll({ ...call("disk"), blobs: [] })).toEqual([]);
  expect(needleCount()).toBe(0);
});

test.each([
  {
    what: "metadata that is too large",
    bad: blobOf(Buffer.from("x"), { key: "k".repeat(70_000) }),
  },
  { what: "more than a call may bring", bad: blobOf(Buffer.alloc(64 * 1_048_576)) },
])("Of a batch in which one blob has $what nothing is stored", async ({ bad }) => {
  const good = () => blobOf(random.bytes(1_000));
  for (const blobs of [
    [bad, good(), good()],
    [good(), bad, good()],
    [good(), good(), bad],
  ]) {
    const stored = client.appendAll({ ...call("disk"), blobs });
    await expect(stored).rejects.toMatchObject({ kind: "too-large" });
  }
  expect(needleCount()).toBe(0);
  // And the volume goes on.
  const fids = await client.appendAll({ ...call("disk"), blobs: [good(), good()] });
  expect(fids.map((fid) => parseFid(fid)?.ordinal)).toEqual([0, 1]);
});

test("With durability memory the answer waits for no sync, and one follows", async () => {
  const blob = blobOf(random.bytes(1_000));
  const fid = await client.append({ ...call("memory"), ...blob });
  const fids = await client.appendAll({ ...call("memory"), blobs: [blob, blob] });
  expect(countsOf()).toEqual({ syncs: 0, appends: 3 });
  for (const each of [fid, ...fids]) {
    expect((await client.read(address, each, "r2")).equals(blob.data)).toBe(true);
  }
  await expect.poll(() => countsOf().syncs, { timeout: 5_000 }).toBe(1);
  await client.append({ ...call("disk"), ...blob });
  expect(countsOf()).toEqual({ syncs: 2, appends: 4 });
});

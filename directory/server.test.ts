import { readFileSync } from "node:fs";
import type { Server } from "node:http";
import type { Kysely } from "kysely";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ClusterSecret } from "../base/cluster-secret.ts";
import type { Failure } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeLog } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import { seededRandom } from "../base/random.ts";
import { DirectoryClient } from "./client.ts";
import { Directory } from "./directory.ts";
import { FakeStore } from "./fake-store.ts";
import { Operations } from "./operations.ts";
import type { DirectoryTables } from "./schema.ts";
import { makeDirectoryServer } from "./server.ts";
import { makeTestDatabase, type TestDatabase } from "./test-database.ts";

const secret = ClusterSecret.of("a".repeat(64));
const log = makeLog("test", "silent");

let made: TestDatabase;
let database: Kysely<DirectoryTables>;
let nowMs: number;
let directory: Directory;
let server: Server;
let address: string;
let caller: Caller;
let client: DirectoryClient;
let store: FakeStore;
let isOver: boolean;
let beating: Promise<void>;

beforeEach(async () => {
  nowMs = 1_000_000;
  made = await makeTestDatabase();
  database = made.database;
  caller = new Caller(secret);
  isOver = false;
  beating = Promise.resolve();
  await serve("open");
  store = new FakeStore("a");
});

afterEach(async () => {
  isOver = true;
  await beating;
  await closeServer(server, 0);
  await caller.close();
  await made.destroy();
});

async function serve(native: NativeAccess): Promise<void> {
  if (server?.listening) await closeServer(server, 0);
  const seams = {
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    random: seededRandom(3),
  };
  directory = new Directory({ database, log, ...seams, assignWaitMsMax: 200 });
  const operations = new Operations(directory, seams);
  server = makeDirectoryServer({ directory, operations, secret, log, native, rateBytes: 7 });
  address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  client = new DirectoryClient(caller, address);
}

/** The store beats on, as a real one does. */
async function startBeating(): Promise<void> {
  await store.beat(directory);
  beating = store.beatUntil(directory, () => isOver);
}

async function stopBeating(): Promise<void> {
  isOver = true;
  await beating;
}

interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: the shape is what is tested
  body: any;
}

async function call(target: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(`http://${address}${target}`, { redirect: "manual", ...init });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: text === "" ? undefined : JSON.parse(text),
  };
}

async function assignOne(query = ""): Promise<string> {
  return (await call(`/dir/assign${query}`)).body.fid;
}

test("/dir/assign answers a fid and where to put it, by GET, POST and PUT, unsigned", async () => {
  await startBeating();
  for (const method of ["GET", "POST", "PUT"]) {
    const { status, body, headers } = await call("/dir/assign", { method });
    expect(status).toBe(200);
    expect(Object.keys(body)).toEqual(["fid", "url", "publicUrl", "count"]);
    expect(parseFid(body.fid)).toBeDefined();
    expect(body).toMatchObject({ url: store.address, publicUrl: store.address, count: 1 });
    expect(headers.get("content-type")).toBe("application/json");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
  }
});

test("/dir/assign takes its parameters from the query and from a form", async () => {
  await startBeating();
  const query = "collection=c&replication=000&dataCenter=DefaultDataCenter&rack=DefaultRack";
  const more = `disk=hdd&dataNode=${store.address}&dataSize=10&writableVolumeCount=3&preallocate=9`;
  const plain = await call(`/dir/assign?count=3&${query}&${more}`);
  expect(plain).toMatchObject({ status: 200, body: { count: 3 } });
  const form = await call("/dir/assign?count=3", {
    method: "POST",
    body: new URLSearchParams({ count: "5", ttl: "3m" }),
  });
  expect(form).toMatchObject({ status: 200, body: { count: 5 } });
  const volume = parseFid(form.body.fid)?.volume ?? 0;
  expect(store.volumes.get(volume)).toMatchObject({ class: "native", ttlSeconds: 240 });
  expect(volume).not.toBe(parseFid(plain.body.fid)?.volume);
});

test("/dir/assign refuses what it can't do, with a sentence", async () => {
  await startBeating();
  const rows: [string, number][] = [
    ["count=0", 406],
    ["count=10001", 406],
    ["count=x", 406],
    ["ttl=3s", 406],
    ["ttl=-3m", 406],
    ["replication=001", 406],
    ["replication=1", 406],
    ["dataCenter=dc9", 400],
    ["rack=r9", 406],
    ["disk=ssd", 406],
    ["dataNode=127.0.0.1:1", 406],
    ["dataSize=-1", 406],
    ["dataSize=2000000000000", 406],
  ];
  for (const [query, status] of rows) {
    const answer = await call(`/dir/assign?${query}`);
    expect(answer.status, query).toBe(status);
    expect(Object.keys(answer.body), query).toEqual(["error"]);
    expect(answer.body.error, query).toMatch(/^Cannot /);
    expect(answer.headers.get("x-content-type-options"), query).toBe("nosniff");
  }
  const large = await call("/dir/assign", { method: "POST", body: "x".repeat(70_000) });
  expect(large.status).toBe(413);
  expect((await call("/dir/assign", { method: "DELETE" })).status).toBe(405);
});

test("/dir/assign tells no store from no space from no volume in time", async () => {
  const early = await call("/dir/assign");
  expect(early.status).toBe(503);
  expect(early.headers.get("retry-after")).toBe("1");
  store.freeBytes = 0;
  await store.beat(directory);
  const full = await call("/dir/assign");
  expect(full).toMatchObject({ status: 406, body: { error: /no store has space/ } as never });
  store.freeBytes = 1e12;
  await store.beat(directory);
  const late = call("/dir/assign");
  await new Promise((resolve) => setTimeout(resolve, 30));
  nowMs += 201;
  expect((await late).status).toBe(406);
});

test("/dir/lookup finds native volumes by id or fid, and no others", async () => {
  await startBeating();
  const fid = await assignOne();
  const volumeId = fid.split(",")[0] ?? "";
  const locations = [
    { url: store.address, publicUrl: store.address, dataCenter: "DefaultDataCenter" },
  ];
  expect(await call(`/dir/lookup?volumeId=${volumeId}`)).toMatchObject({
    status: 200,
    body: { volumeOrFileId: volumeId, volumeId, locations },
  });
  expect((await call(`/dir/lookup?volumeId=${fid}`)).body).toEqual({
    volumeOrFileId: fid,
    volumeId,
    locations,
  });
  expect((await call(`/dir/lookup?fileId=${fid}`)).body.locations).toEqual(locations);
  expect(await call("/dir/lookup?volumeId=99")).toMatchObject({
    status: 404,
    body: { volumeOrFileId: "99", volumeId: "99", error: "volume id 99 not found" },
  });
  // A tenant's.
  expect(store.volumes.get(1)?.class).toBe("original");
  expect((await call("/dir/lookup?volumeId=1")).status).toBe(404);
  expect((await call("/dir/lookup?volumeId=x")).status).toBe(404);
  expect((await call("/dir/lookup")).status).toBe(404);
});

test("/dir/lookup says that it is too early until every known store has called", async () => {
  await store.beat(directory);
  const other = new FakeStore("b");
  await other.beat(directory);
  await serve("open");
  await store.beat(directory);
  const early = await call("/dir/lookup?volumeId=99");
  expect(early.status).toBe(503);
  expect(early.headers.get("retry-after")).toBe("1");
  nowMs += 30_000;
  expect((await call("/dir/lookup?volumeId=99")).status).toBe(404);
});

test("A fid's path is sent on to its store, in every spelling, with its query", async () => {
  await startBeating();
  const fid = await assignOne();
  const [volume, rest] = fid.split(",");
  for (const target of [
    `/${fid}`,
    `/${fid}_1?width=3&x=%20`,
    `/${fid}.jpg`,
    `/${volume}/${rest}`,
    `/${volume}/${rest}/name.jpg?ttl=3m`,
  ]) {
    const answer = await call(target, { method: "PUT", body: "blob" });
    expect(answer.status, target).toBe(308);
    expect(answer.headers.get("location")).toBe(`http://${store.address}${target}`);
  }
  expect((await call("/99,01637037d6")).status).toBe(404);
  expect((await call("/1,01637037d6")).status).toBe(404);
});

test("/dir/status, /vol/status and /cluster/status show native volumes in SeaweedFS's shapes", async () => {
  await startBeating();
  const volume = Number((await assignOne("?ttl=5h")).split(",")[0]);
  await stopBeating();
  store.set(volume, { deadBytes: 100, needleCount: 7, deletedCount: 2, generation: 1 });
  await store.beat(directory);
  const slots = Math.floor(1e12 / 2 ** 35);
  const { body: status } = await call("/dir/status");
  expect(status).toEqual({
    Topology: {
      Max: slots + 1,
      Free: slots,
      DataCenters: [
        {
          Id: "DefaultDataCenter",
          Racks: [
            {
              Id: "DefaultRack",
              DataNodes: [
                {
                  Url: store.address,
                  PublicUrl: store.address,
                  Volumes: 1,
                  EcShards: 0,
                  Max: slots + 1,
                  VolumeIds: `${volume}`,
                },
              ],
            },
          ],
        },
      ],
      Layouts: [
        { replication: "000", ttl: "9h", writables: [volume], collection: "", diskType: "hdd" },
      ],
    },
    Version: "Hayloft",
  });
  const { body: volumes } = await call("/vol/status");
  expect(volumes.Volumes.DataCenters.DefaultDataCenter.DefaultRack[store.address]).toEqual([
    {
      Id: volume,
      Collection: "",
      DiskType: "hdd",
      ReplicaPlacement: {},
      Ttl: { Count: 9, Unit: 2 },
      Size: 8_192,
      DeletedByteCount: 100,
      CompactRevision: 1,
      FileCount: 7,
      DeleteCount: 2,
      Version: 3,
      ReadOnly: false,
    },
  ]);
  expect((await call("/cluster/status")).body).toEqual({
    IsLeader: true,
    Leader: address,
    MaxVolumeId: volume,
  });
  const head = await fetch(`http://${address}/cluster/status`, { method: "HEAD" });
  expect(head.status).toBe(200);
});

test("Stores are shown, and chosen, by data center and rack; lookups name the primary first", async () => {
  const other = new FakeStore("b");
  Object.assign(other, { address: "127.0.0.1:8081", rack: "r9" });
  await store.beat(directory);
  await other.beat(directory);
  const beats = async () => {
    while (!isOver) {
      await store.beat(directory);
      await other.beat(directory);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  beating = beats();
  const there = await call("/dir/assign?dataCenter=DefaultDataCenter&rack=r9");
  expect(there.body.url).toBe(other.address);
  const volume = there.body.fid.split(",")[0];
  expect((await call(`/dir/lookup?volumeId=${volume}`)).body.locations).toEqual([
    { url: other.address, publicUrl: other.address, dataCenter: "DefaultDataCenter" },
  ]);
  const racks = (await call("/dir/status")).body.Topology.DataCenters[0].Racks;
  expect(racks.map(({ Id }: { Id: string }) => Id)).toEqual(["DefaultRack", "r9"]);
  const { DataCenters } = (await call("/vol/status")).body.Volumes;
  expect(DataCenters.DefaultDataCenter.r9[other.address][0].Id).toBe(Number(volume));
});

test("/vol/grow makes volumes where they are wanted, and says what it can't", async () => {
  await startBeating();
  expect(await call("/vol/grow?count=3&ttl=5m")).toMatchObject({ status: 200, body: { count: 3 } });
  await stopBeating();
  await store.beat(directory);
  const grown = [...store.volumes.values()].filter(({ ttlSeconds }) => ttlSeconds === 480);
  expect(grown.map((status) => status.class)).toEqual(["native", "native", "native"]);
  const rows: [string, number][] = [
    ["", 406],
    ["count=0", 406],
    ["count=101", 406],
    ["count=1&replication=001", 406],
    ["count=1&dataCenter=dc9", 400],
    ["count=1&dataNode=127.0.0.1:1", 406],
  ];
  for (const [query, status] of rows) {
    const answer = await call(`/vol/grow?${query}`);
    expect(answer.status, query).toBe(status);
    expect(answer.body.error, query).toMatch(/^Cannot /);
  }
});

test("/col/delete deletes nothing, and says so", async () => {
  const answer = await call("/col/delete?collection=photos");
  expect(answer.status).toBe(400);
  expect(answer.body.error).toContain('collection "photos"');
});

test("/submit leads to a gateway that has polled the map, with the query as it came", async () => {
  const post = { method: "POST", body: "x".repeat(100_000) };
  const early = await call("/submit", post);
  expect(early).toMatchObject({ status: 503, body: { error: expect.stringContaining("gateway") } });
  expect(early.headers.get("retry-after")).toBe("1");
  const { signal } = new AbortController();
  await client.map("", 0, signal, [], ["10.0.0.7:8333"]);
  const sent = await call("/submit?ttl=3m", post);
  expect(sent.status).toBe(307);
  expect(sent.headers.get("location")).toBe("http://10.0.0.7:8333/submit?ttl=3m");
  expect((await call("/submit")).status).toBe(405);
});

test("/vol/vacuum orders compaction of native volumes over the threshold, and of no tenant's", async () => {
  await startBeating();
  const volume = Number((await assignOne()).split(",")[0]);
  await stopBeating();
  for (const id of [volume, 1]) await client.sealVolume(id);
  await store.beat(directory);
  for (const id of [volume, 1]) store.set(id, { lengthBytes: 1_000, deadBytes: 500 });
  await store.beat(directory);
  const compactions = async () =>
    (await store.beat(directory)).filter(({ kind }) => kind === "compact");
  expect((await call("/vol/vacuum?garbageThreshold=0.6")).body.Topology).toBeDefined();
  expect(await compactions()).toEqual([]);
  expect((await call("/vol/vacuum?garbageThreshold=0.4")).status).toBe(200);
  expect(await compactions()).toMatchObject([{ volume, rateBytes: 7 }]);
  expect((await call("/vol/vacuum?garbageThreshold=2")).status).toBe(406);
});

test("With access by token others are refused, and switched off there is nothing", async () => {
  for (const [mode, without, withToken] of [
    ["token", 403, 200],
    ["off", 404, 404],
  ] as const) {
    await serve(mode);
    for (const target of ["/cluster/status", "/dir/status"]) {
      const refused = await call(target);
      expect(refused.status, mode).toBe(without);
      expect(Object.keys(refused.body)).toEqual(["error"]);
      const headers = { authorization: `Bearer ${secret.nativeBearer}` };
      expect((await call(target, { headers })).status, mode).toBe(withToken);
      const wrong = { authorization: `Bearer ${ClusterSecret.of("b".repeat(64)).nativeBearer}` };
      expect((await call(target, { headers: wrong })).status, mode).toBe(without);
      const signed = caller.call({ method: "GET", address, path: target, timeoutMs: 5_000 });
      const status = await signed.then(
        (answer) => answer.status,
        (error: Failure) => error.status,
      );
      expect(status, mode).toBe(withToken);
    }
    expect((await call("/3,01637037d6")).status).toBe(without);
  }
});

test("Every call but the native ones is refused unsigned, and what comes signed has to be understood", async () => {
  await store.beat(directory);
  const targets: [string, string][] = [
    ["POST", "/volumes/1/compact"],
    ["POST", "/volumes/1/verify"],
    ["POST", "/volumes/1/seal"],
    ["POST", "/volumes/import"],
    ["POST", "/compact"],
    ["GET", "/orders/1"],
    ["POST", "/heartbeat"],
    ["GET", "/status"],
    ["GET", "/map"],
    ["GET", "/leader"],
    ["GET", "/shortfall"],
    ["GET", "/volumes/1"],
    ["POST", "/stores/a/drain"],
    ["POST", "/volumes/1/move"],
    ["GET", "/nothing"],
  ];
  const routes = readFileSync(new URL("server.ts", import.meta.url), "utf8");
  expect(targets.length - 1).toBe(routes.match(/pattern: \/\^/g)?.length);
  for (const [method, target] of targets) {
    expect((await call(target, { method })).status, target).toBe(403);
    // The native bearer is for native calls alone.
    const headers = { authorization: `Bearer ${secret.nativeBearer}` };
    expect((await call(target, { method, headers })).status, target).toBe(403);
    const stranger = new Caller(ClusterSecret.of("b".repeat(64)));
    const refused = stranger.call({
      ...{ method: method as "GET", address, path: target, timeoutMs: 5_000 },
    });
    await expect(refused, target).rejects.toMatchObject({
      kind: "forbidden",
      message: expect.stringContaining("another secret"),
    });
    await stranger.close();
  }
  const post = async (path: string, body: unknown) =>
    await caller.callJson({ method: "POST", address, path, body, timeoutMs: 5_000 }).then(
      () => ({ status: 200 }),
      (error: Failure) => ({ status: error.status }),
    );
  expect((await post("/volumes/1/compact", { rateBytes: -1 })).status).toBe(400);
  expect((await post("/compact", { garbageRatioMin: 2 })).status).toBe(400);
  expect((await post("/volumes/import", { volume: 0, dat: "a", idx: "b" })).status).toBe(400);
  expect((await post("/heartbeat", { ...store.report(), failed: undefined })).status).toBe(400);
  expect((await post("/volumes/88/seal", {})).status).toBe(404);
  expect((await post("/nothing", {})).status).toBe(404);
});

test("The client orders, and follows an order to its end", async () => {
  await startBeating();
  await assignOne();
  const [seal = 0] = (await client.sealVolume(1)).orders;
  const [verify = 0] = (await client.verifyVolume(2, { rateBytes: 9 })).orders;
  const [compact = 0] = (await client.compactVolume(2, { purge: true })).orders;
  const [imported = 0] = (await client.importVolume({ volume: 50, dat: "a", idx: "b" })).orders;
  for (const order of [seal, verify, compact, imported]) {
    while ((await client.order(order)).state === "pending") {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(await client.order(order)).toMatchObject({ order, state: "done" });
  }
  expect(store.volumes.get(2)).toMatchObject({ state: "sealed", generation: 1 });
  expect(await client.compactAll({ dryRun: true })).toEqual({ steps: [], orders: [] });
  await expect(client.order(12_345)).rejects.toMatchObject({ kind: "not-found" });
});

test("An order shows how far it is while it runs", async () => {
  store.isSlow = true;
  await startBeating();
  const [order = 0] = (await client.verifyVolume(1)).orders;
  while ((await client.order(order)).operation === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(await client.order(order)).toMatchObject({
    state: "pending",
    kind: "verify",
    volume: 1,
    operation: { kind: "verify", doneBytes: 1 },
  });
});

test("A held heartbeat ends when something is ordered, and when the store hangs up", async () => {
  await store.beat(directory);
  await store.beat(directory);
  const held = client.heartbeat(store.report(1_000));
  await new Promise((resolve) => setTimeout(resolve, 30));
  const startedMs = performance.now();
  await client.sealVolume(1);
  const reply = await held;
  expect(reply.orders.map(({ kind }) => kind)).toContain("seal");
  expect(performance.now() - startedMs).toBeLessThan(500);
  store.obey(reply);
  await store.beat(directory);
  await store.beat(directory);
  const gone = new AbortController();
  const hungUp = client.heartbeat(store.report(1_000), gone.signal);
  setTimeout(() => gone.abort(), 30);
  await expect(hungUp).rejects.toMatchObject({ kind: "unavailable" });
});

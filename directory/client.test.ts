import { once } from "node:events";
import type { Server } from "node:http";
import { createServer as createTcpServer, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { CallVerifier } from "../base/call-verifier.ts";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeLog } from "../base/log.ts";
import { seededRandom, systemRandom } from "../base/random.ts";
import { systemRuntime } from "../base/runtime.ts";
import { DirectoryClient, VolumeDirectory } from "./client.ts";
import { Directory } from "./directory.ts";
import { FakeStore } from "./fake-store.ts";
import { FollowedMap } from "./followed-map.ts";
import { Gateways } from "./gateways.ts";
import { Operations } from "./operations.ts";
import { type Answers, makeAnswers, serveAnswers } from "./server.ts";
import { makeStandbyAnswers } from "./standby.ts";
import { makeTestDatabase, type TestDatabase } from "./test-database.ts";

const secret = ClusterSecret.of("a".repeat(64));
const log = makeLog("test", "silent");
const seams = { clock: systemClock, random: systemRandom };

/** An address at which something listens, and what comes there. */
interface Place {
  address: string;
  requests: string[];
}

let made: TestDatabase;
let caller: Caller;
let directory: Directory;
let closers: (() => Promise<void>)[];

beforeEach(async () => {
  made = await makeTestDatabase();
  caller = new Caller(secret);
  directory = new Directory({ database: made.database, log, ...seams });
  closers = [];
});

afterEach(async () => {
  for (const close of closers) await close();
  await caller.close();
  await made.destroy();
});

async function serve(answers: Answers): Promise<Place & { server: Server }> {
  const server = serveAnswers(() => answers, log);
  const requests: string[] = [];
  server.prependListener("request", ({ url }, response) => {
    // The first call to a process is told what to sign, and comes again.
    response.once("finish", () => {
      if (response.statusCode !== 403) requests.push(String(url).split("?")[0] ?? "");
    });
  });
  const address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  closers.push(async () => await closeServer(server, 0));
  return { address, requests, server };
}

const serveLeader = () =>
  serve(
    makeAnswers({
      ...{ directory, secret, log, native: "open", rateBytes: 0 },
      operations: new Operations(directory, seams),
    }),
  );

async function serveStandby(leader: () => string | undefined) {
  const gateways = new Gateways(systemClock);
  const map = new FollowedMap({
    ...{ database: made.database, leader, log, runtime: systemRuntime, clock: systemClock },
    ask: (address, after, signal) =>
      new DirectoryClient(caller, address).map(after, 200, signal, [], gateways.all()),
  });
  map.start();
  closers.push(async () => await map.stop());
  return await serve(
    makeStandbyAnswers({
      ...{ map, secret, native: "open", leader, gateways },
      verifier: new CallVerifier(secret),
    }),
  );
}

/** Takes connections and never says a word. */
async function serveSilence(): Promise<Place> {
  const sockets: Socket[] = [];
  const requests: string[] = [];
  const server = createTcpServer((socket) => {
    sockets.push(socket);
    socket.on("data", (part) => {
      const line = /^[A-Z]+ \S+(?= HTTP)/.exec(part.toString());
      if (line !== null) requests.push(line[0]);
    });
    socket.on("error", () => undefined);
  });
  server.listen({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  closers.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  const { port } = server.address() as { port: number };
  return { address: `127.0.0.1:${port}`, requests };
}

/** An address at which nobody listens. */
async function findNobody(): Promise<string> {
  const { server, address } = await serveLeader();
  await closeServer(server, 0);
  return address;
}

/** The volumes of a store, made and reported. */
async function join(client: DirectoryClient, store = new FakeStore("a")): Promise<void> {
  for (let beat = 0; beat < 3; beat++) store.obey(await client.heartbeat(store.report()));
}

test("A call goes where a standby says that the leader is, and stays there", async () => {
  const leader = await serveLeader();
  const standby = await serveStandby(() => leader.address);
  const client = new DirectoryClient(caller, `${standby.address},${leader.address}`);
  await join(client);
  expect((await client.status()).stores).toHaveLength(1);
  expect(standby.requests).toEqual(["/heartbeat"]);
  expect(leader.requests.filter((path) => path === "/heartbeat")).toHaveLength(3);
});

test("A leader that is on nobody's list is found all the same", async () => {
  const leader = await serveLeader();
  const standby = await serveStandby(() => leader.address);
  await join(new DirectoryClient(caller, standby.address));
  expect(directory.status().stores).toHaveLength(1);
});

test("Where nobody is, the next is asked, and a standby that names who is gone is not believed twice", async () => {
  const nobody = await findNobody();
  const standby = await serveStandby(() => nobody);
  const leader = await serveLeader();
  const addresses = [nobody, standby.address, leader.address].join(",");
  await join(new DirectoryClient(caller, addresses));
  expect(standby.requests).toEqual(["/heartbeat"]);
});

test("A call ends when nobody leads, and when standbys name each other", async () => {
  const places: { address: string }[] = [];
  places.push(await serveStandby(() => places[1]?.address));
  places.push(await serveStandby(() => places[0]?.address));
  const addresses = places.map(({ address }) => address).join(",");
  const client = new DirectoryClient(caller, addresses);
  const beating = client.heartbeat(new FakeStore("a").report());
  await expect(beating).rejects.toMatchObject({ kind: "unavailable", retryAfterSeconds: 1 });
});

test("A directory that hangs is waited for once, and asked last from then on", async () => {
  const hung = await serveSilence();
  const leader = await serveLeader();
  const standby = await serveStandby(() => hung.address);
  const addresses = [hung.address, standby.address, leader.address].join(",");
  const client = new DirectoryClient(caller, addresses);
  await join(client);
  const heartbeats = hung.requests.filter((line) => line === "POST /heartbeat");
  expect(heartbeats).toHaveLength(1);
  // The standby sends everybody to the one that hangs, and is not believed.
  expect(standby.requests).toEqual(["/heartbeat"]);
});

test("What may have been ordered is not ordered again elsewhere", async () => {
  const hung = await serveSilence();
  const leader = await serveLeader();
  const client = new DirectoryClient(caller, `${hung.address},${leader.address}`);
  await expect(client.sealVolume(1)).rejects.toMatchObject({ kind: "timeout" });
  expect(leader.requests).toEqual([]);
});

test("What the leader says itself is the failure, whoever else was asked", async () => {
  const leader = await serveLeader();
  const standby = await serveStandby(() => leader.address);
  const client = new DirectoryClient(caller, `${standby.address},${leader.address}`);
  await expect(client.sealVolume(99)).rejects.toMatchObject({ kind: "not-found" });
  const importing = client.importVolume({ volume: 9, dat: "/a.dat", idx: "/a.idx" });
  await expect(importing).rejects.toMatchObject({ message: /no store has called yet/ });
});

test.each(["", ",", "here", "here:1,there", "http://here:1"])(
  'Addresses that can not be read are refused: "%s"',
  (text) => {
    expect(() => new DirectoryClient(caller, text)).toThrow(/it is host:port/);
  },
);

test("A gateway has the leader's map from a standby, and the last one when all are gone", async () => {
  const leader = await serveLeader();
  const standby = await serveStandby(() => leader.address);
  const store = new FakeStore("a");
  await join(new DirectoryClient(caller, leader.address), store);
  const volumes = new VolumeDirectory({
    source: new DirectoryClient(caller, standby.address),
    log,
  });
  closers.unshift(async () => await volumes.close());
  volumes.start();
  const choose = (...avoid: number[]) => chooseOriginal(volumes, ...avoid);
  await expect.poll(() => choose()).toBeDefined();
  store.set(1, { isWritable: false, state: "sealed" });
  await join(new DirectoryClient(caller, leader.address), store);
  const isWritable = () => choose(2, 3) !== undefined;
  await expect.poll(isWritable).toBe(false);
  for (const { server } of [leader, standby]) {
    server.closeAllConnections();
    await closeServer(server, 0);
  }
  await volumes.change(500);
  expect(volumes.addressesOf(1)).toEqual([store.address]);
  expect(choose()).toBeDefined();
});

test("A gateway writes on by the leader's map when the only directory left has just started", async () => {
  const leader = await serveLeader();
  const fresh = await serveStandby(() => undefined);
  const store = new FakeStore("a");
  await join(new DirectoryClient(caller, leader.address), store);
  const addresses = `${leader.address},${fresh.address}`;
  const volumes = new VolumeDirectory({ source: new DirectoryClient(caller, addresses), log });
  closers.unshift(async () => await volumes.close());
  volumes.start();
  const choose = () => chooseOriginal(volumes);
  await expect.poll(choose).toBeDefined();
  leader.server.closeAllConnections();
  await closeServer(leader.server, 0);
  await expect.poll(() => fresh.requests.length, { timeout: 10_000 }).toBeGreaterThan(1);
  expect(choose()).toBeDefined();
});

test("A standby that never heard of a leader tells where volumes are on record, and takes no writes", async () => {
  const store = new FakeStore("a");
  await store.beat(directory);
  await store.beat(directory);
  const standby = await serveStandby(() => undefined);
  const client = new DirectoryClient(caller, standby.address);
  const map = await client.map("", 0, new AbortController().signal);
  expect(map.volumes).toMatchObject([
    { volume: 1, isWritable: false, addresses: [store.address] },
    { volume: 2, isWritable: false, addresses: [store.address] },
  ]);
  const held = await client.map(map.version, 50, new AbortController().signal);
  expect(held).toEqual(map);
  expect(await client.leader()).toEqual({ isLeader: false });
});

test("Clients that submit are sent to a gateway by a standby that it polls, and by the leader soon", async () => {
  const leader = await serveLeader();
  const standby = await serveStandby(() => leader.address);
  const { signal } = new AbortController();
  await new DirectoryClient(caller, standby.address).map("", 0, signal, [], ["10.0.0.7:8333"]);
  const submit = async (address: string) => {
    const init = { method: "POST", body: "x", redirect: "manual" } as const;
    return (await fetch(`http://${address}/submit?ttl=3m`, init)).headers.get("location");
  };
  const location = "http://10.0.0.7:8333/submit?ttl=3m";
  expect(await submit(standby.address)).toBe(location);
  await expect.poll(() => submit(leader.address)).toBe(location);
});

test("A standby does not answer without the cluster's token, nor native calls that are off", async () => {
  const standby = await serveStandby(() => "h:1");
  for (const path of ["/map", "/leader", "/heartbeat"]) {
    expect((await fetch(`http://${standby.address}${path}`)).status).toBe(403);
  }
  const status = await fetch(`http://${standby.address}/cluster/status`);
  expect(await status.json()).toEqual({ Leader: "h:1" });
  const assign = await fetch(`http://${standby.address}/dir/assign`);
  expect([assign.status, assign.headers.get("x-hayloft-leader")]).toEqual([503, "h:1"]);
});

function chooseOriginal(volumes: VolumeDirectory, ...avoid: number[]) {
  return volumes.chooseWritable(
    {
      class: "original",
      placement: "copies=1 spread=machine",
      avoid: new Set(avoid),
      rankOf: () => 0,
      queueOf: () => 0,
    },
    seededRandom(1),
  );
}

/** Stores with servers, and what one copies from the others. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get, type IncomingMessage, type Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { challengeHeader, signatureHeader } from "../base/call-signature.ts";
import { CallSigner } from "../base/call-signer.ts";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import type { Fid } from "../base/fid.ts";
import { diskFiles } from "../base/files.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeRegistry } from "../base/metrics.ts";
import { seededRandom } from "../base/random.ts";
import type { Order } from "../directory/client.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { HttpPeers } from "./peers.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";
import type { Volume } from "./volume/volume.ts";
import { volumeFile } from "./volume/volume-files.ts";

const secret = ClusterSecret.of("cd".repeat(32));
const signer = new CallSigner(secret);
const log = pino({ level: "silent" });
const mebibyte = 1_048_576;

interface Running {
  store: Store;
  server: Server;
  address: string;
  folder: string;
}

let base: string;
let caller: Caller;
let stores: Running[];

beforeEach(async () => {
  base = mkdtempSync(path.join(tmpdir(), "hayloft-copy-"));
  caller = new Caller(secret);
  stores = [await start("a"), await start("b"), await start("c")];
});

afterEach(async () => {
  await caller.close();
  for (const { server, store } of stores) {
    await closeServer(server, 100);
    await store.close();
  }
  rmSync(base, { recursive: true });
});

async function start(name: string): Promise<Running> {
  const folder = path.join(base, name);
  const store = await Store.open({
    ...{ files: diskFiles, clock: systemClock, random: seededRandom(name.charCodeAt(0)), log },
    ...{ folder, volumeBytes: 1_073_741_824, reserveBytes: 0, trashMs: 0 },
    peers: new HttpPeers(caller),
  });
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  const server = makeStoreServer({ store, secret, log, metrics, onVolumeClosed: () => undefined });
  const address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  return { store, server, address, folder };
}

function running(at: number): Running {
  const found = stores[at];
  if (found === undefined) throw new Error("it was started");
  return found;
}

function volumeOf({ store }: Running): Volume {
  const volume = store.volume(3);
  if (volume === undefined) throw new Error("it has the volume");
  return volume;
}

/** A sealed volume at the first store. */
async function fill(mebibytes: number): Promise<Fid[]> {
  const { store, address } = running(0);
  const random = seededRandom(8);
  await store.carryOut({
    ...{ order: 1, kind: "create", volume: 3, class: "original", generation: 0, epoch: 1 },
    ...{ uuid: "ab".repeat(16), recordMagic: "cd".repeat(8), createdMs: 1, ttlSeconds: 0 },
    members: [{ store: store.id, address }],
  });
  const volume = volumeOf(running(0));
  const pool = random.bytes(2 * mebibyte);
  const fids: Fid[] = [];
  for (let at = 0; at < mebibytes; at++) {
    const data = pool.subarray(at * 997, at * 997 + mebibyte);
    const metadata = Buffer.from("{}");
    fids.push(await volume.append({ data, metadata, owner: undefined, ttlSeconds: 0 }));
  }
  await store.carryOut({ order: 2, kind: "seal", volume: 3 });
  await volume.settled();
  return fids;
}

function orderFor(from: number[], change: Partial<Order & { kind: "copy" }> = {}): Order {
  const members = stores.map(({ store, address }) => ({ store: store.id, address }));
  const { uuid, generation, epoch, lengthBytes, digest } = volumeOf(running(0)).report();
  return {
    ...{ order: 3, kind: "copy", volume: 3, uuid, generation, epoch, lengthBytes, digest, members },
    ...{ from: members.filter((_, at) => from.includes(at)), rateBytes: 0 },
    ...change,
  };
}

function askUnsigned(target: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(`http://${running(0).address}${target}`, { agent: false }, resolve).on("error", reject);
  });
}

async function ask(target: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const { address } = running(0);
  // The first call to a process is told what to sign.
  for (;;) {
    const signature = signer.sign({ method: "GET", address, path: target, headers });
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const all = { [signatureHeader]: signature, ...headers };
      get(`http://${address}${target}`, { headers: all, agent: false }, resolve).on(
        "error",
        reject,
      );
    });
    const challenge = String(answer.headers[challengeHeader] ?? "");
    if (!signer.learn(address, signature, challenge)) return answer;
    answer.resume();
  }
}

async function bodyOf(answer: IncomingMessage): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(answer as AsyncIterable<Buffer>));
}

test("Stores copy a large volume over HTTP, deletes that come meanwhile too", {
  timeout: 600_000,
}, async () => {
  const fids = await fill(100);
  const [first, second, third] = [running(0), running(1), running(2)];
  const volume = volumeOf(first);
  const [early, late] = [fids[3] as Fid, fids[70] as Fid];
  await volume.delete(early.ordinal, early.cookie);
  const copying = second.store.carryOut(orderFor([0]));
  const seen: number[] = [];
  while (second.store.volume(3) === undefined) {
    const [status] = second.store.reports();
    const { operation } = status ?? {};
    if (operation?.kind === "copy") seen.push(operation.doneBytes);
    if (seen.length === 5) await volume.delete(late.ordinal, late.cookie);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await Promise.race([copying, undefined]); // told if it fails
  }
  await copying;
  expect(seen.length).toBeGreaterThan(5);
  expect(seen.toSorted((left, right) => left - right)).toEqual(seen);
  const file = (at: Running) => readFileSync(volumeFile(at.folder, { volume: 3, generation: 0 }));
  const whole = file(first);
  expect(whole.length).toBeGreaterThan(100 * mebibyte);
  expect(file(second).equals(whole)).toBe(true);
  expect(volumeOf(second).report()).toMatchObject({
    ...{ isServing: false, deletedCount: 2, damagedBytes: 0, needleCount: 100 },
    digest: volume.report().digest,
  });

  // The first rots, and a third copy is made of both; then the first is mended with what is right of it.
  const bytes = Buffer.from(whole);
  bytes[50 * mebibyte] = (bytes[50 * mebibyte] ?? 0) ^ 1;
  writeFileSync(volumeFile(first.folder, { volume: 3, generation: 0 }), bytes);
  await third.store.carryOut(orderFor([0, 1]));
  expect(file(third).equals(whole)).toBe(true);
  expect(await volume.scrub({ rateBytes: 0 })).toHaveLength(1);
  await first.store.carryOut(orderFor([1, 2], { order: 9 }));
  expect(file(first).equals(whole)).toBe(true);
  expect(volume.report()).toMatchObject({ damagedBytes: 0, trashBytes: whole.length });

  const { generation, lengthBytes, members, from } = orderFor([0, 2]) as Order & { kind: "copy" };
  const rejoin = { generation, lengthBytes, members, from } as const;
  await second.store.carryOut({ order: 11, kind: "rejoin", volume: 3, ...rejoin });
  expect(volumeOf(second).report().isServing).toBe(true);
  await second.store.carryOut({ order: 12, kind: "delete-copy", volume: 3, uuid: "ab".repeat(16) });
  expect(second.store.reports()).toEqual([]);
  expect(second.store.trashBytes).toBeGreaterThan(whole.length);
  await new Promise((resolve) => setTimeout(resolve, 2));
  await second.store.emptyTrash();
  expect(second.store.trashBytes).toBe(0);
});

test("What is asked for goes out: ranges of the file, its leaves, what is deleted", async () => {
  const fids = await fill(3);
  const volume = volumeOf(running(0));
  const file = readFileSync(volumeFile(running(0).folder, { volume: 3, generation: 0 }));
  const whole = await ask("/volumes/3/file?generation=0");
  expect(whole.statusCode).toBe(200);
  expect((await bodyOf(whole)).equals(file)).toBe(true);
  const part = await ask("/volumes/3/file?generation=0", { range: "bytes=8000-2000000" });
  expect(part.statusCode).toBe(206);
  expect(part.headers["content-range"]).toBe(`bytes 8000-2000000/${file.length}`);
  expect((await bodyOf(part)).equals(file.subarray(8_000, 2_000_001))).toBe(true);
  const beyond = await ask("/volumes/3/file?generation=0", { range: `bytes=${file.length}-` });
  expect(beyond.statusCode).toBe(416);
  beyond.resume();

  expect(volume.report().digest).toBeUndefined();
  const leaves = await ask("/volumes/3/leaves?generation=0");
  expect(leaves.statusCode).toBe(200);
  expect(await bodyOf(leaves)).toHaveLength(32 * Math.ceil(file.length / mebibyte));
  // They were made by verifying the volume, which is remembered.
  expect(leaves.headers["x-hayloft-digest"]).toBe(volume.report().digest);

  for (const { ordinal, cookie } of [fids[2] as Fid, fids[0] as Fid]) {
    await volume.delete(ordinal, cookie);
  }
  const deletes = await ask("/volumes/3/deletes");
  expect(deletes.headers["x-hayloft-deletes-digest"]).toBe(volume.report().deletesDigest);
  expect(await bodyOf(deletes)).toEqual(Buffer.from([0, 0, 0, 0, 2, 0, 0, 0]));
});

test("Nothing goes out without the secret, of another generation, or of an open volume", async () => {
  await fill(1);
  const targets = ["file?generation=0", "leaves?generation=0", "deletes"];
  for (const target of targets) {
    const refused = await askUnsigned(`/volumes/3/${target}`);
    expect(refused.statusCode, target).toBe(403);
    const unknown = await ask(`/volumes/9/${target}`);
    expect(unknown.statusCode, target).toBe(404);
    for (const answer of [refused, unknown]) answer.resume();
  }
  for (const call of ["file", "leaves"]) {
    for (const [query, status] of [
      ["?generation=1", 409],
      ["", 400],
      ["?generation=x", 400],
    ] as const) {
      const refused = await ask(`/volumes/3/${call}${query}`);
      expect(refused.statusCode, call + query).toBe(status);
      refused.resume();
    }
  }
});

test("A reader who stops holds the generation, and lets go of it when gone", async () => {
  await fill(24);
  const volume = volumeOf(running(0));
  const slow = await ask("/volumes/3/file?generation=0");
  const first = slow[Symbol.asyncIterator]();
  expect((await first.next()).done).toBe(false);
  const order = { generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true };
  await volume.compact(order);
  const gone = await ask("/volumes/3/file?generation=0");
  expect(gone.statusCode).toBe(409);
  gone.resume();
  // What began with the old generation ends with it, though its name is gone.
  let bytes = 0;
  for await (const part of { [Symbol.asyncIterator]: () => first })
    bytes += (part as Buffer).length;
  expect(bytes).toBeGreaterThan(23 * mebibyte);
  const cut = await ask("/volumes/3/file?generation=1");
  cut.destroy();
});

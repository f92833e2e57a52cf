import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get, type IncomingMessage, type Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { extract } from "tar-stream";
import { afterEach, beforeEach, expect, test } from "vitest";
import { challengeHeader, signatureHeader } from "../base/call-signature.ts";
import { CallSigner } from "../base/call-signer.ts";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { type Fid, formatFid } from "../base/fid.ts";
import { diskFiles } from "../base/files.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { makeRegistry } from "../base/metrics.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { StoreClient } from "./client.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";
import type { Volume } from "./volume/volume.ts";
import { volumeFile } from "./volume/volume-files.ts";

const secret = ClusterSecret.of("ab".repeat(32));
const log = pino({ level: "silent" });

let folder: string;
let random: Random;
let store: Store;
let volume: Volume;
let server: Server;
let address: string;
let caller: Caller;
let client: StoreClient;

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-operator-"));
  random = seededRandom(6);
  store = await Store.open({
    ...{ files: diskFiles, clock: systemClock, random, log, folder },
    ...{ volumeBytes: 1_073_741_824, reserveBytes: 0, trashMs: 0 },
  });
  await store.carryOut({
    ...{ order: 1, kind: "create", volume: 3, class: "original", generation: 0, epoch: 1 },
    uuid: random.bytes(16).toString("hex"),
    recordMagic: random.bytes(8).toString("hex"),
    ...{
      members: [{ store: store.id, address: "127.0.0.1:1" }],
      createdMs: 1_790_000_000_000,
      ttlSeconds: 0,
    },
  });
  const created = store.volume(3);
  if (created === undefined) throw new Error("the volume was created");
  volume = created;
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  server = makeStoreServer({ store, secret, log, metrics, onVolumeClosed: () => undefined });
  address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  caller = new Caller(secret);
  client = new StoreClient(caller);
});

afterEach(async () => {
  client.close();
  await caller.close();
  await closeServer(server, 100);
  await store.close();
  rmSync(folder, { recursive: true });
});

async function put(key: string, data: Buffer): Promise<Fid> {
  const metadata = Buffer.from(JSON.stringify({ bucket: "photos", key, chunk: 0, type: "" }));
  return await volume.append({ data, metadata, owner: undefined, ttlSeconds: 0 });
}

/** Spoils a byte of the volume's file under the running store. */
function spoil(offset: number): void {
  const file = volumeFile(folder, { volume: 3, generation: 0 });
  const bytes = readFileSync(file);
  bytes[offset] = (bytes[offset] ?? 0) ^ 0xff;
  writeFileSync(file, bytes);
}

/** Asks, and reads nothing of the answer yet. */
async function ask(target: string, asker = new CallSigner(secret)): Promise<IncomingMessage> {
  const call = { address, method: "GET", path: target, headers: {} };
  const ask = (signature: string) =>
    new Promise<IncomingMessage>((resolve, reject) => {
      const headers = { [signatureHeader]: signature };
      get(`http://${address}${target}`, { headers, agent: false }, resolve).on("error", reject);
    });
  const signature = asker.sign(call);
  const answer = await ask(signature);
  if (!asker.learn(address, signature, String(answer.headers[challengeHeader]))) return answer;
  answer.resume();
  return await ask(asker.sign(call));
}

test("The facts of a volume go out, and its record magic does not", async () => {
  const fid = await put("hay.jpg", random.bytes(1_000));
  await volume.delete(fid.ordinal, fid.cookie);
  expect(await client.facts(address, 3)).toMatchObject({
    ...{ volume: 3, class: "original", state: "open", needleCount: 1, deletedCount: 1 },
    ...{ presentCount: 1, firstFree: 0, uuid: volume.superblock.uuid.toString("hex") },
  });
  const answer = await ask("/volumes/3");
  const text = (await Array.fromAsync(answer)).join("");
  expect(text).not.toContain(volume.superblock.recordMagic.toString("hex"));
});

test("A needle's place and health are told to who has its cookie, deleted or not", async () => {
  const fid = await put("hay.jpg", random.bytes(40_000));
  const text = formatFid(fid);
  const facts = await client.needle(address, text, { verifies: true });
  expect(facts).toMatchObject({ generation: 0, epoch: 1, isServing: true, damagedBytes: 0 });
  expect(facts.needle).toMatchObject({
    ...{ offset: 8_192, contentLength: 40_000, codec: "none" },
    ...{ isDeleted: false, isVerified: true },
  });
  expect((await client.needle(address, text, { verifies: false })).needle?.isVerified).toBe(false);
  await volume.delete(fid.ordinal, fid.cookie);
  expect((await client.needle(address, text, { verifies: true })).needle?.isDeleted).toBe(true);

  for (const other of [{ cookie: fid.cookie ^ 1 }, { ordinal: 99 }]) {
    const cookie = (other.cookie ?? fid.cookie) >>> 0;
    const guessed = formatFid({ ...fid, ...other, cookie });
    const stranger = await client.needle(address, guessed, { verifies: true });
    expect(stranger.needle).toBeUndefined();
    expect(stranger.problem).toBe("it has no such needle");
  }
  await expect(client.needle(address, "3,zz", { verifies: true })).rejects.toThrow("Cannot read");
});

test("Nothing goes out without the cluster's secret, and nothing of what is not there", async () => {
  const targets = ["", "/records", "/findings", "/export", "/needle"];
  for (const target of targets) {
    const refused = await ask(
      `/volumes/3${target}`,
      new CallSigner(ClusterSecret.of("0".repeat(64))),
    );
    expect(refused.statusCode, target).toBe(403);
    refused.resume();
    const unknown = await ask(`/volumes/9${target}`);
    expect(unknown.statusCode, target).toBe(404);
    unknown.resume();
  }
  for (const target of ["/volumes/3/nothing", "/volumes/x/records", "/volumes/3/records/1"]) {
    const unknown = await ask(target);
    expect(unknown.statusCode, target).toBe(404);
    unknown.resume();
  }
  for (const query of ["from=-1", "count=many", "cookies=yes", "rate=1.5"]) {
    const refused = await ask(`/volumes/3/records?${query}`);
    expect(refused.statusCode, query).toBe(400);
    refused.resume();
  }
});

test("Records come in the order of the file, with the cookies that were asked for", async () => {
  const fids: Fid[] = [];
  for (let at = 0; at < 30; at++) fids.push(await put(`hay-${at}`, random.bytes(100_000)));
  const list = async (selection: Parameters<StoreClient["records"]>[2]) =>
    (await Array.fromAsync(client.records(address, 3, selection))).flat();
  const all = await list({});
  expect(all.map(({ ordinal }) => ordinal)).toEqual(fids.map(({ ordinal }) => ordinal));
  expect(all.every(({ fid }) => fid?.endsWith("********"))).toBe(true);
  const some = await list({ from: 5, count: 2, withCookies: true });
  expect(some.map(({ fid }) => fid)).toEqual(fids.slice(5, 7).map(formatFid));
});

test("What a verify found is told by needle", async () => {
  for (let at = 0; at < 10; at++) await put(`hay-${at}`, random.bytes(5_000));
  const noted: number[] = [];
  const asked = { rateBytes: 0, progress: (done: number) => noted.push(done) };
  expect(await client.findings(address, 3, asked)).toEqual([]);
  const offsets = await volume.read(async ({ index }) => [index.get(2) ?? 0, index.get(7) ?? 0]);
  spoil((offsets[0] ?? 0) + 2_000);
  spoil((offsets[1] ?? 0) + 30); // nothing of its header is believed any more
  await store.verify(3, 0);
  const findings = await client.findings(address, 3, asked);
  expect(findings.map(({ ordinal, offset }) => [ordinal, offset])).toEqual([
    [2, offsets[0]],
    [7, offsets[1]],
  ]);
  expect(findings[0]?.why).toMatch(/checksum/);
});

test("Damage in what no record covers is told too", async () => {
  await put("hay", random.bytes(5_000));
  await put("hay", random.bytes(5_000));
  const fid = await put("hay", random.bytes(5_000));
  await volume.delete(fid.ordinal, fid.cookie);
  await volume.seal();
  await store.verify(3, 0);
  spoil(volume.report().lengthBytes - 1); // the padding of the last one
  await store.verify(3, 0);
  expect(volume.report().damagedBytes).toBeGreaterThan(0);
  const findings = await client.findings(address, 3, { rateBytes: 0, progress: () => undefined });
  expect(findings).toHaveLength(1);
});

test("An export goes out whole, and says what is left out", async () => {
  const data = random.bytes(3_000_000);
  await put("large", data);
  await put("small", Buffer.from("small"));
  const lost = await put("lost", random.bytes(5_000));
  spoil(((await volume.read(async ({ index }) => index.get(lost.ordinal))) ?? 0) + 2_000);
  const reader = extract();
  (await client.export(address, 3)).pipe(reader as unknown as NodeJS.WritableStream);
  const files = new Map<string, Buffer>();
  for await (const entry of reader) {
    files.set(entry.header.name, Buffer.concat((await Array.fromAsync(entry)) as Buffer[]));
  }
  expect([...files.keys()]).toEqual(["photos/large", "photos/small", "manifest.ndjson"]);
  expect(files.get("photos/large")).toEqual(data);
  expect(files.get("manifest.ndjson")?.toString()).toContain(formatFid(lost));
});

test("Few run at once, and a reader who goes away makes room", async () => {
  for (let at = 0; at < 8; at++) await put(`hay-${at}`, random.bytes(4_000_000));
  const readers = await Promise.all([1, 2, 3, 4].map(() => ask("/volumes/3/export")));
  await expect(client.export(address, 3)).rejects.toMatchObject({
    kind: "busy",
    message: "Cannot answer now: 4 such calls run already",
  });
  expect((await client.facts(address, 3)).volume).toBe(3); // that one is short
  for (const reader of readers) reader.destroy();
  const giveUpAtMs = performance.now() + 5_000;
  for (;;) {
    const answer = await ask("/volumes/3/records?count=1");
    answer.resume();
    if (answer.statusCode === 200) break;
    expect(answer.statusCode).toBe(503);
    expect(performance.now()).toBeLessThan(giveUpAtMs);
    await sleep(20);
  }
});

test("A reader may go away at any moment, and nothing is held on to", async () => {
  for (let at = 0; at < 12; at++)
    await put(`hay-${at}`, random.bytes(at % 3 === 0 ? 3_000_000 : 900));
  for (let round = 0; round < 30; round++) {
    const answer = await ask(round % 2 === 0 ? "/volumes/3/export" : "/volumes/3/records");
    let left = random.fraction() * 15_000_000;
    for await (const part of answer) {
      left -= (part as Buffer).length;
      if (left < 0) break; // which destroys it
    }
  }
  // The volume's file is closed only when nobody reads from it.
  const uuid = volume.superblock.uuid.toString("hex");
  await store.carryOut({ order: 2, kind: "drop", volume: 3, uuid });
});

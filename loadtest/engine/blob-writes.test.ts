/** The gateway's writes and deletes over real stores: volumes of theirs that take nothing, and copies that are away. */

import { afterEach, expect, test } from "vitest";
import { parseFid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import type { ChunkRef } from "../../catalog/model.ts";
import type { MapVolume } from "../../directory/client.ts";
import { Blobs } from "../../gateway/blobs.ts";
import { HandTime } from "../../gateway/hand-time.ts";
import {
  closeAll,
  copyFolder,
  createVolume,
  deadAddress,
  makeClient,
  makeFolder,
  makeSealedVolume,
  metadataOf,
  owner,
  placement,
  serveSilence,
  serveStore,
  TestMap,
} from "./store-copies.ts";

const random = seededRandom(21);

afterEach(closeAll);

interface Attempt {
  address: string;
  volume: number;
  timeoutMs: number;
}

/** A gateway's blobs, and what they tried. At `hanging` an attempt gets less time than it asks for. */
async function gateway(entries: readonly Partial<MapVolume>[], { hanging = "" } = {}) {
  const map = await TestMap.open(entries);
  const client = makeClient();
  const tried: Attempt[] = [];
  const time = new HandTime();
  const blobs = new Blobs({
    directory: map.directory,
    stores: {
      append(options) {
        const { address, volume, timeoutMs = 0 } = options;
        tried.push({ address, volume, timeoutMs });
        return client.append({ ...options, timeoutMs: address === hanging ? 50 : timeoutMs });
      },
      delete: (address, fids) => client.delete(address, fids),
      pull: (options) => client.pull(options),
      stream: (options) => client.stream(options),
    },
    random,
    owner,
    clock: time,
    runtime: time,
  });
  const put = (data: Buffer, more: { placement?: string; earlier?: ChunkRef[] } = {}) =>
    blobs.put(data, metadataOf(data), {
      durability: "disk",
      placement,
      requestId: "r",
      ...more,
    });
  return { blobs, map, tried, time, put, client };
}

async function serveOpen(...volumes: number[]) {
  const served = await serveStore(makeFolder());
  for (const volume of volumes) await createVolume(served, volume);
  return served;
}

const open = (volume: number, address: string, more: Partial<MapVolume> = {}) => ({
  volume,
  addresses: [address],
  isWritable: true,
  ...more,
});

/** Nearly all of the choice. */
const roomy = { freeBytes: 1e15 };

test("A put goes on to another volume when a primary is dead, and the next ones do not try it", async () => {
  const good = await serveOpen(7);
  const dead = await deadAddress();
  const made = await gateway([open(5, dead, roomy), open(6, dead, roomy), open(7, good.address)]);
  const data = random.bytes(1_000);
  const chunk = await made.put(data);
  expect(parseFid(chunk.fid)?.volume).toBe(7);
  expect((await made.blobs.read(chunk, "r")).equals(data)).toBe(true);
  // The other volume of that store is no better a guess.
  expect(made.tried.map(({ address }) => address)).toEqual([dead, good.address]);
  expect(made.blobs.counts.putRetries).toBe(1);
  for (let turn = 0; turn < 10; turn++) await made.put(data);
  expect(made.blobs.counts.putRetries).toBe(1);
});

test("A primary that hangs gets a part of the time, and the rest is another's", async () => {
  const good = await serveOpen(7);
  const silent = await serveSilence();
  const entries = [open(5, silent.address, roomy), open(7, good.address)];
  const made = await gateway(entries, { hanging: silent.address });
  const chunk = await made.put(random.bytes(100_000));
  expect(parseFid(chunk.fid)?.volume).toBe(7);
  expect(made.tried.map(({ volume }) => volume)).toEqual([5, 7]);
  expect(made.tried[0]?.timeoutMs).toBe(5_000);
  expect(silent.requests()).toBeGreaterThan(0);
});

test("A volume that the map is wrong about, or that is sealed, is left for another", async () => {
  const one = await serveOpen(5, 6);
  const two = await serveOpen(7);
  await one.store.carryOut({ order: 9, kind: "seal", volume: 6 });
  const made = await gateway([
    open(4, one.address, roomy), // it has no such volume
    open(6, one.address, roomy),
    open(7, two.address),
  ]);
  const chunk = await made.put(random.bytes(10));
  expect(parseFid(chunk.fid)?.volume).toBe(7);
});

test("A put waits for a volume of its placement, and takes no other", async () => {
  const good = await serveOpen(5, 6);
  const made = await gateway([open(5, good.address, { placement: "copies=1 spread=machine" })]);
  const putting = made.put(random.bytes(10));
  await made.time.pass(2_000);
  expect(made.tried).toEqual([]);
  made.map.give([
    open(5, good.address, { placement: "copies=1 spread=machine" }),
    open(6, good.address),
  ]);
  expect(parseFid((await putting).fid)?.volume).toBe(6);
  const never = expect(made.put(random.bytes(10), { placement: "none" })).rejects.toMatchObject({
    kind: "unavailable",
    retryAfterSeconds: 2,
  });
  await made.time.pass(13_000);
  // The map's own pauses are real ones: the put looks at its clock after the next.
  await never;
});

test("What is bad about a blob itself is told at once, and disks that are full are called full", async () => {
  const good = await serveOpen(5, 6);
  const made = await gateway([open(5, good.address), open(6, good.address)]);
  await expect(made.put(Buffer.alloc(64 * 1_048_576 + 1))).rejects.toMatchObject({
    kind: "too-large",
  });
  expect(made.tried.length).toBe(1);
  made.map.give([open(5, good.address, { isWritable: false, isFull: true })]);
  await made.map.directory.change(1_000);
  await expect(made.put(random.bytes(10))).rejects.toMatchObject({ kind: "full" });
});

test("Chunks of one object take turns over primaries, and over the volumes of each", async () => {
  const one = await serveOpen(1, 2);
  const two = await serveOpen(3, 4);
  const made = await gateway([
    open(1, one.address, roomy),
    open(2, one.address),
    open(3, two.address),
    open(4, two.address),
  ]);
  const chunks: ChunkRef[] = [];
  for (let at = 0; at < 8; at++) {
    chunks.push(await made.put(random.bytes(10), { earlier: chunks }));
  }
  const volumes = chunks.map(({ fid }) => parseFid(fid)?.volume ?? 0);
  for (let at = 0; at < 8; at += 2) {
    const primaries = made.tried.slice(at, at + 2).map(({ address }) => address);
    expect(new Set(primaries).size).toBe(2);
  }
  expect(volumes.slice(0, 4).sort()).toEqual([1, 2, 3, 4]);
  expect(volumes.slice(4).sort()).toEqual([1, 2, 3, 4]);
});

test("A blob is deleted when every copy says so: one that is away keeps it in the list", async () => {
  const blobs = Array.from({ length: 20 }, () => random.bytes(100));
  const made = await makeSealedVolume(3, blobs);
  const one = await serveStore(made.folder);
  const two = await serveStore(copyFolder(made.folder));
  const all = [one.address, two.address];
  const gone = made.fids.slice(0, 10);
  const served = await gateway([{ addresses: [one.address], memberAddresses: all }]);
  expect(Object.values(await served.blobs.delete(gone))).toEqual(gone.map(() => "deleted"));
  for (const { store } of [one, two]) {
    expect(store.volume(3)?.report().deletedCount).toBe(gone.length);
  }
  // Twice is no different; a volume that nobody knows stays in doubt.
  expect(Object.values(await served.blobs.delete(gone))).toEqual(gone.map(() => "absent"));
  expect(await served.blobs.delete(["99,0101020304"])).toEqual({ "99,0101020304": "unknown" });

  const port = Number(two.address.split(":")[1]);
  await two.stop();
  const later = made.fids.slice(10);
  expect(Object.values(await served.blobs.delete(later))).toEqual(later.map(() => "unknown"));
  expect(one.store.volume(3)?.report().deletedCount).toBe(20);
  const back = await serveStore(two.folder, port);
  expect(Object.values(await served.blobs.delete(later))).toEqual(later.map(() => "deleted"));
  expect(back.store.volume(3)?.report().deletedCount).toBe(20);
});

test("A member that has lost the volume does not count as one that has deleted", async () => {
  const made = await makeSealedVolume(3, [random.bytes(100)]);
  const one = await serveStore(made.folder);
  const empty = await serveStore(makeFolder());
  const served = await gateway([{ addresses: [one.address, empty.address] }]);
  const [fid = ""] = made.fids;
  expect(await served.blobs.delete([fid])).toEqual({ [fid]: "unknown" });
});

/** The gateway's reads over real stores with copies that are dead, silent, damaged or not there. */

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { seededRandom } from "../../base/random.ts";
import type { ChunkRef } from "../../catalog/model.ts";
import type { MapVolume } from "../../directory/client.ts";
import { Blobs } from "../../gateway/blobs.ts";
import { HandTime } from "../../gateway/hand-time.ts";
import {
  closeAll,
  copyFolder,
  deadAddress,
  makeClient,
  makeFolder,
  makeSealedVolume,
  owner,
  serveSilence,
  serveStore,
  TestMap,
} from "./store-copies.ts";

const volume = 3;
const random = seededRandom(3);
const sizes = [1, 700, 20_000, 300_000, 2_000_000, 5, 60_000, 1_000_000];
const blobs = sizes.map((size) => random.bytes(size));

let chunks: ChunkRef[];
let original: string;

afterEach(closeAll);

/** Both copies, of which one folder was given to `spoil` first. */
async function serveCopies(spoil: (folder: string) => void = () => undefined) {
  const made = await makeSealedVolume(volume, blobs);
  original = made.folder;
  chunks = made.fids.map((fid, at) => ({ fid, length: sizes[at] ?? 0 }));
  const folder = copyFolder(original);
  spoil(folder);
  return [await serveStore(original), await serveStore(folder)] as const;
}

/** A gateway's blobs, and whom they asked: each time a copy was asked its address is in `asked`. */
async function gateway(entries: readonly Partial<MapVolume>[]) {
  const map = await TestMap.open(entries);
  const client = makeClient();
  const asked: string[] = [];
  const time = new HandTime();
  const made = new Blobs({
    directory: map.directory,
    stores: {
      append: (options) => client.append(options),
      delete: (address, fids) => client.delete(address, fids),
      pull(options) {
        asked.push(options.address);
        return client.pull(options);
      },
      stream(options) {
        asked.push(options.address);
        return client.stream(options);
      },
    },
    random,
    owner,
    clock: time,
    runtime: time,
  });
  const count = (address: string) => asked.filter((each) => each === address).length;
  return { blobs: made, map, asked, count, time };
}

type Gateway = Awaited<ReturnType<typeof gateway>>;

const ways = {
  read: (from: Blobs, chunk: ChunkRef) => from.read(chunk, "r"),
  async pull(from: Blobs, chunk: ChunkRef, onBytes: (count: number) => void = () => undefined) {
    const parts: Buffer[] = [];
    const take = (part: Buffer) => {
      parts.push(Buffer.from(part));
      onBytes(part.length);
    };
    await from.pull([chunk], take, { requestId: "r" });
    return Buffer.concat(parts);
  },
  async stream(from: Blobs, chunk: ChunkRef, onBytes: (count: number) => void = () => undefined) {
    const parts: Buffer[] = [];
    const range = { start: 0, end: chunk.length };
    for await (const part of from.streamChunks([chunk], range, "r")) {
      parts.push(part);
      onBytes(part.length);
    }
    return Buffer.concat(parts);
  },
} as const;
const everyWay = Object.entries(ways);

/** Every blob, each way; then ranges of the large one. */
async function expectAll({ blobs: from }: Gateway): Promise<void> {
  for (const [name, read] of everyWay) {
    for (const [at, chunk] of chunks.entries()) {
      const data = await read(from, chunk);
      expect(data.equals(blobs[at] ?? data), `${name} of blob ${at}`).toBe(true);
    }
  }
  const large = chunks[4] as ChunkRef;
  for (const [start, end] of [
    [0, 1],
    [16_383, 16_385],
    [1_000_000, 1_999_999],
    [1_999_999, 2_000_000],
  ] as const) {
    const parts: Buffer[] = [];
    for await (const part of from.streamChunks([large], { start, end }, "r")) parts.push(part);
    expect(Buffer.concat(parts).equals(blobs[4]?.subarray(start, end) as Buffer)).toBe(true);
  }
}

test("Reads go to every copy, a blob always to the same one, and nobody is asked twice", async () => {
  const [one, two] = await serveCopies();
  const made = await gateway([{ addresses: [one.address, two.address] }]);
  await expectAll(made);
  const reads = everyWay.length * chunks.length + 4;
  expect(made.asked.length).toBe(reads);
  expect(Math.min(made.count(one.address), made.count(two.address))).toBeGreaterThan(reads / 4);
  made.asked.length = 0;
  for (let turn = 0; turn < 5; turn++) await made.blobs.read(chunks[1] as ChunkRef, "r");
  expect(new Set(made.asked).size).toBe(1);
});

test("A dead store costs one attempt, and then none until its time is over", async () => {
  const [one] = await serveCopies();
  const dead = await deadAddress();
  const made = await gateway([{ addresses: [dead, one.address] }]);
  await expectAll(made);
  expect(made.count(dead)).toBe(1);
  expect(made.blobs.counts.readsAround).toMatchObject({ unreachable: 1, corrupt: 0, silent: 0 });
  await made.time.pass(2_001);
  await expectAll(made);
  expect(made.count(dead)).toBe(2);
});

test.each(everyWay)(
  "A store that accepts and is silent costs one %s a moment, without anything saved up",
  async (_, read) => {
    const [one] = await serveCopies();
    const silent = await serveSilence();
    const made = await gateway([{ addresses: [silent.address, one.address] }]);
    const reading = read(made.blobs, chunks[0] as ChunkRef); // ordinal 0: the first copy's turn
    await silent.asked(1);
    expect(made.asked).toEqual([silent.address]);
    await made.time.pass(249);
    expect(made.asked).toEqual([silent.address]);
    await made.time.pass(1);
    expect((await reading).equals(blobs[0] as Buffer)).toBe(true);
    expect(made.blobs.counts).toMatchObject({ hedgedReads: 1, hedgeWins: 1 });
    expect(made.blobs.counts.readsAround.silent).toBe(1);
    await expectAll(made);
    expect(made.count(silent.address)).toBe(1);
  },
);

test.each([
  ["pull", ways.pull],
  ["stream", ways.stream],
] as const)(
  "A store that falls silent within an answer has its %s go on at another, byte for byte",
  async (name, read) => {
    const [one] = await serveCopies();
    const data = blobs[4] as Buffer;
    const sentBytes = 700_001;
    const half = await serveSilence((socket) => {
      const head =
        name === "stream"
          ? `HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-${data.length - 1}/${data.length}`
          : "HTTP/1.1 200 OK";
      socket.write(`${head}\r\ncontent-length: ${data.length}\r\n\r\n`);
      socket.write(data.subarray(0, sentBytes));
    });
    const made = await gateway([{ addresses: [half.address, one.address] }]);
    let gotBytes = 0;
    // Ordinal 4: the first copy's turn.
    const reading = read(made.blobs, chunks[4] as ChunkRef, (count) => {
      gotBytes += count;
    });
    while (gotBytes < sentBytes) await setImmediate();
    expect(made.asked).toEqual([half.address]);
    // The watch may have begun before the last bytes came: then it looks a second time.
    while (made.asked.length < 2) await made.time.pass(1_000);
    expect((await reading).equals(data)).toBe(true);
    expect(made.asked).toEqual([half.address, one.address]);
    expect(made.blobs.counts.readsAround.silent).toBe(1);
  },
);

test("A byte that rots in one copy, in a head, a first or a late block, is read around everywhere", async () => {
  const name = `${volume}.g0.volume`;
  const [one, two] = await serveCopies((folder) => {
    const file = path.join(folder, name);
    const bytes = readFileSync(file);
    for (const at of [3, 4, 6, 7]) {
      const offset = bytes.indexOf((blobs[at] as Buffer).subarray(0, 64));
      expect(offset).toBeGreaterThan(0);
      const into = at === 4 ? 1_500_000 : at === 7 ? 999_999 : 10;
      bytes[offset + into] = (bytes[offset + into] ?? 0) ^ 1;
    }
    writeFileSync(file, bytes);
  });
  // Whichever of them is asked first.
  for (const addresses of [
    [two.address, one.address],
    [one.address, two.address],
  ]) {
    const made = await gateway([{ addresses }]);
    await expectAll(made);
    const { corrupt, cut, unreachable, silent } = made.blobs.counts.readsAround;
    expect(corrupt).toBeGreaterThan(0);
    expect(corrupt + cut).toBeGreaterThanOrEqual(2 * everyWay.length);
    expect({ unreachable, silent }).toEqual({ unreachable: 0, silent: 0 });
    expect(made.blobs.counts.hedgedReads).toBe(0);
  }
  // With nothing else there it is told, after everybody was asked again.
  const alone = await gateway([{ addresses: [two.address] }]);
  for (const [, read] of everyWay) {
    await expect(read(alone.blobs, chunks[3] as ChunkRef)).rejects.toMatchObject({
      kind: "corrupt",
    });
  }
  expect(alone.map.refreshes).toBeGreaterThan(0);
});

test("A store without the blob is read around; only when all say so, twice, it is not found", async () => {
  const [one] = await serveCopies();
  const empty = await serveStore(makeFolder());
  const other = await serveStore(makeFolder());
  const made = await gateway([{ addresses: [empty.address, one.address] }]);
  await expectAll(made);
  expect(made.blobs.counts.readsAround.missing).toBeGreaterThan(0);
  expect(made.map.refreshes).toBe(0);
  const nowhere = await gateway([{ addresses: [empty.address, other.address] }]);
  await expect(ways.read(nowhere.blobs, chunks[0] as ChunkRef)).rejects.toMatchObject({
    kind: "not-found",
  });
  expect(nowhere.map.refreshes).toBe(1);
  expect(nowhere.asked).toEqual([empty, other, empty, other].map(({ address }) => address));
});

test.each(everyWay)(
  "A map that is old is asked for anew before a %s is given up",
  async (_, read) => {
    const [one] = await serveCopies();
    const empty = await serveStore(makeFolder());
    const made = await gateway([{ addresses: [empty.address] }]);
    made.map.onRefresh = () => made.map.give([{ addresses: [one.address] }]);
    const data = await read(made.blobs, chunks[2] as ChunkRef);
    expect(data.equals(blobs[2] as Buffer)).toBe(true);
    expect(made.asked).toEqual([empty.address, one.address]);
  },
);

test("A copy that is shorter than the catalog says is no answer", async () => {
  const [one, two] = await serveCopies();
  const made = await gateway([{ addresses: [one.address, two.address] }]);
  const { fid, length } = chunks[3] as ChunkRef;
  for (const [, read] of everyWay) {
    await expect(read(made.blobs, { fid, length: length + 1 })).rejects.toMatchObject({
      kind: "corrupt",
    });
  }
});

test("A single copy is never hedged, however slow", async () => {
  await serveCopies();
  const silent = await serveSilence();
  const made = await gateway([{ addresses: [silent.address] }]);
  const gone = new AbortController();
  const pulled = made.blobs.pull([chunks[0] as ChunkRef], () => undefined, {
    requestId: "r",
    signal: gone.signal,
  });
  await silent.asked(1);
  await made.time.pass(5_000);
  expect(made.asked).toEqual([silent.address]);
  expect(made.blobs.counts.hedgedReads).toBe(0);
  gone.abort();
  await expect(pulled).rejects.toMatchObject({ kind: "unavailable" });
  expect(made.asked.length).toBe(1);
});

test("What the receiver of a blob says is told as it is, and no copy is blamed", async () => {
  const [one, two] = await serveCopies();
  const made = await gateway([{ addresses: [one.address, two.address] }]);
  const refusal = new Error("no room");
  const pulled = made.blobs.pull(
    [chunks[4] as ChunkRef],
    () => {
      throw refusal;
    },
    { requestId: "r" },
  );
  await expect(pulled).rejects.toBe(refusal);
  expect(made.asked.length).toBe(1);
});

test("A large object of many chunks comes through whole and in ranges while a copy dies", async () => {
  const parts = Array.from({ length: 12 }, (_, at) => random.bytes(200_000 + at));
  const made = await makeSealedVolume(5, parts);
  const [one, two] = [await serveStore(made.folder), await serveStore(copyFolder(made.folder))];
  const pieces = made.fids.map((fid, at) => ({ fid, length: parts[at]?.length ?? 0 }));
  const whole = Buffer.concat(parts);
  const served = await gateway([{ volume: 5, addresses: [one.address, two.address] }]);
  let isKilled = false;
  const seeded = seededRandom(9);
  for (let turn = 0; turn < 20; turn++) {
    const cuts = [seeded.fraction(), seeded.fraction()].sort((a, b) => a - b);
    const [start = 0, end = 0] = cuts.map((each) => Math.floor(each * whole.length));
    const range = turn % 5 === 0 ? { start: 0, end: whole.length } : { start, end };
    let at = range.start;
    for await (const part of served.blobs.streamChunks(pieces, range, "r")) {
      expect(part.equals(whole.subarray(at, at + part.length))).toBe(true);
      at += part.length;
      if (turn === 10 && !isKilled && at > range.start + 500_000) {
        isKilled = true;
        await two.stop();
      }
    }
    expect(at).toBe(range.end);
  }
  expect(isKilled).toBe(true);
});

/** Compaction: the same file each time, nothing lost on the way, and nothing changed when it fails. */

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import type { Clock } from "../../base/clock.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { compactInto } from "./compaction.ts";
import { batchDigest, ChecksumSeeds, payloadDigestOf } from "./needle.ts";
import { OrdinalSet } from "./ordinal-set.ts";
import { type FoundRecord, Records } from "./records.ts";
import { scrubVolume } from "./scrub.ts";
import {
  attempt,
  blobOf,
  createOn,
  environmentOn,
  HandClock,
  openOn,
  readContent,
  simulatedFolder,
} from "./simulated-volume.ts";
import { superblockBytes } from "./superblock.ts";
import type { Volume } from "./volume.ts";

const nameOf = (generation: number) => `${simulatedFolder}/3.g${generation}.volume`;
const orderOf = (generation: number) => ({
  generation,
  ttlCutoffMs: 0,
  rateBytes: 0,
  purge: true,
});

interface Stored {
  fid: Fid;
  data: Buffer;
}

async function fill(volume: Volume, sizes: number[], seed = 1): Promise<Stored[]> {
  const random = seededRandom(seed);
  const stored: Stored[] = [];
  for (const size of sizes) {
    const data = random.bytes(size);
    stored.push({ fid: await volume.append(blobOf(data)), data });
  }
  return stored;
}

const remove = (volume: Volume, { fid }: Stored) => volume.delete(fid.ordinal, fid.cookie);

async function expectStored(volume: Volume, stored: readonly Stored[]): Promise<void> {
  for (const { fid, data } of stored) {
    expect((await readContent(volume, fid))?.equals(data), `needle ${fid.ordinal}`).toBe(true);
  }
}

function sha256Of(files: SimulatedFiles, name: string): string {
  const bytes = files.visible(name);
  return createHash("sha256")
    .update(bytes ?? "none")
    .digest("hex");
}

/** All files with their content. */
function stateOf(files: SimulatedFiles): Map<string, string> {
  return new Map(files.names("visible").map((name) => [name, sha256Of(files, name)]));
}

async function recordsOf(volume: Volume): Promise<FoundRecord[]> {
  return await volume.read(async ({ file, superblock, seeds }, end) => {
    const records = new Records({ file, end, identity: superblock, seeds });
    const found: FoundRecord[] = [];
    for (let at = superblockBytes; at < end; ) {
      const record = await records.at(at);
      if (record === undefined) throw new Error(`Cannot read on at ${at}`);
      found.push(record);
      at += record.head.length;
    }
    await records.close();
    return found;
  });
}

test("Two compactions of the same volume make the same file, whatever the rest of the disk did", async () => {
  const files = new SimulatedFiles();
  const clock = new HandClock();
  const volume = await createOn(environmentOn(files, { clock }));
  const stored = await fill(
    volume,
    Array.from({ length: 300 }, (_, at) => (at * 37) % 2_000),
  );
  for (const [at, each] of stored.entries()) if (at % 3 === 0) await remove(volume, each);
  await volume.seal();
  await volume.settled();
  const digests = new Set<string>();
  for (let run = 0; run < 4; run++) {
    const copy = files.clone();
    // Found by its checkpoint or by reading, at another time, at another rate, with other random numbers.
    if (run % 2 === 1) await copy.remove(`${simulatedFolder}/3.g0.index`);
    const later = new HandClock();
    later.ms += run * 1_000_000;
    const opened = await openOn(environmentOn(copy, { clock: later, seed: run }));
    await opened.compact({
      ...orderOf(1),
      purge: run > 1,
      rateBytes: run === 3 ? 1_000_000_000 : 0,
    });
    digests.add(sha256Of(copy, nameOf(1)));
    await expectStored(
      opened,
      stored.filter((_, at) => at % 3 !== 0),
    );
    await opened.close();
  }
  expect(digests.size).toBe(1);
  await volume.close();
});

test("A compacted file is what FORMAT.md says: order, batches, watermarks, chain, one epoch", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const sizes = Array.from({ length: 400 }, (_, at) => (at % 50 === 7 ? 90_000 : 100));
  const stored = await fill(volume, sizes);
  await fill(volume, [300_000, 10]);
  for (const each of stored.slice(100, 130)) await remove(volume, each);
  const before = await recordsOf(volume);
  await volume.seal();
  await volume.compact(orderOf(1));
  const after = await recordsOf(volume);
  expect(after).toHaveLength(before.length - 30);

  let previous: Buffer = Buffer.alloc(8);
  for (let at = 0; at < after.length; ) {
    const first = after[at];
    if (first === undefined) break;
    const batch = after.slice(at, at + first.head.batchCount);
    const batchBytes = batch.reduce((sum, { head }) => sum + head.length, 0);
    expect(batch.length).toBeLessThanOrEqual(128);
    if (batch.length > 1) expect(batchBytes).toBeLessThanOrEqual(262_144);
    // As many as fit: the next one would have been too much.
    const next = after[at + batch.length];
    const isFull = batch.length === 128 || batchBytes + (next?.head.length ?? 0) > 262_144;
    if (next !== undefined) expect(isFull).toBe(true);
    for (const [position, { head, headBytes, payloadDigest }] of batch.entries()) {
      expect(head.batchPosition).toBe(position);
      expect(head.batchCount).toBe(batch.length);
      expect(head.watermark).toBe(first.head.offset);
      expect(head.epoch).toBe(1);
      expect(head.isAfter(previous)).toBe(true);
      expect(payloadDigestOf(headBytes, head).equals(payloadDigest)).toBe(true);
    }
    previous = batchDigest(
      batch.map(({ head, payloadDigest }) => ({ headerCrc: head.headerCrc, payloadDigest })),
    );
    at += batch.length;
  }
  const kept = before.filter(({ head }) => head.ordinal < 100 || head.ordinal >= 130);
  for (const [at, { head, headBytes }] of kept.entries()) {
    const moved = after[at];
    expect(moved?.head).toMatchObject({
      ordinal: head.ordinal,
      cookie: head.cookie,
      timeMs: head.timeMs,
      ttlSeconds: head.ttlSeconds,
      dataLength: head.dataLength,
    });
    // Metadata and block table are carried over as they are.
    expect(moved?.headBytes.subarray(80).equals(headBytes.subarray(80))).toBe(true);
  }
  await volume.close();
});

test("Deletes that come while it runs hold, before the switch and after it", async () => {
  for (let turns = 0; turns < 60; turns += 4) {
    const files = new SimulatedFiles();
    const volume = await createOn(environmentOn(files));
    const stored = await fill(volume, [300, 20_000, 50, 700, 90]);
    await volume.seal();
    await volume.settled();
    const compacting = volume.compact(orderOf(1));
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    const [first, second] = stored;
    if (first === undefined || second === undefined) throw new Error("stored");
    await Promise.all([remove(volume, first), remove(volume, second), compacting]);
    expect(volume.report().deletedCount).toBe(2);
    expect(await readContent(volume, first.fid)).toBeUndefined();
    await volume.close();
    const opened = await openOn(environmentOn(files.restart({ lose: "all" })));
    expect(opened.report()).toMatchObject({ generation: 1, deletedCount: 2 });
    expect(await readContent(opened, first.fid)).toBeUndefined();
    expect(await readContent(opened, second.fid)).toBeUndefined();
    await expectStored(opened, stored.slice(2));
    await opened.compact(orderOf(2));
    expect((await recordsOf(opened)).map(({ head }) => head.ordinal)).toEqual([2, 3, 4]);
    await opened.close();
  }
});

test("A needle goes when its time was up before the cut-off, and not a millisecond sooner", async () => {
  const files = new SimulatedFiles();
  const clock = new HandClock();
  const startMs = clock.ms;
  const volume = await createOn(environmentOn(files, { clock }));
  const fids: Fid[] = [];
  for (const ttlSeconds of [0, 1, 10, 100]) {
    fids.push(await volume.append(blobOf(Buffer.from(`${ttlSeconds} s`), ttlSeconds)));
  }
  await volume.seal();
  const ordinalsAt = async (ttlCutoffMs: number) => {
    const opened = await openOn(environmentOn(files.clone()));
    await opened.compact({ ...orderOf(1), ttlCutoffMs });
    const ordinals = (await recordsOf(opened)).map(({ head }) => head.ordinal);
    expect(opened.superblock.firstFree).toBe(4);
    await opened.close();
    return ordinals;
  };
  expect(await ordinalsAt(0)).toEqual([0, 1, 2, 3]);
  expect(await ordinalsAt(startMs + 1_000)).toEqual([0, 1, 2, 3]);
  expect(await ordinalsAt(startMs + 1_001)).toEqual([0, 2, 3]);
  expect(await ordinalsAt(startMs + 10_001)).toEqual([0, 3]);
  expect(await ordinalsAt(startMs + 1_000_000)).toEqual([0]);
  await volume.close();
});

test("What was put into reserved places out of order gets into order", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), { class: "native" });
  const first = await volume.reserve(30);
  const stored = await fill(volume, [100, 200]);
  const random = seededRandom(6);
  for (const at of [20, 3, 11, 29, 0, 12]) {
    const data = random.bytes(at * 20);
    const fid = await volume.put({ ordinal: first + at, cookie: at + 100 }, blobOf(data));
    stored.push({ fid, data });
  }
  await volume.seal();
  await volume.compact(orderOf(1));
  const ordinals = (await recordsOf(volume)).map(({ head }) => head.ordinal);
  expect(ordinals).toEqual([0, 3, 11, 12, 20, 29, 30, 31]);
  await expectStored(volume, stored);
  await volume.close();
  for (const hasCheckpoint of [true, false]) {
    if (!hasCheckpoint) await files.remove(`${simulatedFolder}/3.g1.index`);
    const opened = await openOn(environmentOn(files));
    expect(opened.report()).toMatchObject({ needleCount: 32, damagedBytes: 0 });
    await expectStored(opened, stored);
    await opened.close();
  }
});

test("One byte that does not verify stops it, and leaves all as it was", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const stored = await fill(volume, [500, 40_000, 300, 20]);
  const records = await recordsOf(volume);
  await volume.seal();
  await volume.close();
  const [, second, third] = records.map(({ head }) => head);
  if (second === undefined || third === undefined) throw new Error("stored");
  for (const [at, why] of [
    [second.dataOffset + 39_999, /needle 1 at .*data/],
    [second.dataOffset, /needle 1 at .*data/],
    [second.offset + 20, /needle 1 at .*header/],
    [third.dataOffset + third.dataLength + 1, /needle 2 at .*footer/],
  ] as const) {
    const hurt = files.clone();
    hurt.flipBit(nameOf(0), at * 8);
    const opened = await openOn(environmentOn(hurt));
    const before = stateOf(hurt);
    const compacting = opened.compact(orderOf(1));
    await expect(compacting).rejects.toMatchObject({ kind: "corrupt" });
    await expect(compacting).rejects.toThrow(why);
    expect(stateOf(hurt)).toEqual(before);
    expect(opened.report()).toMatchObject({ generation: 0, operation: undefined });
    await expectStored(opened, [...stored.slice(0, 1), ...stored.slice(3)]);
    // What is damaged and deleted is in nobody's way.
    const damaged = stored[at < third.offset ? 1 : 2];
    if (damaged !== undefined && at >= second.dataOffset) {
      await remove(opened, damaged);
      await opened.compact(orderOf(1));
      await expectStored(opened, [...stored.slice(0, 1), ...stored.slice(3)]);
    }
    await opened.close();
  }
});

test("A disk that is full on the way leaves the source, and room that was made is used", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const stored = await fill(volume, [100_000, 200_000, 300_000]);
  await volume.seal();
  await volume.settled();
  const before = stateOf(files);
  for (const roomBytes of [0, 4_096, 100_000, 599_000]) {
    files.capacityBytes = files.usedBytes + roomBytes;
    expect(await attempt(() => volume.compact(orderOf(1)))).toMatchObject({ code: "ENOSPC" });
    expect(stateOf(files)).toEqual(before);
    expect(volume.report()).toMatchObject({ generation: 0, isWritable: false });
    await expectStored(volume, stored);
  }
  files.capacityBytes = files.usedBytes + 700_000;
  await volume.compact(orderOf(1));
  await expectStored(volume, stored);
  await volume.close();
});

test("A long compaction syncs on the way, and a sync that fails ends it and leaves the source", {
  timeout: 120_000,
}, async () => {
  const files = new SimulatedFiles({ blockBytes: 4_096 });
  const volume = await createOn(environmentOn(files));
  const large = Array.from({ length: 10 }, (_, at) => Buffer.alloc(8 * 1_048_576, at + 1));
  const stored: Stored[] = [];
  for (const data of large) stored.push({ fid: await volume.append(blobOf(data)), data });
  await volume.seal();
  await volume.settled();

  let syncs = 0;
  let failing = 0;
  const written: number[] = [0];
  files.plan = ({ kind, file }) => {
    if (file !== nameOf(1)) return undefined;
    if (kind === "write") written.push((written.pop() ?? 0) + 1);
    if (kind !== "sync") return undefined;
    syncs += 1;
    written.push(0);
    return syncs === failing ? { kind: "error", code: "EIO", done: "none" } : undefined;
  };
  // 80 MiB and something: two syncs on the way, and the last one for the rest.
  for (failing = 1; failing <= 3; failing++) {
    syncs = 0;
    await expect(volume.compact(orderOf(1)), `sync ${failing}`).rejects.toMatchObject({
      code: "EIO",
    });
    expect(syncs, "a sync that failed is not tried again, nor is another").toBe(failing);
    expect(files.names("visible")).not.toContain(nameOf(1));
    expect(volume.superblock.generation).toBe(0);
  }
  syncs = 0;
  failing = 0;
  written.splice(0, written.length, 0);
  await volume.compact(orderOf(1));
  expect(syncs).toBe(3);
  expect(Math.max(...written), "blocks of a MiB between two syncs").toBeLessThanOrEqual(32);
  await expectStored(volume, stored);
  await volume.close();

  const left = files.restart({ lose: "all" });
  const opened = await openOn(environmentOn(left));
  expect(opened.superblock.generation).toBe(1);
  await expectStored(opened, stored);
  await opened.close();
});

test("A reader that began before the switch reads on in the old file, which goes when it is done", async () => {
  const files = new SimulatedFiles({ blockBytes: 4_096 });
  const volume = await createOn(environmentOn(files));
  const data = Buffer.alloc(5 * 1_048_576);
  for (let at = 0; at < data.length; at += 1_000) data.writeUInt32LE(at, at);
  const fid = await volume.append(blobOf(data));
  await fill(volume, [100]);
  await volume.seal();
  const reader = await volume.find(fid.ordinal, fid.cookie);
  if (reader === undefined) throw new Error("stored");
  const pieces = reader.pieces(0, data.length);
  const read = [(await pieces.next()).value ?? Buffer.alloc(0)];
  expect(read[0]?.length).toBeLessThan(data.length);
  await volume.delete(fid.ordinal, fid.cookie);
  await volume.compact(orderOf(1));
  expect(files.visible(nameOf(0))).toBeUndefined();
  expect(await readContent(volume, fid)).toBeUndefined();
  for await (const piece of pieces) read.push(piece);
  expect(Buffer.concat(read).equals(data)).toBe(true);
  reader.close();
  await volume.close();
});

test("A second compaction makes one file of the first, and ordinals stay what they were", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const stored = await fill(volume, [10, 20, 30, 40, 50]);
  const [a, b, c, d, e] = stored;
  if (!a || !b || !c || !d || !e) throw new Error("five");
  await remove(volume, e);
  await volume.seal();
  const result = await volume.compact(orderOf(1));
  expect(result.freedBytes).toBe(152);
  expect(volume.superblock.firstFree).toBe(5);
  await remove(volume, a);
  await volume.compact(orderOf(2));
  expect(volume.superblock).toMatchObject({ generation: 2, firstFree: 5 });
  expect(volume.report()).toMatchObject({ needleCount: 5, deletedCount: 2, deadBytes: 0 });
  await expectStored(volume, [b, c, d]);
  await expect(volume.compact(orderOf(4))).rejects.toMatchObject({ kind: "conflict" });
  await expect(volume.compact(orderOf(1))).rejects.toMatchObject({ kind: "conflict" });
  expect(await volume.compact(orderOf(2))).toEqual({ copiedBytes: 0, freedBytes: 0 });
  await volume.close();
  // Where the last ordinals are gone, the superblock alone knows of them.
  await files.remove(`${simulatedFolder}/3.g2.index`);
  const opened = await openOn(environmentOn(files));
  expect(opened.report()).toMatchObject({ needleCount: 5, closedBecause: undefined });
  await opened.close();
});

test("A volume of which nothing is left is compacted to its superblock", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  for (const each of await fill(volume, [10, 2_000])) await remove(volume, each);
  await volume.seal();
  await volume.compact(orderOf(1));
  expect(volume.report()).toMatchObject({ lengthBytes: superblockBytes, needleCount: 2 });
  expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
  await volume.close();
  await files.remove(`${simulatedFolder}/3.g1.index`);
  const opened = await openOn(environmentOn(files));
  expect(opened.report()).toMatchObject({ lengthBytes: superblockBytes, needleCount: 2 });
  await opened.close();
});

test("The digest that it writes down is the one that a scrub finds", async () => {
  const files = new SimulatedFiles({ blockBytes: 4_096 });
  const volume = await createOn(environmentOn(files));
  const stored = await fill(volume, [1_500_000, 100, 900_000, 17]);
  const [first] = stored;
  if (first === undefined) throw new Error("stored");
  await remove(volume, first);
  await volume.seal();
  await volume.compact(orderOf(1));
  const described = () => {
    const [json = ""] = String(files.visible(`${simulatedFolder}/3.json`)).split("\n");
    return JSON.parse(json) as { sealedDigest?: string };
  };
  const { sealedDigest } = described();
  expect(sealedDigest).toMatch(/^[0-9a-f]{64}$/);
  const found = await volume.read((generation, end) =>
    scrubVolume({
      generation,
      end,
      rateBytes: 0,
      isDeleted: (ordinal) => volume.isDeleted(ordinal),
    }),
  );
  expect(found).toMatchObject({ findings: [], needleCount: 3, digest: sealedDigest });
  await volume.scrub({ rateBytes: 0 });
  expect(described().sealedDigest).toBe(sealedDigest);
  await volume.close();
});

test("With a rate each batch is paid for before the next, and a stop ends it", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await fill(
    volume,
    Array.from({ length: 20 }, () => 100_000),
  );
  await volume.seal();
  await volume.settled();
  // A clock that jumps a second with each look: no wait is ever needed, all looks are counted.
  let looks = 0;
  const clock: Clock = {
    nowMs: () => 0,
    monotonicMs: () => {
      looks += 1;
      return looks * 1_000;
    },
  };
  const stopping = new AbortController();
  let doneBytes = 0;
  const compactWith = async (name: string, signal?: AbortSignal) =>
    await volume.read(async (source, sourceEnd) => {
      const target = await files.open(name, "create");
      const superblock = { ...source.superblock, generation: 1, firstFree: source.index.count };
      try {
        return await compactInto({
          source,
          sourceEnd,
          epoch: 1,
          target,
          superblock,
          deleted: new OrdinalSet(),
          ttlCutoffMs: 0,
          rateBytes: 10_000_000,
          clock,
          signal,
          progress: (bytes) => {
            doneBytes = bytes;
            if (signal !== undefined && bytes > 500_000) stopping.abort();
          },
        });
      } finally {
        await target.close();
      }
    });
  const made = await compactWith(`${simulatedFolder}/whole`);
  expect(made.copiedBytes).toBe(volume.report().lengthBytes);
  // Two needles fit a batch.
  expect(looks).toBeGreaterThanOrEqual(10);
  const isWhole = await attempt(async () => {
    await compactWith(`${simulatedFolder}/part`, stopping.signal).catch((error: unknown) => {
      expect(stopping.signal.aborted).toBe(true);
      throw Object.assign(new Error("stopped", { cause: error }), { code: "stopped" });
    });
  });
  expect(isWhole).toMatchObject({ code: "stopped" });
  expect(doneBytes).toBeLessThan(1_000_000);
  await volume.close();
});

test("A generation in the trash that is gone already keeps no volume from opening", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const stored = await fill(volume, [100, 200]);
  await volume.seal();
  await volume.compact({ ...orderOf(1), purge: false });
  expect(volume.report().trashBytes).toBeGreaterThan(0);
  await volume.close();
  await files.remove(nameOf(0));
  const opened = await openOn(environmentOn(files));
  await expectStored(opened, stored);
  expect(opened.report().trashBytes).toBe(0);
  await opened.close();
});

test("A scrub that finds another digest than the one written down says so, and keeps it", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await fill(volume, [100, 200]);
  await volume.seal();
  await volume.compact(orderOf(1));
  const [first] = await recordsOf(volume);
  if (first === undefined) throw new Error("stored");
  await volume.close();
  const { sealedDigest } = JSON.parse(
    String(files.visible(`${simulatedFolder}/3.json`)).split("\n")[0] ?? "",
  ) as { sealedDigest: string };
  // Between footer and next needle, where no checksum but the digest of the whole looks.
  files.flipBit(nameOf(1), (first.head.offset + first.head.length - 1) * 8);
  const opened = await openOn(environmentOn(files));
  expect(await opened.scrub({ rateBytes: 0 })).not.toEqual([]);
  expect(String(files.visible(`${simulatedFolder}/3.json`))).toContain(sealedDigest);
  await opened.close();
});

test("A compacted file verifies under its own generation alone", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await fill(volume, [100, 200]);
  await volume.seal();
  await volume.compact(orderOf(1));
  await volume.read(async ({ file, superblock }, end) => {
    for (const generation of [0, 1, 2]) {
      const identity = { ...superblock, generation };
      const records = new Records({ file, end, identity, seeds: new ChecksumSeeds(identity) });
      expect((await records.at(superblockBytes)) !== undefined).toBe(generation === 1);
      await records.close();
    }
  });
  await volume.close();
});

for (const seed of [1, 2, 3]) {
  test(`A volume of many windows is verified and compacted, however its reads come (seed ${seed})`, async () => {
    const files = new SimulatedFiles({ blockBytes: 4_096, isDisordered: true, seed });
    const random = seededRandom(seed);
    const volume = await createOn(environmentOn(files));
    const contents = Array.from({ length: 14 }, (_, at) =>
      Buffer.alloc(random.u32() % (at % 3 === 0 ? 6_000_000 : 700_000), at + 1),
    );
    const fids = [];
    for (const content of contents) fids.push(await volume.append(blobOf(content)));
    await volume.seal();
    await volume.settled();
    expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
    await volume.compact({ generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true });
    expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
    for (const [at, fid] of fids.entries()) {
      const read = await readContent(volume, fid);
      expect(read?.equals(contents[at] ?? Buffer.alloc(0)), `needle ${at}`).toBe(true);
    }
    await volume.close();
  });
}

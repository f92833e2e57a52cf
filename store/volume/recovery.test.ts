/** Recovery at its edges: windows, long batches, tails that were never synced, and files cut short. */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import {
  blobOf,
  createOn,
  environmentOn,
  openOn,
  readContent,
  simulatedFolder,
} from "./simulated-volume.ts";
import { superblockBytes } from "./superblock.ts";
import { callCountMax } from "./volume-writer.ts";
import { windowBytes } from "./window.ts";

const volumeName = `${simulatedFolder}/3.g0.volume`;

test("A volume cut short right behind the edge of a window is damaged, and opens", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await volume.append(blobOf(Buffer.alloc(windowBytes + 1_048_576, 1)));
  const { lengthBytes } = volume.report();
  await volume.close();
  const bytes = files.visible(volumeName) ?? Buffer.alloc(0);
  for (const beyond of [0, 8, 16, 40, 72, 80, 200]) {
    const cut = files.clone();
    cut.put(volumeName, bytes.subarray(0, superblockBytes + windowBytes + beyond));
    const opened = await openOn(environmentOn(cut));
    expect(opened.report(), `${beyond} bytes beyond`).toMatchObject({
      lengthBytes,
      damagedBytes: lengthBytes - superblockBytes,
      isWritable: false,
    });
    await opened.close();
  }
});

test("A scrub of a volume cut short asks no byte by byte for what is not there", async () => {
  const files = new SimulatedFiles({ numbersReads: true });
  const volume = await createOn(environmentOn(files));
  await volume.append(blobOf(Buffer.alloc(65_536, 1)));
  await volume.close();
  const bytes = files.visible(volumeName) ?? Buffer.alloc(0);
  files.put(volumeName, bytes.subarray(0, superblockBytes + 100));
  const opened = await openOn(environmentOn(files));
  const before = files.operationCount;
  expect(await opened.scrub({ rateBytes: 0 })).not.toEqual([]);
  expect(files.operationCount - before).toBeLessThan(100);
  await opened.close();
});

test("A blob that was deleted before it was synced is no damage when the power cut takes it", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await volume.append(blobOf(Buffer.from("kept")));
  const { ordinal, cookie } = await volume.append(blobOf(Buffer.from("brief")), "memory");
  await volume.delete(ordinal, cookie);
  const opened = await openOn(environmentOn(files.restart({ lose: "all" })));
  expect(opened.report().damagedBytes).toBe(0);
  expect(opened.report().closedBecause).toBeUndefined();
  await opened.close();
});

test("A close whose sync fails leaves a volume that goes on where it was, with and without checkpoint", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  await volume.append(blobOf(Buffer.from("kept")));
  for (let at = 0; at < 4; at++) await volume.append(blobOf(Buffer.from(`brief ${at}`)), "memory");
  let isFailing = true;
  files.plan = ({ kind, file }) => {
    if (!isFailing || kind !== "sync" || file !== volumeName) return undefined;
    isFailing = false;
    return { kind: "error", code: "EIO", done: "none" };
  };
  await volume.close().catch(() => undefined);
  expect(isFailing).toBe(false);
  const again = files.restart({ lose: "none" });
  const opened = await openOn(environmentOn(again));
  await opened.beginEpoch(2);
  const later = await opened.append(blobOf(Buffer.from("later")));
  const last = again.restart({ lose: "all" });
  await last.remove(`${simulatedFolder}/3.g0.index`);
  const rebuilt = await openOn(environmentOn(last));
  expect(rebuilt.report()).toMatchObject({ damagedBytes: 0 });
  expect((await readContent(rebuilt, later))?.toString()).toBe("later");
  await rebuilt.close();
});

test("Deletes that were torn in two by a power cut are no damage", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const fids = await volume.appendAll(
    Array.from({ length: 80 }, (_, at) => blobOf(Buffer.from(`blob ${at}`))),
  );
  for (const { ordinal, cookie } of fids.slice(0, 2)) await volume.delete(ordinal, cookie);
  // The first alone, the others in one write over three sectors, of which a power cut may leave any.
  let syncs = 0;
  files.plan = ({ kind, file }) => {
    if (kind !== "sync" || !file.endsWith(".deleted")) return undefined;
    syncs += 1;
    return syncs === 2 ? { kind: "crash", done: "none" } : undefined;
  };
  await Promise.allSettled(
    fids.slice(2).map(({ ordinal, cookie }) => volume.delete(ordinal, cookie)),
  );
  expect(files.isCut).toBe(true);
  for (let seed = 1; seed <= 20; seed++) {
    const left = files.restart({ lose: "some", random: seededRandom(seed) });
    const opened = await openOn(environmentOn(left));
    expect(opened.report().damagedBytes, `seed ${seed}`).toBe(0);
    for (const { ordinal } of fids.slice(0, 2)) expect(opened.isDeleted(ordinal)).toBe(true);
    await opened.close();
  }
});

test("A scrub does not forget that the delete log is damaged", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  for (let at = 0; at < 3; at++) {
    const { ordinal, cookie } = await volume.append(blobOf(Buffer.from(`blob ${at}`)));
    await volume.delete(ordinal, cookie);
  }
  await volume.close();
  files.flipBit(`${simulatedFolder}/3.deleted`, 48 * 8);
  const opened = await openOn(environmentOn(files));
  expect(opened.report().damagedBytes).toBeGreaterThan(0);
  await opened.scrub({ rateBytes: 0 });
  expect(opened.report().damagedBytes).toBeGreaterThan(0);
  await opened.close();
});

test("The last record of a delete log that has rotted is damage, not a delete that never was", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const { ordinal, cookie } = await volume.append(blobOf(Buffer.from("gone")));
  await volume.delete(ordinal, cookie);
  await volume.close();
  files.flipBit(`${simulatedFolder}/3.deleted`, 48 * 8);
  const opened = await openOn(environmentOn(files));
  expect(opened.report().damagedBytes).toBeGreaterThan(0);
  await opened.close();
});

test("What is dead is never more than there is, however its ordinals were put", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), { class: "native" });
  const first = await volume.reserve(8);
  for (let at = 7; at >= 0; at--) {
    await volume.put({ ordinal: first + at, cookie: 7 }, blobOf(Buffer.alloc(100, at)));
  }
  for (let at = 0; at < 8; at++) await volume.delete(first + at, 7);
  await volume.close();
  const opened = await openOn(environmentOn(files));
  const { deadBytes, lengthBytes } = opened.report();
  expect(deadBytes).toBeLessThanOrEqual(lengthBytes - superblockBytes);
  await opened.close();
});

test("A blob that two delete at once is dead once", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const { ordinal, cookie } = await volume.append(blobOf(Buffer.from("gone")));
  await Promise.all([volume.delete(ordinal, cookie), volume.delete(ordinal, cookie)]);
  const { deadBytes, lengthBytes } = volume.report();
  expect(deadBytes).toBe(lengthBytes - superblockBytes);
  await volume.close();
});

test("What was put into a reservation that is lost is found all the same", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), { class: "native" });
  await volume.append(blobOf(Buffer.from("first")));
  const start = volume.report().lengthBytes;
  const first = await volume.reserve(10);
  for (const at of [2, 5, 1, 9]) {
    await volume.put({ ordinal: first + at, cookie: 7 }, blobOf(Buffer.from(`put ${at}`)));
  }
  const left = files.restart({ lose: "all" });
  await left.remove(`${simulatedFolder}/3.g0.index`);
  left.flipBit(volumeName, (start + 30) * 8);
  const opened = await openOn(environmentOn(left));
  expect(opened.report()).toMatchObject({ isWritable: false, damagedBytes: 96 });
  for (const at of [2, 5, 1, 9]) {
    const fid = { volume: 3, ordinal: first + at, cookie: 7 };
    expect((await readContent(opened, fid))?.toString(), `put ${at}`).toBe(`put ${at}`);
  }
  await opened.close();
});

test("A record is found wherever the edge of a window cuts it, whole or with damage before it", {
  timeout: 120_000,
}, async () => {
  const large = Buffer.alloc(windowBytes, 7);
  for (let back = 0; back <= 160; back += 8) {
    const files = new SimulatedFiles({ blockBytes: 4_096 });
    const volume = await createOn(environmentOn(files));
    // The second record begins `back` bytes before the edge: the first has 128 bytes of block table.
    const first = await volume.append(blobOf(large.subarray(0, windowBytes - back - 226)));
    expect(superblockBytes + windowBytes - volume.report().lengthBytes).toBe(back);
    const second = await volume.append(blobOf(Buffer.from(`second ${back}`)));
    const third = await volume.append(blobOf(Buffer.from(`third ${back}`)));
    const { lengthBytes } = volume.report();
    const left = files.restart({ lose: "all" });
    await left.remove(`${simulatedFolder}/3.g0.index`);
    const damaged = left.clone();
    damaged.flipBit(volumeName, superblockBytes * 8 + 300);

    const opened = await openOn(environmentOn(left));
    expect(opened.report()).toMatchObject({ lengthBytes, needleCount: 3, damagedBytes: 0 });
    expect((await readContent(opened, second))?.toString()).toBe(`second ${back}`);
    expect(await opened.scrub({ rateBytes: 0 })).toEqual([]);
    await opened.close();

    const hurt = await openOn(environmentOn(damaged));
    const damagedBytes = windowBytes - back;
    expect(hurt.report()).toMatchObject({ lengthBytes, needleCount: 3, damagedBytes });
    expect(await readContent(hurt, first)).toBeUndefined();
    expect((await readContent(hurt, second))?.toString()).toBe(`second ${back}`);
    expect((await readContent(hurt, third))?.toString()).toBe(`third ${back}`);
    expect(await hurt.scrub({ rateBytes: 0 })).toHaveLength(1);
    await hurt.close();
  }
});

test("A batch as long as can be is there whole, or not at all if its last byte is not", {
  timeout: 120_000,
}, async () => {
  const files = new SimulatedFiles({ blockBytes: 4_096 });
  const volume = await createOn(environmentOn(files));
  const before = await volume.append(blobOf(Buffer.from("before")));
  const tail = volume.report().lengthBytes;
  const content = (at: number) => Buffer.alloc(300, `blob ${at} `);
  const fids = await volume.appendAll(
    Array.from({ length: callCountMax }, (_, at) => blobOf(content(at))),
  );
  const { lengthBytes } = volume.report();
  expect(lengthBytes).toBeGreaterThan(windowBytes);
  const left = files.restart({ lose: "all" });
  await left.remove(`${simulatedFolder}/3.g0.index`);

  const torn = left.clone();
  const bytes = torn.visible(volumeName) ?? Buffer.alloc(0);
  torn.put(volumeName, bytes.subarray(0, lengthBytes - 8));
  const short = await openOn(environmentOn(torn));
  expect(short.report()).toMatchObject({ lengthBytes: tail, needleCount: 1, damagedBytes: 0 });
  expect((await readContent(short, before))?.toString()).toBe("before");
  await short.close();

  const opened = await openOn(environmentOn(left));
  expect(opened.report()).toMatchObject({ lengthBytes, needleCount: callCountMax + 1 });
  for (const [at, fid] of fids.entries()) {
    if (at % 100 !== 0 && at < callCountMax - 100) continue;
    expect((await readContent(opened, fid))?.equals(content(at))).toBe(true);
  }
  await opened.close();
});

test("Of what was never synced a power cut leaves a beginning, and no part of a call", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const random = seededRandom(3);
  const synced = random.bytes(700);
  const fid = await volume.append(blobOf(synced));
  const calls: { fids: Fid[]; contents: Buffer[] }[] = [];
  for (let call = 0; call < 12; call++) {
    const contents = Array.from({ length: 1 + (call % 3) }, () => random.bytes(300));
    const fids = await volume.appendAll(
      contents.map((data) => blobOf(data)),
      "memory",
    );
    calls.push({ fids, contents });
  }
  const counts = new Set<number>();
  for (let seed = 1; seed <= 60; seed++) {
    const left = files.restart({ lose: "some", random: seededRandom(seed) });
    const opened = await openOn(environmentOn(left));
    expect(opened.report(), `seed ${seed}`).toMatchObject({ damagedBytes: 0 });
    expect((await readContent(opened, fid))?.equals(synced)).toBe(true);
    let there = 0;
    for (const [call, { fids, contents }] of calls.entries()) {
      const read = await Promise.all(fids.map((each) => readContent(opened, each)));
      const isThere = read.every((data, at) => contents[at]?.equals(data ?? Buffer.alloc(0)));
      expect(isThere || read.every((data) => data === undefined), "no part of a call").toBe(true);
      if (!isThere) continue;
      expect(there, `seed ${seed}: call ${call} is there and one before it is not`).toBe(call);
      there += 1;
    }
    counts.add(there);
    // And it goes on: what was lost is as if it had never been.
    await opened.beginEpoch(2);
    const next = await opened.append(blobOf(Buffer.from("next")));
    const again = await openOn(environmentOn(left.restart({ lose: "all" })));
    expect((await readContent(again, next))?.toString()).toBe("next");
    await again.close();
  }
  expect(counts.size).toBeGreaterThan(2);
});

test("A volume whose disk is full, or failed a sync, still deletes what it still has", async () => {
  for (const code of ["ENOSPC", "EIO"] as const) {
    const files = new SimulatedFiles();
    const volume = await createOn(environmentOn(files));
    const kept = await volume.append(blobOf(Buffer.from("kept")));
    const { dataBytes, needleCount } = volume.report();
    await volume.append(blobOf(Buffer.from("brief")), "memory");
    let isFailing = true;
    files.plan = ({ kind, file }) =>
      isFailing && file === volumeName && kind === (code === "EIO" ? "sync" : "write")
        ? { kind: "error", code, done: "none" }
        : undefined;
    await expect(volume.append(blobOf(Buffer.from("refused")))).rejects.toBeInstanceOf(Failure);
    isFailing = false;
    expect(await volume.delete(kept.ordinal, kept.cookie), code).toBe(4);
    expect(await readContent(volume, kept)).toBeUndefined();
    // What a failed sync lost is not counted, sealed and reopened or not.
    await volume.seal();
    if (code === "EIO") expect(volume.report()).toMatchObject({ dataBytes, needleCount });
    const report = volume.report();
    await volume.close();
    const opened = await openOn(environmentOn(files));
    const { dataBytes: read, needleCount: count, deletedCount, damagedBytes } = opened.report();
    expect({ dataBytes: read, needleCount: count, deletedCount, damagedBytes }).toEqual({
      dataBytes: report.dataBytes,
      needleCount: report.needleCount,
      deletedCount: 1,
      damagedBytes: 0,
    });
    await opened.close();
  }
});

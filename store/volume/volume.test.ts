import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { crc32 } from "../../base/checksum.ts";
import { systemClock } from "../../base/clock.ts";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { diskFiles, type FileHandle, type FileSystem } from "../../base/files.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { ChecksumSeeds, headLength } from "./needle.ts";
import { superblockBytes } from "./superblock.ts";
import { Volume } from "./volume.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";

let folder: string;
let random: Random;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-volume-"));
  random = seededRandom(7);
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const limitBytes = 1_073_741_824;

function environment(files: FileSystem = diskFiles): VolumeEnvironment {
  return {
    files,
    clock: systemClock,
    random,
    folder,
    refusal: () => undefined,
    spend: () => undefined,
  };
}

async function createVolume(files?: FileSystem, limit = limitBytes): Promise<Volume> {
  const volume = await Volume.create(
    environment(files),
    {
      volume: 3,
      uuid: random.bytes(16),
      generation: 0,
      class: "original",
      recordMagic: random.bytes(8),
      createdMs: 1_790_000_000_000,
      firstFree: 0,
      ttlSeconds: 0,
      hasSparseKeys: false,
    },
    { members: ["a".repeat(16)], limitBytes: limit },
  );
  await volume.beginEpoch(1);
  return volume;
}

/** Ends a volume as a kill does: nobody has said how much of it was acknowledged. */
async function kill(volume: Volume): Promise<void> {
  const name = path.join(folder, "3.json");
  const descriptor = readFileSync(name);
  await volume.close();
  writeFileSync(name, descriptor);
}

const file = () => path.join(folder, "3.g0.volume");

function blobOf(data: Buffer) {
  return { data, metadata: Buffer.from("{}"), owner: undefined, ttlSeconds: 0 };
}

async function readAll(volume: Volume, { ordinal, cookie }: Fid): Promise<Buffer | undefined> {
  const needle = await volume.find(ordinal, cookie);
  if (needle === undefined) return undefined;
  try {
    return Buffer.from(await needle.content());
  } finally {
    needle.close();
  }
}

/** Appends blobs of these sizes one after the other; returns what was acknowledged. */
async function fill(volume: Volume, sizes: number[]): Promise<{ fid: Fid; data: Buffer }[]> {
  const stored = [];
  for (const size of sizes) {
    const data = random.bytes(size);
    stored.push({ fid: await volume.append(blobOf(data)), data });
  }
  return stored;
}

test("What was appended is read back, small and large, before and after a restart", async () => {
  const volume = await createVolume();
  const stored = await fill(volume, [0, 1, 1_000, 16_384, 16_385, 1_048_576, 3_000_000]);
  for (const { fid, data } of stored) expect(await readAll(volume, fid)).toEqual(data);
  await volume.close();

  const again = await Volume.open(environment(), 3, limitBytes);
  expect(again.report()).toMatchObject({ needleCount: 7, damagedBytes: 0, epoch: 1 });
  for (const { fid, data } of stored) expect(await readAll(again, fid)).toEqual(data);
  await again.close();
});

test("Those who come while a sync runs share the next one", async () => {
  const volume = await createVolume();
  const stored = await Promise.all(
    Array.from({ length: 200 }, async (_, at) => {
      const data = Buffer.from(`blob ${at}`);
      return { fid: await volume.append(blobOf(data)), data };
    }),
  );
  expect(volume.counts.appends).toBe(200);
  expect(volume.counts.syncs).toBeLessThan(20);
  expect(new Set(stored.map(({ fid }) => fid.ordinal)).size).toBe(200);
  for (const { fid, data } of stored) expect(await readAll(volume, fid)).toEqual(data);
  await volume.close();
});

test("A wrong cookie and an unknown ordinal find nothing", async () => {
  const volume = await createVolume();
  const [stored] = await fill(volume, [10]);
  if (stored === undefined) throw new Error("stored");
  expect(await volume.find(stored.fid.ordinal, stored.fid.cookie ^ 1)).toBeUndefined();
  expect(await volume.find(stored.fid.ordinal + 1, stored.fid.cookie)).toBeUndefined();
  await volume.close();
});

test("A deleted needle stays deleted over a restart, and only it", async () => {
  const volume = await createVolume();
  const stored = await fill(volume, [10, 20, 30]);
  const [first, second, third] = stored.map(({ fid }) => fid);
  if (first === undefined || second === undefined || third === undefined) throw new Error("stored");
  expect(await volume.delete(second.ordinal, second.cookie ^ 1)).toBeUndefined();
  expect(await volume.delete(second.ordinal, second.cookie)).toBe(20);
  expect(await volume.delete(second.ordinal, second.cookie)).toBeUndefined();
  await volume.close();
  const again = await Volume.open(environment(), 3, limitBytes);
  expect(await readAll(again, first)).toHaveLength(10);
  expect(await readAll(again, second)).toBeUndefined();
  expect(await readAll(again, third)).toHaveLength(30);
  await again.close();
});

test("Cut at any byte of its last batch, a volume keeps all before and takes appends again", async () => {
  const volume = await createVolume();
  const kept = await fill(volume, [100, 20_000]);
  const tail = volume.report().lengthBytes;
  await Promise.all([
    volume.append(blobOf(Buffer.alloc(50, 1))),
    volume.append(blobOf(Buffer.alloc(60, 2))),
  ]);
  await kill(volume);
  const whole = readFileSync(file());
  for (let length = tail; length < whole.length; length += 3) {
    writeFileSync(file(), whole.subarray(0, length));
    const opened = await Volume.open(environment(), 3, limitBytes);
    const { lengthBytes, damagedBytes } = opened.report();
    expect(damagedBytes).toBe(0);
    expect(lengthBytes).toBeGreaterThanOrEqual(tail);
    expect(statSync(file()).size).toBe(lengthBytes);
    for (const { fid, data } of kept) expect(await readAll(opened, fid)).toEqual(data);
    await opened.beginEpoch(opened.report().epoch + 1);
    const data = random.bytes(77);
    const fid = await opened.append(blobOf(data));
    await kill(opened);
    const again = await Volume.open(environment(), 3, limitBytes);
    expect(await readAll(again, fid)).toEqual(data);
    await again.close();
  }
});

test("A last batch whose data did not reach the disk is dropped whole", async () => {
  const volume = await createVolume();
  const [kept] = await fill(volume, [100]);
  const tail = volume.report().lengthBytes;
  await volume.append(blobOf(Buffer.alloc(40_000, 5)));
  await kill(volume);
  const bytes = readFileSync(file());
  bytes.fill(0, tail + 20_000, tail + 20_512); // a page in the middle stayed behind in the cache
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ needleCount: 1, lengthBytes: tail, damagedBytes: 0 });
  if (kept !== undefined) expect(await readAll(opened, kept.fid)).toEqual(kept.data);
  await opened.close();
});

test("Leftovers of a torn batch never come back, whatever is written over them", async () => {
  const volume = await createVolume();
  await fill(volume, [10]);
  const tail = volume.report().lengthBytes;
  // Two needles in one batch, of which the second is torn.
  await fill(volume, [10]);
  const batch = Array.from({ length: 4 }, (_, at) => volume.append(blobOf(Buffer.alloc(40, at))));
  await Promise.all(batch);
  await kill(volume);
  const bytes = readFileSync(file());
  const torn = bytes.subarray(0, bytes.length - 8);
  writeFileSync(file(), torn);
  const opened = await Volume.open(environment(), 3, limitBytes);
  await opened.beginEpoch(2);
  const fid = await opened.append(blobOf(Buffer.from("after")));
  await opened.close();
  // As if the file had not been cut: what the torn batch left lies beyond the new one.
  const grown = readFileSync(file());
  writeFileSync(file(), Buffer.concat([grown, torn.subarray(grown.length)]));
  const again = await Volume.open(environment(), 3, limitBytes);
  expect(again.report().lengthBytes).toBe(grown.length);
  expect(again.report().damagedBytes).toBe(0);
  expect(await readAll(again, fid)).toEqual(Buffer.from("after"));
  expect(tail).toBeGreaterThan(superblockBytes);
  await again.close();
});

test("Damage below the tail is no end: the rest is read, nothing is appended", async () => {
  const volume = await createVolume();
  const stored = await fill(volume, [500, 500, 500, 500]);
  const { lengthBytes } = volume.report();
  await volume.close();
  const bytes = readFileSync(file());
  const needle = (lengthBytes - superblockBytes) / 4;
  bytes.fill(0xee, superblockBytes + needle + 10, superblockBytes + needle + 20);
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ lengthBytes, damagedBytes: needle, isWritable: false });
  expect(opened.report().closedBecause).toMatch(/damaged/);
  for (const [at, { fid, data }] of stored.entries()) {
    expect(await readAll(opened, fid)).toEqual(at === 1 ? undefined : data);
  }
  await opened.beginEpoch(2);
  await expect(opened.append(blobOf(Buffer.from("x")))).rejects.toThrow(/damaged/);
  expect(statSync(file()).size).toBe(lengthBytes);
  await opened.close();
});

test("Damaged data is never handed out; what lies in other blocks is", async () => {
  const volume = await createVolume();
  const [large, small] = await fill(volume, [2_000_000, 1_000]);
  if (large === undefined || small === undefined) throw new Error("stored");
  await volume.close();
  const bytes = readFileSync(file());
  const at = superblockBytes + 1_500_000;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  await expect(readAll(opened, large.fid)).rejects.toMatchObject({ kind: "corrupt" });
  const needle = await opened.find(large.fid.ordinal, large.fid.cookie);
  if (needle === undefined) throw new Error("the needle is there");
  const start = Buffer.concat(await Array.fromAsync(needle.pieces(5, 70_000)));
  needle.close();
  expect(start).toEqual(large.data.subarray(5, 70_000));
  expect(await readAll(opened, small.fid)).toEqual(small.data);
  await opened.close();
});

test("A blob full of needles never becomes one, even where recovery steps over damage", async () => {
  const volume = await createVolume();
  const [first] = await fill(volume, [300]);
  await volume.close();
  // The most that an attacker could know: everything but the record magic, which is never shown.
  const forged = Buffer.from(readFileSync(file()).subarray(superblockBytes));
  random.bytes(8).copy(forged);
  const opened = await Volume.open(environment(), 3, limitBytes);
  await opened.beginEpoch(2);
  const hostile = await opened.append(blobOf(Buffer.concat([forged, forged, forged])));
  const last = await opened.append(blobOf(Buffer.from("last")));
  await opened.close();
  const bytes = readFileSync(file());
  bytes.fill(0, superblockBytes, superblockBytes + 40);
  bytes.fill(0, superblockBytes + forged.length, superblockBytes + forged.length + 40);
  writeFileSync(file(), bytes);
  const again = await Volume.open(environment(), 3, limitBytes);
  expect(again.report().needleCount).toBe(3);
  if (first !== undefined) expect(await readAll(again, first.fid)).toBeUndefined();
  expect(await readAll(again, hostile)).toBeUndefined();
  expect(await readAll(again, last)).toEqual(Buffer.from("last"));
  await again.close();
});

test("Nothing is appended without an epoch of this run, nor under one that was obeyed before", async () => {
  const volume = await createVolume();
  await fill(volume, [10]);
  await volume.close();
  const opened = await Volume.open(environment(), 3, limitBytes);
  await expect(opened.append(blobOf(Buffer.from("x")))).rejects.toMatchObject({
    kind: "unavailable",
  });
  await expect(opened.beginEpoch(1)).rejects.toMatchObject({ kind: "conflict" });
  await opened.beginEpoch(2);
  await opened.append(blobOf(Buffer.from("x")));
  await opened.close();
});

test("A sealed volume is read and not appended to, over a restart too", async () => {
  const volume = await createVolume();
  const [stored] = await fill(volume, [10]);
  await volume.seal();
  await volume.seal();
  await expect(volume.append(blobOf(Buffer.from("x")))).rejects.toThrow(/sealed/);
  await volume.close();
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ state: "sealed", isWritable: false });
  if (stored !== undefined) expect(await readAll(opened, stored.fid)).toEqual(stored.data);
  await opened.close();
});

test("A full volume refuses and says so; what it has stays readable", async () => {
  const small = await createVolume(diskFiles, superblockBytes + 2_000);
  const fid = await small.append(blobOf(Buffer.alloc(1_000, 1)));
  await expect(small.append(blobOf(Buffer.alloc(1_000, 2)))).rejects.toThrow(/full/);
  expect(small.report().closedBecause).toMatch(/full/);
  expect(await readAll(small, fid)).toEqual(Buffer.alloc(1_000, 1));
  await small.close();
});

test("The superblock's second copy serves when the first is lost; without both the volume is refused", async () => {
  const volume = await createVolume();
  const [stored] = await fill(volume, [10]);
  await volume.close();
  const bytes = readFileSync(file());
  bytes.fill(0, 0, 4_096);
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  if (stored !== undefined) expect(await readAll(opened, stored.fid)).toEqual(stored.data);
  await opened.close();
  bytes.fill(0, 4_096, 8_192);
  writeFileSync(file(), bytes);
  await expect(Volume.open(environment(), 3, limitBytes)).rejects.toMatchObject({
    kind: "corrupt",
  });
  truncateSync(file(), 100);
  await expect(Volume.open(environment(), 3, limitBytes)).rejects.toMatchObject({
    kind: "corrupt",
  });
});

/** The disk, but a call on a volume file fails when `isFaulty` says so. */
function faultyFiles(isFaulty: (call: "write" | "sync") => Error | undefined): FileSystem {
  return {
    ...diskFiles,
    async open(name, mode) {
      const handle = await diskFiles.open(name, mode);
      if (!name.endsWith(".volume")) return handle;
      const faulty: FileHandle = {
        read: (target, offset) => handle.read(target, offset),
        readNow: (target, offset) => handle.readNow(target, offset),
        sizeBytes: () => handle.sizeBytes(),
        truncate: (length) => handle.truncate(length),
        close: () => handle.close(),
        async write(parts, offset) {
          const error = isFaulty("write");
          if (error !== undefined) throw error;
          await handle.write(parts, offset);
        },
        async syncData() {
          const error = isFaulty("sync");
          if (error !== undefined) throw error;
          await handle.syncData();
        },
      };
      return faulty;
    },
  };
}

for (const call of ["write", "sync"] as const) {
  test(`After a failed ${call} nothing is acknowledged any more, and reads go on`, async () => {
    let fault: Error | undefined;
    const volume = await createVolume(faultyFiles((which) => (which === call ? fault : undefined)));
    const [stored] = await fill(volume, [100]);
    fault = Object.assign(new Error("input/output error"), { code: "EIO" });
    await expect(volume.append(blobOf(Buffer.from("a")))).rejects.toBeInstanceOf(Failure);
    fault = undefined;
    // The disk seems well again: that is no evidence of anything.
    await expect(volume.append(blobOf(Buffer.from("b")))).rejects.toThrow(/the disk failed/);
    expect(volume.report()).toMatchObject({ needleCount: 1, isWritable: false });
    if (stored !== undefined) expect(await readAll(volume, stored.fid)).toEqual(stored.data);
    await volume.seal();
    await volume.close();
    const opened = await Volume.open(environment(), 3, limitBytes);
    expect(opened.report()).toMatchObject({ state: "sealed", needleCount: 1 });
    if (stored !== undefined) expect(await readAll(opened, stored.fid)).toEqual(stored.data);
    await opened.close();
  });
}

test("What a stop in good order left is damage when it is gone, not a shorter volume", async () => {
  const volume = await createVolume();
  const stored = await fill(volume, [100, 100]);
  const { lengthBytes } = volume.report();
  await volume.close();
  const bytes = readFileSync(file());
  const at = lengthBytes - 50;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ lengthBytes, needleCount: 2 });
  expect(opened.report().closedBecause ?? "").toMatch(/damaged|^$/);
  const [first, second] = stored;
  if (first === undefined || second === undefined) throw new Error("stored");
  expect(await readAll(opened, first.fid)).toEqual(first.data);
  const damaged = await readAll(opened, second.fid).catch((error: Failure) => error.kind);
  expect(["corrupt", undefined]).toContain(damaged);
  await opened.close();
});

test("A rotten bit in the last batch of a sealed volume costs what it lies in, and is reported", async () => {
  const volume = await createVolume();
  const stored = await Promise.all(
    Array.from({ length: 20 }, async (_, at) => {
      const data = random.bytes(100 + at);
      return { fid: await volume.append(blobOf(data)), data };
    }),
  );
  await volume.seal();
  const { lengthBytes } = volume.report();
  await volume.close();
  const bytes = readFileSync(file());
  // In the header of the last needle.
  const magic = bytes.subarray(superblockBytes, superblockBytes + 8);
  const at = bytes.lastIndexOf(magic) + 30;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file(), bytes);
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ lengthBytes, state: "sealed" });
  const findings = await opened.scrub({ rateBytes: 0 });
  expect(findings).toHaveLength(1);
  expect(opened.report().damagedBytes).toBeGreaterThan(0);
  let lost = 0;
  for (const { fid, data } of stored) {
    const read = await readAll(opened, fid).catch((error: Failure) => error.kind);
    if (read === "corrupt") lost += 1;
    else expect(read).toEqual(data);
  }
  expect(lost).toBe(1);
  await opened.close();
  // Without the checkpoint a start finds it by itself.
  rmSync(path.join(folder, "3.g0.index"));
  const rebuilt = await Volume.open(environment(), 3, limitBytes);
  expect(rebuilt.report().damagedBytes).toBeGreaterThan(0);
  expect(rebuilt.report()).toMatchObject({ lengthBytes, isWritable: false });
  await rebuilt.close();
});

test("A volume is created once: neither its files nor a leftover of another are replaced", async () => {
  const volume = await createVolume();
  const [stored] = await fill(volume, [1_000]);
  await volume.close();
  const before = readFileSync(file());
  await expect(createVolume()).rejects.toMatchObject({ kind: "conflict" });
  rmSync(path.join(folder, "3.json"));
  await expect(createVolume()).rejects.toMatchObject({ kind: "conflict" });
  expect(readFileSync(file())).toEqual(before);
  expect(stored).toBeDefined();
});

test("A creation that was cut short is done again", async () => {
  writeFileSync(`${file()}.new`, "half a superblock");
  const volume = await createVolume();
  const [stored] = await fill(volume, [10]);
  if (stored !== undefined) expect(await readAll(volume, stored.fid)).toEqual(stored.data);
  await volume.close();
});

test("A lost delete log is damage: nothing that was deleted comes back", async () => {
  const volume = await createVolume();
  const [stored] = await fill(volume, [10]);
  if (stored === undefined) throw new Error("stored");
  await volume.delete(stored.fid.ordinal, stored.fid.cookie);
  await volume.close();
  rmSync(path.join(folder, "3.deleted"));
  await expect(Volume.open(environment(), 3, limitBytes)).rejects.toMatchObject({
    kind: "corrupt",
  });
});

test("No blob is born deleted: a tail that is lost although it was deleted from closes the volume", async () => {
  const volume = await createVolume();
  await fill(volume, [10]);
  const tail = volume.report().lengthBytes;
  const [last] = await fill(volume, [10]);
  if (last === undefined) throw new Error("stored");
  await volume.delete(last.fid.ordinal, last.fid.cookie);
  await kill(volume);
  truncateSync(file(), tail);
  const opened = await Volume.open(environment(), 3, limitBytes);
  expect(opened.report()).toMatchObject({ isWritable: false, needleCount: 1 });
  expect(opened.report().closedBecause).toMatch(/damaged/);
  await opened.close();
});

test("A needle of a newer program is refused, and its volume is not cut", async () => {
  const volume = await createVolume();
  await fill(volume, [10]);
  await kill(volume);
  const bytes = readFileSync(file());
  const start = superblockBytes;
  bytes[start + 13] = 3; // a codec that a later version may write
  const uuid = bytes.subarray(16, 32);
  const seeds = new ChecksumSeeds({ uuid, generation: 0 });
  const covered = bytes.subarray(
    start + 12,
    start + headLength({ metadataLength: 2, dataLength: 10 }),
  );
  bytes.writeUInt32LE(crc32(covered, seeds.place(start)), start + 8);
  writeFileSync(file(), bytes);
  await expect(Volume.open(environment(), 3, limitBytes)).rejects.toThrow(/codec 3/);
  expect(readFileSync(file())).toEqual(bytes);
});

test("A full disk is told as such", async () => {
  let fault: Error | undefined;
  const volume = await createVolume(faultyFiles(() => fault));
  fault = Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
  await expect(volume.append(blobOf(Buffer.from("a")))).rejects.toMatchObject({ kind: "full" });
  await volume.close();
});

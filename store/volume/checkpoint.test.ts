import { expect, test } from "vitest";
import { crc32 } from "../../base/checksum.ts";
import { seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { type Checkpoint, encodeCheckpoint, readCheckpoint } from "./checkpoint.ts";
import { KeyIndex } from "./key-index.ts";
import { OffsetIndex } from "./offset-index.ts";
import { SealedIndex } from "./sealed-index.ts";
import {
  blobOf,
  createOn,
  environmentOn,
  openOn,
  Promises,
  readContent,
  simulatedFolder,
} from "./simulated-volume.ts";

const file = `${simulatedFolder}/3.g2.index`;
const identity = { volume: 3, uuid: Buffer.alloc(16, 9), generation: 2 };
const end = {
  tail: 80_000,
  lastDigest: Buffer.from("0123456789abcdef", "hex"),
  epoch: 7,
  dataBytes: 2 ** 40 + 1,
  lastTimeMs: 1_790_000_000_123,
};

/** Ordinals with gaps, and some out of order. */
function offsets(): OffsetIndex {
  const index = new OffsetIndex();
  for (const [ordinal, offset] of [
    [0, 8_192],
    [1, 9_000],
    [4, 9_104],
    [3, 10_000],
    [9, 20_000],
    [8, 30_000],
  ] as const) {
    index.set(ordinal, offset);
  }
  index.skipTo(12);
  return index;
}

async function sealedOf(index: OffsetIndex): Promise<SealedIndex> {
  const get = (ordinal: number) => index.get(ordinal);
  return await SealedIndex.build({ count: index.count, get, endOffset: end.tail });
}

async function written(checkpoint: Checkpoint): Promise<SimulatedFiles> {
  const files = new SimulatedFiles();
  files.put(file, Buffer.concat(await encodeCheckpoint(identity, checkpoint, true)));
  return files;
}

function expectIndex(found: OffsetIndex | SealedIndex | undefined, wanted: OffsetIndex): void {
  expect(found?.count).toBe(wanted.count);
  expect(found?.presentCount).toBe(wanted.presentCount);
  for (let ordinal = 0; ordinal < wanted.count + 5; ordinal++) {
    expect(found?.get(ordinal), `ordinal ${ordinal}`).toBe(wanted.get(ordinal));
  }
}

test("What is read is what was written: an open index", async () => {
  const files = await written({ ...end, index: offsets() });
  const { index, keys, leaves, ...found } = (await readCheckpoint(files, file, identity)) ?? {};
  expect(found).toEqual(end);
  expect(index).toBeInstanceOf(OffsetIndex);
  expectIndex(index, offsets());
  expect(keys).toBeUndefined();
  expect(leaves).toBeUndefined();
});

test("What is read is what was written: a sealed index, keys and leaves", async () => {
  const values = BigUint64Array.from({ length: 12 }, (_, at) => BigInt(at) * 1_000_003n + 5n);
  const keys = KeyIndex.build(values);
  const leaves = seededRandom(2).bytes(96);
  const files = await written({ ...end, index: await sealedOf(offsets()), keys, leaves });
  const found = await readCheckpoint(files, file, identity);
  expect(found).toMatchObject(end);
  expect(found?.index).toBeInstanceOf(SealedIndex);
  expectIndex(found?.index, offsets());
  for (const [ordinal, key] of values.entries()) {
    expect(found?.keys?.find(key)).toBe(ordinal);
    expect(found?.keys?.get(ordinal)).toBe(key);
  }
  expect(found?.leaves?.equals(leaves)).toBe(true);
});

test("An empty volume has one, and an index of several pieces too", async () => {
  const empty = await readCheckpoint(
    await written({ ...end, index: new OffsetIndex() }),
    file,
    identity,
  );
  expect(empty?.index.count).toBe(0);
  const many = new OffsetIndex();
  for (let ordinal = 0; ordinal < 140_000; ordinal++) many.set(ordinal, 8_192 + ordinal * 112);
  const found = await readCheckpoint(await written({ ...end, index: many }), file, identity);
  for (const ordinal of [0, 65_535, 65_536, 131_071, 131_072, 139_999]) {
    expect(found?.index.get(ordinal)).toBe(8_192 + ordinal * 112);
  }
  // It goes on from there.
  if (found?.index instanceof OffsetIndex) found.index.set(140_000, 8);
  expect(found?.index.get(140_000)).toBe(8);
});

test("There may be none", async () => {
  expect(await readCheckpoint(new SimulatedFiles(), file, identity)).toBeUndefined();
});

test("One of another volume, generation or version, or of an unknown kind, is refused", async () => {
  const files = await written({ ...end, index: offsets() });
  for (const other of [
    { ...identity, volume: 4 },
    { ...identity, uuid: Buffer.alloc(16, 8) },
    { ...identity, generation: 1 },
  ]) {
    const reading = readCheckpoint(files, file, other);
    await expect(reading).rejects.toMatchObject({ kind: "corrupt" });
    await expect(reading).rejects.toThrow(/another volume or generation/);
  }
  for (const [at, value] of [
    [8, 2], // format version
    [36, 2], // kind
    [0, 0], // magic
  ] as const) {
    const bytes = Buffer.from(files.visible(file) ?? "");
    bytes.writeUInt32LE(value, at);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 124)), 124);
    const changed = new SimulatedFiles();
    changed.put(file, bytes);
    await expect(readCheckpoint(changed, file, identity)).rejects.toThrow(/version/);
  }
});

for (const kind of ["open", "sealed"] as const) {
  test(`Cut at any length, and with any bit turned over, it is refused (${kind})`, async () => {
    const index = kind === "open" ? offsets() : await sealedOf(offsets());
    const leaves = kind === "open" ? undefined : Buffer.alloc(32, 3);
    const files = await written({ ...end, index, leaves });
    const bytes = files.visible(file) ?? Buffer.alloc(0);
    for (let length = 0; length < bytes.length; length++) {
      const cut = new SimulatedFiles();
      cut.put(file, bytes.subarray(0, length));
      await expect(readCheckpoint(cut, file, identity)).rejects.toMatchObject({ kind: "corrupt" });
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const rotten = files.clone();
      rotten.flipBit(file, bit);
      await expect(readCheckpoint(rotten, file, identity)).rejects.toMatchObject({
        kind: "corrupt",
      });
    }
  });
}

const volumeName = `${simulatedFolder}/3.g0.volume`;
const indexName = `${simulatedFolder}/3.g0.index`;

/** A volume of some needles, one for each call, with a copy of the disk after each. */
async function history(): Promise<{ disks: SimulatedFiles[]; promises: Promises }> {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const promises = new Promises();
  const disks: SimulatedFiles[] = [];
  for (let at = 0; at < 12; at++) {
    await promises.append(volume, [Buffer.from(`blob ${at}`)]);
    if (at % 3 === 1) await promises.delete(volume, at);
    await volume.settled();
    disks.push(files.clone());
  }
  return { disks, promises };
}

test("A checkpoint older than its volume is where reading begins, not where it ends", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  const promises = new Promises();
  const checkpoints = new Set<string>();
  for (let at = 0; at < 12; at++) {
    await promises.append(volume, [Buffer.from(`blob ${at}`)]);
    await volume.settled();
    checkpoints.add((files.visible(indexName) ?? Buffer.alloc(0)).toString("hex"));
  }
  expect(checkpoints.size).toBeGreaterThan(3);
  const left = files.restart({ lose: "all" });
  for (const checkpoint of checkpoints) {
    const disk = left.clone();
    if (checkpoint === "") await disk.remove(indexName);
    else disk.put(indexName, Buffer.from(checkpoint, "hex"));
    const opened = await openOn(environmentOn(disk));
    expect(opened.report()).toMatchObject({ needleCount: 12, damagedBytes: 0 });
    await promises.check(opened);
    await opened.beginEpoch(2);
    const fid = await opened.append(blobOf(Buffer.from("next")));
    const again = await openOn(environmentOn(disk.restart({ lose: "all" })));
    await promises.check(again);
    expect((await readContent(again, fid))?.toString()).toBe("next");
    await again.close();
  }
});

test("A checkpoint newer than its volume tells that the volume is shorter than it was", async () => {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files));
  for (let at = 0; at < 6; at++) await volume.append(blobOf(Buffer.from(`blob ${at}`)));
  await volume.settled();
  const left = files.restart({ lose: "all" });
  const bytes = left.visible(volumeName) ?? Buffer.alloc(0);
  const found = await readCheckpoint(left, indexName, volume.superblock);
  if (found === undefined) throw new Error("there is one");
  for (let length = 8_192; length < found.tail; length += 4) {
    const cut = left.clone();
    cut.put(volumeName, bytes.subarray(0, length));
    const notes: string[] = [];
    const opened = await openOn({
      ...environmentOn(cut),
      note: (message) => notes.push(message),
    });
    const report = opened.report();
    expect(report.lengthBytes).toBe(found.tail);
    expect(report.damagedBytes, `cut at ${length}`).toBeGreaterThanOrEqual(found.tail - length);
    expect(report.isWritable).toBe(false);
    expect(notes.join()).toMatch(/reaches beyond/);
    expect(cut.visible(volumeName)).toHaveLength(length);
    await opened.close();
  }
});

test("The checkpoint of another volume, or of garbage, is made anew and told", async () => {
  const { disks, promises } = await history();
  const disk = disks.at(-1)?.restart({ lose: "all" });
  if (disk === undefined) throw new Error("there is one");
  for (const content of [Buffer.alloc(0), Buffer.alloc(500, 0xff), Buffer.from("HAYLOFTI")]) {
    const files = disk.clone();
    files.put(indexName, content);
    const notes: string[] = [];
    const environment = {
      ...environmentOn(files),
      note: (message: string) => notes.push(message),
    };
    const opened = await openOn(environment);
    expect(notes).toHaveLength(1);
    expect(opened.report()).toMatchObject({ needleCount: 12, damagedBytes: 0 });
    await promises.check(opened);
    await opened.beginEpoch(2);
    await opened.close();
    const again = await openOn(environment);
    await promises.check(again);
    expect(notes, "it was made anew").toHaveLength(1);
    await again.close();
  }
});

test("A checkpoint that a power cut took leaves the one before, or none, and nothing is lost", async () => {
  const { disks } = await history();
  for (const [at, disk] of disks.entries()) {
    const without = disk.restart({ lose: "all" });
    await without.remove(indexName);
    for (const each of [disk.restart({ lose: "all" }), without]) {
      const opened = await openOn(environmentOn(each));
      expect(opened.report()).toMatchObject({ needleCount: at + 1, damagedBytes: 0 });
      await opened.close();
    }
  }
});

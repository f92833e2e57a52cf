/**
 * Blobs that were made to pass for needles: content and metadata belong to whoever sent them, and what is
 * in them is never served as anything else, however the volume around them is damaged.
 *
 * What protects: a needle is found where the index leads, so its bytes alone are worth nothing. Only where
 * recovery, scrub or compaction step over damage do they look for headers among other bytes. There the
 * record magic is asked for, which nobody outside knows, and a checksum that is bound to uuid, generation
 * and offset: with the magic alone, or the bytes of a needle of this very volume, there is nothing to gain.
 */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { ChecksumSeeds, encodeNeedle, headerBytes } from "./needle.ts";
import {
  blobOf,
  createOn,
  environmentOn,
  openOn,
  readContent,
  simulatedFolder,
} from "./simulated-volume.ts";
import { type Superblock, superblockBytes } from "./superblock.ts";
import type { Blob, Volume } from "./volume.ts";

const volumeName = `${simulatedFolder}/3.g0.volume`;
const indexName = `${simulatedFolder}/3.g0.index`;
const order = { generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true };

interface Forgery {
  bytes: Buffer;
  /** What an attacker would read if it took. */
  fids: Fid[];
  contents: Set<string>;
}

/** The bytes of needles that the engine made in a volume of one's own. */
async function forge(change: Partial<Superblock>): Promise<Forgery> {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files, { seed: 5 }), change);
  const contents = Array.from({ length: 9 }, (_, at) => Buffer.from(`forged ${at} `.repeat(9)));
  const fids: Fid[] = [];
  for (const data of contents.slice(0, 6)) fids.push(await volume.append(blobOf(data)));
  fids.push(...(await volume.appendAll(contents.slice(6).map((data) => blobOf(data)))));
  const bytes = Buffer.from(files.visible(volumeName) ?? "").subarray(superblockBytes);
  await volume.close();
  return { bytes, fids, contents: new Set(contents.map((data) => data.toString("hex"))) };
}

/** The superblock of the volume that is attacked: what the worst of insiders may know. */
async function victimSuperblock(): Promise<Superblock> {
  const volume = await createOn(environmentOn(new SimulatedFiles()));
  const { superblock } = volume;
  await volume.close();
  return superblock;
}

const random = seededRandom(17);
const victim = await victimSuperblock();
const forgeries: Record<string, Forgery> = {
  "a volume of one's own": await forge({
    uuid: random.bytes(16),
    recordMagic: random.bytes(8),
  }),
  "this volume's record magic, and another uuid": await forge({ uuid: random.bytes(16) }),
  "this very volume, byte for byte, at another place": await forge({}),
};

interface Attacked {
  files: SimulatedFiles;
  others: { fid: Fid; data: Buffer }[];
  hostile: { fid: Fid; data: Buffer; offset: number; length: number };
}

/** A volume with the hostile blob among others, ended by a kill. */
async function attack(blob: Blob, superblock: Partial<Superblock> = {}): Promise<Attacked> {
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), superblock);
  const others: { fid: Fid; data: Buffer }[] = [];
  const store = async (data: Buffer) =>
    others.push({ fid: await volume.append(blobOf(data)), data });
  for (const size of [40, 300]) await store(random.bytes(size));
  const offset = volume.report().lengthBytes;
  const fid = await volume.append(blob);
  const length = volume.report().lengthBytes - offset;
  for (const size of [0, 700, 90]) await store(random.bytes(size));
  await volume.settled();
  const left = files.restart({ lose: "all" });
  return { files: left, others, hostile: { fid, data: blob.data, offset, length } };
}

/** A copy without its checkpoint and with these bytes of the hostile blob's needle overwritten. */
function damaged({ files, hostile }: Attacked, from: number, bytes: Buffer): SimulatedFiles {
  const copy = files.clone();
  const content = Buffer.from(copy.visible(volumeName) ?? "");
  bytes.copy(content, hostile.offset + from);
  copy.put(volumeName, content);
  return copy;
}

async function expectNoForgery(volume: Volume, { fids, contents }: Forgery): Promise<void> {
  const { needleCount } = volume.report();
  expect(needleCount).toBe(6);
  for (const { ordinal, cookie } of fids) {
    const read = await readContent(volume, { volume: 3, ordinal, cookie }).catch(() => undefined);
    expect(contents.has(read?.toString("hex") ?? "")).toBe(false);
  }
}

async function expectOthers(volume: Volume, { others }: Attacked): Promise<void> {
  for (const { fid, data } of others) {
    expect((await readContent(volume, fid))?.equals(data), `needle ${fid.ordinal}`).toBe(true);
  }
}

/** Nothing but the hostile blob is harmed by the damage to it, and nothing in it comes to life. */
async function expectHarmless(
  files: SimulatedFiles,
  attacked: Attacked,
  forgery: Forgery,
): Promise<void> {
  const { hostile } = attacked;
  const withIndex = await openOn(environmentOn(files.clone()));
  await expectOthers(withIndex, attacked);
  await expectNoForgery(withIndex, forgery);
  expect(await withIndex.scrub({ rateBytes: 0 })).not.toEqual([]);
  await withIndex.close();

  await files.remove(indexName);
  const opened = await openOn(environmentOn(files));
  await expectOthers(opened, attacked);
  await expectNoForgery(opened, forgery);
  expect(await readContent(opened, hostile.fid)).toBeUndefined();
  expect(opened.report()).toMatchObject({ damagedBytes: hostile.length, isWritable: false });
  expect(await opened.scrub({ rateBytes: 0 })).toMatchObject([
    { offset: hostile.offset, length: hostile.length },
  ]);
  await opened.seal();
  await expect(opened.compact(order)).rejects.toMatchObject({ kind: "corrupt" });
  await expectOthers(opened, attacked);
  await expectNoForgery(opened, forgery);
  await opened.close();
}

/** Of the header, as [from, length]. */
const allDamages = [
  [0, headerBytes],
  [12, 30],
  [0, 1],
  [3, 8],
  [8, 4],
  [16, 4],
  [24, 4],
  [36, 8],
  [60, 20],
] as const;
/** With so much metadata, and a block table of 4 bytes, data begins at a multiple of 8. */
const aligningShift = 4;

for (const [name, forgery] of Object.entries(forgeries)) {
  test(`A blob full of needles of ${name} stays a blob when its own header is lost`, {
    timeout: 60_000,
  }, async () => {
    for (let shift = 0; shift < 8; shift++) {
      // Needles stand at multiples of 8: one of the eight puts all that is forged there.
      const blob = { ...blobOf(forgery.bytes), metadata: Buffer.alloc(shift, 32) };
      const attacked = await attack(blob);
      for (const [from, length] of shift === aligningShift ? allDamages : allDamages.slice(0, 2)) {
        for (const bytes of [Buffer.alloc(length), random.bytes(length)]) {
          const files = damaged(attacked, from, bytes);
          const before = attacked.files.visible(volumeName);
          const isSame = files.visible(volumeName)?.equals(before ?? Buffer.alloc(0));
          if (isSame !== true) await expectHarmless(files, attacked, forgery);
        }
      }
    }
  });

  test(`Metadata full of needles of ${name} stay metadata`, async () => {
    const metadata = Buffer.alloc(65_535, forgery.bytes);
    const attacked = await attack({ ...blobOf(Buffer.from("innocent")), metadata });
    for (const from of [0, 8, 12, 30]) {
      const files = damaged(attacked, from, random.bytes(4));
      await expectHarmless(files, attacked, forgery);
    }
  });

  test(`Scrub and compaction go over needles of ${name} as over any other bytes`, async () => {
    const attacked = await attack({
      ...blobOf(forgery.bytes),
      metadata: forgery.bytes.subarray(0, 2_000),
    });
    const { hostile } = attacked;
    const volume = await openOn(environmentOn(attacked.files));
    expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
    await volume.seal();
    await volume.compact(order);
    expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
    await expectOthers(volume, attacked);
    await expectNoForgery(volume, forgery);
    expect((await readContent(volume, hostile.fid))?.equals(hostile.data)).toBe(true);
    await volume.delete(hostile.fid.ordinal, hostile.fid.cookie);
    await volume.compact({ ...order, generation: 2 });
    await expectOthers(volume, attacked);
    await expectNoForgery(volume, forgery);
    expect(await readContent(volume, hostile.fid)).toBeUndefined();
    await volume.close();
  });
}

test("With magic, uuid, offset and damage in the right place a needle can be forged, but no earlier one replaced", async () => {
  const attacked = await attack(blobOf(Buffer.alloc(400)));
  const { others, hostile } = attacked;
  const [first] = others;
  if (first === undefined) throw new Error("stored");
  for (const ordinal of [first.fid.ordinal, hostile.fid.ordinal]) {
    // In the data of the hostile blob, which begins 86 bytes after its needle: at the next multiple of 8.
    const offset = hostile.offset + 88;
    const data = Buffer.from("forged");
    const { head, tail } = encodeNeedle(
      {
        ...blobOf(data),
        cookie: first.fid.cookie,
        codec: 0,
        contentLength: data.length,
        isReservation: false,
        timeMs: 0,
      },
      {
        offset,
        ordinal,
        epoch: 1,
        batchPosition: 0,
        batchCount: 1,
        watermark: hostile.offset,
        previousDigest: Buffer.alloc(8),
      },
      victim,
      new ChecksumSeeds(victim),
    );
    const forged = damaged(attacked, 0, Buffer.alloc(headerBytes));
    const bytes = Buffer.from(forged.visible(volumeName) ?? "");
    Buffer.concat([head, data, tail]).copy(bytes, offset);
    forged.put(volumeName, bytes);
    await forged.remove(indexName);
    const opened = await openOn(environmentOn(forged));
    await expectOthers(opened, attacked);
    const read = await readContent(opened, { volume: 3, ordinal, cookie: first.fid.cookie });
    if (ordinal === first.fid.ordinal) expect(read?.equals(first.data)).toBe(true);
    else expect(read?.equals(data)).toBe(true); // this is why the record magic is never shown
    expect(opened.report().damagedBytes).toBeGreaterThan(0);
    await opened.close();
  }
});

test("A blob of nothing but the record magic costs no more than itself", {
  timeout: 60_000,
}, async () => {
  const forgery: Forgery = { bytes: Buffer.alloc(0), fids: [], contents: new Set() };
  for (const shift of [0, 2, 5]) {
    const magics = Buffer.alloc(262_144, victim.recordMagic);
    const attacked = await attack({ ...blobOf(magics), metadata: Buffer.alloc(shift, 32) });
    for (const from of [0, 10]) {
      await expectHarmless(damaged(attacked, from, random.bytes(4)), attacked, forgery);
    }
  }
});

test("No length in a damaged header is believed", async () => {
  const forgery: Forgery = { bytes: Buffer.alloc(0), fids: [], contents: new Set() };
  const attacked = await attack(blobOf(random.bytes(500)));
  const u32 = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value, 0);
    return bytes;
  };
  for (const [from, bytes] of [
    [14, Buffer.of(0xff, 0xff)], // metadataLength
    ...[0, 1, 499, 501, 16_384, 64 * 1_048_576, 64 * 1_048_576 + 1, 0x7fff_ffff, 0xffff_ffff].map(
      (length) => [16, u32(length)] as const,
    ),
    [20, u32(0xffff_ffff)], // contentLength
    [24, u32(0xffff_ffff)], // ordinal
    [36, u32(0xffff_ffff)], // batchPosition and batchCount
    [40, u32(0xffff_ffff)], // watermark
    [12, Buffer.of(0xff)], // flags
    [13, Buffer.of(0xff)], // codec
  ] as const) {
    await expectHarmless(damaged(attacked, from, bytes), attacked, forgery);
  }
});

test("What is forged in a reserved place is none either", async () => {
  const forgery = forgeries["this very volume, byte for byte, at another place"];
  if (forgery === undefined) throw new Error("there is one");
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), { class: "native" });
  const first = await volume.reserve(20);
  const offset = volume.report().lengthBytes;
  const hostile = await volume.put(
    { ordinal: first + 12, cookie: 7 },
    { ...blobOf(forgery.bytes), metadata: Buffer.alloc(4) },
  );
  const after = await volume.put({ ordinal: first + 13, cookie: 7 }, blobOf(Buffer.from("after")));
  const left = files.restart({ lose: "all" });
  await left.remove(indexName);
  left.flipBit(volumeName, offset * 8);
  const opened = await openOn(environmentOn(left));
  expect(await readContent(opened, hostile)).toBeUndefined();
  expect((await readContent(opened, after))?.toString()).toBe("after");
  for (const { ordinal, cookie } of forgery.fids) {
    const found = await readContent(opened, { volume: 3, ordinal, cookie }).catch(
      (error: unknown) => {
        if (error instanceof Failure) return undefined;
        throw error;
      },
    );
    expect(found).toBeUndefined();
  }
  await opened.close();
});

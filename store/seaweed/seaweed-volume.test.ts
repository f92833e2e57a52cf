import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { diskFiles, type FileHandle, type FileSystem } from "../../base/files.ts";
import { seededRandom } from "../../base/random.ts";
import { type FixtureNeedle, type FixtureOptions, SeaweedFixture } from "./seaweed-fixture.ts";
import {
  openSeaweedVolume,
  type SeaweedDamage,
  type SeaweedNeedle,
  type SeaweedSuperblock,
} from "./seaweed-volume.ts";

const random = seededRandom(1);
const names = { dat: "3.dat", idx: "3.idx" };
const versions = [2, 3] as const;
const gib = 1_073_741_824;

/** Files in memory that can be read and nothing else. */
function memoryFiles(
  content: Record<string, Buffer>,
  readInto: (bytes: Buffer, target: Uint8Array, offset: number) => number = copyFrom,
): FileSystem {
  const files: Pick<FileSystem, "open"> = {
    async open(file) {
      const bytes = content[file];
      if (bytes === undefined) throw Object.assign(new Error("no such file"), { code: "ENOENT" });
      const handle: Pick<FileHandle, "read" | "sizeBytes" | "close"> = {
        read: async (target, offset) => readInto(bytes, target, offset),
        sizeBytes: async () => bytes.length,
        close: async () => {},
      };
      return handle as FileHandle;
    },
  };
  return files as FileSystem;
}

function copyFrom(bytes: Buffer, target: Uint8Array, offset: number): number {
  return offset < bytes.length ? bytes.copy(target, 0, offset) : 0;
}

interface Whole {
  superblock: SeaweedSuperblock;
  warnings: readonly string[];
  keys: bigint[];
  found: (SeaweedNeedle | SeaweedDamage)[];
}

async function readAll(files: FileSystem): Promise<Whole> {
  const volume = await openSeaweedVolume(files, names);
  const found = await Array.fromAsync(volume.needles());
  await volume.close();
  const { superblock, warnings, keys } = volume;
  return { superblock, warnings, keys: [...keys], found };
}

function readBytes(dat: Buffer, idx?: Buffer): Promise<Whole> {
  return readAll(memoryFiles({ [names.dat]: dat, ...(idx && { [names.idx]: idx }) }));
}

function readFixture({ dat, idx }: SeaweedFixture): Promise<Whole> {
  return readBytes(dat, idx);
}

function fixtureOf(needles: FixtureNeedle[], options?: FixtureOptions): SeaweedFixture {
  const fixture = new SeaweedFixture(options);
  for (const needle of needles) fixture.put(needle);
  return fixture;
}

function makeNeedle(key: bigint, dataLength = 100): FixtureNeedle {
  return { key, cookie: random.u32(), data: random.bytes(dataLength) };
}

/** What must be read back of what was put. */
function expected(needle: FixtureNeedle): Partial<SeaweedNeedle> {
  const { key, cookie, name, mime, lastModifiedSeconds, pairs } = needle;
  const data = Buffer.from(needle.data);
  return { key, cookie, data, name, mime, lastModifiedSeconds, pairs };
}

function damageOf(found: SeaweedNeedle | SeaweedDamage | undefined): string | undefined {
  return found !== undefined && "damage" in found ? found.damage : undefined;
}

/** CRC-32C bit by bit from its polynomial, to check by another way than a library. */
function slowCrc32c(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

function hexBytes(...parts: string[]): Buffer {
  return Buffer.from(parts.join("").replaceAll(" ", ""), "hex");
}

test("A needle of version 3 is read from bytes written by hand", async () => {
  expect(slowCrc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  const dat = hexBytes(
    "03 01 0000 0000 0000", // version 3, replication 001
    "637037d6 0000000000000001 00000031", // cookie, key, size 49
    "00000009 313233343536373839 3e", // dataLength, "123456789", flags
    "05 612e6a7067", // "a.jpg"
    "0a 696d6167652f6a706567", // "image/jpeg"
    "006553f100", // last modified 1700000000
    "03 03", // three days
    "0009 7b2261223a2262227d", // {"a":"b"}
    "e3069283 17979cfe3d85cd15", // CRC-32C, 1700000000123456789 ns
    "ffffff", // 77 bytes so far: padded to 80
  );
  expect(dat.length).toBe(88);
  const { found, warnings } = await readBytes(dat, hexBytes("0000000000000001 00000001 00000031"));
  expect(warnings).toEqual([]);
  expect(found).toEqual([
    {
      key: 1n,
      cookie: 0x637037d6,
      data: Buffer.from("123456789"),
      name: "a.jpg",
      mime: "image/jpeg",
      lastModifiedSeconds: 1_700_000_000,
      ttlSeconds: 3 * 86_400,
      pairs: { a: "b" },
      isChunkManifest: false,
      timeMs: 1_700_000_000_123,
    },
  ]);
});

// The first needle fills a multiple of 8 bytes and is padded with 8 more; the second has the old CRC.
const handMadeVersion2: Buffer = hexBytes(
  "02 00 0000 0000 0000",
  "00000007 00000000000000ff 0000000c",
  "00000007 6861796c6f6674 00", // "hayloft", no flags
  "4ca660af 0000000000000000",
  "00000008 0000000000000100 0000000c",
  "00000007 6e6565646c6573 00", // "needles"
  "839ca6bc 0000000000000000", // 0xddf2708c, rotated by 15 to the right, plus 0xa282ead8
);

test("Needles of version 2 are read from bytes written by hand, with and without their index", async () => {
  expect(slowCrc32c(Buffer.from("hayloft"))).toBe(0x4ca660af);
  expect(slowCrc32c(Buffer.from("needles"))).toBe(0xddf2708c);
  const idx = hexBytes("00000000000000ff 00000001 0000000c", "0000000000000100 00000006 0000000c");
  const plain = { name: undefined, mime: undefined, lastModifiedSeconds: undefined };
  const rest = { ttlSeconds: 0, pairs: undefined, isChunkManifest: false, timeMs: undefined };
  for (const index of [idx, undefined]) {
    const { found } = await readBytes(handMadeVersion2, index);
    expect(found).toEqual([
      { key: 255n, cookie: 7, data: Buffer.from("hayloft"), ...plain, ...rest },
      { key: 256n, cookie: 8, data: Buffer.from("needles"), ...plain, ...rest },
    ]);
  }
});

test("The superblock tells version, replication, time to live and revision, and its extra is skipped", async () => {
  const needle = makeNeedle(1n);
  const options = { replication: 12, ttl: { count: 3, unit: 4 }, compactionRevision: 513 };
  for (const extraLength of [0, 1, 8, 65_535]) {
    const extra = random.bytes(extraLength);
    const fixture = fixtureOf([needle], { version: 2, ...options, extra });
    for (const index of [fixture.idx, undefined]) {
      const { superblock, found } = await readBytes(fixture.dat, index);
      expect(superblock).toEqual({
        version: 2,
        replication: "012",
        ttlSeconds: 3 * 7 * 86_400,
        compactionRevision: 513,
        extraLength,
      });
      expect(found).toMatchObject([expected(needle)]);
    }
  }
  const seconds = await Promise.all(
    [0, 1, 2, 3, 4, 5, 6, 7].map(async (unit) => {
      const { superblock } = await readFixture(new SeaweedFixture({ ttl: { count: 2, unit } }));
      return superblock.ttlSeconds;
    }),
  );
  expect(seconds).toEqual([0, 120, 7_200, 172_800, 1_209_600, 5_184_000, 63_072_000, 0]);
});

for (const version of versions) {
  test(`A volume on disk is read back as it was written (version ${version})`, async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "hayloft-seaweed-"));
    try {
      const full: FixtureNeedle = {
        ...makeNeedle(2n, 200_000),
        name: "Grüße.jpg",
        mime: "image/jpeg",
        lastModifiedSeconds: 0xff_ffff_ffff,
        ttl: { count: 5, unit: 1 },
        pairs: { "Cache-Control": "max-age=60", Grüße: "ü" },
        isChunkManifest: true,
      };
      const needles = [makeNeedle(1n, 1), full, makeNeedle(3n, 0), makeNeedle(4n, 7)];
      const fixture = fixtureOf(needles, { version });
      const place = { dat: path.join(folder, "3.dat"), idx: path.join(folder, "3.idx") };
      await fixture.save(diskFiles, place);
      const volume = await openSeaweedVolume(diskFiles, place);
      expect(volume.warnings).toEqual([]);
      const found = await Array.fromAsync(volume.needles());
      expect(found).toMatchObject(needles.map(expected));
      expect(found[1]).toMatchObject({ ttlSeconds: 300, isChunkManifest: true });
      const timeMs = version === 2 ? undefined : 1_790_000_001_000;
      expect(await volume.read(1)).toMatchObject({ key: 2n, timeMs });
      await volume.close();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test(`Needles of every padding are found by index and by scan (version ${version})`, async () => {
    const needles = Array.from({ length: 64 }, (_, at) => makeNeedle(BigInt(at + 1), at + 1));
    const fixture = fixtureOf(needles, { version });
    for (const index of [fixture.idx, undefined]) {
      const { found } = await readBytes(fixture.dat, index);
      expect(found).toMatchObject(needles.map(expected));
    }
  });

  test(`A flipped bit is damage or changes no data, wherever it is (version ${version})`, async () => {
    const needle = { ...makeNeedle(5n, 30), name: "a.jpg", mime: "image/jpeg" };
    const { dat, idx } = fixtureOf([needle, makeNeedle(6n)], { version });
    const dataStart = 8 + 16 + 4;
    let damaged = 0;
    for (let bit = 8 * 8; bit < dat.length * 8; bit++) {
      const flipped = Buffer.from(dat);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const { found } = await readBytes(flipped, idx);
      expect(found.length).toBe(2);
      const [first] = found;
      if (first === undefined) continue;
      if ("damage" in first) damaged += 1;
      else expect(first.data.equals(needle.data), `bit ${bit}`).toBe(true);
      const at = bit >> 3;
      if (at >= dataStart && at < dataStart + 30) {
        expect(damageOf(first), `bit ${bit}`).toContain("CRC-32C");
      }
    }
    expect(damaged).toBeGreaterThan((12 + 4 + 30 + 4) * 8);
  });

  test(`A data file cut at any length loses what is behind the cut, and nothing else (version ${version})`, async () => {
    const needles = [makeNeedle(1n, 20), makeNeedle(2n, 0), makeNeedle(3n, 20)];
    const fixture = new SeaweedFixture({ version });
    const ends = needles.map((needle) => {
      fixture.put(needle);
      return fixture.dat.length;
    });
    const { dat, idx } = fixture;
    for (let length = 0; length < dat.length; length++) {
      const cut = Buffer.from(dat.subarray(0, length));
      if (length < 8) {
        await expect(readBytes(cut, idx), `${length}`).rejects.toThrow("ends within the first");
        continue;
      }
      const { found } = await readBytes(cut, idx);
      const scanned = (await readBytes(cut)).keys;
      for (const [at, end] of ends.entries()) {
        // What is cut off may be padding only.
        if (length >= end) expect(damageOf(found[at]), `${length}`).toBeUndefined();
        if (length < end - 8) expect(damageOf(found[at]), `${length}`).toContain("inside the file");
        const { key, data } = needles[at] ?? makeNeedle(0n);
        if (data.length > 0 && length >= end) expect(scanned).toContain(key);
        if (length < end - 8) expect(scanned).not.toContain(key);
      }
    }
  });
}

test("The old form of the CRC is accepted, and no other", async () => {
  const needle: FixtureNeedle = { ...makeNeedle(1n), crcForm: "masked" };
  const fixture = fixtureOf([needle]);
  expect((await readFixture(fixture)).found).toMatchObject([expected(needle)]);
  const { dat, idx } = fixture;
  const at = 8 + 16 + 4 + 100 + 1;
  dat.writeUInt32BE((dat.readUInt32BE(at) + 1) >>> 0, at);
  expect(damageOf((await readBytes(dat, idx)).found[0])).toContain("CRC-32C");
});

test("Packed data are unpacked, and packed data that are broken are damage", async () => {
  const data = Buffer.from("hay ".repeat(1_000));
  const both = (["gzip", "zstd"] as const).map((compression, at) => ({
    ...makeNeedle(BigInt(at + 1)),
    data,
    compression,
  }));
  expect((await readFixture(fixtureOf(both))).found).toMatchObject(both.map(expected));

  // The flag is the only byte after data without metadata.
  const flagged = async (stored: Buffer) => {
    const { dat, idx } = fixtureOf([{ key: 1n, cookie: 1, data: stored }]);
    dat.writeUInt8(0x01, 8 + 16 + 4 + stored.length);
    return (await readBytes(dat, idx)).found[0];
  };
  const packed = gzipSync(data);
  expect(damageOf(await flagged(packed.subarray(0, -9)))).toContain("cannot be unpacked");
  expect(damageOf(await flagged(Buffer.from("28b52ffdffff", "hex")))).toContain("unpacked");
  expect(await flagged(Buffer.from("neither"))).toMatchObject({ data: Buffer.from("neither") });
});

test("Data that would unpack to more than the limit are damage", async () => {
  // Members of a gzip file follow one another: 33 of 8 MiB each.
  const member = gzipSync(Buffer.alloc(8 * 1_048_576));
  const stored = Buffer.concat(Array.from({ length: 33 }, () => member));
  const { dat, idx } = fixtureOf([{ key: 1n, cookie: 1, data: stored }]);
  dat.writeUInt8(0x01, 8 + 16 + 4 + stored.length);
  expect(damageOf((await readBytes(dat, idx)).found[0])).toContain("cannot be unpacked");
});

test("Of several rows of a key the last one counts, and deletions delete", async () => {
  const fixture = new SeaweedFixture();
  fixture.put(makeNeedle(7n));
  fixture.put(makeNeedle(8n));
  const newest = makeNeedle(7n);
  fixture.put(newest);
  fixture.delete({ key: 8n, cookie: 1 });
  fixture.put(makeNeedle(9n));
  fixture.delete({ key: 9n, cookie: 1 });
  const again = makeNeedle(9n);
  fixture.put(again);
  fixture.delete({ key: 10n, cookie: 1 }); // never was there
  const { found, warnings } = await readFixture(fixture);
  expect(found).toMatchObject([newest, again].map(expected));
  expect(warnings).toEqual([]);

  const scanned = await readBytes(fixture.dat);
  expect(scanned.found).toEqual(found);
  expect(scanned.warnings).toEqual([
    "There is no index: 3.dat was scanned, and 8 needles found in it",
    "3 needles of size 0 were taken for deletions: empty files look the same without an index",
  ]);
});

test("A row with offset 0 or any size below 0 is a deletion too", async () => {
  const fixture = fixtureOf([makeNeedle(1n), makeNeedle(2n), makeNeedle(3n)]);
  fixture.row({ key: 1n, offset: 0, size: 0 });
  fixture.row({ key: 2n, offset: 8, size: -105 });
  expect((await readFixture(fixture)).keys).toEqual([3n]);
});

test("An empty file is there by its index, and taken for a deletion without", async () => {
  const fixture = fixtureOf([makeNeedle(1n, 0), makeNeedle(2n)]);
  const { found } = await readFixture(fixture);
  expect(found[0]).toMatchObject({ key: 1n, data: Buffer.alloc(0), name: undefined });
  const scanned = await readBytes(fixture.dat);
  expect(scanned.keys).toEqual([2n]);
  expect(scanned.warnings[1]).toContain("1 needles of size 0");
});

test("Keys of 64 bits are ordered as numbers, whatever the order of rows", async () => {
  const keys = [
    0n,
    1n,
    0xffffn,
    0x1_0000n,
    0x7fff_ffffn,
    0x8000_0000n,
    0xffff_ffffn,
    0x1_0000_0000n,
    0x8000_0000_0000_0000n,
    0xffff_ffff_ffff_ffffn,
  ];
  const needles = keys.map((key) => makeNeedle(key));
  for (const order of [needles, needles.toReversed(), [...needles.slice(5), ...needles]]) {
    const { keys: sorted, found } = await readFixture(fixtureOf(order));
    expect(sorted).toEqual(keys);
    expect(found).toMatchObject(needles.map(expected));
  }
});

test("An index that ends within a row is read up to there, with a warning", async () => {
  const needles = [makeNeedle(1n), makeNeedle(2n)];
  const { dat, idx } = fixtureOf(needles);
  for (let length = 16; length < 32; length++) {
    const { keys, warnings } = await readBytes(dat, idx.subarray(0, length));
    expect(keys).toEqual([1n]);
    const torn = `The last ${length - 16} bytes of 3.idx are part of a row: what it said is lost`;
    expect(warnings.filter((text) => text.includes("part of a row"))).toEqual(
      length === 16 ? [] : [torn],
    );
    expect(warnings.at(-1)).toContain("are in no row of 3.idx");
  }
});

test("An index with offsets of five bytes is recognized", async () => {
  for (const count of [1, 3, 16, 100]) {
    const needles = Array.from({ length: count }, (_, at) => makeNeedle(BigInt(at + 1)));
    const { dat, idx } = fixtureOf(needles);
    const wide = Array.from({ length: count }, (_, at) => {
      const row = idx.subarray(at * 16, (at + 1) * 16);
      return Buffer.concat([row.subarray(0, 12), Buffer.alloc(1), row.subarray(12)]);
    });
    const failure = await readBytes(dat, Buffer.concat(wide)).catch((error) => error);
    expect(failure).toBeInstanceOf(Failure);
    expect(failure.kind).toBe("unsupported");
    expect(failure.message).toBe(
      "Cannot read SeaweedFS index 3.idx: it has offsets of five bytes, this program knows those of four",
    );
  }
});

test("Rows that point nowhere are damage, and nothing is allocated for them", async () => {
  const good = makeNeedle(1n);
  const fixture = fixtureOf([good]);
  const end = fixture.dat.length;
  fixture.row({ key: 2n, offset: 8, size: 105 }); // another's needle
  fixture.row({ key: 3n, offset: end, size: 105 });
  fixture.row({ key: 4n, offset: 32 * gib - 8, size: 105 });
  fixture.row({ key: 5n, offset: 8, size: 0x7fff_ffff });
  fixture.row({ key: 6n, offset: 8, size: 256 * 1_048_576 });
  fixture.row({ key: 7n, offset: 16, size: 3 });
  const { found } = await readFixture(fixture);
  expect(found[0]).toMatchObject(expected(good));
  const damages = ["the file has key 1", "inside", "inside", "too large", "inside", "the file has"];
  expect(found.slice(1).map(damageOf)).toEqual(
    damages.map((text) => expect.stringContaining(text)),
  );
  expect(found[2]).toMatchObject({ key: 3n, offset: end });
});

test("A row with a wrong size is damage, and so are sizes that don't fit each other", async () => {
  const { dat, idx } = fixtureOf([makeNeedle(1n)]);
  for (const size of [0, 1, 4, 104, 106]) {
    const wrong = Buffer.from(idx);
    wrong.writeInt32BE(size, 12);
    expect(damageOf((await readBytes(dat, wrong)).found[0]), `${size}`).toContain(
      `the index says key 1 and size ${size}, the file has key 1 and size 105`,
    );
    // Both wrong in the same way: nothing but the body can tell.
    const alike = Buffer.from(dat);
    alike.writeUInt32BE(size, 8 + 12);
    const { found } = await readBytes(alike, wrong);
    if (size > 0) expect(damageOf(found[0]), `${size}`).toBeDefined();
  }
});

test("Metadata that run past their body or leave a rest are damage", async () => {
  const needle = { ...makeNeedle(1n, 10), name: "abc" };
  const { dat, idx } = fixtureOf([needle]);
  const flagsAt = 8 + 16 + 4 + 10;
  const withByte = async (at: number, value: number) => {
    const changed = Buffer.from(dat);
    changed.writeUInt8(value, at);
    return (await readBytes(changed, idx)).found[0];
  };
  expect(damageOf(await withByte(flagsAt, 0x00))).toContain("leave 4 bytes");
  expect(damageOf(await withByte(flagsAt, 0x08))).toContain("run past the end");
  expect(damageOf(await withByte(flagsAt + 1, 4))).toContain("run past the end");
  expect(damageOf(await withByte(flagsAt + 1, 2))).toContain("leave 1 bytes");
  // A field that would begin at the end of the body is not there.
  expect(await withByte(flagsAt, 0x0a)).toMatchObject({ name: "abc", data: needle.data });
});

test("Pairs that are no JSON object of strings are left out", async () => {
  const { dat, idx } = fixtureOf([{ ...makeNeedle(1n, 10), pairs: { a: "b" } }]);
  const at = 8 + 16 + 4 + 10 + 1 + 2;
  expect(dat.toString("utf8", at, at + 9)).toBe('{"a":"b"}');
  const pairsOf = async (json: string) => {
    dat.write(json, at);
    return (await readBytes(dat, idx)).found[0];
  };
  expect(await pairsOf('{"a":"c"}')).toMatchObject({ pairs: { a: "c" } });
  expect(await pairsOf('{"a":123}')).toMatchObject({ pairs: {} });
  expect(await pairsOf('["a","b"]')).toMatchObject({ pairs: undefined });
  expect(await pairsOf('{"a":"b",')).toMatchObject({ pairs: undefined });
});

test("A version that is not 2 or 3 is refused by its number", async () => {
  const { dat, idx } = fixtureOf([makeNeedle(1n)]);
  for (const version of [0, 1, 4, 255]) {
    dat.writeUInt8(version, 0);
    const failure = await readBytes(dat, idx).catch((error) => error);
    expect(failure.kind).toBe("unsupported");
    expect(failure.message).toBe(
      `Cannot read SeaweedFS volume 3.dat: its needles have version ${version}, this program knows 2 and 3`,
    );
  }
});

test("A volume that is not there is not found", async () => {
  const failure = await readAll(memoryFiles({})).catch((error) => error);
  expect(failure.kind).toBe("not-found");
});

test("A scan stops where no needle begins, and says how much it left", async () => {
  const fixture = fixtureOf([makeNeedle(1n)]);
  const end = fixture.dat.length;
  fixture.put(makeNeedle(2n));
  fixture.put(makeNeedle(3n));
  const stopped = [`The scan of 3.dat ended at ${end}, where no needle begins`, "were not read"];
  for (const size of [0x8000_0000, 0x7fff_ffff, 1, 300]) {
    const broken = Buffer.from(fixture.dat);
    broken.writeUInt32BE(size, end + 12);
    const { keys, warnings } = await readBytes(broken);
    expect(keys, `${size}`).toEqual([1n]);
    for (const text of stopped) expect(warnings.at(-1)).toContain(text);
  }
  const reserved = Buffer.concat([fixture.dat, Buffer.alloc(4_096)]);
  const { keys, warnings } = await readBytes(reserved);
  expect(keys).toEqual([1n, 2n, 3n]);
  expect(warnings.at(-1)).toContain("its last 4096 bytes were not read");
});

test("A scan goes through a volume larger than its window", async () => {
  const needles = Array.from({ length: 300 }, (_, at) =>
    makeNeedle(BigInt(at), at % 50 === 0 ? 200_000 : 1 + (at % 700)),
  );
  const { dat } = fixtureOf(needles);
  expect((await readBytes(dat)).found).toMatchObject(needles.map(expected));
});

test("A needle past what offsets reach is found where the carry was dropped", async () => {
  const needle = makeNeedle(2n);
  const { dat, idx } = fixtureOf([needle]);
  // The same bytes 32 GiB further on, with something else before them.
  const files = memoryFiles({ [names.dat]: dat, [names.idx]: idx }, (bytes, target, offset) =>
    bytes === dat && offset >= 8 && offset < 32 * gib
      ? target.fill(0x11).length
      : copyFrom(bytes, target, bytes === dat && offset >= 8 ? offset - 32 * gib : offset),
  );
  const far: FileSystem = {
    ...files,
    async open(file, mode) {
      const handle = await files.open(file, mode);
      const sizeBytes = await handle.sizeBytes();
      const size = file === names.dat ? 32 * gib + sizeBytes : sizeBytes;
      return { ...handle, sizeBytes: async () => size };
    },
  };
  expect((await readAll(far)).found).toMatchObject([expected(needle)]);
});

test("A place that the disk cannot read costs one needle", async () => {
  const needles = [makeNeedle(1n), makeNeedle(2n), makeNeedle(3n)];
  const { dat, idx } = fixtureOf(needles);
  const badOffset = dat.length / 2;
  const files = memoryFiles({ [names.dat]: dat, [names.idx]: idx }, (bytes, target, offset) => {
    const isBad = bytes === dat && offset <= badOffset && offset + target.length > badOffset;
    if (isBad) throw Object.assign(new Error("i/o error"), { code: "EIO" });
    return copyFrom(bytes, target, offset);
  });
  const { found } = await readAll(files);
  expect(found.map(damageOf)).toEqual([undefined, "the disk cannot read it: i/o error", undefined]);
});

test("Any sequence of puts and deletes leaves what a map would have", async () => {
  const keyOf = fc.oneof(fc.bigInt(0n, 20n), fc.bigInt(0n, 0xffff_ffff_ffff_ffffn));
  const put = fc.record({
    key: keyOf,
    cookie: fc.nat(0xffff_ffff),
    data: fc.uint8Array({ minLength: 1, maxLength: 300 }),
    name: fc.option(fc.string({ unit: "grapheme", maxLength: 50 }), { nil: undefined }),
    mime: fc.constantFrom(undefined, "", "image/png"),
    lastModifiedSeconds: fc.option(fc.nat(), { nil: undefined }),
    pairs: fc.option(fc.dictionary(fc.string(), fc.string(), { maxKeys: 4 }), { nil: undefined }),
    compression: fc.constantFrom(undefined, "gzip" as const, "zstd" as const),
    crcForm: fc.constantFrom("plain" as const, "masked" as const),
  });
  const steps = fc.array(fc.oneof(put, fc.record({ key: keyOf, cookie: fc.nat() })));
  const property = fc.asyncProperty(fc.constantFrom(2, 3), steps, async (version, sequence) => {
    const fixture = new SeaweedFixture({ version });
    const model = new Map<bigint, FixtureNeedle>();
    for (const step of sequence) {
      if ("data" in step) {
        fixture.put(step);
        model.set(step.key, step);
      } else {
        fixture.delete(step);
        model.delete(step.key);
      }
    }
    const inOrder = [...model.values()].sort((a, b) => (a.key < b.key ? -1 : 1)).map(expected);
    const { found, warnings } = await readFixture(fixture);
    expect(warnings).toEqual([]);
    expect(found.length).toBe(inOrder.length);
    expect(found).toMatchObject(inOrder);
    expect((await readBytes(fixture.dat)).found).toEqual(found);
  });
  await fc.assert(property, { seed: 1, numRuns: 200 });
});

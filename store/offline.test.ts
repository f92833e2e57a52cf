import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";
import { pino } from "pino";
import { extract } from "tar-stream";
import { afterEach, beforeEach, expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import { type Fid, formatFid } from "../base/fid.ts";
import { diskFiles } from "../base/files.ts";
import { type Random, seededRandom } from "../base/random.ts";
import type { VolumeClass } from "../directory/client.ts";
import { OfflineStore, surveySeaweedVolume } from "./offline.ts";
import { SeaweedFixture } from "./seaweed/seaweed-fixture.ts";
import { Store } from "./store.ts";
import { encodeContent } from "./volume/codec.ts";
import { writeDescriptor } from "./volume/descriptor.ts";
import { encodeNativeMetadata } from "./volume/native-metadata.ts";
import type { Volume } from "./volume/volume.ts";
import { descriptorFile, volumeFile } from "./volume/volume-files.ts";
import type { ManifestLine } from "./volume-export.ts";
import type { RecordFacts } from "./volume-facts.ts";

let base: string;
let folder: string;
let random: Random;

beforeEach(() => {
  base = mkdtempSync(path.join(tmpdir(), "hayloft-offline-"));
  folder = path.join(base, "store");
  random = seededRandom(3);
});

afterEach(() => rmSync(base, { recursive: true, force: true }));

const ignore = () => undefined;

async function openStore(): Promise<Store> {
  return await Store.open({
    files: diskFiles,
    clock: systemClock,
    random,
    log: pino({ level: "silent" }),
    folder,
    volumeBytes: 1_073_741_824,
    reserveBytes: 0,
    trashMs: 3_600_000,
  });
}

async function create(store: Store, id: number, volumeClass: VolumeClass): Promise<Volume> {
  await store.carryOut({
    order: id,
    kind: "create",
    volume: id,
    uuid: random.bytes(16).toString("hex"),
    class: volumeClass,
    generation: 0,
    recordMagic: random.bytes(8).toString("hex"),
    epoch: 1,
    members: [{ store: store.id, address: "127.0.0.1:1" }],
    createdMs: 1_790_000_000_000,
    ttlSeconds: 0,
  });
  const volume = store.volume(id);
  if (volume === undefined) throw new Error("the volume was created");
  return volume;
}

interface Stored {
  fid: Fid;
  key: string;
  data: Buffer;
}

/** Puts blobs of a catalog; every fourth is text, and so compressed. */
async function fill(volume: Volume, count: number): Promise<Stored[]> {
  const stored: Stored[] = [];
  for (let at = 0; at < count; at++) {
    const isText = at % 4 === 3;
    const data = isText ? Buffer.from(`hay ${at} `.repeat(500)) : random.bytes(2_000 + at);
    const type = isText ? "text/plain" : "image/jpeg";
    const key = `2026/hay-${at}.${isText ? "txt" : "jpg"}`;
    stored.push({ fid: await put(volume, { key, data, type }), key, data });
  }
  return stored;
}

async function put(
  volume: Volume,
  { key, data, type }: { key: string; data: Buffer; type: string },
): Promise<Fid> {
  const { codec, data: encoded } = await encodeContent(data, type);
  const metadata = { bucket: "photos", key, version: "v1", chunk: 0, type, sha256: "" };
  return await volume.append({
    data: encoded,
    codec,
    contentLength: data.length,
    metadata: Buffer.from(JSON.stringify(metadata)),
    owner: { catalog: "1122334455667788", session: 1 },
    ttlSeconds: 0,
  });
}

/** A folder with volume 3, sealed, in which every third blob of forty is deleted. */
async function makeFolder({ seal = true }: { seal?: boolean } = {}): Promise<Stored[]> {
  const store = await openStore();
  const volume = await create(store, 3, "original");
  const stored = await fill(volume, 40);
  for (const { fid } of stored.filter((_, at) => at % 3 === 0)) {
    await volume.delete(fid.ordinal, fid.cookie);
  }
  if (seal) await volume.seal();
  await store.close();
  return stored;
}

const isAlive = (_: unknown, at: number) => at % 3 !== 0;

/** Spoils bytes of a needle: `into` counts from its start. */
async function damage(id: number, places: { ordinal: number; into: number }[]): Promise<void> {
  const store = await openStore();
  const offsets = await store.volume(id)?.read(async ({ index }) => {
    return places.map(({ ordinal, into }) => (index.get(ordinal) ?? 0) + into);
  });
  await store.close();
  const file = volumeFile(folder, { volume: id, generation: 0 });
  const bytes = readFileSync(file);
  for (const offset of offsets ?? []) bytes[offset] = (bytes[offset] ?? 0) ^ 0xff;
  writeFileSync(file, bytes);
}

async function offline<Result>(use: (store: OfflineStore) => Promise<Result>): Promise<Result> {
  const store = await OfflineStore.open(folder);
  try {
    return await use(store);
  } finally {
    store.close();
  }
}

async function recordsOf(
  id: number,
  selection: Parameters<OfflineStore["records"]>[1] = {},
): Promise<RecordFacts[]> {
  return await offline(async (store) => {
    return (await Array.fromAsync(store.records(id, selection))).flat();
  });
}

async function unpack(archive: Readable): Promise<{
  files: Map<string, Buffer>;
  manifest: ManifestLine[];
  times: Map<string, Date | undefined>;
}> {
  const reader = extract();
  archive.pipe(reader as unknown as NodeJS.WritableStream);
  const files = new Map<string, Buffer>();
  const times = new Map<string, Date | undefined>();
  for await (const entry of reader) {
    const parts: Buffer[] = [];
    for await (const part of entry) parts.push(part as Buffer);
    expect(files.has(entry.header.name)).toBe(false);
    files.set(entry.header.name, Buffer.concat(parts));
    times.set(entry.header.name, entry.header.mtime);
  }
  const lines = files.get("manifest.ndjson")?.toString().trimEnd().split("\n") ?? [];
  files.delete("manifest.ndjson");
  return { files, times, manifest: lines.map((line) => JSON.parse(line) as ManifestLine) };
}

/** All of a folder that a tool could change. */
function lookAt(): string[] {
  const names = [".", ...readdirSync(folder).sort()];
  return names.map((name) => {
    const file = path.join(folder, name);
    const { size, mtimeMs, mode } = statSync(file);
    const content = name === "." ? "" : readFileSync(file).toString("base64");
    return `${name} ${size} ${mtimeMs} ${mode} ${content}`;
  });
}

test("Looking changes nothing on the disk, not even what a start would recover", async () => {
  await makeFolder({ seal: false });
  const file = volumeFile(folder, { volume: 3, generation: 0 });
  // A batch that was cut off, and what a compaction left that did not come to its end.
  writeFileSync(file, Buffer.concat([readFileSync(file), random.bytes(5_000)]));
  writeFileSync(volumeFile(folder, { volume: 3, generation: 1 }), "left");
  for (const name of readdirSync(folder)) utimesSync(path.join(folder, name), 1e9, 1e9);
  const before = lookAt();
  await offline(async (store) => {
    expect(await store.list()).toMatchObject([{ volume: 3, needleCount: 40, deletedCount: 14 }]);
    expect((await store.facts(3)).descriptor?.members).toEqual([store.id]);
    await Array.fromAsync(store.records(3, {}));
    await unpack(await store.export(3));
    await store.planCompaction([3], 0);
    await store.planCompaction(undefined, 0);
    await expect(
      store.compact(3, { rateBytes: 0, purge: true, seal: false }, ignore),
    ).rejects.toThrow("it is open");
  });
  expect(lookAt()).toEqual(before);
});

test("A folder that a store runs on is refused, and so is one that is none", async () => {
  const store = await openStore();
  await expect(OfflineStore.open(folder)).rejects.toThrow("a store runs on it");
  await store.close();
  const held = await OfflineStore.open(folder);
  await expect(openStore()).rejects.toThrow("another store is using it");
  held.close();
  await expect(OfflineStore.open(base)).rejects.toThrow(`did you mean ${folder}?`);
  const missing = path.join(base, "nothing");
  await expect(OfflineStore.open(missing)).rejects.toThrow("not a store's folder");
  expect(readdirSync(base)).toEqual(["store"]);
});

test("What is unknown is refused by its number", async () => {
  await makeFolder();
  await offline(async (store) => {
    const terms = { rateBytes: 0, purge: false, seal: true };
    const what = "Cannot find volume 9";
    await expect(store.facts(9)).rejects.toThrow(what);
    await expect(store.export(9)).rejects.toThrow(what);
    await expect(store.verify(9, 0, ignore)).rejects.toThrow(what);
    await expect(store.seal(9)).rejects.toThrow(what);
    await expect(store.compact(9, terms, ignore)).rejects.toThrow(what);
    await expect(store.planCompaction([9], 0)).rejects.toThrow(what);
  });
});

test("A volume that can't be opened is listed with the reason, beside the others", async () => {
  await makeFolder();
  writeFileSync(descriptorFile(folder, 7), "rot\n0\n");
  await offline(async (store) => {
    const [first, second] = await store.list();
    expect(first).toMatchObject({ volume: 3, state: "sealed" });
    expect(second).toMatchObject({ volume: 7, state: "unreadable" });
    expect(second?.state === "unreadable" && second.reason).toContain(
      "its checksum does not match",
    );
  });
});

test("Every record is listed with what it is, and cookies only on demand", async () => {
  const stored = await makeFolder();
  const records = await recordsOf(3);
  expect(records.map(({ ordinal }) => ordinal)).toEqual(stored.map((_, at) => at));
  for (const [at, { key, data, fid }] of stored.entries()) {
    const record = records[at];
    expect(record).toMatchObject({
      kind: "needle",
      fid: formatFid({ ...fid, cookie: 0 }).replace(/.{8}$/, "********"),
      codec: at % 4 === 3 ? expect.stringMatching(/lz4|zstd/) : "none",
      contentLength: data.length,
      owner: { catalog: "1122334455667788", session: 1 },
      metadata: { bucket: "photos", key },
    });
    expect(record?.isDeleted).toBe(isAlive(undefined, at) ? undefined : true);
    expect(record?.problem).toBeUndefined();
  }
  const some = await recordsOf(3, { from: 10, count: 3, withCookies: true });
  expect(some.map(({ fid }) => fid)).toEqual(stored.slice(10, 13).map(({ fid }) => formatFid(fid)));
  expect(await recordsOf(3, { from: 1_000 })).toEqual([]);
});

test("Damage is listed in its place, and verify names each needle that it hit", async () => {
  await makeFolder();
  await damage(3, [
    { ordinal: 8, into: 500 },
    { ordinal: 12, into: 30 },
    { ordinal: 13, into: 30 },
    { ordinal: 20, into: 600 },
  ]);
  const records = await recordsOf(3);
  expect(records.find(({ ordinal }) => ordinal === 8)?.problem).toMatch(/checksum/);
  const stretch = records.findIndex(({ kind }) => kind === "damage");
  expect(records[stretch - 1]?.ordinal).toBe(11);
  expect(records[stretch + 1]?.ordinal).toBe(14);

  const seen: [number, number][] = [];
  await offline(async (store) => {
    const { scrubbedMs } = await store.facts(3);
    const found = await store.verify(3, 300_000, (done, total) => seen.push([done, total]));
    expect(found.map(({ ordinal, isDeleted }) => [ordinal, isDeleted])).toEqual([
      [8, undefined],
      [12, true],
      [13, undefined],
      [20, undefined],
    ]);
    // Verified is what was found well.
    expect((await store.facts(3)).scrubbedMs).toBe(scrubbedMs);
  });
  expect(seen.every(([done, total]) => done <= total)).toBe(true);
});

test("A volume that verifies has a note of when, and of its digest", async () => {
  await makeFolder();
  await offline(async (store) => {
    const beforeMs = Date.now();
    expect(await store.verify(3, 0, ignore)).toEqual([]);
    const { scrubbedMs, descriptor } = await store.facts(3);
    expect(scrubbedMs).toBeGreaterThanOrEqual(beforeMs);
    expect(descriptor?.sealedDigest).toMatch(/^[0-9a-f]{64}$/);
  });
});

test("A compaction drops what is dead and keeps the rest under its fids", async () => {
  const stored = await makeFolder();
  const before = await offline((store) => store.facts(3));
  const terms = { rateBytes: 0, purge: false, seal: false };
  await offline(async (store) => {
    const [plan] = await store.planCompaction(undefined, 0.2);
    expect(plan).toMatchObject({ volume: 3, state: "sealed", freedBytes: before.deadBytes });
    expect(await store.planCompaction(undefined, 0.5)).toEqual([]);
    const outcome = await store.compact(3, terms, ignore);
    expect(outcome).toMatchObject({ volume: 3, generation: 1, freedBytes: before.deadBytes });
    expect(outcome.copiedBytes).toBe(plan?.copyBytes);
    const after = await store.facts(3);
    expect(after).toMatchObject({ generation: 1, deadBytes: 0, trashBytes: before.lengthBytes });
  });
  const store = await openStore();
  for (const [at, { fid, data }] of stored.entries()) {
    const reader = await store.volume(3)?.find(fid.ordinal, fid.cookie);
    expect(await reader?.content()).toEqual(isAlive(undefined, at) ? data : undefined);
    reader?.close();
  }
  await store.close();
});

test("With purge the old file goes at once", async () => {
  await makeFolder();
  await offline((store) => store.compact(3, { rateBytes: 0, purge: true, seal: false }, ignore));
  expect(readdirSync(folder).filter((name) => name.endsWith(".volume"))).toEqual(["3.g1.volume"]);
});

test("An open volume is compacted only if it may be sealed", async () => {
  await makeFolder({ seal: false });
  await offline(async (store) => {
    const terms = { rateBytes: 0, purge: false };
    await expect(store.compact(3, { ...terms, seal: false }, ignore)).rejects.toThrow("it is open");
    expect((await store.facts(3)).state).toBe("open");
    await store.compact(3, { ...terms, seal: true }, ignore);
    expect(await store.facts(3)).toMatchObject({ state: "sealed", generation: 1, deadBytes: 0 });
  });
});

test("A damaged volume is not compacted, and stays as it is", async () => {
  await makeFolder();
  await damage(3, [{ ordinal: 8, into: 500 }]);
  const names = readdirSync(folder);
  const terms = { rateBytes: 0, purge: true, seal: false };
  await offline(async (store) => {
    await expect(store.compact(3, terms, ignore)).rejects.toThrow(/Cannot compact volume 3/);
    expect((await store.facts(3)).generation).toBe(0);
  });
  expect(readdirSync(folder)).toEqual(names);
});

test("A volume with copies elsewhere is looked at and not changed", async () => {
  await makeFolder({ seal: false });
  await offline(async (store) => {
    const { uuid } = await store.facts(3);
    const members = [store.id, "b".repeat(16)];
    await writeDescriptor(diskFiles, descriptorFile(folder, 3), {
      ...{ format: 1, volume: 3, uuid, generation: 0, epoch: 1, members, state: "open" },
    });
    const why = "other stores have copies of it (bbbbbbbbbbbbbbbb)";
    const terms = { rateBytes: 0, purge: false, seal: true };
    await expect(store.compact(3, terms, ignore)).rejects.toThrow(why);
    await expect(store.planCompaction([3], 0)).rejects.toThrow(why);
    await expect(store.seal(3)).rejects.toThrow(why);
    expect(await store.planCompaction(undefined, 0)).toEqual([]);
    expect(await store.facts(3)).toMatchObject({ state: "open", needleCount: 40 });
    expect(await store.verify(3, 0, ignore)).toEqual([]);
  });
});

test("A seal ends the open life once", async () => {
  await makeFolder({ seal: false });
  await offline(async (store) => {
    expect(await store.seal(3)).toBe(true);
    expect(await store.seal(3)).toBe(false);
    expect((await store.facts(3)).state).toBe("sealed");
  });
});

test("An export has every blob that lives, as it was given", async () => {
  const stored = await makeFolder();
  const { files, manifest, times } = await offline(async (store) => {
    return await unpack(await store.export(3));
  });
  const living = stored.filter(isAlive);
  expect([...files.keys()]).toEqual(living.map(({ key }) => `photos/${key}`));
  for (const { key, data } of living) expect(files.get(`photos/${key}`)).toEqual(data);
  for (const time of times.values()) {
    expect(Math.abs((time?.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
  }
  const [first] = living;
  expect(manifest[0]).toMatchObject({
    path: `photos/${first?.key}`,
    fid: first && formatFid(first.fid),
    bytes: first?.data.length,
    metadata: { key: first?.key },
  });
  const bytes = living.reduce((sum, { data }) => sum + data.length, 0);
  expect(manifest.at(-1)?.summary).toMatchObject({ files: living.length, bytes, damaged: 0 });
});

test("Blobs of one name, and of dangerous ones, are all in an export", async () => {
  const store = await openStore();
  const volume = await create(store, 3, "original");
  const keys = [
    "a.jpg",
    "a.jpg",
    "A.JPG",
    "../../up",
    "x",
    "x/y",
    "",
    "long/".repeat(60),
    "\u0000",
  ];
  for (const [at, key] of keys.entries()) {
    await put(volume, { key, data: Buffer.from(`blob ${at}`), type: "image/jpeg" });
  }
  const large = random.bytes(3_000_000);
  await put(volume, { key: "large", data: large, type: "image/jpeg" });
  await store.close();
  const { files, manifest } = await offline(async (opened) => unpack(await opened.export(3)));
  expect(files.size).toBe(keys.length + 1);
  expect(files.get("photos/large")).toEqual(large);
  const byName = manifest.flatMap(({ path: name }) => name ?? []);
  expect(byName.slice(0, keys.length).map((name) => files.get(name)?.toString())).toEqual(
    keys.map((_, at) => `blob ${at}`),
  );
  expect(byName[0]).toBe("photos/a.jpg");
  expect(byName[1]).toMatch(/^photos\/a\.3,01[0-9a-f]{8}\.jpg$/);
});

test("A damaged blob is left out of an export and told", async () => {
  const stored = await makeFolder();
  await damage(3, [
    { ordinal: 8, into: 500 },
    { ordinal: 12, into: 30 },
    { ordinal: 13, into: 30 },
  ]);
  const { files, manifest } = await offline(async (store) => unpack(await store.export(3)));
  expect(files.size).toBe(stored.filter(isAlive).length - 2); // 12 was deleted
  const told = manifest.flatMap(({ damage: each }) => each ?? []);
  expect(told.map(({ ordinal }) => ordinal)).toEqual([8, 13]);
  expect(manifest.at(-1)?.summary).toMatchObject({ damaged: 2, files: files.size });
});

test("Native blobs are exported by name or fid, with the time that they came with", async () => {
  const store = await openStore();
  const volume = await create(store, 4, "native");
  const native = async (data: string, metadata: Parameters<typeof encodeNativeMetadata>[0]) => {
    return await volume.append({
      ...{ data: Buffer.from(data), owner: undefined, ttlSeconds: 0 },
      metadata: encodeNativeMetadata(metadata),
    });
  };
  await native("one", { name: "cat.jpg", modified: 1_700_000_000 });
  const second = await native("two", {});
  await volume.reserve(100);
  await store.close();
  const { files, times } = await offline(async (opened) => unpack(await opened.export(4)));
  expect([...files.keys()]).toEqual(["cat.jpg", formatFid(second)]);
  expect(times.get("cat.jpg")?.getTime()).toBe(1_700_000_000_000);
  expect(await recordsOf(4)).toMatchObject([
    { kind: "needle" },
    { kind: "needle" },
    { kind: "reservation", ordinal: 2, reservedCount: 100 },
  ]);
});

async function makeSource(): Promise<{ dat: string; idx: string; volume: number }> {
  const fixture = new SeaweedFixture();
  let offset = 0;
  for (let key = 1n; key <= 20n; key++) {
    const at = fixture.put({
      ...{ key: key * 3n, cookie: 0x1000 + Number(key), name: `${key}.jpg` },
      data: random.bytes(1_000),
    });
    if (key === 5n) offset = at;
  }
  fixture.delete({ key: 6n, cookie: 0x1002 });
  const source = { dat: path.join(base, "photos_9.dat"), idx: path.join(base, "photos_9.idx") };
  await fixture.save(diskFiles, source);
  const bytes = readFileSync(source.dat);
  bytes[offset + 100] = (bytes[offset + 100] ?? 0) ^ 0xff;
  writeFileSync(source.dat, bytes);
  return { ...source, volume: 9 };
}

test("An import takes over what verifies, once", async () => {
  await makeFolder();
  const source = await makeSource();
  const survey = await surveySeaweedVolume(source, ignore);
  expect(survey).toMatchObject({ blobs: 18, bytes: 18_000, damaged: [{ key: "f" }] });
  await offline(async (store) => {
    expect(await store.import(source, ignore)).toEqual({ volume: 9, ...survey });
    expect(await store.facts(9)).toMatchObject({ state: "sealed", hasSparseKeys: true });
    await expect(store.import(source, ignore)).rejects.toThrow("has a volume of that id");
    await expect(store.import({ ...source, volume: 3 }, ignore)).rejects.toThrow(
      "has a volume of that id",
    );
    const missing = { ...source, dat: `${source.dat}.none`, volume: 10 };
    await expect(store.import(missing, ignore)).rejects.toThrow("there is no such file");
  });
  const store = await openStore();
  const volume = store.volume(9);
  const ordinal = volume?.ordinalOf(3n);
  expect(ordinal !== undefined && (await volume?.find(ordinal, 0x1001))).toBeTruthy();
  await store.close();
});

test("An import that was cut short is begun anew", async () => {
  await makeFolder();
  const source = await makeSource();
  await offline((store) => store.import(source, ignore));
  // As a kill leaves it: without the seal that comes last.
  const json = readFileSync(descriptorFile(folder, 9), "utf8").split("\n")[0] ?? "";
  await writeDescriptor(diskFiles, descriptorFile(folder, 9), {
    ...JSON.parse(json),
    state: "open",
    sealedLength: undefined,
  });
  const notes: string[] = [];
  const store = await OfflineStore.open(folder, (note) => notes.push(note));
  expect((await store.import(source, ignore)).blobs).toBe(18);
  expect(notes.join()).toContain("cut short");
  expect(await store.facts(9)).toMatchObject({ state: "sealed", needleCount: 18 });
  store.close();
});

import { expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { enumerateFaults } from "../base/simulated-faults.ts";
import { SimulatedFiles } from "../base/simulated-files.ts";
import type { Order } from "../directory/client.ts";
import { copyOrder, makeSealed, SimulatedSources, SimulatedStore } from "./simulated-copies.ts";
import { DeleteLog } from "./volume/delete-log.ts";
import { attempt, simulatedFolder, simulatedVolume } from "./volume/simulated-volume.ts";
import type { Volume } from "./volume/volume.ts";
import { deleteLogFile, volumeFile } from "./volume/volume-files.ts";

const mebibyte = 1_048_576;
const file = volumeFile(simulatedFolder, { volume: simulatedVolume, generation: 0 });

async function wholeOf(volume: Volume): Promise<Buffer> {
  return await volume.read(async (generation, end) => {
    const bytes = Buffer.alloc(end);
    await generation.file.read(bytes, 0);
    return bytes;
  });
}

async function deleteAt(volume: Volume, ordinal: number): Promise<void> {
  const cookie = await cookieAt(volume, ordinal);
  expect(await volume.delete(ordinal, cookie)).toBeDefined();
}

async function cookieAt(volume: Volume, ordinal: number): Promise<number> {
  return await volume.read(async ({ file: handle, index }) => {
    const start = Buffer.alloc(4);
    await handle.read(start, (index.get(ordinal) ?? 0) + 28);
    return start.readUInt32LE(0);
  });
}

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 0x10;
  return copy;
}

/** Names in the folder that only a copy on its way has. */
async function halves(files: SimulatedFiles): Promise<string[]> {
  return (await files.list(simulatedFolder)).filter((name) => name.includes("copying"));
}

test("A copy is its source byte for byte, deletes too, and done twice it is done once", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(9);
  sources.holders.set("a", source);
  await deleteAt(source, 4);
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  const order = copyOrder(source);
  expect(order.digest).toBeUndefined();
  await store.copies.copy(order);
  const whole = await wholeOf(source);
  expect(store.bytes().equals(whole)).toBe(true);
  expect(sources.totalBytes).toBe(whole.length);
  const { digest } = source.report();
  expect(digest).toHaveLength(64);
  expect(store.volume.report()).toMatchObject({
    ...{ state: "sealed", lengthBytes: whole.length, digest, deletedCount: 1, damagedBytes: 0 },
    ...{
      needleCount: source.report().needleCount,
      members: order.members.map((each) => each.store),
    },
  });
  expect(store.volume.isDeleted(4)).toBe(true);
  expect(await halves(store.files)).toEqual([]);

  await store.copies.copy({ ...order, digest, order: 2 });
  expect(sources.totalBytes).toBe(whole.length);
  await store.close();
  // Its checkpoint came with it: opening it again reads none of its needles.
  const again = await SimulatedStore.open(store.files.restart({ lose: "all" }), sources);
  expect(again.volume.report()).toMatchObject({ digest, deletedCount: 1 });
  expect(again.notes).toEqual([]);
  expect((await again.volume.leaves(0)).root).toBe(digest);
  await again.close();
});

test("It serves nobody before it has rejoined, and takes in what was deleted meanwhile", async () => {
  const sources = new SimulatedSources();
  const [source, other] = [await makeSealed(2), await makeSealed(2)];
  sources.holders.set("a", source).set("b", other);
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  sources.spoil.set("a", async (bytes) => {
    await deleteAt(source, 1);
    return bytes;
  });
  const order = copyOrder(source, { from: 2 });
  await store.copies.copy(order);
  const { volume } = store;
  expect(volume.report()).toMatchObject({ isServing: false, deletedCount: 1 });
  expect(() => volume.find(0, 1)).toThrow("it is not known whether this copy is whole");

  await deleteAt(other, 3);
  const { generation, lengthBytes, members, from } = order;
  const rejoin: Order & { kind: "rejoin" } = {
    ...{ order: 3, kind: "rejoin", volume: simulatedVolume, generation, lengthBytes },
    ...{ members, from },
  };
  sources.away.add("a").add("b");
  await expect(store.copies.rejoin(rejoin)).rejects.toThrow("nobody answers at a, b");
  const tooShort = store.copies.rejoin({ ...rejoin, lengthBytes: lengthBytes - 8 });
  await expect(tooShort).rejects.toThrow("Cannot rejoin volume 3: it is sealed in generation 0");
  expect(volume.report().isServing).toBe(false);
  sources.away.delete("b");
  await store.copies.rejoin(rejoin);
  expect(volume.report()).toMatchObject({ isServing: true, deletedCount: 2 });
  expect(volume.find(3, await cookieAt(volume, 3))).toBeUndefined();
  await store.close();
});

test("A source that lies, one that hangs and one that dies cost nothing but time", async () => {
  const sources = new SimulatedSources();
  let source = await makeSealed(10);
  for (const address of ["a", "b", "c"]) {
    source = await makeSealed(10);
    await source.scrub({ rateBytes: 0 });
    sources.holders.set(address, source);
  }
  // Of the first the third MiB is another; the second answers once, and then no more.
  sources.spoil.set("a", (bytes, { start, end }) => {
    const at = 2 * mebibyte + 77 - start;
    return at >= 0 && at < end - start ? flipped(bytes, at) : bytes;
  });
  let calls = 0;
  sources.spoil.set("b", async (bytes) => {
    calls += 1;
    return calls === 1 ? bytes : await new Promise<never>(() => undefined);
  });
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  await store.copies.copy(copyOrder(source, { from: 3 }));
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  expect(store.notes).toEqual(["a source of a copy is damaged"]);
  expect(calls).toBeGreaterThan(1);
  await store.close();
});

test("What no source has right is not made, and what is there waits for one that has", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(6);
  await source.scrub({ rateBytes: 0 });
  sources.holders.set("a", source).set("b", source);
  const lie = (bytes: Buffer, { start, end }: { start: number; end: number }) => {
    const at = 5 * mebibyte - start;
    return at >= 0 && at < end - start ? flipped(bytes, at) : bytes;
  };
  sources.spoil.set("a", lie).set("b", lie);
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  const order = copyOrder(source, { from: 2 });
  await expect(store.copies.copy(order)).rejects.toThrow("MiB 5 is damaged in every copy");
  expect(store.volumes.size).toBe(0);
  expect(store.copies.reports()).toEqual([]);

  sources.spoil.delete("b");
  sources.sentBytes.clear();
  await store.copies.copy(order);
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  expect(sources.totalBytes).toBeLessThan(3 * mebibyte);
  await store.close();
});

test("Where nobody knows the digest most sources decide; bytes of another volume are refused", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(3);
  sources.holders.set("a", source);
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  const wrong = { ...copyOrder(source), uuid: "0".repeat(32) };
  await expect(store.copies.copy(wrong)).rejects.toThrow("it is another volume or generation");
  expect(await halves(store.files)).toEqual([]);
  const unknown = { ...copyOrder(source), digest: "0".repeat(64) };
  await expect(store.copies.copy(unknown)).rejects.toThrow("no source has leaves of that digest");
  expect(store.files.names("visible")).toEqual([]);

  // Spoiled before its leaves were ever made, where no checksum looks: they are right for what it has.
  const rotten = await makeSealed(3);
  const leaves = sources.leaves.bind(sources);
  sources.leaves = async (from) =>
    from.address === "a" ? flipped(await leaves(from), 5) : await leaves(from);
  sources.holders.set("b", rotten).set("c", source);
  await store.copies.copy(copyOrder(source, { from: 3, digest: undefined }));
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  expect(store.notes).toContain("a source of a copy is damaged");
  await store.close();
});

test("A copy that was cut short goes on where it was", async () => {
  for (const lose of ["none", "all"] as const) {
    const sources = new SimulatedSources();
    const source = await makeSealed(20);
    await source.scrub({ rateBytes: 0 });
    sources.holders.set("a", source);
    const begun = Promise.withResolvers<void>();
    sources.spoil.set("a", async (bytes, { start }) => {
      if (start < 12 * mebibyte) return bytes;
      begun.resolve();
      return await new Promise<never>(() => undefined);
    });
    const files = new SimulatedFiles({ afterCut: "hang" });
    // Nobody gives up on what hangs before this test has seen it.
    const first = await SimulatedStore.open(files, sources, { isHurried: false });
    const order = copyOrder(source);
    void first.copies.copy(order).catch(() => undefined);
    await begun.promise;
    const [making] = first.copies.reports();
    expect(making).toMatchObject({ volume: 3, isServing: false, operation: { kind: "copy" } });
    // The window before the last is written while the last is on its way.
    while ((first.copies.reports()[0]?.operation?.doneBytes ?? 0) < 12 * mebibyte) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    sources.spoil.delete("a");
    sources.sentBytes.clear();
    const again = await SimulatedStore.open(files.restart({ lose }), sources);
    expect(again.volumes.size).toBe(0);
    await again.copies.copy(order);
    const whole = await wholeOf(source);
    expect(again.bytes().equals(whole)).toBe(true);
    // It was synced once, if at all: a power cut takes what it takes, and a kill nothing.
    const leftBytes = lose === "none" ? whole.length - 12 * mebibyte : whole.length;
    expect(sources.totalBytes).toBe(leftBytes);
    await again.close();
  }
});

/** A disk with a copy that has rotted at the places that are named. */
async function damagedDisk(
  source: Volume,
  sources: SimulatedSources,
  places: number[],
): Promise<SimulatedFiles> {
  const files = new SimulatedFiles();
  const store = await SimulatedStore.open(files, sources);
  await store.copies.copy(copyOrder(source));
  await store.close();
  for (const place of places) files.flipBit(file, place * 8);
  sources.sentBytes.clear();
  return files;
}

test("A damaged copy is replaced by what of it is right and the rest of others, and set aside", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(12);
  sources.holders.set("a", source);
  const files = await damagedDisk(source, sources, [4 * mebibyte + 9]);
  const damaged = Buffer.from(files.visible(file) ?? []);
  const store = await SimulatedStore.open(files, sources);
  const { volume } = store;
  expect(await volume.scrub({ rateBytes: 0 })).toHaveLength(1);
  const before = volume.report();
  expect(before.damagedBytes).toBeGreaterThan(0);
  await deleteAt(volume, 2); // here alone

  await store.copies.copy(copyOrder(source));
  expect(store.volume, "readers have the same volume").toBe(volume);
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  expect(sources.totalBytes).toBe(mebibyte);
  expect(volume.report()).toMatchObject({
    ...{ damagedBytes: 0, digest: source.report().digest, deletedCount: 1 },
    ...{ trashBytes: damaged.length, operation: undefined },
  });
  const aside = `${simulatedFolder}/3.g0.aside.0.1790000000000`;
  expect(files.visible(aside)?.equals(damaged)).toBe(true);
  expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
  await volume.emptyTrash(Number.POSITIVE_INFINITY);
  expect(files.visible(aside)).toBeUndefined();
  expect(volume.report().trashBytes).toBe(0);
  await store.close();
});

test("A copy of another generation takes the place of the one that missed it", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(3);
  sources.holders.set("a", source);
  const files = await damagedDisk(source, sources, []);
  await deleteAt(source, 1);
  await source.compact({ generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true });
  const store = await SimulatedStore.open(files, sources);
  await store.copies.copy(copyOrder(source));
  expect(store.bytes(1).equals(await wholeOf(source))).toBe(true);
  expect(store.volume.report()).toMatchObject({ generation: 1, deletedCount: 1 });
  expect(store.volume.descriptor.trash).toMatchObject([{ generation: 0 }]);
  await store.close();
  const again = await SimulatedStore.open(files, sources);
  expect(again.volume.report()).toMatchObject({ generation: 1, digest: source.report().digest });
  expect(again.bytes(0).length).toBeGreaterThan(mebibyte);
  await again.close();
});

test("A volume that can't be opened is replaced, and its file is kept", async () => {
  for (const broken of [file, `${simulatedFolder}/3.json`, `${simulatedFolder}/3.deleted`]) {
    const sources = new SimulatedSources();
    const source = await makeSealed(2);
    sources.holders.set("a", source);
    const files = await damagedDisk(source, sources, []);
    files.flipBit(broken, 20 * 8);
    if (broken === file) files.flipBit(broken, (4_096 + 20) * 8);
    const store = await SimulatedStore.open(files, sources);
    expect(store.unreadable, broken).toEqual([3]);
    await store.copies.copy(copyOrder(source));
    expect(store.unreadable).toEqual([]);
    expect(store.bytes().equals(await wholeOf(source))).toBe(true);
    const names = await files.list(simulatedFolder);
    expect(names.filter((name) => name.startsWith("3.g0.aside.0."))).toHaveLength(1);
    await store.close();
  }
});

test("A full disk ends the copy with that reason, and nothing of it stays", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(6);
  sources.holders.set("a", source);
  const files = new SimulatedFiles();
  files.capacityBytes = 3 * mebibyte;
  const store = await SimulatedStore.open(files, sources);
  const failed = await attempt(() => store.copies.copy(copyOrder(source)));
  expect(failed instanceof Failure && failed.kind).toBe("full");
  expect(files.names("visible")).toEqual([]);
  expect(store.copies.reports()).toEqual([]);
  files.capacityBytes = Number.POSITIVE_INFINITY;
  await store.copies.copy(copyOrder(source));
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  await store.close();
});

test("A copy in the trash is not opened, comes back through verification alone, or goes in the end", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(4);
  sources.holders.set("a", source);
  const files = await damagedDisk(source, sources, []);
  const first = await SimulatedStore.open(files, sources);
  const { uuid } = source.report();
  const order = { order: 5, kind: "delete-copy", volume: 3, uuid } as const;
  await expect(first.copies.deleteCopy({ ...order, uuid: "0".repeat(32) })).rejects.toThrow("uuid");
  await first.copies.deleteCopy(order);
  await first.copies.deleteCopy(order);
  expect(first.volumes.size).toBe(0);
  expect(first.copies.trashBytes).toBeGreaterThan(4 * mebibyte);

  files.flipBit(file, (2 * mebibyte + 5) * 8); // it rots there as anywhere
  const store = await SimulatedStore.open(files.restart({ lose: "all" }), sources);
  expect(store.volumes.size).toBe(0);
  expect(store.unreadable).toEqual([]);
  expect(store.copies.trashBytes).toBeGreaterThan(4 * mebibyte);
  await store.copies.copy(copyOrder(source));
  expect(sources.totalBytes).toBe(mebibyte);
  expect(store.bytes().equals(await wholeOf(source))).toBe(true);
  expect(store.copies.trashBytes).toBe(0);

  await store.copies.deleteCopy(order);
  const trashedMs = 1_790_000_000_000;
  await store.copies.emptyTrash(trashedMs);
  expect(store.bytes().length).toBeGreaterThan(0);
  await store.copies.emptyTrash(trashedMs + 1);
  expect(store.files.names("visible")).toEqual([]);
  await store.close();
});

test("Half a copy goes when it is withdrawn, or when nobody goes on with it for long", async () => {
  const sources = new SimulatedSources();
  const source = await makeSealed(6);
  await source.scrub({ rateBytes: 0 });
  sources.holders.set("a", source);
  const begun = Promise.withResolvers<void>();
  sources.spoil.set("a", async (bytes, { start }) => {
    if (start === 0) return bytes;
    begun.resolve();
    return await new Promise<never>(() => undefined);
  });
  const store = await SimulatedStore.open(new SimulatedFiles(), sources);
  const order = copyOrder(source);
  const making = store.copies.copy(order);
  making.catch(() => undefined);
  await begun.promise;
  await expect(store.copies.copy(order)).rejects.toThrow("a copy of it is being made");
  await store.copies.emptyTrash(Number.POSITIVE_INFINITY);
  expect(await halves(store.files)).toEqual(["3.g0.copying"]);
  await store.copies.deleteCopy({ order: 2, kind: "delete-copy", volume: 3, uuid: order.uuid });
  await expect(making).rejects.toThrow("it was withdrawn");
  expect(store.files.names("visible")).toEqual([]);

  sources.spoil.set("a", async () => await new Promise<never>(() => undefined));
  const second = store.copies.copy(order);
  second.catch(() => undefined);
  while ((await halves(store.files)).length === 0) await new Promise(setImmediate);
  await store.copies.close();
  await expect(second).rejects.toThrow("the store is stopping");
  const again = await SimulatedStore.open(store.files, sources);
  await again.copies.emptyTrash(1_790_000_000_000);
  expect(await halves(again.files)).toEqual(["3.g0.copying"]);
  await again.copies.emptyTrash(1_790_000_000_001);
  expect(again.files.names("visible")).toEqual([]);
});

/** Deletes as the disk has them. */
async function deletesOn(files: SimulatedFiles, uuid: Buffer): Promise<number[]> {
  const name = deleteLogFile(simulatedFolder, simulatedVolume);
  const log = await DeleteLog.open(files, name, { volume: simulatedVolume, uuid });
  await log.close();
  return [...log.deleted];
}

for (const isReplaced of [false, true]) {
  test(`${isReplaced ? "Replacing a damaged copy" : "Making a copy"} survives every fault at every file operation`, {
    timeout: 900_000,
  }, async () => {
    const sources = new SimulatedSources();
    const source = await makeSealed(1.1);
    await deleteAt(source, 1);
    await source.scrub({ rateBytes: 0 });
    sources.holders.set("a", source);
    const whole = await wholeOf(source);
    const { uuid } = source.superblock;
    const order = copyOrder(source);
    const damagedAt = mebibyte + 11;
    const isOld = (bytes: Buffer | undefined) => bytes?.equals(flipped(whole, damagedAt)) === true;
    const { checkCount } = await enumerateFaults<{ isDone: boolean }>(
      {
        async prepare() {
          if (!isReplaced) return new SimulatedFiles();
          const files = await damagedDisk(source, sources, []);
          files.put(file, flipped(whole, damagedAt));
          const store = await SimulatedStore.open(files, sources);
          await store.volume.scrub({ rateBytes: 0 });
          await deleteAt(store.volume, 3); // here alone
          await store.close();
          return files;
        },
        begin: () => ({ isDone: false }),
        async act(files, outcome) {
          const store = await SimulatedStore.open(files, sources);
          const failure = await attempt(async () => await store.copies.copy(order));
          if (failure === undefined) outcome.isDone = true;
          // It is whole to readers, or the old one, or not there.
          for (const volume of store.volumes.values()) {
            const bytes = await wholeOf(volume);
            expect(bytes.equals(whole) || isOld(bytes)).toBe(true);
          }
          await attempt(() => store.close());
        },
        async check(files, { isDone }) {
          const store = await SimulatedStore.open(files, sources);
          expect(store.unreadable).toEqual([]);
          if (isDone || isReplaced) expect(store.volumes.size).toBe(1);
          if (isDone) expect(store.bytes().equals(whole)).toBe(true);
          for (const volume of store.volumes.values()) {
            expect(store.bytes().equals(whole) || isOld(store.bytes())).toBe(true);
            const { damagedBytes } = volume.report();
            expect(damagedBytes > 0, "damage is remembered").toBe(isOld(store.bytes()));
          }
          if (isReplaced) {
            const names = files.names("visible");
            const isThere = names.some((name) => isOld(files.visible(name)));
            expect(isThere, "the damaged one is kept").toBe(true);
          }
          await store.copies.copy(order);
          expect(store.bytes().equals(whole)).toBe(true);
          expect(await store.volume.scrub({ rateBytes: 0 })).toEqual([]);
          expect(store.volume.report()).toMatchObject({
            damagedBytes: 0,
            closedBecause: undefined,
          });
          await store.close();

          files.cutPower();
          const disk = files.restart({ lose: "all" });
          const again = await SimulatedStore.open(disk, sources);
          expect(again.bytes().equals(whole)).toBe(true);
          expect(await deletesOn(disk, uuid)).toEqual(isReplaced ? [1, 3] : [1]);
          await again.close();
          const isKnown = /^3\.(json|deleted|g0\.(volume|index|aside\.0\.\d+))$/;
          for (const name of await disk.list(simulatedFolder)) expect(name).toMatch(isKnown);
        },
      },
      { seedCount: 1 },
    );
    expect(checkCount).toBeGreaterThan(150);
  });
}

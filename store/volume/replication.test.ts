/** Volumes with several copies: what one acknowledges, all have; what ends an open life, and how it ends. */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import type { FileSystem } from "../../base/files.ts";
import { seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import type { Batch } from "./batch.ts";
import { Copies, type Copy } from "./simulated-copies.ts";
import { blobOf, readContent, simulatedVolume } from "./simulated-volume.ts";
import type { Superblock } from "./superblock.ts";

const random = seededRandom(11);

async function copiesOf(count: number, change: Partial<Superblock> = {}): Promise<Copies> {
  const disks = Array.from({ length: count }, (_, at) => new SimulatedFiles({ seed: at + 1 }));
  const copies = new Copies(disks);
  await copies.create(change);
  return copies;
}

async function expectThere({ volume }: Copy, fid: Fid, data: Buffer): Promise<void> {
  const read = await readContent(volume, fid);
  expect(read?.equals(data), `needle ${fid.ordinal}`).toBe(true);
}

const refusal = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: unknown) => error as Failure,
  );

/** Never answers. */
const hang = () => new Promise<void>(() => undefined);

/** Keeps the batches that go to a replica, which takes them as well. */
function recordBatches(copy: Copy): Batch[] {
  const batches: Batch[] = [];
  copy.line = (batch, take) => {
    batches.push({ ...batch, buffers: [Buffer.concat(batch.buffers)] });
    return take();
  };
  return batches;
}

for (const count of [2, 3]) {
  test(`What is appended is on all ${count} copies, byte for byte, however it was stored`, async () => {
    const copies = await copiesOf(count);
    const { volume } = copies.primary;
    const contents = [10, 0, 40_000, 3_000_000].map((length) => random.bytes(length));
    const fids = await volume.appendAll(contents.map((data) => blobOf(data)));
    const burst = contents.map((data) => blobOf(data, 3_600));
    fids.push(...(await Promise.all(burst.map((blob) => volume.append(blob, "memory")))));
    fids.push(await volume.append(blobOf(random.bytes(7))));
    copies.expectEqual();
    for (const copy of copies.all) {
      expect(copy.volume.report()).toMatchObject({ isServing: true, members: copies.members });
      expect(copy.volume.report().isWritable).toBe(copy === copies.primary);
      for (const [at, data] of contents.entries()) {
        await expectThere(copy, fids[at] as Fid, data);
        await expectThere(copy, fids[at + contents.length] as Fid, data);
      }
    }
    await copies.fence();
    await copies.begin();
    await copies.primary.volume.append(blobOf(Buffer.from("a second epoch")));
    copies.expectEqual();
  });
}

test("Reservations and what is put in their place, in any order, are on all copies", async () => {
  const copies = await copiesOf(3, { class: "native" });
  const { volume } = copies.primary;
  const first = await volume.reserve(10);
  const sent = [7, 2, 9, 0].map((at) => ({ ordinal: first + at, data: random.bytes(100 + at) }));
  await Promise.all(
    sent.map(({ ordinal, data }) => volume.put({ ordinal, cookie: ordinal }, blobOf(data, 60))),
  );
  const last = await volume.append(blobOf(Buffer.from("after them")));
  expect(last.ordinal).toBe(first + 10);
  copies.expectEqual();
  for (const copy of copies.all) {
    for (const { ordinal, data } of sent) {
      await expectThere(copy, { volume: simulatedVolume, ordinal, cookie: ordinal }, data);
    }
  }
  // And an ordinal that is taken is taken at the replica too.
  for (const copy of copies.all) {
    await copy.volume.close();
    await copy.open();
  }
  copies.expectEqual();
});

test("A replica takes no appends, and a primary no batches", async () => {
  const copies = await copiesOf(2);
  const batches = recordBatches(copies.at(1));
  await copies.primary.volume.append(blobOf(Buffer.from("one")));
  const append = await refusal(copies.at(1).volume.append(blobOf(Buffer.from("two"))));
  expect(append).toMatchObject({ kind: "unavailable" });
  const [batch] = batches as [Batch];
  const bytes = Buffer.concat(batch.buffers);
  expect(await refusal(copies.primary.volume.takeBatch(bytes, batch))).toBeInstanceOf(Failure);
  await copies.primary.volume.append(blobOf(Buffer.from("three")));
  copies.expectEqual();
});

test.each([
  { what: "refuses", isThere: false, line: () => Promise.reject(new Error("no")) },
  { what: "dies before its sync", isThere: false, line: () => Promise.reject(new Error("reset")) },
  {
    what: "dies after its sync",
    isThere: true,
    line: async (_: Batch, take: () => Promise<void>) => {
      await take();
      throw new Error("reset");
    },
  },
])(
  "A replica that $what ends the open life: nothing of the batch is acknowledged",
  async ({ isThere, line }) => {
    const copies = await copiesOf(3);
    const { volume } = copies.primary;
    const kept = random.bytes(500);
    const fid = await volume.append(blobOf(kept));
    const { lengthBytes } = volume.report();
    const lost = copies.at(2);
    lost.line = line;
    const outcomes = await Promise.all(
      [1, 2, 3].map((at) => refusal(volume.append(blobOf(Buffer.from(`no ${at}`))))),
    );
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({ kind: "unavailable" });
      expect(outcome?.message).toContain(lost.store);
    }
    expect(volume.report()).toMatchObject({ lengthBytes, isWritable: false, needleCount: 1 });
    expect(volume.report()).toMatchObject({ canReopen: true });
    expect(volume.report().closedBecause).toContain(lost.store);
    expect(await refusal(volume.append(blobOf(Buffer.from("later"))))).toBeInstanceOf(Failure);
    await expectThere(copies.primary, fid, kept);

    await copies.fence();
    // What ended with the epoch is no reason against another one.
    expect(volume.report()).toMatchObject({ lengthBytes, closedBecause: undefined });
    expect(copies.at(1).volume.report().lengthBytes).toBeGreaterThan(lengthBytes);
    expect(lost.volume.report().lengthBytes > lengthBytes).toBe(isThere);
    // The directory takes the primary's acknowledged length.
    const point = copies.pointOf(copies.primary);
    for (const copy of copies.all) await copies.sealAt(copy, point, copies.primary);
    copies.expectEqual();
    for (const copy of copies.all) {
      await expectThere(copy, fid, kept);
      // The primary had written the batch, and so had those who were not lost.
      const hadIt = copy !== lost || isThere;
      expect(await copy.asides()).toHaveLength(hadIt ? 1 : 0);
      expect(await refusal(copy.volume.append(blobOf(Buffer.from("sealed"))))).toBeInstanceOf(
        Failure,
      );
    }
  },
);

test("Where all copies are equal again, the next epoch goes on, and what nobody acknowledged is set aside", async () => {
  const copies = await copiesOf(2);
  const { volume } = copies.primary;
  await volume.append(blobOf(Buffer.from("first")));
  copies.at(1).line = () => Promise.reject(new Error("restarting"));
  // Longer than what comes afterwards: it would show beyond it.
  expect(await refusal(volume.append(blobOf(random.bytes(9_000))))).toBeInstanceOf(Failure);
  await copies.fence();
  expect(volume.report().lengthBytes).toBe(copies.at(1).volume.report().lengthBytes);
  copies.at(1).line = (_, take) => take();
  await copies.begin();
  copies.expectEqual();
  expect(await copies.primary.asides()).toHaveLength(1);
  const data = random.bytes(20);
  const fid = await volume.append(blobOf(data));
  expect(fid.ordinal).toBe(1);
  copies.expectEqual();
  for (const copy of copies.all) {
    await copy.volume.close();
    await copy.open();
    expect(copy.volume.report()).toMatchObject({ needleCount: 2, damagedBytes: 0 });
  }
  copies.expectEqual();
});

for (const kind of ["write", "sync"] as const) {
  test(`A primary whose ${kind} fails acknowledges nothing, whatever the replicas have`, async () => {
    const copies = await copiesOf(2);
    const { volume } = copies.primary;
    const kept = random.bytes(50);
    const fid = await volume.append(blobOf(kept));
    const { lengthBytes } = volume.report();
    copies.primary.files.plan = (operation) =>
      operation.kind === kind && operation.file.endsWith(".volume")
        ? { kind: "error", code: "EIO", done: "none" }
        : undefined;
    expect(await refusal(volume.append(blobOf(random.bytes(60))))).toMatchObject({
      kind: "unavailable",
    });
    copies.primary.files.plan = undefined;
    // It is told for good: the next epoch does not mend a disk.
    await copies.fence();
    expect(volume.report()).toMatchObject({ lengthBytes, isWritable: false });
    expect(volume.report().canReopen, "its disk is not to be trusted").toBeUndefined();
    expect(volume.report().closedBecause).toContain("disk failed");
    await copies.begin();
    expect(volume.report().isWritable).toBe(false);
    await copies.fence();
    // Sealed at the longest: its own bytes are no evidence any more, they come from the replica.
    const point = copies.pointOf(copies.longest());
    expect(point.lengthBytes).toBeGreaterThan(lengthBytes);
    for (const copy of copies.all) await copies.sealAt(copy, point, copies.at(1));
    copies.expectEqual();
    copies.primary.files = copies.primary.files.restart({ lose: "all" });
    await copies.primary.open();
    copies.primary.volume.serve();
    copies.expectEqual();
    await expectThere(copies.primary, fid, kept);
  });
}

test("A fence waits for this disk's part of a batch in flight and for no replica's answer", async () => {
  const copies = await copiesOf(2);
  const { volume } = copies.primary;
  await volume.append(blobOf(Buffer.from("first")));
  const { lengthBytes } = volume.report();
  const late = Promise.withResolvers<void>();
  let take: () => Promise<void> = hang;
  copies.at(1).line = (_, deliver) => {
    take = deliver;
    return late.promise;
  };
  const appending = refusal(volume.append(blobOf(Buffer.from("second"))));
  const waiting = refusal(volume.append(blobOf(Buffer.from("third"))));
  await volume.fence(2);
  expect(volume.report()).toMatchObject({ epoch: 2, lengthBytes, needleCount: 1 });
  for (const outcome of [appending, waiting]) {
    expect(await outcome).toMatchObject({ kind: "unavailable" });
  }
  // The answer comes after all, and the batch reaches the replica after its own fence.
  await copies.at(1).volume.fence(2);
  expect(await refusal(take())).toBeInstanceOf(Failure);
  late.resolve();
  expect(volume.report().lengthBytes).toBe(lengthBytes);
  expect(copies.at(1).volume.report()).toMatchObject({ lengthBytes, closedBecause: undefined });
  copies.epoch = 2;
  copies.at(1).line = (_, deliver) => deliver();
  await copies.begin();
  await volume.append(blobOf(Buffer.from("fourth")));
  copies.expectEqual();
});

/** The same disk, with syncs that wait for the gate. */
function heldBack(files: FileSystem, gate: () => Promise<void>): FileSystem {
  const bound = (name: keyof FileSystem) => (files[name] as () => unknown).bind(files);
  const names = ["readWhole", "replace", "list", "remove", "syncFolder", "space"] as const;
  return {
    ...(Object.fromEntries(names.map((name) => [name, bound(name)])) as unknown as FileSystem),
    async open(file, mode) {
      const handle = await files.open(file, mode);
      return {
        read: (target, offset) => handle.read(target, offset),
        readNow: (target, offset) => handle.readNow(target, offset),
        write: (parts, offset) => handle.write(parts, offset),
        syncData: () => gate().then(() => handle.syncData()),
        sizeBytes: () => handle.sizeBytes(),
        truncate: (lengthBytes) => handle.truncate(lengthBytes),
        close: () => handle.close(),
      };
    },
  };
}

test("A batch that all copies have when the fence is through is acknowledged, and counts", async () => {
  const copies = await copiesOf(2);
  const { primary } = copies;
  await primary.volume.close();
  let gate = Promise.resolve();
  primary.through = (files) => heldBack(files, () => gate);
  await primary.open();
  await copies.at(1).volume.fence(2);
  copies.epoch = 2;
  await copies.begin();

  const disk = Promise.withResolvers<void>();
  gate = disk.promise;
  const taken = Promise.withResolvers<void>();
  copies.at(1).line = async (_, take) => {
    await take();
    taken.resolve();
  };
  const data = random.bytes(100);
  const appending = primary.volume.append(blobOf(data));
  await taken.promise;
  const fencing = primary.volume.fence(4);
  disk.resolve();
  await fencing;
  const fid = await appending;
  await copies.at(1).volume.fence(4);
  copies.expectEqual();
  for (const copy of copies.all) await expectThere(copy, fid, data);
});

test("Epochs do not fall: a fence or an epoch that is over is refused, the same one again is not", async () => {
  const copies = await copiesOf(2);
  const { volume } = copies.at(1);
  await volume.fence(5);
  await volume.fence(5);
  for (const work of [volume.fence(4), volume.beginEpoch(5), volume.beginEpoch(4)]) {
    expect(await refusal(work)).toMatchObject({ kind: "conflict" });
  }
  await volume.beginEpoch(6, { part: { kind: "replica" } });
  await volume.beginEpoch(6, { part: { kind: "replica" } });
  expect(volume.report()).toMatchObject({ epoch: 6, members: copies.members });
  await volume.close();
  await copies.at(1).open();
  expect(copies.at(1).volume.report()).toMatchObject({ epoch: 6, isServing: false });
  expect(await refusal(copies.at(1).volume.beginEpoch(6))).toMatchObject({ kind: "conflict" });
});

interface NextBatch {
  copies: Copies;
  /** The one that the replica has, and the one that it was not sent. */
  first: Batch;
  batch: Batch;
  bytes: Buffer;
}

/** A replica with one batch taken, and the next one, which it was not sent. */
async function withNextBatch(): Promise<NextBatch> {
  const copies = await copiesOf(2);
  const batches = recordBatches(copies.at(1));
  await copies.primary.volume.append(blobOf(Buffer.from("first")));
  copies.at(1).line = (batch) => {
    batches.push(batch);
    return Promise.reject(new Error("not now"));
  };
  const blobs = [blobOf(random.bytes(61)), blobOf(random.bytes(30))];
  expect(await refusal(copies.primary.volume.appendAll(blobs))).toBeInstanceOf(Failure);
  const [first, batch] = batches;
  if (first === undefined || batch === undefined) throw new Error("no batch came");
  return { copies, first, batch, bytes: Buffer.concat(batch.buffers) };
}

test("A replica takes a batch only at its tail, on the batch before, and closes otherwise", async () => {
  const wrong: ((batch: Batch) => Partial<Batch>)[] = [
    ({ offset }) => ({ offset: offset + 8 }),
    ({ offset }) => ({ offset: offset - 8 }),
    () => ({ previousDigest: Buffer.alloc(8) }),
    () => ({ digest: Buffer.alloc(8, 1) }),
    ({ nextOrdinal }) => ({ nextOrdinal: nextOrdinal + 1 }),
  ];
  for (const change of wrong) {
    const { copies, batch, bytes } = await withNextBatch();
    const { volume } = copies.at(1);
    const { lengthBytes } = volume.report();
    const before = copies.at(1).bytes();
    const outcome = await refusal(volume.takeBatch(bytes, { ...batch, ...change(batch) }));
    expect(outcome).toMatchObject({ kind: "conflict" });
    expect(volume.report()).toMatchObject({ lengthBytes, needleCount: 1 });
    expect(volume.report().closedBecause).toBeDefined();
    expect(copies.at(1).bytes().equals(before)).toBe(true);
    expect(await refusal(volume.takeBatch(bytes, batch)), "not the right one either").toBeDefined();
    await volume.fence(2);
    expect(volume.report().closedBecause, "it has to be sealed").toBeDefined();
  }
});

test("A batch of another epoch, volume or generation is refused, and the replica goes on", async () => {
  const { copies, batch, bytes } = await withNextBatch();
  const { volume } = copies.at(1);
  for (const change of [{ epoch: 0 }, { epoch: 2 }, { uuid: "0".repeat(32) }, { generation: 1 }]) {
    const outcome = await refusal(volume.takeBatch(bytes, { ...batch, ...change }));
    expect(outcome).toMatchObject({ kind: "conflict" });
    expect(volume.report().closedBecause).toBeUndefined();
  }
  await volume.takeBatch(bytes, batch);
  expect(volume.report().needleCount).toBe(3);
  expect(copies.at(1).bytes().equals(copies.primary.bytes())).toBe(true);
});

test("A batch with any byte changed, or cut short anywhere, is refused whole", async () => {
  const { copies, first, batch, bytes } = await withNextBatch();
  const right = copies.primary.bytes();
  const before = copies.at(1).bytes();
  /** Sent to a new replica, which has the batch before. */
  const send = async (what: string, sent: Buffer, isRight = false) => {
    const copy = (await copiesOf(2)).at(1);
    await copy.volume.takeBatch(Buffer.concat(first.buffers), first);
    const outcome = await refusal(copy.volume.takeBatch(sent, batch));
    if (isRight) expect(outcome, what).toBeUndefined();
    else expect(outcome, what).toMatchObject({ kind: "conflict" });
    expect(copy.bytes().equals(isRight ? right : before), what).toBe(true);
  };
  await send("as it was", bytes, true);
  for (let at = 0; at < bytes.length; at++) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ (1 << (at & 7));
    await send(`byte ${at}`, changed);
  }
  for (let length = 0; length < bytes.length; length += 5) {
    await send(`cut at ${length}`, bytes.subarray(0, length));
  }
  await send("longer", Buffer.concat([bytes, Buffer.alloc(8)]));
});

test("A replica syncs what a watermark says is synced before it writes a batch that says so", async () => {
  const copies = await copiesOf(2);
  const { volume } = copies.primary;
  await volume.append(blobOf(random.bytes(5_000)), "memory");
  const syncs = () => copies.at(1).volume.counts.syncs;
  expect(syncs()).toBe(0);
  // The primary's sync alone moves its watermark.
  await volume.scrub({ rateBytes: 0 });
  await volume.append(blobOf(random.bytes(10)), "memory");
  expect(syncs()).toBe(1);
  const files = copies.at(1).files.restart({ lose: "all" });
  copies.at(1).files = files;
  await copies.at(1).open();
  expect(copies.at(1).volume.report()).toMatchObject({ needleCount: 1, damagedBytes: 0 });
});

/** Three copies: the second is short of the last two batches, the third has one more than the first. */
async function uneven(change: Partial<Superblock> = {}): Promise<{
  copies: Copies;
  kept: { fid: Fid; data: Buffer }[];
}> {
  const copies = await copiesOf(3, change);
  const { volume } = copies.primary;
  const kept: { fid: Fid; data: Buffer }[] = [];
  const append = async (length: number) => {
    const data = random.bytes(length);
    kept.push({ data, fid: await volume.append(blobOf(data)) });
  };
  await append(100);
  await append(20_000);
  const [, short, long] = copies.all as [Copy, Copy, Copy];
  const earlier = short.files.clone();
  await append(5_000_000);
  await append(30);
  short.files = earlier;
  await short.open();
  short.line = () => Promise.reject(new Error("it was lost"));
  expect(await refusal(volume.append(blobOf(random.bytes(200))))).toBeInstanceOf(Failure);
  await copies.fence();
  expect(long.volume.report().lengthBytes).toBeGreaterThan(volume.report().lengthBytes);
  expect(short.volume.report().lengthBytes).toBeLessThan(volume.report().lengthBytes);
  return { copies, kept };
}

test("Sealed at a length, longer copies set the rest aside, shorter ones are filled, and all are equal", async () => {
  const { copies, kept } = await uneven();
  const [primary, short, long] = copies.all as [Copy, Copy, Copy];
  const point = copies.pointOf(primary);
  const rest = long.bytes().subarray(point.lengthBytes);
  const fill = refusal(short.volume.sealAt(point));
  expect(await fill).toMatchObject({ kind: "precondition-failed" });
  expect(short.volume.report().state).toBe("open");
  for (const copy of [primary, long, short]) await copies.sealAt(copy, point, primary);
  copies.expectEqual();
  const [aside = ""] = await long.asides();
  expect(long.files.visible(`${long.folder}/${aside}`)?.equals(rest)).toBe(true);
  for (const copy of copies.all) {
    for (const { fid, data } of kept) await expectThere(copy, fid, data);
    expect(copy.volume.report()).toMatchObject({ state: "sealed", isServing: true, epoch: 2 });
    await copy.volume.settled();
    expect(await copy.volume.scrub({ rateBytes: 0 })).toEqual([]);
    await copy.volume.sealAt(point); // the same order again
  }
  const digests = copies.all.map(({ volume }) => volume.report().digest);
  expect(new Set(digests).size).toBe(1);
  for (const copy of copies.all) {
    await copy.volume.close();
    await copy.open();
    expect(copy.volume.report()).toMatchObject({ state: "sealed", isServing: false });
    copy.volume.serve();
    for (const { fid, data } of kept) await expectThere(copy, fid, data);
  }
  copies.expectEqual();
});

test("Sealed at the longest, the others are filled from it", async () => {
  const { copies, kept } = await uneven({ class: "native" });
  const source = copies.longest();
  const point = copies.pointOf(source);
  for (const copy of copies.all) await copies.sealAt(copy, point, source);
  copies.expectEqual();
  expect(source.volume.report().needleCount).toBe(kept.length + 1);
});

test("A copy with another batch where the volume was sealed is left as it is", async () => {
  const { copies } = await uneven();
  const [primary, short, long] = copies.all as [Copy, Copy, Copy];
  const point = copies.pointOf(primary);
  for (const [copy, at] of [
    [primary, { ...point, lastDigest: "0".repeat(16) }],
    [long, { ...point, lengthBytes: point.lengthBytes - 8 }],
    [long, { ...point, lastDigest: "0".repeat(16) }],
  ] as const) {
    const before = copy.bytes();
    expect(await refusal(copy.volume.sealAt(at))).toMatchObject({ kind: "corrupt" });
    expect(copy.volume.report().state).toBe("open");
    expect(copy.bytes().equals(before)).toBe(true);
  }
  expect(await refusal(primary.volume.sealAt({ ...point, epoch: 1 }))).toMatchObject({
    kind: "conflict",
  });
  // What it is filled with has to go on from what it has, and to end where the volume was sealed.
  const { lengthBytes } = short.volume.report();
  const flipped = primary.bytes();
  flipped[lengthBytes + 90_000] = (flipped[lengthBytes + 90_000] ?? 0) ^ 1;
  const wrong = short.volume.fill(point, async (start, length) =>
    flipped.subarray(start, start + length),
  );
  expect(await refusal(wrong)).toMatchObject({ kind: "corrupt" });
  expect(short.volume.report()).toMatchObject({ lengthBytes, damagedBytes: 0 });
  for (const change of [{ lastDigest: "0".repeat(16) }, { lengthBytes: point.lengthBytes - 8 }]) {
    const filling = short.volume.fill({ ...point, ...change }, (start, length) =>
      primary.read(start, length),
    );
    expect(await refusal(filling)).toMatchObject({ kind: "corrupt" });
  }
  await copies.sealAt(short, point, primary);
  await copies.sealAt(primary, point, primary);
  expect(short.bytes().equals(primary.bytes())).toBe(true);
});

test("One of several copies answers no reads after a start until it is told that it is whole", async () => {
  const copies = await copiesOf(2);
  const data = random.bytes(40);
  const fid = await copies.primary.volume.append(blobOf(data));
  const other = await copies.primary.volume.append(blobOf(data));
  const copy = copies.at(1);
  await copy.volume.close();
  await copy.open();
  const { volume } = copy;
  const expectSilent = async () => {
    expect(volume.report().isServing).toBe(false);
    expect(() => volume.find(fid.ordinal, fid.cookie)).toThrow(
      expect.objectContaining({ kind: "unavailable", retryAfterSeconds: 1 }),
    );
  };
  await expectSilent();
  await copies.fence();
  await expectSilent();
  // Deletes are a union: it takes them all the same, of what it has.
  expect(await volume.delete(other.ordinal, other.cookie)).toBe(40);
  expect(await refusal(volume.delete(7, 7))).toMatchObject({ kind: "unavailable" });
  const point = copies.pointOf(copies.primary);
  await volume.sealAt(point);
  await expectSilent();
  await copies.primary.volume.sealAt(point);
  expect(await volume.mergeDeletes([fid.ordinal, other.ordinal, 9_000])).toBe(2);
  expect(await volume.mergeDeletes([fid.ordinal])).toBe(0);
  volume.serve();
  expect(await readContent(volume, fid)).toBeUndefined();
  await volume.close();
  await copy.open();
  // A delete of what nobody ever acknowledged is no damage.
  expect(copy.volume.report()).toMatchObject({ damagedBytes: 0, deletedCount: 3 });
});

test("A fenced copy that served goes on serving what was acknowledged", async () => {
  const copies = await copiesOf(2);
  const data = random.bytes(40);
  const fid = await copies.primary.volume.append(blobOf(data));
  await copies.fence();
  for (const copy of copies.all) await expectThere(copy, fid, data);
});

import { AssertionError } from "node:assert";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { EliasFano } from "./elias-fano.ts";
import { SealedIndex } from "./sealed-index.ts";

/** The obvious index. */
interface Model {
  count: number;
  endOffset: number;
  offsets: Map<number, number>;
}

/** A volume to which the ordinals given are written one after the other. */
function volumeOf(
  ordinals: readonly number[],
  { random, meanBytes = 400, count }: { random: Random; meanBytes?: number; count?: number },
): Model {
  const offsets = new Map<number, number>();
  let offset = 8_192;
  for (const ordinal of ordinals) {
    offsets.set(ordinal, offset);
    // From 104 bytes on, and as often above the mean as below.
    offset += 104 + 8 * Math.floor((random.fraction() * 2 * (meanBytes - 100)) / 8);
  }
  return {
    count: count ?? Math.max(-1, ...ordinals.slice(-1_000)) + 1,
    endOffset: offset,
    offsets,
  };
}

async function build({ count, endOffset, offsets }: Model): Promise<SealedIndex> {
  return await SealedIndex.build({ count, endOffset, get: (ordinal) => offsets.get(ordinal) });
}

function bytesOf(index: SealedIndex): Buffer {
  return Buffer.concat(index.encode());
}

function exceptionCountOf(index: SealedIndex): number {
  return bytesOf(index).readUInt32LE(12);
}

function expectSame(index: SealedIndex, { count, endOffset, offsets }: Model): void {
  const ordinals = Array.from({ length: count }, (_, ordinal) => ordinal);
  const inFile = [...offsets.values(), endOffset].sort((a, b) => a - b);
  const next = new Map(inFile.map((offset, place) => [offset, inFile[place + 1]]));
  expect(index.count).toBe(count);
  expect(index.presentCount).toBe(offsets.size);
  expect(ordinals.map((ordinal) => index.get(ordinal))).toEqual(
    ordinals.map((ordinal) => offsets.get(ordinal)),
  );
  expect(ordinals.map((ordinal) => index.bound(ordinal))).toEqual(
    ordinals.map((ordinal) => next.get(offsets.get(ordinal) ?? -1)),
  );
  expect(index.get(count)).toBeUndefined();
  expect(index.bound(count)).toBeUndefined();

  const present: number[] = [];
  for (let at = index.nextPresent(0); at !== -1; at = index.nextPresent(at + 1)) present.push(at);
  expect(present).toEqual(ordinals.filter((ordinal) => offsets.has(ordinal)));
}

/** The longest rising subsequence, found by trying each pair. */
function longestRise(values: readonly number[]): number {
  const lengths: number[] = [];
  for (const value of values) {
    lengths.push(1 + Math.max(0, ...lengths.filter((_, before) => (values[before] ?? 0) < value)));
  }
  return Math.max(0, ...lengths);
}

/** Which ordinals are written, in which order: with losses, reserved stretches, and plain disorder. */
const writing = fc
  .record({
    seed: fc.nat(),
    count: fc.oneof(fc.nat(4), fc.nat(700)),
    lossRatio: fc.constantFrom(0, 0.02, 0.3, 0.6, 0.97, 1),
    swapRatio: fc.constantFrom(0, 0, 0.01, 0.2, 1),
    reserved: fc.array(fc.record({ start: fc.nat(700), length: fc.nat(60), delay: fc.nat(90) }), {
      maxLength: 3,
    }),
  })
  .map(({ seed, count, lossRatio, swapRatio, reserved }) => {
    const random = seededRandom(seed);
    const times = Array.from({ length: count }, (_, ordinal) => {
      const late = reserved.find(
        ({ start, length }) => ordinal >= start && ordinal < start + length,
      );
      // After as many that come later, and so among them.
      return ordinal + (late === undefined ? 0 : late.delay + 0.5);
    });
    for (let ordinal = 0; ordinal < count; ordinal++) {
      if (random.fraction() >= swapRatio) continue;
      const other = random.u32() % count;
      [times[ordinal], times[other]] = [times[other] ?? 0, times[ordinal] ?? 0];
    }
    const ordinals = times
      .map((_, ordinal) => ordinal)
      .filter(() => random.fraction() >= lossRatio)
      .sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0));
    return volumeOf(ordinals, { random, count });
  });

test("A sealed index knows the same as a map, whatever is lost and in whichever order it was written", async () => {
  await fc.assert(
    fc.asyncProperty(writing, async (model) => {
      const index = await build(model);
      expectSame(index, model);
      expectSame(SealedIndex.decode(bytesOf(index)), model);
      const offsets = [...model.offsets].sort(([a], [b]) => a - b).map(([, offset]) => offset);
      expect(exceptionCountOf(index)).toBe(offsets.length - longestRise(offsets));
    }),
    { numRuns: 150 },
  );
});

test("Look-ups in any order answer the same", async () => {
  const random = seededRandom(3);
  const ordinals = Array.from({ length: 2_000 }, (_, ordinal) => ordinal ^ (ordinal % 50 ? 0 : 64));
  const model = volumeOf(
    ordinals.filter(() => random.fraction() < 0.9),
    { random, count: 2_100 },
  );
  const index = await build(model);
  const present = [...model.offsets.keys()].sort((a, b) => a - b);
  for (let turn = 0; turn < 5_000; turn++) {
    const ordinal = random.u32() % 2_100;
    const offset = model.offsets.get(ordinal);
    const later = index.bound(random.u32() % 2_100); // stands between the two
    if (turn % 2 === 0) expect(index.get(ordinal)).toBe(offset);
    if (offset !== undefined) expect(index.bound(ordinal)).toBeGreaterThan(offset);
    else expect(index.bound(ordinal)).toBeUndefined();
    expect(later ?? model.endOffset).toBeLessThanOrEqual(model.endOffset);
    expect(index.nextPresent(ordinal)).toBe(present.find((other) => other >= ordinal) ?? -1);
  }
});

test("A volume without needles, with one, and with nothing but lost ones", async () => {
  const random = seededRandom(4);
  for (const ordinals of [[], [0], [5]]) {
    for (const count of [6, 600]) {
      const model = volumeOf(ordinals, { random, count });
      expectSame(await build(model), model);
    }
  }
  const nothing = volumeOf([], { random, count: 0 });
  expectSame(await build(nothing), nothing);
  expect((await build(nothing)).nextPresent(0)).toBe(-1);
});

test("A volume may reach to the last offset there is", async () => {
  const endOffset = 0xffff_ffff * 8;
  const offsets = new Map([
    [0, 8_192],
    [2, endOffset - 800],
    [3, endOffset - 1_600],
    [4, endOffset - 400],
  ]);
  expectSame(await build({ count: 6, endOffset, offsets }), { count: 6, endOffset, offsets });
});

for (const meanBytes of [120, 8_192, 65_536]) {
  test(`Needles of ${meanBytes} bytes take less than 3 bytes each in the index`, async () => {
    const random = seededRandom(meanBytes);
    const ordinals = Array.from({ length: 50_000 }, (_, ordinal) => ordinal);
    const index = await build(volumeOf(ordinals, { random, meanBytes }));
    const bound = 2 + Math.log2(meanBytes / 8);
    for (const bytes of [index.memoryBytes, bytesOf(index).length]) {
      expect(bytes / index.presentCount).toBeLessThan(3);
      expect((bytes * 8) / index.presentCount).toBeLessThan(bound + 0.85);
    }
  });
}

test("Of the two ways to leave out what is not there, the smaller one is taken", async () => {
  const count = 40_000;
  const kinds = new Set<number>();
  for (const presentRatio of [1, 0.999, 0.95, 0.9, 0.5, 0.1, 0]) {
    const random = seededRandom(5);
    const ordinals = Array.from({ length: count }, (_, ordinal) => ordinal);
    const present = ordinals.filter(() => random.fraction() < presentRatio);
    const model = volumeOf(present, { random, count });
    const index = await build(model);
    const maximum = model.endOffset / 8;
    const gapsBytes = EliasFano.bytesFor({ count: count + 1, maximum });
    const bitmapBytes = 4 * (Math.ceil(count / 32) + Math.ceil(count / 512));
    const presentBytes = EliasFano.bytesFor({ count: present.length + 1, maximum });
    expect(index.memoryBytes).toBe(Math.min(gapsBytes, bitmapBytes + presentBytes));
    kinds.add(bytesOf(index).readUInt32LE(0));
    expectSame(index, model);
  }
  expect(kinds).toEqual(new Set([0, 1]));
});

test("One needle far out of place is the only exception, however many it passes", async () => {
  const random = seededRandom(6);
  const rest = Array.from({ length: 999 }, (_, at) => at);
  for (const ordinals of [
    [999, ...rest],
    [...rest.slice(1), 0, 999],
  ]) {
    const model = volumeOf(ordinals, { random, count: 1_000 });
    const index = await build(model);
    expect(exceptionCountOf(index)).toBe(1);
    expectSame(index, model);
  }
});

test("Bytes are refused if they end early, go on, or have counts that do not go together", async () => {
  const random = seededRandom(7);
  for (const ordinals of [[0, 2, 1, 3], [900]]) {
    const bytes = bytesOf(await build(volumeOf(ordinals, { random })));
    for (let length = 0; length < bytes.length; length++) {
      expect(() => SealedIndex.decode(bytes.subarray(0, length))).toThrow(Failure);
    }
    expect(() => SealedIndex.decode(Buffer.concat([bytes, Buffer.alloc(8)]))).toThrow(Failure);
    for (let field = 0; field < 16; field += 4) {
      for (const value of [7, 0x7fff_ffff, 0xffff_ffff]) {
        const damaged = Buffer.from(bytes);
        damaged.writeUInt32LE(value, field);
        expect(() => SealedIndex.decode(damaged)).toThrow(Failure);
      }
    }
  }
});

test("Bytes that are damaged make wrong offsets or none, but no look-up goes on for ever", async () => {
  const random = seededRandom(8);
  for (const ordinals of [
    [0, 2, 1, 3, 4],
    [30, 10, 900],
  ]) {
    const bytes = bytesOf(await build(volumeOf(ordinals, { random, count: 901 })));
    for (let at = 0; at < bytes.length; at++) {
      const damaged = Buffer.from(bytes);
      damaged[at] = ~(damaged[at] ?? 0);
      try {
        const index = SealedIndex.decode(damaged);
        let steps = 0;
        for (let next = index.nextPresent(0); next !== -1; next = index.nextPresent(next + 1)) {
          index.get(next);
          index.bound(next);
          steps += 1;
        }
        expect(steps).toBeLessThanOrEqual(index.count);
      } catch (error) {
        expect(error instanceof Failure || error instanceof AssertionError).toBe(true);
      }
    }
  }
});

test("An offset that no needle has is not built", async () => {
  for (const offset of [0, 8_193, 16_384, 20_000]) {
    const offsets = new Map([[0, offset]]);
    await expect(build({ count: 1, endOffset: 16_384, offsets })).rejects.toThrow("begins at");
  }
});

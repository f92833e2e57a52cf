import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { seededRandom } from "../../base/random.ts";
import { EliasFano, PackedArray } from "./elias-fano.ts";

const u32Max = 0xffff_ffff;

/** Stretches that each have gaps of their own size, long enough to cross words, blocks and samples. */
const sequence = fc
  .tuple(
    fc.constantFrom(0, 1, 1_000, u32Max),
    fc.array(
      fc.record({
        length: fc.oneof(fc.nat(5), fc.nat(300)),
        gapMax: fc.constantFrom(0, 0, 1, 2, 30, 5_000, 2 ** 22, 2 ** 31),
        seed: fc.nat(),
      }),
      { maxLength: 8 },
    ),
  )
  .map(([first, stretches]) => {
    const values: number[] = [];
    let value: number = first;
    for (const { length, gapMax, seed } of stretches) {
      const random = seededRandom(seed);
      for (let index = 0; index < length; index++) {
        value = Math.min(u32Max, value + (random.u32() % (gapMax + 1)));
        values.push(value);
      }
    }
    return values;
  });

function build(values: ArrayLike<number>, maximum = values[values.length - 1] ?? 0): EliasFano {
  return EliasFano.buildAtOnce({
    count: values.length,
    maximum,
    valueAt: (index) => values[index] ?? Number.NaN,
  });
}

function expectSame(found: EliasFano, values: readonly number[]): void {
  expect(found.count).toBe(values.length);
  expect(values.map((_, index) => found.get(index))).toEqual(values);
  const cursor = found.cursor();
  expect(values.map(() => cursor.next())).toEqual(values);
  expect(cursor.next()).toBe(-1);
}

function bytesOf(found: EliasFano): Buffer {
  return Buffer.concat(found.encode());
}

test("A sequence gives back each of its values, by index and in order", () => {
  fc.assert(
    fc.property(sequence, (values) => expectSame(build(values), values)),
    { numRuns: 200 },
  );
});

test("A sequence may end far below its maximum", () => {
  for (const maximum of [100, 5_000, 1_000_000, u32Max]) {
    const values = Array.from({ length: 100 }, (_, index) => index);
    expectSame(build(values, maximum), values);
  }
});

test("Sequences at the edges: none, one, all equal, the largest value, each length around a block", () => {
  for (const value of [0, 1, 2 ** 31, u32Max]) {
    for (const length of [0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1_000]) {
      const values = new Array<number>(length).fill(value);
      expectSame(build(values), values);
      expectSame(build(values, u32Max), values);
    }
  }
});

test("The rank of a value is how many entries are less", () => {
  const probe = fc.oneof(fc.nat(u32Max), fc.nat(10_000));
  fc.assert(
    fc.property(sequence, fc.array(probe, { maxLength: 20 }), (values, probes) => {
      const found = build(values);
      const near = values.flatMap((value, index) =>
        index % 17 === 0 ? [value, value + 1, Math.max(0, value - 1)] : [],
      );
      for (const value of [0, u32Max, ...probes, ...near]) {
        expect(found.rank(value)).toBe(values.filter((entry) => entry < value).length);
      }
    }),
    { numRuns: 100 },
  );
});

test("A cursor goes on from wherever it is set, and each has a place of its own", () => {
  fc.assert(
    fc.property(sequence, fc.array(fc.nat(), { maxLength: 10 }), (values, starts) => {
      if (values.length === 0) return;
      const found = build(values);
      const cursor = found.cursor();
      const other = found.cursor();
      for (const start of starts.map((any) => any % values.length)) {
        const rest = values.slice(start, start + 150);
        expect(cursor.seek(start)).toBe(rest[0]);
        other.seek(values.length - 1 - start);
        expect(rest.slice(1).map(() => cursor.next())).toEqual(rest.slice(1));
        expect(cursor).toMatchObject({ index: start + rest.length - 1, value: rest.at(-1) });
      }
    }),
    { numRuns: 100 },
  );
});

test("Entries that are spread wide are found by position, and all others as before", () => {
  const random = seededRandom(1);
  const values: number[] = [];
  // Crowded, but for whole blocks at the start and in the middle, and the last one, which is not full.
  for (let index = 0, value = 0; index < 300_100; index++) {
    const isWide = index < 256 || (index >= 50_048 && index < 50_176);
    const gapMax = isWide ? 2 ** 23 : index < 300_032 ? 4 : 2 ** 24;
    value += random.u32() % gapMax;
    values.push(value);
  }
  const found = build(values);
  const shape = { count: values.length, maximum: values.at(-1) ?? 0 };
  expect(found.memoryBytes).toBe(EliasFano.bytesFor(shape) + 4 * 4 * (1 + 128));
  expectSame(found, values);
  for (let index = 0; index < values.length; index += 997) {
    const value = values[index] ?? 0;
    expect(found.rank(value)).toBe(values.indexOf(value));
  }
  expectSame(EliasFano.decode(bytesOf(found)), values);
});

test("What a sequence takes is known before it is built", () => {
  for (const gap of [0, 1, 15, 1_000, 8_000]) {
    const values = Array.from({ length: 20_000 }, (_, index) => index * gap);
    const shape = { count: values.length, maximum: values.at(-1) ?? 0 };
    const { memoryBytes } = build(values);
    expect(memoryBytes).toBe(EliasFano.bytesFor(shape));
    // Half a bit over the bound at most, and samples.
    const bits = (memoryBytes * 8) / values.length;
    expect(bits).toBeLessThan(2.5 + Math.log2(Math.max(1, gap)) + 0.3);
  }
});

test("A sequence is read back from its bytes, wherever in memory they begin", () => {
  fc.assert(
    fc.property(sequence, fc.nat(7), (values, start) => {
      const bytes = bytesOf(build(values));
      expect(bytes.length % 4).toBe(0);
      const moved = new Uint8Array(bytes.length + start).subarray(start);
      moved.set(bytes);
      const found = EliasFano.decode(moved);
      expectSame(found, values);
      expect(bytesOf(found)).toEqual(bytes);
    }),
    { numRuns: 50 },
  );
});

test("Bytes are refused if they end early, go on, or have a header that no sequence has", () => {
  const bytes = bytesOf(build([1, 5, 5, 70_000]));
  for (let length = 0; length < bytes.length; length++) {
    expect(() => EliasFano.decode(bytes.subarray(0, length))).toThrow(Failure);
  }
  expect(() => EliasFano.decode(Buffer.concat([bytes, Buffer.alloc(4)]))).toThrow("behind its end");
  for (let field = 0; field < 16; field += 4) {
    const damaged = Buffer.from(bytes);
    damaged.writeUInt32LE(u32Max, field);
    expect(() => EliasFano.decode(damaged)).toThrow(Failure);
  }
});

test("Bytes that are damaged make wrong values or none, but no read goes on for ever", () => {
  const values = Array.from({ length: 300 }, (_, index) => index * 11);
  const bytes = bytesOf(build(values));
  for (let at = 0; at < bytes.length; at++) {
    const damaged = Buffer.from(bytes);
    damaged[at] = ~(damaged[at] ?? 0);
    try {
      const found = EliasFano.decode(damaged);
      const cursor = found.cursor();
      while (cursor.next() !== -1);
      for (let index = 0; index < found.count; index++) found.get(index);
      found.rank(1_500);
    } catch (error) {
      expect(error).toBeInstanceOf(Failure);
    }
  }
});

test("A sequence is built in slices, with a turn for others between them", async () => {
  let turns = 0;
  let isDone = false;
  const takeTurn = () => {
    turns += 1;
    if (!isDone) setImmediate(takeTurn);
  };
  setImmediate(takeTurn);
  const count = 400_000;
  const found = await EliasFano.build({ count, maximum: count, valueAt: (index) => index });
  isDone = true;
  expect(turns).toBeGreaterThan(8);
  expect(found.get(77_777)).toBe(77_777);
});

test("What falls, lies above the maximum or is no u32 is not built", () => {
  for (const values of [[2, 1], [0, -1, 5], [0.5], [2 ** 32], [Number.NaN]]) {
    expect(() => build(values, u32Max)).toThrow("never fall");
  }
  expect(() => build([1, 2, 3], 2)).toThrow("never fall");
  expect(() => build([0], 2 ** 32)).toThrow("u32");
  expect(() => build([1, 2, 3]).get(3)).toThrow("Entry 3");
  expect(() => build([1, 2, 3]).get(-1)).toThrow("Entry -1");
});

test("A packed array keeps numbers of each width, and does not touch their neighbours", () => {
  const random = seededRandom(2);
  for (let width = 0; width <= 32; width++) {
    const numbers = Array.from({ length: 100 }, () => random.u32() % 2 ** width);
    const packed = PackedArray.ofZeros(width, numbers.length);
    for (const [index, number] of numbers.entries()) packed.add(index, number);
    expect(numbers.map((_, index) => packed.get(index))).toEqual(numbers);
  }
});

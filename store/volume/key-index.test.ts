import { AssertionError } from "node:assert";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { seededRandom } from "../../base/random.ts";
import { KeyIndex } from "./key-index.ts";

const u64Max = 2n ** 64n - 1n;

/** Clusters of keys anywhere in 64 bits, from neighbours to far apart. */
const keySet = fc
  .array(
    fc.record({
      start: fc.oneof(
        fc.bigInt(0n, u64Max),
        fc.bigInt(0n, 1_000n),
        fc.bigInt(u64Max - 1_000n, u64Max),
      ),
      length: fc.oneof(fc.nat(3), fc.nat(200)),
      gapBits: fc.constantFrom(0, 1, 5, 20, 31, 32, 33, 50),
      seed: fc.nat(),
    }),
    { maxLength: 5 },
  )
  .map((clusters) => {
    const keys = new Set<bigint>();
    for (const { start, length, gapBits, seed } of clusters) {
      const random = seededRandom(seed);
      let key = start;
      for (let at = 0; at < length && key <= u64Max; at++) {
        keys.add(key);
        key += 1n + (random.bytes(8).readBigUInt64LE() & ((1n << BigInt(gapBits)) - 1n));
      }
    }
    return BigUint64Array.from(keys).sort();
  });

function bytesOf(index: KeyIndex): Buffer {
  return Buffer.concat(index.encode());
}

function expectSame(index: KeyIndex, keys: BigUint64Array): void {
  expect(index.count).toBe(keys.length);
  const ordinals = new Map([...keys].map((key, ordinal) => [key, ordinal]));
  for (const [key, ordinal] of ordinals) {
    expect(index.get(ordinal)).toBe(key);
    for (const near of [key - 1n, key, key + 1n, key ^ (1n << 32n), key ^ (1n << 63n)]) {
      expect(index.find(near)).toBe(ordinals.get(near) ?? -1);
    }
  }
  for (const other of [-1n, 0n, u64Max, u64Max + 1n, 2n ** 70n]) {
    expect(index.find(other)).toBe(ordinals.get(other) ?? -1);
  }
}

test("A key is found at its rank, and one that is not there is not found", () => {
  fc.assert(
    fc.property(keySet, (keys) => expectSame(KeyIndex.build(keys), keys)),
    { numRuns: 100 },
  );
});

test("Keys at both ends of 64 bits, and at the edges of their halves", () => {
  for (const keys of [
    [],
    [0n],
    [u64Max],
    [0n, u64Max],
    [u64Max - 2n, u64Max - 1n, u64Max],
    [0xffff_ffffn, 0x1_0000_0000n, 0x1_0000_0001n],
    [1n, 0xffff_ffff_0000_0000n, 0xffff_ffff_ffff_ffffn],
    [0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n],
  ]) {
    const sorted = BigUint64Array.from(keys);
    expectSame(KeyIndex.build(sorted), sorted);
    expectSame(KeyIndex.decode(bytesOf(KeyIndex.build(sorted))), sorted);
  }
});

test("Keys are counted from the first, so that it does not matter where they begin", () => {
  const low = BigUint64Array.from({ length: 10_000 }, (_, at) => BigInt(at) * 64n);
  const high = low.map((distance) => u64Max - 640_000n + distance);
  expect(KeyIndex.build(high).memoryBytes).toBe(KeyIndex.build(low).memoryBytes);
  expect(KeyIndex.build(high).memoryBytes / high.length).toBeLessThan(1.1);
});

test("Keys all over 64 bits take what their distance asks for", () => {
  const random = seededRandom(1);
  const keys = new BigUint64Array(20_000).map(() => random.bytes(8).readBigUInt64LE()).sort();
  const bits = (KeyIndex.build(keys).memoryBytes * 8) / keys.length;
  expect(bits).toBeLessThan(2.5 + 64 - Math.log2(keys.length) + 0.3);
});

test("An index is read back from its bytes, wherever in memory they begin", () => {
  fc.assert(
    fc.property(keySet, fc.nat(7), (keys, start) => {
      const bytes = bytesOf(KeyIndex.build(keys));
      expect(bytes.length % 4).toBe(0);
      const moved = new Uint8Array(bytes.length + start).subarray(start);
      moved.set(bytes);
      const index = KeyIndex.decode(moved);
      expectSame(index, keys);
      expect(bytesOf(index)).toEqual(bytes);
    }),
    { numRuns: 30 },
  );
});

test("A part of a larger array is indexed by itself", () => {
  const keys = BigUint64Array.from({ length: 100 }, (_, at) => BigInt(at) << 40n);
  expectSame(KeyIndex.build(keys.subarray(10, 60)), keys.slice(10, 60));
});

test("Bytes are refused if they end early, go on, or have a header that no index has", () => {
  const bytes = bytesOf(KeyIndex.build(BigUint64Array.of(3n, 9n, 2n ** 50n)));
  for (let length = 0; length < bytes.length; length++) {
    expect(() => KeyIndex.decode(bytes.subarray(0, length))).toThrow(Failure);
  }
  expect(() => KeyIndex.decode(Buffer.concat([bytes, Buffer.alloc(4)]))).toThrow(Failure);
  for (const field of [0, 4]) {
    const damaged = Buffer.from(bytes);
    damaged.writeUInt32LE(0xffff_ffff, field);
    expect(() => KeyIndex.decode(damaged)).toThrow(Failure);
  }
});

test("Keys that do not ascend are not built", () => {
  for (const keys of [
    [1n, 1n],
    [5n, 4n, 9n],
    [5n, 4n],
    [0n, 2n ** 40n, 2n ** 40n - 1n, u64Max],
  ]) {
    expect(() => KeyIndex.build(BigUint64Array.from(keys))).toThrow(AssertionError);
  }
});

/**
 * Which ordinal a key has, in a volume whose blobs were imported with sparse 64-bit keys: the rank of the
 * key among them.
 *
 * Keys are counted from the first one. The upper bits of each, as many as make a u32 of the largest, are an
 * Elias-Fano sequence, and the rest stand one after the other. That is what Elias-Fano over 64 bits would
 * come to, and take, because it sets low bits apart as well.
 *
 * Invariants:
 * - Keys ascend, no two are the same, and an index does not change.
 * - No bigint is kept for a key.
 */

import assert from "node:assert/strict";
import { bytesOfWords, EliasFano, PackedArray, refusal, WordReader } from "./elias-fano.ts";

// Header, as u32 words, in the order written; then the lower bits and the upper bits:
//   0  count
//   1  lowerBits  0 to 32
//   2  firstLow   lower half of the first key
//   3  firstHigh  upper half
//   4  lastLow    lower half of the last key
//   5  lastHigh   upper half
const at = { count: 0, lowerBits: 1, first: 2, last: 4 } as const;
const headerWords = 6;

interface Parts {
  first: bigint;
  last: bigint;
  upper: EliasFano;
  lower: PackedArray;
}

export class KeyIndex {
  readonly count: number;
  readonly #first: bigint;
  readonly #last: bigint;
  readonly #upper: EliasFano;
  readonly #lower: PackedArray;
  /** The distance of a key from the first, as a bigint and as halves: lower, upper. */
  readonly #distance = new BigUint64Array(1);
  readonly #halves = new Uint32Array(this.#distance.buffer);

  private constructor({ first, last, upper, lower }: Parts) {
    this.count = upper.count;
    this.#first = first;
    this.#last = last;
    this.#upper = upper;
    this.#lower = lower;
  }

  /** In one go, which is a few hundred milliseconds for ten million keys. */
  static build(keys: BigUint64Array): KeyIndex {
    const count = keys.length;
    const halves = new Uint32Array(keys.buffer, keys.byteOffset, 2 * count);
    const first = keys.at(0) ?? 0n;
    const last = keys.at(-1) ?? 0n;
    const firstLow = halves[0] ?? 0;
    const firstHigh = halves[1] ?? 0;

    const lowerBits = Math.max(0, bitLength(last - first) - 32);
    const lower = PackedArray.ofZeros(lowerBits, count);
    let nextLow = 0;
    let nextHigh = 0;
    const valueAt = (index: number): number => {
      const low = halves[2 * index] ?? 0;
      const high = halves[2 * index + 1] ?? 0;
      const isLess = high < nextHigh || (high === nextHigh && low < nextLow);
      assert(isLess || index === count - 1, "keys ascend, and no two are the same");
      nextLow = low;
      nextHigh = high;
      const distanceLow = (low - firstLow) >>> 0;
      const distanceHigh = (high - firstHigh - (low < firstLow ? 1 : 0)) >>> 0;
      lower.add(index, distanceLow);
      return upperBits(distanceLow, distanceHigh, lowerBits);
    };
    const maximum = Number((last - first) >> BigInt(lowerBits));
    const upper = EliasFano.buildAtOnce({ count, maximum, valueAt });
    return new KeyIndex({ first, last, upper, lower });
  }

  /** Checks lengths, not content. The index is a view on `bytes`, as `EliasFano.decode` tells. */
  static decode(bytes: Uint8Array): KeyIndex {
    const reader = new WordReader(bytes);
    const header = reader.take(headerWords);
    const count = header[at.count] ?? 0;
    const lowerBits = header[at.lowerBits] ?? 0;
    if (lowerBits > 32) throw refusal(`${lowerBits} lower bits are too many`);
    const [first = 0n, last = 0n] = new BigUint64Array(header.slice(at.first).buffer);
    const lower = new PackedArray(lowerBits, reader.take(PackedArray.wordsFor(count, lowerBits)));
    const upper = EliasFano.decode(reader.takeRest());
    if (upper.count !== count) {
      throw refusal(`it has ${upper.count} keys where ${count} belong`);
    }
    return new KeyIndex({ first, last, upper, lower });
  }

  /** Views on what is in memory. The sum of their lengths is a multiple of 4. */
  encode(): Uint8Array[] {
    const ends = BigUint64Array.of(this.#first, this.#last);
    const header = new Uint32Array(headerWords);
    header[at.count] = this.count;
    header[at.lowerBits] = this.#lower.width;
    header.set(new Uint32Array(ends.buffer), at.first);
    return [header, this.#lower.words].map(bytesOfWords).concat(this.#upper.encode());
  }

  get memoryBytes(): number {
    return this.#upper.memoryBytes + this.#lower.words.byteLength;
  }

  /** The ordinal of a key, or -1 if it is not there. */
  find(key: bigint): number {
    if (key < this.#first || key > this.#last) return -1;
    this.#distance[0] = key - this.#first;
    const distanceLow = this.#halves[0] ?? 0;
    const distanceHigh = this.#halves[1] ?? 0;
    const lowerBits = this.#lower.width;
    const upper = upperBits(distanceLow, distanceHigh, lowerBits);
    let ordinal = this.#upper.rank(upper);
    if (ordinal === this.count || this.#upper.get(ordinal) !== upper) return -1;

    // All keys with these upper bits follow each other, with ascending lower bits: most often just one.
    const lower = lowerBits === 0 ? 0 : (distanceLow & (-1 >>> (32 - lowerBits))) >>> 0;
    if (this.#lower.get(ordinal) === lower) return ordinal;
    for (let end = this.#upper.rank(upper + 1); ordinal < end; ) {
      const middle = (ordinal + end) >>> 1;
      const found = this.#lower.get(middle);
      if (found === lower) return middle;
      if (found < lower) ordinal = middle + 1;
      else end = middle;
    }
    return -1;
  }

  get(ordinal: number): bigint {
    const distance =
      (BigInt(this.#upper.get(ordinal)) << BigInt(this.#lower.width)) |
      BigInt(this.#lower.get(ordinal));
    return this.#first + distance;
  }
}

/** What is left of 64 bits without the lower ones; it is a u32. */
function upperBits(low: number, high: number, lowerBits: number): number {
  if (lowerBits === 0) return low;
  if (lowerBits === 32) return high;
  return ((high << (32 - lowerBits)) | (low >>> lowerBits)) >>> 0;
}

function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

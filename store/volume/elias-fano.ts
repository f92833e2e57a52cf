/**
 * A long sequence of u32 values that never fall, in about 2 + log2(maximum / count) bits each, with each of
 * them found at once.
 *
 * The low bits of each value stand one after the other. What is left of it, its high part, only grows, and
 * by little: it is written as that many zeros more than before, then a one. So entry i is the one at
 * position `high + i`, and finding it is a *select*: where is one number i?
 *
 * The code is the one of P. Elias ("Efficient storage and retrieval by content and address of static
 * files", J. ACM 1974) and R. Fano (1971), as S. Vigna uses it for indexes ("Quasi-succinct indices",
 * WSDM 2013). Select follows D. Okanohara and K. Sadakane ("Practical entropy-compressed rank/select
 * dictionary", ALENEX 2007): the position of the first one of each block is kept, and in the few blocks that
 * are spread too wide to be scanned, the position of every one.
 *
 * Invariants:
 * - A sequence does not change. Cursors have no part in it: any number may be under way.
 * - No read makes an object. `get` looks at no more than `sparseSpanBits`, however values are distributed.
 * - Word numbers stay below 2^31 and positions among high bits below 2^32; positions among low bits may
 *   be larger, so none is ever calculated.
 */

import assert from "node:assert/strict";
import { endianness } from "node:os";
import { setImmediate } from "node:timers/promises";
import { Failure } from "../../base/failure.ts";

const blockEntries = 128;
const blockShift = 7;
/**
 * Scanning as much takes some microseconds. Blocks that are wider take 4 bytes an entry, and there can be so
 * few of them that this is less than a fifth of a bit for each entry of the sequence.
 */
const sparseSpanBits = 65_536;
/** High bits are at most three for each entry, and their positions u32. */
const countMax = 2 ** 30;

// Header, as u32 words, in the order written; then the arrays, in the order of `Parts`:
//   0  count
//   1  maximum
//   2  lowBits
//   3  sparseCount  blocks of which each position is kept
const at = { count: 0, maximum: 1, lowBits: 2, sparseCount: 3 } as const;
const headerWords = 4;

interface EliasFanoSource {
  count: number;
  /** No value is larger. */
  maximum: number;
  /** Asked once for each index, from the last one to the first. */
  valueAt: (index: number) => number;
}

interface Parts {
  readonly count: number;
  readonly maximum: number;
  readonly low: PackedArray;
  readonly high: Uint32Array;
  /** Position of the first one of each block; last of all, the number of high bits. */
  readonly samples: Uint32Array;
  /** Numbers of the blocks that are spread wide, ascending. */
  readonly sparseBlocks: Uint32Array;
  /** For each of them the positions of all its ones. */
  readonly sparsePositions: Uint32Array;
}

export class EliasFano {
  readonly count: number;
  readonly #parts: Parts;

  private constructor(parts: Parts) {
    this.count = parts.count;
    this.#parts = parts;
  }

  /** In slices, so that the process goes on answering. Values may not change until it is done. */
  static async build(source: EliasFanoSource): Promise<EliasFano> {
    const builder = new Builder(source);
    const pace = new Pace();
    while (builder.advance()) if (pace.isDue()) await pace.giveWay();
    return new EliasFano(builder.finish());
  }

  /** In one go: for what is short, or where nobody waits. */
  static buildAtOnce(source: EliasFanoSource): EliasFano {
    const builder = new Builder(source);
    while (builder.advance());
    return new EliasFano(builder.finish());
  }

  /** Whether a sequence of so many entries can be built. */
  static canHold(count: number): boolean {
    return count <= countMax;
  }

  /** What `memoryBytes` will be, if no block is spread so wide that its positions are kept. */
  static bytesFor({ count, maximum }: { count: number; maximum: number }): number {
    const lowBits = chooseLowBits(count, maximum);
    const words = PackedArray.wordsFor(count, lowBits) + highWords({ count, maximum, lowBits });
    return (words + sampleCount(count)) * Uint32Array.BYTES_PER_ELEMENT;
  }

  /**
   * Checks lengths, not content: that is for whoever keeps the bytes. The sequence is a view on `bytes`, and
   * keeps all of their buffer alive; only if they do not begin at a multiple of 4 are they copied, once.
   */
  static decode(bytes: Uint8Array): EliasFano {
    const reader = new WordReader(bytes);
    const header = reader.take(headerWords);
    const count = header[at.count] ?? 0;
    const maximum = header[at.maximum] ?? 0;
    const lowBits = header[at.lowBits] ?? 0;
    const sparseCount = header[at.sparseCount] ?? 0;
    if (count > countMax || lowBits !== chooseLowBits(count, maximum)) {
      throw refusal(`${count} entries of ${lowBits} low bits do not go together`);
    }
    const parts = {
      count,
      maximum,
      low: new PackedArray(lowBits, reader.take(PackedArray.wordsFor(count, lowBits))),
      high: reader.take(highWords({ count, maximum, lowBits })),
      samples: reader.take(sampleCount(count)),
      sparseBlocks: reader.take(sparseCount),
      sparsePositions: reader.take(sparseCount * blockEntries),
    };
    reader.end();
    return new EliasFano(parts);
  }

  /** Views on what is in memory. The sum of their lengths is a multiple of 4. */
  encode(): Uint8Array[] {
    const { count, maximum, low, high, samples, sparseBlocks, sparsePositions } = this.#parts;
    const header = new Uint32Array(headerWords);
    header[at.count] = count;
    header[at.maximum] = maximum;
    header[at.lowBits] = low.width;
    header[at.sparseCount] = sparseBlocks.length;
    return [header, low.words, high, samples, sparseBlocks, sparsePositions].map(bytesOfWords);
  }

  get memoryBytes(): number {
    const { low, high, samples, sparseBlocks, sparsePositions } = this.#parts;
    return [low.words, high, samples, sparseBlocks, sparsePositions].reduce(
      (sum, { byteLength }) => sum + byteLength,
      0,
    );
  }

  get(index: number): number {
    checkIndex(index, this.count);
    const { low } = this.#parts;
    // First, so that memory looks for it and for the sample at the same time.
    const lowPart = low.get(index);
    const high = select(this.#parts, index) - index;
    return ((high << low.width) | lowPart) >>> 0;
  }

  /** How many entries are less than `value`, which is also the index of the first one that is not. */
  rank(value: number): number {
    const { count, maximum, low, samples } = this.#parts;
    if (value > maximum) return count;

    // The samples tell high parts, and stay in the processor's cache: low bits are read only where they decide.
    const high = value >>> low.width;
    let block = 0; // the first one that begins with no less than the value
    for (let end = Math.ceil(count / blockEntries); block < end; ) {
      const middle = (block + end) >>> 1;
      const index = middle * blockEntries;
      const middleHigh = (samples[middle] ?? 0) - index;
      const isBelow = middleHigh === high ? this.get(index) < value : middleHigh < high;
      if (isBelow) block = middle + 1;
      else end = middle;
    }
    if (block === 0) return 0;

    let index = (block - 1) * blockEntries + 1;
    for (let end = Math.min(block * blockEntries, count); index < end; ) {
      const middle = (index + end) >>> 1;
      if (this.get(middle) < value) index = middle + 1;
      else end = middle;
    }
    return index;
  }

  /** Stands nowhere yet. */
  cursor(): EliasFanoCursor {
    return new EliasFanoCursor(this.#parts);
  }
}

/** Goes through a sequence in order, several times faster than by index. */
export class EliasFanoCursor {
  /** Of the entry it stands on; -1 before the first `seek`. */
  index = -1;
  /** The entry it stands on; -1 if there is none. */
  value = -1;
  readonly #parts: Parts;
  /** The word with the one of the entry, and what of that word lies behind that one. */
  #wordIndex = 0;
  #word = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  seek(index: number): number {
    checkIndex(index, this.#parts.count);
    const lowPart = this.#parts.low.get(index); // first, as in `get`
    const position = select(this.#parts, index);
    this.#wordIndex = position >>> 5;
    this.#word = (this.#parts.high[this.#wordIndex] ?? 0) & (-2 << (position & 31));
    return this.#arrive(index, position, lowPart);
  }

  /** The next entry, or -1 behind the last. */
  next(): number {
    const { count, high } = this.#parts;
    const index = this.index + 1;
    if (index >= count) {
      this.index = count;
      this.value = -1;
      return -1;
    }
    if (index === 0) return this.seek(0);
    let wordIndex = this.#wordIndex;
    let word = this.#word;
    while (word === 0) {
      wordIndex += 1;
      if (wordIndex >= high.length) throw refusal("an entry is missing");
      word = high[wordIndex] ?? 0;
    }
    this.#wordIndex = wordIndex;
    this.#word = word & (word - 1);
    return this.#arrive(index, wordIndex * 32 + lowestOne(word), this.#parts.low.get(index));
  }

  #arrive(index: number, position: number, lowPart: number): number {
    this.index = index;
    this.value = (((position - index) << this.#parts.low.width) | lowPart) >>> 0;
    return this.value;
  }
}

/** Where in the high bits one number `index` stands. */
function select({ high, samples, sparseBlocks, sparsePositions }: Parts, index: number): number {
  const block = index >>> blockShift;
  const first = samples[block] ?? 0;
  let left = index & (blockEntries - 1);
  if (left === 0) return first;

  if (sparseBlocks.length > 0 && (samples[block + 1] ?? 0) - first > sparseSpanBits) {
    return sparsePositions[firstNotBelow(sparseBlocks, block) * blockEntries + left] ?? 0;
  }

  let wordIndex = first >>> 5;
  let word = (high[wordIndex] ?? 0) & (-1 << (first & 31));
  for (let ones = countOnes(word); ones <= left; ones = countOnes(word)) {
    left -= ones;
    wordIndex += 1;
    if (wordIndex >= high.length) throw refusal("an entry is missing");
    word = high[wordIndex] ?? 0;
  }
  return wordIndex * 32 + selectInWord(word, left);
}

/** The number of the bit that is one number `left` of a word, counted from 0. */
function selectInWord(word: number, left: number): number {
  // Four sums at once: in each byte the ones up to and with that byte.
  const sums = Math.imul(onesOfBytes(word), 0x0101_0101);
  // The bytes whose sum is no more than `left` lie before the one that is looked for.
  const before = (((left * 0x0101_0101) | 0x8080_8080) - sums) & 0x8080_8080;
  const shift = (Math.imul(before >>> 7, 0x0101_0101) >>> 24) * 8;
  const leftInByte = left - (((sums << 8) >>> shift) & 0xff);
  return shift + (bitInByte[(leftInByte << 8) | ((word >>> shift) & 0xff)] ?? 0);
}

/** By number of the one (0 to 7) and byte: the number of the bit. */
const bitInByte: Uint8Array = Uint8Array.from({ length: 8 * 256 }, (_, key) => {
  let byte = key & 0xff;
  for (let left = key >>> 8; left > 0; left--) byte &= byte - 1;
  return byte === 0 ? 0 : lowestOne(byte);
});

class Builder {
  readonly #source: EliasFanoSource;
  readonly #low: PackedArray;
  readonly #high: Uint32Array;
  readonly #samples: Uint32Array;
  readonly #sparse: { block: number; positions: Uint32Array }[] = [];
  readonly #blockPositions = new Uint32Array(blockEntries);
  #index: number;
  #last: number;

  constructor(source: EliasFanoSource) {
    const { count, maximum } = source;
    assert(EliasFano.canHold(count), "there are not too many entries");
    assert(maximum >>> 0 === maximum, "the maximum is a u32");
    const lowBits = chooseLowBits(count, maximum);
    this.#source = source;
    this.#low = PackedArray.ofZeros(lowBits, count);
    this.#high = new Uint32Array(highWords({ count, maximum, lowBits }));
    this.#samples = new Uint32Array(sampleCount(count));
    this.#samples[this.#samples.length - 1] = highBits({ count, maximum, lowBits });
    this.#index = count;
    this.#last = maximum;
  }

  /** Takes some more entries. Returns whether there is more to do. */
  advance(): boolean {
    const { valueAt } = this.#source;
    const lowBits = this.#low.width;
    const end = Math.max(0, this.#index - stepEntries);
    let last = this.#last;
    for (let index = this.#index - 1; index >= end; index--) {
      const value = valueAt(index);
      if (value >>> 0 !== value || value > last) {
        assert.fail(`Values are u32 and never fall: entry ${index} is ${value} before ${last}`);
      }
      last = value;
      const position = (value >>> lowBits) + index;
      const wordIndex = position >>> 5;
      this.#high[wordIndex] = (this.#high[wordIndex] ?? 0) | (1 << (position & 31));
      this.#low.add(index, value);
      this.#blockPositions[index & (blockEntries - 1)] = position;
      if ((index & (blockEntries - 1)) === 0) this.#endBlock(index >>> blockShift, position);
    }
    this.#last = last;
    this.#index = end;
    return end > 0;
  }

  finish(): Parts {
    const { count, maximum } = this.#source;
    const sparse = this.#sparse.reverse();
    const sparsePositions = new Uint32Array(sparse.length * blockEntries);
    for (const [at, { positions }] of sparse.entries()) {
      sparsePositions.set(positions, at * blockEntries);
    }
    return {
      count,
      maximum,
      low: this.#low,
      high: this.#high,
      samples: this.#samples,
      sparseBlocks: Uint32Array.from(sparse, ({ block }) => block),
      sparsePositions,
    };
  }

  #endBlock(block: number, position: number): void {
    this.#samples[block] = position;
    if ((this.#samples[block + 1] ?? 0) - position <= sparseSpanBits) return;
    this.#sparse.push({ block, positions: this.#blockPositions.slice() });
  }
}

/** About a millisecond's work. */
const stepEntries = 8_192;

/** The fewest bits in all, low and high; that is where the high parts grow by one or two an entry. */
function chooseLowBits(count: number, maximum: number): number {
  let lowBits = 0;
  while (
    lowBits < 31 &&
    count + Math.floor(maximum / 2 ** (lowBits + 1)) < Math.floor(maximum / 2 ** lowBits)
  ) {
    lowBits += 1;
  }
  return lowBits;
}

interface Shape {
  count: number;
  maximum: number;
  lowBits: number;
}

function highBits({ count, maximum, lowBits }: Shape): number {
  return count + (maximum >>> lowBits) + 1;
}

function highWords(shape: Shape): number {
  return Math.ceil(highBits(shape) / 32);
}

function sampleCount(count: number): number {
  return Math.ceil(count / blockEntries) + 1;
}

function checkIndex(index: number, count: number): void {
  if (!(index >= 0 && index < count)) assert.fail(`Entry ${index} is one of ${count}`);
}

/** Numbers of `width` bits, 0 to 32, without a bit between them. */
export class PackedArray {
  readonly width: number;
  /** One word more than is filled, so that a number can always be cut out of two. */
  readonly words: Uint32Array;
  readonly #mask: number;

  constructor(width: number, words: Uint32Array) {
    this.width = width;
    this.words = words;
    this.#mask = width === 0 ? 0 : -1 >>> (32 - width);
  }

  static ofZeros(width: number, count: number): PackedArray {
    return new PackedArray(width, new Uint32Array(PackedArray.wordsFor(count, width)));
  }

  static wordsFor(count: number, width: number): number {
    return Math.ceil((count * width) / 32) + 1;
  }

  get(index: number): number {
    // 32 numbers fill `width` words: so the word is found without the position of a bit.
    const bit = (index & 31) * this.width;
    const word = (index >>> 5) * this.width + (bit >>> 5);
    const shift = bit & 31;
    const rest = ((this.words[word + 1] ?? 0) << 1) << (31 - shift);
    return ((((this.words[word] ?? 0) >>> shift) | rest) & this.#mask) >>> 0;
  }

  /** Sets a number that is still zero to the lowest bits of `value`. */
  add(index: number, value: number): void {
    const bit = (index & 31) * this.width;
    const word = (index >>> 5) * this.width + (bit >>> 5);
    const shift = bit & 31;
    const low = value & this.#mask;
    this.words[word] = (this.words[word] ?? 0) | (low << shift);
    this.words[word + 1] = (this.words[word + 1] ?? 0) | ((low >>> 1) >>> (31 - shift));
  }
}

export function countOnes(word: number): number {
  return Math.imul(onesOfBytes(word), 0x0101_0101) >>> 24;
}

/** In each byte, how many ones it has. */
function onesOfBytes(word: number): number {
  const ones = (word - ((word >>> 1) & 0x5555_5555)) | 0;
  const ofFour = (ones & 0x3333_3333) + ((ones >>> 2) & 0x3333_3333);
  return (ofFour + (ofFour >>> 4)) & 0x0f0f_0f0f;
}

/** The number of the lowest bit that is set; one is. */
export function lowestOne(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** The place of the first entry that is not less than `value`, among the first `count` of an ascending array. */
export function firstNotBelow(
  entries: Uint32Array,
  value: number,
  count: number = entries.length,
): number {
  let low = 0;
  for (let high = count; low < high; ) {
    const middle = (low + high) >>> 1;
    if ((entries[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Takes an index apart as u32 words, and refuses one whose length is not what its header says. */
export class WordReader {
  readonly #words: Uint32Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    checkEndianness();
    if (bytes.length % 4 !== 0) throw refusal(`${bytes.length} bytes are no number of words`);
    const { buffer, byteOffset } = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
    this.#words = new Uint32Array(buffer, byteOffset, bytes.length / 4);
  }

  take(count: number): Uint32Array {
    const start = this.#at;
    if (start + count > this.#words.length) throw refusal("it ends early");
    this.#at += count;
    return this.#words.subarray(start, this.#at);
  }

  /** All that is left, for another reader. */
  takeRest(): Uint8Array {
    return bytesOfWords(this.take(this.#words.length - this.#at));
  }

  end(): void {
    if (this.#at < this.#words.length) throw refusal("it goes on behind its end");
  }
}

export function bytesOfWords({ buffer, byteOffset, byteLength }: Uint32Array): Uint8Array {
  checkEndianness();
  return new Uint8Array(buffer, byteOffset, byteLength);
}

export function refusal(why: string): Failure {
  return new Failure("corrupt", `Cannot use an index: ${why}`);
}

function checkEndianness(): void {
  assert(endianness() === "LE", "words in memory are as in the file");
}

/** Tells long work when to let others have their turn: by its steps, so that two runs do it at the same places. */
export class Pace {
  #stepCount = 0;

  /** Counts one more step of some thousand entries. */
  isDue(): boolean {
    this.#stepCount += 1;
    return this.#stepCount % stepsInOneGo === 0;
  }

  async giveWay(): Promise<void> {
    await setImmediate();
  }
}

/** About a millisecond: what a request may be late by. */
const stepsInOneGo = 4;

/**
 * Where each needle of a sealed volume lies, in about two bytes a needle.
 *
 * Needles stand in the file in the order of their ordinals, but for some that had their ordinals reserved.
 * So offsets are kept as a sequence that never falls, with the end of the volume as its last entry. Those
 * that break the order, as few as can be, are *exceptions*, kept apart. What is not in order, be it an
 * exception or not there at all, is left out in one of two ways, whichever takes less memory:
 * - as a gap of no length: its entry is that of the next needle in order;
 * - by a bitmap of what is in order, and no entry.
 *
 * Invariants:
 * - An index does not change. Whatever is remembered of the last look-up only saves doing it again.
 * - Two entries of needles in order are never the same, and the last entry is larger than all others.
 * - Building takes no more memory besides than two bits an ordinal, and 16 bytes for each needle of the
 *   longest run that is out of order.
 */

import assert from "node:assert/strict";
import {
  bytesOfWords,
  countOnes,
  EliasFano,
  type EliasFanoCursor,
  firstNotBelow,
  lowestOne,
  Pace,
  refusal,
  WordReader,
} from "./elias-fano.ts";
import { unitBytes } from "./needle.ts";
import type { NeedleIndex } from "./needle-index.ts";

// Header, as u32 words, in the order written; then exceptions, presence if there is one, and offsets:
//   0  kind            0 gaps, 1 presence
//   1  count
//   2  presentCount
//   3  exceptionCount
const at = { kind: 0, count: 1, presentCount: 2, exceptionCount: 3 } as const;
const headerWords = 4;
const kinds = { gaps: 0, presence: 1 } as const;

/** Ordinals there are, and where: in bytes, or undefined for one that is not there. */
interface Offsets {
  count: number;
  get: (ordinal: number) => number | undefined;
}

interface Parts {
  count: number;
  presentCount: number;
  exceptions: Exceptions;
  /** Which ordinals are in order; undefined: all have an entry. */
  presence: Presence | undefined;
  /** In units. */
  offsets: EliasFano;
}

export class SealedIndex implements NeedleIndex {
  readonly count: number;
  readonly presentCount: number;
  readonly #exceptions: Exceptions;
  readonly #presence: Presence | undefined;
  readonly #offsets: EliasFano;
  readonly #finder: EliasFanoCursor;
  readonly #walker: EliasFanoCursor;
  /** The last look-up, because a needle's offset and bound are asked for one after the other. */
  #ordinal = -1;
  /** In units: where it begins, and where the next one in order does; the same if it is not there. */
  #start = 0;
  #end = 0;

  private constructor({ count, presentCount, exceptions, presence, offsets }: Parts) {
    this.count = count;
    this.presentCount = presentCount;
    this.#exceptions = exceptions;
    this.#presence = presence;
    this.#offsets = offsets;
    this.#finder = offsets.cursor();
    this.#walker = offsets.cursor();
  }

  /** What `get` answers may not change until it is done. It gives way to others on the way. */
  static async build(source: Offsets & { endOffset: number }): Promise<SealedIndex> {
    const { count, get, endOffset } = source;
    const pace = new Pace();
    const maximum = endOffset / unitBytes;
    const { presentCount, isInOrder } = await survey(source, pace);
    const disorder = isInOrder ? undefined : await findDisorder(source, pace);
    const getInOrder =
      disorder === undefined
        ? get
        : (ordinal: number) => (disorder.members.has(ordinal) ? undefined : get(ordinal));
    const exceptions = await Exceptions.collect({ count, get }, disorder, pace);
    const inOrderCount = presentCount - exceptions.count;

    const gapsShape = { count: count + 1, maximum };
    const presenceShape = { count: inOrderCount + 1, maximum };
    const presenceBytes = Presence.bytesFor(count) + EliasFano.bytesFor(presenceShape);
    const isWithGaps =
      EliasFano.canHold(count + 1) && EliasFano.bytesFor(gapsShape) <= presenceBytes;
    const presence = isWithGaps
      ? undefined
      : await Presence.collect({ count, get: getInOrder }, pace);
    const offsets =
      presence === undefined
        ? await buildWithGaps(gapsShape, getInOrder)
        : await buildWithout(presenceShape, presence, getInOrder);
    return new SealedIndex({ count, presentCount, exceptions, presence, offsets });
  }

  /** Checks lengths, not content. The index is a view on `bytes`, as `EliasFano.decode` tells. */
  static decode(bytes: Uint8Array): SealedIndex {
    const reader = new WordReader(bytes);
    const header = reader.take(headerWords);
    const kind = header[at.kind] ?? 0;
    const count = header[at.count] ?? 0;
    const presentCount = header[at.presentCount] ?? 0;
    const exceptionCount = header[at.exceptionCount] ?? 0;
    if (kind > kinds.presence || presentCount > count || exceptionCount > presentCount) {
      throw refusal(`${presentCount} needles, ${exceptionCount} out of order, among ${count}`);
    }
    const exceptions = Exceptions.decode(reader, exceptionCount);
    const presence = kind === kinds.gaps ? undefined : Presence.decode(reader, count);
    const offsets = EliasFano.decode(reader.takeRest());
    const entryCount = (presence === undefined ? count : presentCount - exceptionCount) + 1;
    if (offsets.count !== entryCount) {
      throw refusal(`it has ${offsets.count} entries where ${entryCount} belong`);
    }
    return new SealedIndex({ count, presentCount, exceptions, presence, offsets });
  }

  /** Views on what is in memory. The sum of their lengths is a multiple of 4. */
  encode(): Uint8Array[] {
    const header = new Uint32Array(headerWords);
    header[at.kind] = this.#presence === undefined ? kinds.gaps : kinds.presence;
    header[at.count] = this.count;
    header[at.presentCount] = this.presentCount;
    header[at.exceptionCount] = this.#exceptions.count;
    return [
      bytesOfWords(header),
      ...this.#exceptions.encode(),
      ...(this.#presence?.encode() ?? []),
      ...this.#offsets.encode(),
    ];
  }

  get memoryBytes(): number {
    return (
      this.#exceptions.memoryBytes + (this.#presence?.memoryBytes ?? 0) + this.#offsets.memoryBytes
    );
  }

  get(ordinal: number): number | undefined {
    if (!(ordinal >= 0 && ordinal < this.count)) return undefined;
    this.#find(ordinal);
    return this.#start < this.#end ? this.#start * unitBytes : undefined;
  }

  /** Where the next needle in the file begins, or the volume ends. */
  bound(ordinal: number): number | undefined {
    if (!(ordinal >= 0 && ordinal < this.count)) return undefined;
    this.#find(ordinal);
    if (this.#start === this.#end) return undefined;
    return this.#exceptions.nearest(this.#start, this.#end) * unitBytes;
  }

  /** The first ordinal from `ordinal` on that is there, or -1. Quick if asked for one after the other. */
  nextPresent(ordinal: number): number {
    if (ordinal >= this.count) return -1;
    const exception = this.#exceptions.next(ordinal) ?? this.count;
    const inOrder =
      this.#presence === undefined
        ? this.#nextLength(ordinal, exception)
        : this.#presence.next(ordinal, exception);
    return inOrder < this.count ? inOrder : -1;
  }

  /** The first ordinal from `ordinal` on whose gap has a length, or `end` if there is none before it. */
  #nextLength(ordinal: number, end: number): number {
    const walker = this.#walker;
    if (walker.index !== ordinal) walker.seek(ordinal);
    for (let present = ordinal; present < end; present++) {
      const units = walker.value;
      if (walker.next() !== units) return present;
    }
    return end;
  }

  #find(ordinal: number): void {
    if (ordinal === this.#ordinal) return;
    const finder = this.#finder;
    const presence = this.#presence;
    let start = 0;
    let end = 0;
    if (presence === undefined || presence.has(ordinal)) {
      start = finder.seek(presence === undefined ? ordinal : presence.rank(ordinal));
      end = finder.next();
    }
    if (start === end) {
      const exception = this.#exceptions.get(ordinal);
      if (exception !== undefined) {
        start = exception;
        end = finder.seek(this.#offsets.rank(start + 1));
      }
    }
    this.#start = start;
    this.#end = end;
    this.#ordinal = ordinal;
  }
}

/** Needles out of order, 12 bytes each: few, or none. */
class Exceptions {
  /** Ascending. */
  readonly #ordinals: Uint32Array;
  /** In units, one for each ordinal. */
  readonly #offsets: Uint32Array;
  /** The same ascending, to find which comes next in the file. */
  readonly #sortedOffsets: Uint32Array;

  private constructor(
    ordinals: Uint32Array,
    offsets: Uint32Array,
    sortedOffsets: Uint32Array = offsets.toSorted(),
  ) {
    this.#ordinals = ordinals;
    this.#offsets = offsets;
    this.#sortedOffsets = sortedOffsets;
  }

  static async collect(
    { count, get }: Offsets,
    disorder: Disorder | undefined,
    pace: Pace,
  ): Promise<Exceptions> {
    const exceptionCount = disorder?.count ?? 0;
    const ordinals = new Uint32Array(exceptionCount);
    const offsets = new Uint32Array(exceptionCount);
    let ordinal = 0;
    for (let place = 0; place < exceptionCount; place++, ordinal++) {
      ordinal = disorder?.members.next(ordinal, count) ?? count;
      ordinals[place] = ordinal;
      offsets[place] = (get(ordinal) ?? 0) / unitBytes;
      if (isStep(place) && pace.isDue()) await pace.giveWay();
    }
    return new Exceptions(ordinals, offsets);
  }

  static decode(reader: WordReader, count: number): Exceptions {
    return new Exceptions(reader.take(count), reader.take(count), reader.take(count));
  }

  encode(): Uint8Array[] {
    return [this.#ordinals, this.#offsets, this.#sortedOffsets].map(bytesOfWords);
  }

  get count(): number {
    return this.#ordinals.length;
  }

  get memoryBytes(): number {
    return 3 * this.#ordinals.byteLength;
  }

  get(ordinal: number): number | undefined {
    if (this.count === 0) return undefined;
    const place = firstNotBelow(this.#ordinals, ordinal);
    return this.#ordinals[place] === ordinal ? this.#offsets[place] : undefined;
  }

  /** The first ordinal from `ordinal` on that is an exception. */
  next(ordinal: number): number | undefined {
    return this.#ordinals[firstNotBelow(this.#ordinals, ordinal)];
  }

  /** The first offset of an exception after `start`, or `end` if there is none before it. */
  nearest(start: number, end: number): number {
    if (this.count === 0) return end;
    return Math.min(this.#sortedOffsets[firstNotBelow(this.#sortedOffsets, start + 1)] ?? end, end);
  }
}

/** A set of ordinals below a count, one bit each. */
class Bits {
  readonly words: Uint32Array;

  constructor(words: Uint32Array) {
    this.words = words;
  }

  static none(count: number): Bits {
    return new Bits(new Uint32Array(Math.ceil(count / 32)));
  }

  has(ordinal: number): boolean {
    return ((this.words[ordinal >>> 5] ?? 0) & (1 << (ordinal & 31))) !== 0;
  }

  add(ordinal: number): void {
    this.words[ordinal >>> 5] = (this.words[ordinal >>> 5] ?? 0) | (1 << (ordinal & 31));
  }

  delete(ordinal: number): void {
    this.words[ordinal >>> 5] = (this.words[ordinal >>> 5] ?? 0) & ~(1 << (ordinal & 31));
  }

  /** The first member from `ordinal` on, or `end` if there is none before it. */
  next(ordinal: number, end: number): number {
    let wordIndex = ordinal >>> 5;
    let word = (this.words[wordIndex] ?? 0) & (-1 << (ordinal & 31));
    while (word === 0) {
      wordIndex += 1;
      if (wordIndex * 32 >= end) return end;
      word = this.words[wordIndex] ?? 0;
    }
    return Math.min(wordIndex * 32 + lowestOne(word), end);
  }

  /** The last member before `ordinal`, or -1. */
  previous(ordinal: number): number {
    let wordIndex = ordinal >>> 5;
    let word = (this.words[wordIndex] ?? 0) & ~(-1 << (ordinal & 31));
    while (word === 0) {
      wordIndex -= 1;
      if (wordIndex < 0) return -1;
      word = this.words[wordIndex] ?? 0;
    }
    return wordIndex * 32 + 31 - Math.clz32(word);
  }
}

const rankShift = 9;
const rankWords = 2 ** rankShift / 32;

/** A set of ordinals that tells how many members come before one. */
class Presence {
  /** Ordinals are below it. */
  readonly count: number;
  readonly #bits: Bits;
  /** How many members come before each 512th ordinal. */
  readonly #samples: Uint32Array;

  private constructor(count: number, bits: Bits, samples: Uint32Array) {
    this.count = count;
    this.#bits = bits;
    this.#samples = samples;
  }

  static async collect({ count, get }: Offsets, pace: Pace): Promise<Presence> {
    const bits = Bits.none(count);
    const samples = new Uint32Array(sampleCount(count));
    let members = 0;
    for (let ordinal = 0; ordinal < count; ordinal++) {
      if (ordinal % 2 ** rankShift === 0) samples[ordinal / 2 ** rankShift] = members;
      if (get(ordinal) !== undefined) {
        bits.add(ordinal);
        members += 1;
      }
      if (isStep(ordinal) && pace.isDue()) await pace.giveWay();
    }
    return new Presence(count, bits, samples);
  }

  static bytesFor(count: number): number {
    return (Math.ceil(count / 32) + sampleCount(count)) * Uint32Array.BYTES_PER_ELEMENT;
  }

  static decode(reader: WordReader, count: number): Presence {
    const bits = new Bits(reader.take(Math.ceil(count / 32)));
    return new Presence(count, bits, reader.take(sampleCount(count)));
  }

  encode(): Uint8Array[] {
    return [this.#bits.words, this.#samples].map(bytesOfWords);
  }

  get memoryBytes(): number {
    return this.#bits.words.byteLength + this.#samples.byteLength;
  }

  has(ordinal: number): boolean {
    return this.#bits.has(ordinal);
  }

  rank(ordinal: number): number {
    const { words } = this.#bits;
    const sample = ordinal >>> rankShift;
    const last = ordinal >>> 5;
    let rank = this.#samples[sample] ?? 0;
    for (let word = sample * rankWords; word < last; word++) rank += countOnes(words[word] ?? 0);
    return rank + countOnes((words[last] ?? 0) & ~(-1 << (ordinal & 31)));
  }

  next(ordinal: number, end: number): number {
    return this.#bits.next(ordinal, end);
  }

  previous(ordinal: number): number {
    return this.#bits.previous(ordinal);
  }
}

function sampleCount(count: number): number {
  return Math.ceil(count / 2 ** rankShift);
}

async function survey(
  { count, get, endOffset }: Offsets & { endOffset: number },
  pace: Pace,
): Promise<{ presentCount: number; isInOrder: boolean }> {
  let presentCount = 0;
  let isInOrder = true;
  let last = 0;
  for (let ordinal = 0; ordinal < count; ordinal++) {
    if (isStep(ordinal) && pace.isDue()) await pace.giveWay();
    const offset = get(ordinal);
    if (offset === undefined) continue;
    if (!(offset > 0 && offset < endOffset && offset % unitBytes === 0)) {
      assert.fail(`Needle ${ordinal} begins at ${offset}, in units, and before ${endOffset}`);
    }
    presentCount += 1;
    isInOrder &&= offset > last;
    last = offset;
  }
  return { presentCount, isInOrder };
}

/** The ordinals of exceptions, and how many they are. */
interface Disorder {
  members: Bits;
  count: number;
}

/**
 * The fewest needles that have to be left out so that all others are in order.
 *
 * Whatever lies behind all needles before it in order, and before all that come after, is in order with
 * everything, so it stays. What is between two of those is independent of the rest: usually a short run,
 * where some ordinals were reserved.
 */
async function findDisorder({ count, get }: Offsets, pace: Pace): Promise<Disorder> {
  const beforeAllLater = Bits.none(count);
  let lowest = Number.POSITIVE_INFINITY;
  for (let ordinal = count - 1; ordinal >= 0; ordinal--) {
    const offset = get(ordinal) ?? lowest;
    if (offset < lowest) beforeAllLater.add(ordinal);
    lowest = Math.min(lowest, offset);
    if (isStep(ordinal) && pace.isDue()) await pace.giveWay();
  }

  const disorder = { members: Bits.none(count), count: 0 };
  const run = { first: 0, count: 0 };
  let highest = 0;
  for (let ordinal = 0; ordinal < count; ordinal++) {
    if (isStep(ordinal) && pace.isDue()) await pace.giveWay();
    const offset = get(ordinal);
    if (offset === undefined) continue;
    const isSettled = offset > highest && beforeAllLater.has(ordinal);
    highest = Math.max(highest, offset);
    if (!isSettled) {
      if (run.count === 0) run.first = ordinal;
      run.count += 1;
    } else if (run.count > 0) {
      await leaveOut(run, get, disorder, pace);
      run.count = 0;
    }
  }
  if (run.count > 0) await leaveOut(run, get, disorder, pace);
  return disorder;
}

const none = 0xffff_ffff;

/**
 * Adds to `disorder` what is not in a longest rising subsequence of a run. Found by patience sorting
 * (C. Schensted 1961, M. Fredman 1975): for each length, the rising subsequence that ends lowest.
 */
async function leaveOut(
  run: { first: number; count: number },
  get: Offsets["get"],
  disorder: Disorder,
  pace: Pace,
): Promise<void> {
  const ordinals = new Uint32Array(run.count);
  /** By length less one: the lowest end in units, and the place in the run of the needle it is of. */
  const ends = new Uint32Array(run.count);
  const endPlaces = new Uint32Array(run.count);
  /** By place: the needle before it in the subsequence that it ended when it was met. */
  const previousPlaces = new Uint32Array(run.count);
  let length = 0;
  let ordinal = run.first;
  for (let place = 0; place < run.count; ordinal++) {
    if (isStep(ordinal) && pace.isDue()) await pace.giveWay();
    const offset = get(ordinal);
    if (offset === undefined) continue;
    const units = offset / unitBytes;
    const before = firstNotBelow(ends, units, length);
    ends[before] = units;
    endPlaces[before] = place;
    previousPlaces[place] = before === 0 ? none : (endPlaces[before - 1] ?? none);
    ordinals[place] = ordinal;
    disorder.members.add(ordinal);
    length = Math.max(length, before + 1);
    place += 1;
  }
  disorder.count += run.count - length;
  for (let place = endPlaces[length - 1] ?? none; place !== none; ) {
    if (isStep(place) && pace.isDue()) await pace.giveWay();
    disorder.members.delete(ordinals[place] ?? 0);
    place = previousPlaces[place] ?? none;
  }
}

async function buildWithGaps(
  shape: { count: number; maximum: number },
  get: Offsets["get"],
): Promise<EliasFano> {
  let next = shape.maximum;
  return await EliasFano.build({
    ...shape,
    valueAt: (ordinal) => {
      const offset = ordinal === shape.count - 1 ? undefined : get(ordinal);
      if (offset !== undefined) next = offset / unitBytes;
      return next;
    },
  });
}

async function buildWithout(
  shape: { count: number; maximum: number },
  presence: Presence,
  get: Offsets["get"],
): Promise<EliasFano> {
  let ordinal = presence.count;
  return await EliasFano.build({
    ...shape,
    valueAt: (entry) => {
      if (entry === shape.count - 1) return shape.maximum;
      ordinal = presence.previous(ordinal);
      return (get(ordinal) ?? 0) / unitBytes;
    },
  });
}

/** Now and then, to see whether others are to have their turn. */
function isStep(index: number): boolean {
  return index % 4_096 === 0;
}

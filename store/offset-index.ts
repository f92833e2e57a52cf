/**
 * Where each needle of an open volume lies: an array by ordinal, four bytes a needle.
 *
 * Invariants:
 * - An entry once set is final. An ordinal that is not there (its bytes were lost) has no offset.
 * - Growing adds a piece; nothing that is there is copied.
 */

import { unitBytes } from "./needle.ts";

const pieceEntries = 65_536;

export class OffsetIndex {
  readonly #pieces: Uint32Array[] = [];
  #count = 0;

  /** The next ordinal. */
  get count(): number {
    return this.#count;
  }

  /** Ordinals before `ordinal` are not given out any more, whether or not they are there. */
  skipTo(ordinal: number): void {
    this.#count = Math.max(this.#count, ordinal);
  }

  /** Sets the offset of `ordinal`, which is the next one or, over a damaged stretch, a later one. */
  set(ordinal: number, offset: number): void {
    const piece = Math.floor(ordinal / pieceEntries);
    while (this.#pieces.length <= piece) this.#pieces.push(new Uint32Array(pieceEntries));
    const entries = this.#pieces[piece];
    if (entries !== undefined) entries[ordinal % pieceEntries] = offset / unitBytes;
    this.#count = Math.max(this.#count, ordinal + 1);
  }

  /** The offset of `ordinal` in bytes, or undefined if there is no such needle. */
  get(ordinal: number): number | undefined {
    if (ordinal >= this.#count) return undefined;
    const units = this.#pieces[Math.floor(ordinal / pieceEntries)]?.[ordinal % pieceEntries];
    // The superblock is at 0, so no needle is.
    return units === undefined || units === 0 ? undefined : units * unitBytes;
  }

  /** The offset of the first needle after `ordinal`, or undefined if it is the last. */
  next(ordinal: number): number | undefined {
    for (let later = ordinal + 1; later < this.#count; later++) {
      const offset = this.get(later);
      if (offset !== undefined) return offset;
    }
    return undefined;
  }
}

/** A set of ordinals, one bit each, that only grows. */
export class OrdinalSet {
  #bits = new Uint32Array(1_024);
  #size = 0;
  #highest = -1;

  get size(): number {
    return this.#size;
  }

  /** The highest member, or -1. */
  get highest(): number {
    return this.#highest;
  }

  has(ordinal: number): boolean {
    const word = this.#bits[ordinal >>> 5];
    return word !== undefined && (word & (1 << (ordinal & 31))) !== 0;
  }

  /** Returns whether the ordinal is new to the set. */
  add(ordinal: number): boolean {
    if (this.has(ordinal)) return false;
    const at = ordinal >>> 5;
    if (at >= this.#bits.length) {
      const grown = new Uint32Array(Math.max(this.#bits.length * 2, at + 1));
      grown.set(this.#bits);
      this.#bits = grown;
    }
    this.#bits[at] = (this.#bits[at] ?? 0) | (1 << (ordinal & 31));
    this.#size += 1;
    this.#highest = Math.max(this.#highest, ordinal);
    return true;
  }
}

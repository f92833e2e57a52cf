/**
 * Where each needle of an open volume lies: an array by ordinal, four bytes a needle.
 *
 * Invariants:
 * - An entry once set is final. An ordinal that is not there (its bytes were lost, or it is reserved and
 *   not written yet) has no offset.
 * - Growing adds a piece; nothing that is there is copied.
 */

import { unitBytes } from "./needle.ts";
import type { NeedleIndex } from "./needle-index.ts";

const pieceEntries = 65_536;
/** Over a wide stretch of reserved ordinals it is not worth looking for the next needle. */
const boundSteps = 64;

export class OffsetIndex implements NeedleIndex {
  readonly #pieces: Uint32Array[] = [];
  #count = 0;
  #presentCount = 0;

  /** The index that `parts` was taken from, from its `count` entries in one piece. */
  static from(entries: Uint32Array): OffsetIndex {
    const index = new OffsetIndex();
    for (let start = 0; start < entries.length; start += pieceEntries) {
      const part = entries.subarray(start, start + pieceEntries);
      index.#pieces.push(part.length === pieceEntries ? part : grown(part));
      for (const units of part) if (units !== 0) index.#presentCount += 1;
    }
    index.#count = entries.length;
    return index;
  }

  get count(): number {
    return this.#count;
  }

  get presentCount(): number {
    return this.#presentCount;
  }

  get memoryBytes(): number {
    return this.#pieces.length * pieceEntries * Uint32Array.BYTES_PER_ELEMENT;
  }

  /** Ordinals before `ordinal` are not given out any more, whether or not they are there. */
  skipTo(ordinal: number): void {
    this.#count = Math.max(this.#count, ordinal);
    this.#grow(this.#count);
  }

  /** Sets the offset of `ordinal`: the next one, a reserved one, or over a damaged stretch a later one. */
  set(ordinal: number, offset: number): void {
    this.#grow(ordinal + 1);
    const entries = this.#pieces[Math.floor(ordinal / pieceEntries)];
    if (entries === undefined) return;
    const at = ordinal % pieceEntries;
    if (entries[at] === 0) this.#presentCount += 1;
    entries[at] = offset / unitBytes;
    this.#count = Math.max(this.#count, ordinal + 1);
  }

  get(ordinal: number): number | undefined {
    if (ordinal >= this.#count) return undefined;
    const units = this.#pieces[Math.floor(ordinal / pieceEntries)]?.[ordinal % pieceEntries];
    // The superblock is at 0, so no needle is.
    return units === undefined || units === 0 ? undefined : units * unitBytes;
  }

  bound(ordinal: number): number | undefined {
    const offset = this.get(ordinal) ?? 0;
    const last = Math.min(this.#count, ordinal + boundSteps);
    for (let later = ordinal + 1; later < last; later++) {
      const next = this.get(later);
      if (next !== undefined && next > offset) return next;
    }
    return undefined;
  }

  /** For each needle's offset that of the next one in the file, or `end`; four bytes a needle while used. */
  sortedBounds(end: number): (offset: number) => number {
    const sorted = new Uint32Array(this.#presentCount);
    let at = 0;
    for (const entries of this.#pieces) {
      for (const units of entries) if (units !== 0) sorted[at++] = units;
    }
    sorted.sort();
    return (offset) => {
      let low = 0;
      let high = sorted.length;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if ((sorted[middle] ?? 0) * unitBytes <= offset) low = middle + 1;
        else high = middle;
      }
      const next = sorted[low];
      return next === undefined ? end : next * unitBytes;
    };
  }

  /**
   * Takes out all needles at or after `offset`, whose bytes are not to be trusted, and goes back to `count`,
   * which is where it was before they came.
   */
  forgetFrom(offset: number, count: number): void {
    this.#count = count;
    const units = offset / unitBytes;
    for (const entries of this.#pieces) {
      for (let at = 0; at < entries.length; at++) {
        if ((entries[at] ?? 0) < units) continue;
        entries[at] = 0;
        this.#presentCount -= 1;
      }
    }
  }

  /**
   * The entries up to now, in pieces. With `isFinal` they are views, which is right as long as no entry
   * among them is set later; else copies.
   */
  parts(isFinal: boolean): Uint32Array[] {
    const parts: Uint32Array[] = [];
    for (let start = 0; start < this.#count; start += pieceEntries) {
      const piece = this.#pieces[start / pieceEntries] ?? new Uint32Array(pieceEntries);
      const part = piece.subarray(0, Math.min(pieceEntries, this.#count - start));
      parts.push(isFinal ? part : part.slice());
    }
    return parts;
  }

  #grow(count: number): void {
    while (this.#pieces.length * pieceEntries < count) {
      this.#pieces.push(new Uint32Array(pieceEntries));
    }
  }
}

function grown(part: Uint32Array): Uint32Array {
  const piece = new Uint32Array(pieceEntries);
  piece.set(part);
  return piece;
}

/** A set of ordinals, one bit each, that only grows. */

const pieceOrdinals = 262_144;

export class OrdinalSet {
  /** Sparse: a stretch without members takes nothing. */
  readonly #pieces: (Uint32Array | undefined)[] = [];
  #size = 0;
  #highest = -1;

  get size(): number {
    return this.#size;
  }

  /** The highest member, or -1. */
  get highest(): number {
    return this.#highest;
  }

  get memoryBytes(): number {
    return this.#pieces.reduce((sum, piece) => sum + (piece?.byteLength ?? 8), 0);
  }

  has(ordinal: number): boolean {
    const word = this.#pieces[Math.floor(ordinal / pieceOrdinals)]?.[wordOf(ordinal)];
    return word !== undefined && (word & (1 << (ordinal & 31))) !== 0;
  }

  /** Returns whether the ordinal is new to the set. */
  add(ordinal: number): boolean {
    if (this.has(ordinal)) return false;
    const at = Math.floor(ordinal / pieceOrdinals);
    while (this.#pieces.length <= at) this.#pieces.push(undefined);
    const piece = this.#pieces[at] ?? new Uint32Array(pieceOrdinals / 32);
    this.#pieces[at] = piece;
    piece[wordOf(ordinal)] = (piece[wordOf(ordinal)] ?? 0) | (1 << (ordinal & 31));
    this.#size += 1;
    this.#highest = Math.max(this.#highest, ordinal);
    return true;
  }

  /** The same members now, whatever is added later. */
  copy(): OrdinalSet {
    const copy = new OrdinalSet();
    for (const piece of this.#pieces) copy.#pieces.push(piece?.slice());
    copy.#size = this.#size;
    copy.#highest = this.#highest;
    return copy;
  }

  /** Members in ascending order. */
  *[Symbol.iterator](): Generator<number> {
    for (const [at, piece] of this.#pieces.entries()) {
      for (const [wordAt, word] of (piece ?? []).entries()) {
        for (let left = word >>> 0; left !== 0; left = (left & (left - 1)) >>> 0) {
          yield at * pieceOrdinals + wordAt * 32 + (31 - Math.clz32(left & -left));
        }
      }
    }
  }
}

function wordOf(ordinal: number): number {
  return (ordinal % pieceOrdinals) >>> 5;
}

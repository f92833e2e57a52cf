/** A set of ordinals, one bit each, that only grows. */

const pieceOrdinals = 262_144;

export class OrdinalSet {
  /** Sparse: a stretch without members takes nothing. */
  readonly #pieces: (Uint32Array | undefined)[] = [];
  #size = 0;
  // Sums over the members, so that the order in which they came does not show.
  #low = 0;
  #high = 0;
  #highest = -1;

  get size(): number {
    return this.#size;
  }

  /** The highest member, or -1. */
  get highest(): number {
    return this.#highest;
  }

  /** Tells sets apart, for sets that nobody makes on purpose: 16 hex digits. */
  get digest(): string {
    const hex = (word: number) => (word >>> 0).toString(16).padStart(8, "0");
    return hex(this.#high) + hex(this.#low);
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
    this.#low = (this.#low + mix(ordinal, 0x9e37_79b1)) | 0;
    this.#high = (this.#high + mix(ordinal, 0x85eb_ca6b)) | 0;
    this.#highest = Math.max(this.#highest, ordinal);
    return true;
  }

  /** The same members now, whatever is added later. */
  copy(): OrdinalSet {
    const copy = new OrdinalSet();
    for (const piece of this.#pieces) copy.#pieces.push(piece?.slice());
    copy.#size = this.#size;
    copy.#low = this.#low;
    copy.#high = this.#high;
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

/** The finalizer of MurmurHash3 (32 bit), over the ordinal and a salt. */
function mix(ordinal: number, salt: number): number {
  let word = Math.imul(ordinal ^ salt, 0x85eb_ca6b) ^ salt;
  word = Math.imul(word ^ (word >>> 16), 0x85eb_ca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2_ae35);
  return word ^ (word >>> 16);
}

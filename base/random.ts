/** Randomness as a seam: unguessable in service, replayable from a seed in tests. */

import { randomBytes, randomFillSync } from "node:crypto";

export interface Random {
  bytes(length: number): Buffer;
  /** A whole number in 0 … 2^32 − 1. */
  u32(): number;
  /** A number in [0, 1). */
  fraction(): number;
}

class SystemRandom implements Random {
  // Filled in one call and handed out in pieces: one system call per needle would be felt.
  readonly #pool = Buffer.alloc(4_096);
  #at = this.#pool.length;

  bytes(length: number): Buffer {
    return randomBytes(length);
  }

  u32(): number {
    if (this.#at === this.#pool.length) {
      randomFillSync(this.#pool);
      this.#at = 0;
    }
    const value = this.#pool.readUInt32LE(this.#at);
    this.#pool.writeUInt32LE(0, this.#at); // a cookie that was given out is not kept
    this.#at += 4;
    return value;
  }

  fraction(): number {
    return this.u32() / 0x1_0000_0000;
  }
}

export const systemRandom: Random = new SystemRandom();

/** The same numbers for the same seed, by splitmix32. Never for anything that must not be guessed. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const u32 = () => {
    state = (state + 0x9e37_79b9) >>> 0;
    let mixed = state ^ (state >>> 16);
    mixed = Math.imul(mixed, 0x21f0_aaad);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x735a_2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  return {
    u32,
    fraction: () => u32() / 0x1_0000_0000,
    bytes(length) {
      const bytes = Buffer.alloc(length);
      for (let at = 0; at < length; at++) bytes[at] = u32() & 0xff;
      return bytes;
    },
  };
}

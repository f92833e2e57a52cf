/**
 * Which needles are likely in the page cache: those that were read or written a short while ago.
 *
 * A read that is handed to a thread and back costs several times what copying a small needle from the
 * page cache does, so warm needles are read on the spot. A guess that was wrong blocks the process for
 * one disk access: each is measured, and when several were slow guessing pauses, longer each time.
 */

import type { Clock } from "../base/clock.ts";

const slotCount = 65_536;
/** The page cache answers in microseconds, the fastest disks in tens of them, under load in hundreds. */
const warmLimitMs = 0.5;
/** One slow read may be the machine's scheduler; so many in a row of reads are the disk. */
const slowMax = 4;
const forgottenAfterReads = 2_000;
const pauseMs = { first: 1_000, last: 60_000 };

export class Warmth {
  readonly #clock: Clock;
  // One slot per hash, the latest needle wins: bounded memory, and old warmth is forgotten.
  readonly #slots = new Uint32Array(slotCount);
  #pausedUntilMs = 0;
  #nextPauseMs = pauseMs.first;
  #reads = 0;
  #slow = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Notes that the needle's bytes went through the page cache just now. */
  touch(ordinal: number): void {
    this.#slots[slotOf(ordinal)] = ordinal + 1;
  }

  isWarm(ordinal: number): boolean {
    return (
      this.#slots[slotOf(ordinal)] === ordinal + 1 &&
      this.#clock.monotonicMs() >= this.#pausedUntilMs
    );
  }

  /** Learns from a read of a needle that was thought warm. */
  learn(tookMs: number): void {
    this.#reads += 1;
    if (this.#reads === forgottenAfterReads) {
      this.#reads = 0;
      this.#slow = 0;
      this.#nextPauseMs = Math.max(this.#nextPauseMs / 2, pauseMs.first);
    }
    if (tookMs <= warmLimitMs) return;
    this.#slow += 1;
    if (this.#slow < slowMax) return;
    this.#slow = 0;
    this.#pausedUntilMs = this.#clock.monotonicMs() + this.#nextPauseMs;
    this.#nextPauseMs = Math.min(this.#nextPauseMs * 2, pauseMs.last);
  }
}

function slotOf(ordinal: number): number {
  return Math.imul(ordinal, 0x9e37_79b1) >>> 16;
}

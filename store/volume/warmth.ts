/**
 * Which needles are likely in the page cache: those that were read or written a short while ago.
 *
 * A read that is handed to a thread and back costs several times what copying a small needle from the
 * page cache does, so warm needles are read on the spot. A guess that was wrong blocks the process for
 * one disk access. Guessing has to pay: each read on the spot saves a little, each slow one costs what it
 * took, and when the account is empty guessing pauses, longer each time.
 */

import type { Clock } from "../../base/clock.ts";

const slotCount = 65_536;
/** What a read on the spot saves: about a hand-over to a thread and back. */
const savedMs = 0.01;
/** Covers one access to a spinning disk, or a few turns of the machine's scheduler. */
const accountMsMax = 20;
const pauseMs = { first: 1_000, last: 60_000 };

export class Warmth {
  readonly #clock: Clock;
  readonly #diskReads: () => number;
  #lastDiskReads = 0;
  // One slot per hash, the latest needle wins: bounded memory, and old warmth is forgotten.
  readonly #slots = new Uint32Array(slotCount);
  #pausedUntilMs = 0;
  #nextPauseMs = pauseMs.first;
  #accountMs = accountMsMax;

  /** `diskReads` counts what the process had to get from the disk so far. */
  constructor(clock: Clock, diskReads: () => number = () => process.resourceUsage().fsRead) {
    this.#clock = clock;
    this.#diskReads = diskReads;
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
    if (tookMs > slowMs && !this.#hasReadDisk()) return; // the processor was with somebody else
    this.#accountMs = Math.min(this.#accountMs + savedMs - tookMs, accountMsMax);
    if (this.#accountMs === accountMsMax) this.#nextPauseMs = pauseMs.first;
    if (this.#accountMs >= 0) return;
    this.#accountMs = accountMsMax / 2;
    this.#pausedUntilMs = this.#clock.monotonicMs() + this.#nextPauseMs;
    this.#nextPauseMs = Math.min(this.#nextPauseMs * 2, pauseMs.last);
  }

  /** Whether the process has read from the disk since it was last asked: if not, this read has not either. */
  #hasReadDisk(): boolean {
    const reads = this.#diskReads();
    const hasRead = reads !== this.#lastDiskReads;
    this.#lastDiskReads = reads;
    return hasRead;
  }
}

/** A read that took longer may have waited for the disk. */
const slowMs = 0.5;

function slotOf(ordinal: number): number {
  return Math.imul(ordinal, 0x9e37_79b1) >>> 16;
}

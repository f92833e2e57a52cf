/**
 * Which stores have just failed to answer: they are tried last for a while, so that a store which is dead costs
 * one slow read and not all of them.
 *
 * Invariant: nothing is ever left out for what is remembered here, it only comes later.
 */

import type { Clock } from "../base/clock.ts";

/** The directory needs three seconds to notice by itself; one that stays away is asked less and less often. */
const avoidMs = { first: 2_000, last: 30_000 };

/** Addresses that failed and were not heard of again, before those whose time is over are forgotten. */
const rememberedMax = 1_000;

interface Trouble {
  failedMs: number;
  untilMs: number;
  delayMs: number;
}

export class CopyHealth {
  readonly #clock: Clock;
  readonly #troubles = new Map<string, Trouble>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  isFine(address: string): boolean {
    const trouble = this.#troubles.get(address);
    return trouble === undefined || trouble.untilMs <= this.#clock.monotonicMs();
  }

  /** The same addresses, turned by `seed`, and those that failed lately at the end. */
  order(addresses: readonly string[], seed: number): string[] {
    const first = seed % Math.max(addresses.length, 1);
    const turned = [...addresses.slice(first), ...addresses.slice(0, first)];
    if (this.#troubles.size === 0) return turned;
    const fine = turned.filter((address) => this.isFine(address));
    return [...fine, ...turned.filter((address) => !fine.includes(address))];
  }

  /** Somebody asks it now. When its time is over one tries it first, and the others wait for the outcome. */
  trying(address: string): void {
    const trouble = this.#troubles.get(address);
    if (trouble === undefined || !this.isFine(address)) return;
    trouble.untilMs = this.#clock.monotonicMs() + trouble.delayMs;
  }

  answered(address: string): void {
    if (this.#troubles.size > 0) this.#troubles.delete(address);
  }

  failed(address: string): void {
    const nowMs = this.#clock.monotonicMs();
    const known = this.#troubles.get(address);
    if (known === undefined) {
      this.#makeRoom(nowMs);
      const delayMs = avoidMs.first;
      this.#troubles.set(address, { failedMs: nowMs, untilMs: nowMs + delayMs, delayMs });
      return;
    }
    // Reads that ran side by side fail side by side: only what fails after its time was over counts anew.
    if (nowMs - known.failedMs >= known.delayMs) {
      known.delayMs = Math.min(known.delayMs * 2, avoidMs.last);
      known.failedMs = nowMs;
    }
    known.untilMs = nowMs + known.delayMs;
  }

  #makeRoom(nowMs: number): void {
    if (this.#troubles.size < rememberedMax) return;
    for (const [address, { untilMs }] of this.#troubles) {
      if (untilMs <= nowMs) this.#troubles.delete(address);
    }
  }
}

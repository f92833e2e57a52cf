/**
 * Which gateways there are: they say with each poll of the map under which address clients reach them. Of
 * several directories each knows those that poll it, and the leader those of the others too. Nothing is written
 * down, since gateways say it again and again.
 */

import type { Clock } from "../base/clock.ts";

/** Longer than a poll is held, and than one that failed is tried again. */
const saidMs = 60_000;

/** So that nobody fills the memory. */
const gatewaysMax = 1_000;

const addressPattern = /^[^\s/@?#"]{1,255}:[0-9]{1,5}$/;

export class Gateways {
  readonly #clock: Clock;
  readonly #said = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(addresses: readonly string[]): void {
    for (const address of addresses) {
      if (!addressPattern.test(address)) continue;
      if (this.#said.size >= gatewaysMax && !this.#said.has(address)) this.all();
      if (this.#said.size >= gatewaysMax && !this.#said.has(address)) continue;
      this.#said.set(address, this.#clock.monotonicMs());
    }
  }

  /** Those that have said so lately. */
  all(): string[] {
    const sinceMs = this.#clock.monotonicMs() - saidMs;
    for (const [address, ms] of this.#said) if (ms < sinceMs) this.#said.delete(address);
    return [...this.#said.keys()];
  }
}

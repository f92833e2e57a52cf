/** A limit on bytes a second for work in the background. */

import { setImmediate as giveWay, setTimeout as sleep } from "node:timers/promises";
import type { Clock } from "./clock.ts";

/** What was not used up lasts so long: a pause is not made up for with a burst. */
const savedMsMax = 100;

export class RateLimit {
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  #paidUntilMs: number;

  /** `bytesPerSecond` 0 is no limit. */
  constructor(clock: Clock, bytesPerSecond: number) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#paidUntilMs = clock.monotonicMs();
  }

  /** Returns when `bytes` more may be worked on; at once without a limit, but whoever waits comes first. */
  async spend(bytes: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#bytesPerSecond === 0) {
      await giveWay();
      return;
    }
    const nowMs = this.#clock.monotonicMs();
    const from = Math.max(this.#paidUntilMs, nowMs - savedMsMax);
    this.#paidUntilMs = from + (bytes / this.#bytesPerSecond) * 1_000;
    const waitMs = this.#paidUntilMs - nowMs;
    if (waitMs > 1) await sleep(waitMs, undefined, { ref: false });
    else await giveWay();
    signal?.throwIfAborted();
  }
}

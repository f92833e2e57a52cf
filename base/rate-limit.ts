/** A limit on bytes a second for work in the background. */

import type { Clock } from "./clock.ts";
import { pause, type Runtime, systemRuntime } from "./runtime.ts";

/** What was not used up lasts so long: a pause is not made up for with a burst. */
const savedMsMax = 100;

export class RateLimit {
  readonly #clock: Clock;
  readonly #runtime: Runtime;
  readonly #bytesPerSecond: number;
  #paidUntilMs: number;

  /** `bytesPerSecond` 0 is no limit. */
  constructor(clock: Clock, bytesPerSecond: number, runtime: Runtime = systemRuntime) {
    this.#runtime = runtime;
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#paidUntilMs = clock.monotonicMs();
  }

  /** Returns when `bytes` more may be worked on; at once without a limit, but whoever waits comes first. */
  async spend(bytes: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#bytesPerSecond === 0) {
      await this.#runtime.giveWay();
      return;
    }
    const nowMs = this.#clock.monotonicMs();
    const from = Math.max(this.#paidUntilMs, nowMs - savedMsMax);
    this.#paidUntilMs = from + (bytes / this.#bytesPerSecond) * 1_000;
    const waitMs = this.#paidUntilMs - nowMs;
    if (waitMs > 1) await pause(this.#runtime, waitMs);
    else await this.#runtime.giveWay();
    signal?.throwIfAborted();
  }
}

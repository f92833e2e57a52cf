/**
 * Turns of work in the background, in a process that answers others: one slice, then whoever waits.
 *
 * A process that always has work is, to the system's scheduler, one that has used up its share: it waits for
 * milliseconds where one that was asleep gets the processor at once, and so does every answer it owes. So
 * work that met others between two slices rests as well; where there is nobody it goes on at once.
 */

import type { Clock } from "./clock.ts";
import { pause, type Runtime } from "./runtime.ts";

/** A turn of the event loop in which nobody had anything to do takes less. */
const emptyTurnMs = 0.05;
/** As short as timers are. */
const restMs = 1;

export class Turns {
  readonly #clock: Clock;
  readonly #runtime: Runtime;
  readonly #sliceBytes: number;
  #sinceBytes = 0;

  constructor({
    clock,
    runtime,
    sliceBytes,
  }: {
    clock: Clock;
    runtime: Runtime;
    /** What is worked on in one go. */
    sliceBytes: number;
  }) {
    this.#clock = clock;
    this.#runtime = runtime;
    this.#sliceBytes = sliceBytes;
  }

  /** Tells that `bytes` were worked on; waits if that makes a slice. */
  async spend(bytes: number): Promise<void> {
    this.#sinceBytes += bytes;
    if (this.#sinceBytes < this.#sliceBytes) return;
    this.#sinceBytes = 0;
    const startedMs = this.#clock.monotonicMs();
    await this.#runtime.giveWay();
    if (this.#clock.monotonicMs() - startedMs > emptyTurnMs) await pause(this.#runtime, restMs);
  }
}

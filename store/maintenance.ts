/**
 * What a store does by itself in the background: verifies all it has, volume after volume, and empties the
 * trash. Compaction is the directory's to order, because replicas have to agree on it.
 *
 * Invariant: one volume at a time, at a limited rate; a failure is logged and never ends the loop.
 */

import type { Clock } from "../base/clock.ts";
import { Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import type { Store } from "./store.ts";

export interface MaintenanceOptions {
  store: Store;
  clock: Clock;
  /** The process's own where none is given. */
  runtime?: Runtime | undefined;
  log: Log;
  /** Every byte is verified within this time. */
  scrubIntervalMs: number;
  /** Bytes a second, 0 for no limit. */
  scrubRateBytes: number;
  /** Pause between two looks. */
  pauseMs?: number;
}

/** Volumes fall due a little early, so that a queue of them is done in time. */
const dueShare = 0.9;

export class Maintenance {
  readonly #options: MaintenanceOptions;
  readonly #stopping = new AbortController();
  #endPause: (() => void) | undefined;
  #running: Promise<void> | undefined;

  constructor(options: MaintenanceOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Begins nothing more; returns once nothing runs. A scrub that does is ended by its volume's close. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#endPause?.();
    await this.#running;
  }

  /** Does what is due now. */
  async turn(): Promise<void> {
    const { store, clock, log, scrubIntervalMs, scrubRateBytes } = this.#options;
    try {
      await store.emptyTrash();
    } catch (error) {
      log.error({ err: error }, "the trash can't be emptied");
    }
    if (this.#stopping.signal.aborted) return;
    const dueBeforeMs = clock.nowMs() - scrubIntervalMs * dueShare;
    const due = store
      .volumes()
      .filter(({ scrubbedMs, isSuspect }) => scrubbedMs < dueBeforeMs || isSuspect)
      .filter(({ operation }) => operation === undefined)
      // What a read found damaged comes first: how much of it there is decides what is done about it.
      .sort((left, right) => {
        const bySuspicion = Number(right.isSuspect) - Number(left.isSuspect);
        return bySuspicion || left.scrubbedMs - right.scrubbedMs;
      })[0];
    if (due === undefined) return;
    const { volume } = due.superblock;
    try {
      await store.verify(volume, scrubRateBytes);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      const isExpected = error instanceof Failure && error.kind !== "internal";
      if (isExpected) log.warn({ volume, reason: messageOf(error) }, "a volume was not verified");
      else log.error({ volume, err: error }, "a volume was not verified");
    }
  }

  async #run(): Promise<void> {
    const { pauseMs = 60_000 } = this.#options;
    while (!this.#stopping.signal.aborted) {
      await this.turn();
      await this.#pause(pauseMs);
    }
  }

  #pause(ms: number): Promise<void> {
    if (this.#stopping.signal.aborted) return Promise.resolve();
    const { runtime = systemRuntime } = this.#options;
    return new Promise((resolve) => {
      const cancel = runtime.after(ms, resolve);
      this.#endPause = () => {
        cancel();
        resolve();
      };
    });
  }
}

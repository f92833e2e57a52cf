/** Time for tests that moves when it is told to: a clock and a runtime. */

import { setImmediate } from "node:timers/promises";
import type { Clock } from "../base/clock.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";

export class HandTime implements Clock, Runtime {
  readonly sha256: Runtime["sha256"] = systemRuntime.sha256;
  #nowMs = 0;
  #timers = new Set<{ atMs: number; action: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, action: () => void): () => void {
    const timer = { atMs: this.#nowMs + delayMs, action };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  giveWay(): Promise<void> {
    return setImmediate();
  }

  /** Lets so much time go by, and whatever it wakes do what it can without more of it. */
  async pass(durationMs: number): Promise<void> {
    const endMs = this.#nowMs + durationMs;
    for (;;) {
      for (let turn = 0; turn < 4; turn++) await setImmediate();
      const [next] = [...this.#timers].sort((one, other) => one.atMs - other.atMs);
      if (next === undefined || next.atMs > endMs) break;
      this.#timers.delete(next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.action();
    }
    this.#nowMs = endMs;
  }
}

/**
 * Whoever waits for something to change, and the ring that wakes them all.
 *
 * A reader that looks, finds nothing and then waits could miss what came in between: it notes `rings`
 * before it looks, and waits only while that has not changed.
 */

import type { Runtime } from "../base/runtime.ts";

export class Bell {
  readonly #runtime: Runtime;
  readonly #waiters = new Set<() => void>();
  #rings = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  get rings(): number {
    return this.#rings;
  }

  ring(): void {
    this.#rings += 1;
    for (const wake of [...this.#waiters]) wake();
  }

  /** Resolves at the next ring, after `limitMs`, or when `signal` says that nobody waits any more. */
  next(limitMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const settle = () => {
        cancel();
        this.#waiters.delete(settle);
        signal?.removeEventListener("abort", settle);
        resolve();
      };
      const cancel = this.#runtime.after(limitMs, settle);
      this.#waiters.add(settle);
      if (signal?.aborted === true) settle();
      else signal?.addEventListener("abort", settle, { once: true });
    });
  }
}

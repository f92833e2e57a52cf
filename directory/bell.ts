/**
 * Whoever waits for something to change, and the ring that wakes them all.
 *
 * A reader that looks, finds nothing and then waits could miss what came in between: it notes `rings`
 * before it looks, and waits only while that has not changed.
 */
export class Bell {
  readonly #waiters = new Set<() => void>();
  #rings = 0;

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
        clearTimeout(timer);
        this.#waiters.delete(settle);
        signal?.removeEventListener("abort", settle);
        resolve();
      };
      const timer = setTimeout(settle, limitMs);
      this.#waiters.add(settle);
      if (signal?.aborted === true) settle();
      else signal?.addEventListener("abort", settle, { once: true });
    });
  }
}

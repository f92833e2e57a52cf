/**
 * One fill for a key at a time, however many wait for it.
 *
 * Invariants:
 * - While a key is being filled, whoever asks for it joins that fill.
 * - A waiter that leaves takes nothing from the others; when the last one leaves, the fill is told
 *   to stop, and the next who asks starts a new one.
 * - Nothing is kept: a fill that ended, well or badly, is forgotten before its waiters hear of it.
 */

interface Fill<Value> {
  promise: Promise<Value>;
  stop: AbortController;
  waiting: number;
}

export class SingleFlight<Value> {
  readonly #fills = new Map<string, Fill<Value>>();

  /** Keys that are being filled. */
  get size(): number {
    return this.#fills.size;
  }

  /**
   * The value of the fill that runs for `key`, or of `start`, which is given a signal that says
   * that nobody waits any more. Rejects with the signal's reason when `signal` says so first.
   */
  async run(
    key: string,
    start: (signal: AbortSignal) => Promise<Value>,
    signal?: AbortSignal,
  ): Promise<Value> {
    signal?.throwIfAborted();
    const fill = this.#fills.get(key) ?? this.#start(key, start);
    fill.waiting += 1;
    try {
      return await orAborted(fill.promise, signal);
    } finally {
      fill.waiting -= 1;
      // A fill that has ended is forgotten already, and has nothing left to stop.
      if (fill.waiting === 0 && this.#forget(key, fill)) fill.stop.abort();
    }
  }

  #start(key: string, start: (signal: AbortSignal) => Promise<Value>): Fill<Value> {
    const stop = new AbortController();
    // In a promise from the first step on: what `start` throws at once is a failed fill as well.
    const promise = (async () => await start(stop.signal))().finally(() => {
      this.#forget(key, fill);
    });
    const fill: Fill<Value> = { promise, stop, waiting: 0 };
    // Whoever waits hears of a failure; with all of them gone there is nobody to tell.
    promise.catch(() => {});
    this.#fills.set(key, fill);
    return fill;
  }

  /** A stopped fill may end long after the next one for its key began. */
  #forget(key: string, fill: Fill<Value>): boolean {
    return this.#fills.get(key) === fill && this.#fills.delete(key);
  }
}

function orAborted<Value>(
  promise: Promise<Value>,
  signal: AbortSignal | undefined,
): Promise<Value> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/**
 * Who renders now and who waits: a bounded queue in which every job has one deadline, from its
 * arrival to its answer.
 *
 * Invariants:
 * - At most `slots` jobs work at a time, and at most `waitingMax` more are let in; the next is
 *   refused at once.
 * - A job is answered by its deadline. Its slot is free again only when its work has really ended:
 *   native code can't be stopped, and a second job beside it would only slow down both.
 * - First come, first served.
 */

import { Failure } from "../../base/failure.ts";

export interface Job<Value> {
  work(remainingMs: number): Promise<Value>;
  /** Nobody wants the answer any more. */
  signal: AbortSignal;
}

export class JobQueue {
  readonly #slots: number;
  readonly #waitingMax: number;
  readonly #limitMs: number;
  readonly #waiting = new Set<() => void>();
  #admitted = 0;
  #working = 0;

  constructor({
    slots,
    waitingMax,
    limitMs,
  }: {
    slots: number;
    waitingMax: number;
    limitMs: number;
  }) {
    this.#slots = slots;
    this.#waitingMax = waitingMax;
    this.#limitMs = limitMs;
  }

  /** Jobs that are let in and whose work has not ended. */
  get size(): number {
    return this.#admitted;
  }

  run<Value>(job: Job<Value>): Promise<Value> {
    if (this.#admitted >= this.#slots + this.#waitingMax) {
      return Promise.reject(busy("too many pictures are waiting"));
    }
    this.#admitted += 1;
    const deadlineMs = performance.now() + this.#limitMs;
    return new Promise((resolve, reject) => {
      let isWorking = false;
      const expiry = setTimeout(() => {
        reject(
          isWorking
            ? new Failure("unprocessable", "Cannot render the picture: it takes too long")
            : busy("its turn did not come in time"),
        );
        leave.abort();
      }, this.#limitMs);
      const leave = new AbortController();
      const onAbort = () => {
        reject(busy("the request was given up"));
        leave.abort();
      };
      job.signal.addEventListener("abort", onAbort, { once: true });

      const begin = () => {
        isWorking = true;
      };
      this.#pass(job, { deadlineMs, begin, left: leave.signal })
        .then(resolve, reject)
        .finally(() => {
          clearTimeout(expiry);
          job.signal.removeEventListener("abort", onAbort);
          this.#admitted -= 1;
        });
    });
  }

  async #pass<Value>(
    job: Job<Value>,
    { deadlineMs, begin, left }: { deadlineMs: number; begin: () => void; left: AbortSignal },
  ): Promise<Value> {
    await this.#enter(left);
    begin();
    try {
      return await job.work(deadlineMs - performance.now());
    } finally {
      this.#working -= 1;
      const [next] = this.#waiting;
      next?.();
    }
  }

  /** Resolves with one slot taken. */
  async #enter(left: AbortSignal): Promise<void> {
    if (this.#working < this.#slots) {
      this.#working += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const goOn = () => {
        this.#waiting.delete(goOn);
        left.removeEventListener("abort", giveUp);
        // Taken here and not after the await: between the two another job could slip in.
        this.#working += 1;
        resolve();
      };
      const giveUp = () => {
        this.#waiting.delete(goOn);
        reject(busy("its turn did not come in time"));
      };
      this.#waiting.add(goOn);
      left.addEventListener("abort", giveUp, { once: true });
    });
  }
}

function busy(why: string): Failure {
  return new Failure("busy", `Cannot render the picture now: ${why}`, { retryAfterSeconds: 1 });
}

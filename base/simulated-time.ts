/**
 * Time that goes on only when everything that can be done now is done: hours of a cluster's life in a moment,
 * and the same again from the same seed.
 *
 * Invariants:
 * - What is due runs in the order of its due time, and of its asking where that is the same.
 * - Between two of them all promises that can settle have settled: nothing waits for a real timer, thread or
 *   socket, or the run would not repeat.
 */

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { Clock } from "./clock.ts";
import type { Runtime } from "./runtime.ts";

interface Due {
  dueMs: number;
  number: number;
  action: () => void;
}

export class SimulatedTime implements Runtime {
  /** Since the beginning. */
  nowMs = 0;
  /** A binary heap, the earliest first. */
  readonly #due: Due[] = [];
  readonly #cancelled = new Set<number>();
  #number = 0;

  after(delayMs: number, action: () => void): () => void {
    const number = this.#number++;
    this.#push({ dueMs: this.nowMs + Math.max(delayMs, 0), number, action });
    return () => void this.#cancelled.add(number);
  }

  giveWay(): Promise<void> {
    return new Promise((resolve) => void this.after(0, resolve));
  }

  async sha256(bytes: Uint8Array): Promise<Buffer> {
    return createHash("sha256").update(bytes).digest();
  }

  /** Lets everything happen that is due before `untilMs`, or until `isOver`. Returns whether it is over. */
  async runUntil(untilMs: number, isOver: () => boolean = () => false): Promise<boolean> {
    for (;;) {
      await setImmediate();
      if (isOver()) return true;
      const next = this.#due[0];
      if (next === undefined || next.dueMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return false;
      }
      this.#pop();
      if (this.#cancelled.delete(next.number)) continue;
      this.nowMs = Math.max(this.nowMs, next.dueMs);
      next.action();
    }
  }

  #push(due: Due): void {
    const heap = this.#due;
    let at = heap.length;
    heap.push(due);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || !isBefore(due, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = due;
  }

  #pop(): void {
    const heap = this.#due;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      const left = heap[2 * at + 1];
      const right = heap[2 * at + 2];
      const isRight = left !== undefined && right !== undefined && isBefore(right, left);
      const below = isRight ? right : left;
      if (below === undefined || !isBefore(below, last)) break;
      heap[at] = below;
      at = 2 * at + (isRight ? 2 : 1);
    }
    heap[at] = last;
  }
}

function isBefore(one: Due, other: Due): boolean {
  return one.dueMs < other.dueMs || (one.dueMs === other.dueMs && one.number < other.number);
}

/**
 * What one run of one process sees of the time: a clock that may be wrong, and timers that end with it.
 */
export class ProcessTime implements Clock, Runtime {
  readonly #time: SimulatedTime;
  /** What its wall clock shows at the beginning. */
  offsetMs: number;
  #hasEnded = false;
  /** What came to it while it was stopped, in order; undefined while it runs. */
  #held: (() => void)[] | undefined;

  constructor(time: SimulatedTime, offsetMs: number) {
    this.#time = time;
    this.offsetMs = offsetMs;
  }

  nowMs(): number {
    return Math.floor(this.#time.nowMs + this.offsetMs);
  }

  monotonicMs(): number {
    return this.#time.nowMs;
  }

  after(delayMs: number, action: () => void): () => void {
    let isCancelled = false;
    const cancel = this.#time.after(delayMs, () => {
      this.take(() => {
        if (!isCancelled) action();
      });
    });
    return () => {
      isCancelled = true;
      cancel();
    };
  }

  /** Something comes from outside: now, when the process goes on, or never. */
  take(action: () => void): void {
    if (this.#hasEnded) return;
    if (this.#held === undefined) action();
    else this.#held.push(action);
  }

  /** As by SIGSTOP. */
  stop(): void {
    this.#held ??= [];
  }

  /** As by SIGCONT. */
  goOn(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    // One after the other, each with all that follows from it, as they would have come.
    for (const action of held) this.#time.after(0, () => this.take(action));
  }

  giveWay(): Promise<void> {
    return new Promise((resolve) => void this.after(0, resolve));
  }

  sha256(bytes: Uint8Array): Promise<Buffer> {
    return this.#time.sha256(bytes);
  }

  /** The process has died: nothing that it waited for comes to it any more. */
  end(): void {
    this.#hasEnded = true;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }
}

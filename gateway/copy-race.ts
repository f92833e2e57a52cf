/**
 * One read of one blob, asked of one copy, and of the next when that fails or is slow: the first that begins to
 * answer has it.
 *
 * Invariants:
 * - One attempt at most gets its claim, before it hands over anything; from then on no other hands over.
 * - At the claim all others are cancelled, and none is begun any more.
 * - A second attempt beside a running one is made only as hedges.ts allows.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Runtime } from "../base/runtime.ts";
import type { BlobCounts } from "./blob-counts.ts";
import type { CopyHealth } from "./copy-health.ts";
import type { Hedges } from "./hedges.ts";

/** What all races of a process share. */
export interface RaceTrack {
  clock: Clock;
  runtime: Runtime;
  hedges: Hedges;
  health: CopyHealth;
  counts: BlobCounts;
}

/** What an attempt gets. */
export interface Turn {
  address: string;
  /** Aborts when another attempt has the answer, or nobody waits for one. */
  signal: AbortSignal;
  /** Whether this attempt has the answer: to be asked before anything is handed over. */
  claim(): boolean;
  /** To be told of everything that is handed over: one that stands still for long has failed. */
  moved(): void;
}

export interface RaceOptions<Value> {
  /** The best first; at least one. */
  candidates: readonly string[];
  /** Whether somebody else could go on should the one that answers stand still. */
  hasOthers: boolean;
  lengthBytes: number;
  signal?: AbortSignal | undefined;
  /** One attempt; what it resolves to after its claim is the race's. */
  begin: (turn: Turn) => Promise<Value>;
  /** Told of each attempt that failed, before or after it had begun to answer; not of those that were cancelled. */
  onFailure: (address: string, error: unknown, hasBegun: boolean) => void;
}

interface Attempt {
  address: string;
  control: AbortController;
  startedMs: number;
  isHedge: boolean;
  /** Gives back what was taken for it. */
  end: () => void;
}

/**
 * Between two parts of an answer. Longer than before the first one: going on elsewhere costs as much as what
 * lies in this answer's way, and a disk that is slow now is mostly slow for a moment.
 */
export const standstillMs = 1_000;

export class CopyRace<Value> {
  readonly #track: RaceTrack;
  readonly #options: RaceOptions<Value>;
  readonly #running = new Set<Attempt>();
  readonly #outcome = Promise.withResolvers<Value>();
  #begun = 0;
  #winner: Attempt | undefined;
  #isOver = false;
  #moves = 0;
  #silentMs = Number.POSITIVE_INFINITY;
  #cancelTimer: () => void = () => undefined;

  constructor(track: RaceTrack, options: RaceOptions<Value>) {
    this.#track = track;
    this.#options = options;
  }

  async run(): Promise<Value> {
    const { signal, candidates, lengthBytes } = this.#options;
    const onAbort = () => this.#fail(nobodyWaits());
    if (signal?.aborted === true) throw nobodyWaits();
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      if (candidates.length > 1) {
        const { hedgeMs, silentMs } = this.#track.hedges.begin(lengthBytes);
        this.#silentMs = silentMs;
        this.#wake(hedgeMs, () => this.#late(hedgeMs));
      }
      this.#beginNext(false, () => undefined);
      return await this.#outcome.promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  #beginNext(isHedge: boolean, end: () => void): void {
    const { candidates, begin } = this.#options;
    const { clock, health } = this.#track;
    const address = candidates[this.#begun] ?? "";
    this.#begun += 1;
    const control = new AbortController();
    const attempt = { address, control, isHedge, end, startedMs: clock.monotonicMs() };
    this.#running.add(attempt);
    health.trying(address);
    const turn: Turn = {
      address,
      signal: control.signal,
      claim: () => this.#claim(attempt),
      moved: () => {
        this.#moves += 1;
      },
    };
    begin(turn).then(
      (value) => {
        end();
        if (this.#claim(attempt)) this.#succeed(value);
      },
      (error: unknown) => {
        end();
        this.#failed(attempt, error);
      },
    );
  }

  #claim(attempt: Attempt): boolean {
    if (this.#isOver) return false;
    if (this.#winner !== undefined) return this.#winner === attempt;
    this.#winner = attempt;
    this.#cancelTimer();
    const { clock, health, hedges, counts } = this.#track;
    const nowMs = clock.monotonicMs();
    health.answered(attempt.address);
    if (attempt.isHedge) counts.hedgeWins += 1;
    for (const each of this.#running) {
      // Of the one that lost it is known how long it took at least: without those the reads that are
      // slow would never be seen, and more and more would seem so.
      if (!each.isHedge) hedges.observe(this.#options.lengthBytes, nowMs - each.startedMs);
      if (each === attempt) continue;
      if (nowMs - each.startedMs >= this.#silentMs) {
        health.failed(each.address);
        counts.readAround("silent");
      }
      each.control.abort();
    }
    if (this.#options.hasOthers) this.#watch(attempt);
    return true;
  }

  #failed(attempt: Attempt, error: unknown): void {
    this.#running.delete(attempt);
    if (this.#isOver || (this.#winner !== undefined && this.#winner !== attempt)) return;
    this.#options.onFailure(attempt.address, error, this.#winner === attempt);
    if (this.#winner === attempt) this.#fail(error);
    else if (this.#running.size === 0) {
      if (this.#begun < this.#options.candidates.length) this.#beginNext(false, () => undefined);
      else this.#fail(error);
    }
  }

  /** No answer has begun within `afterMs`. */
  #late(afterMs: number): void {
    const { hedges, health, counts } = this.#track;
    const next = this.#options.candidates[this.#begun];
    if (next === undefined) return;
    const isSilent = afterMs >= this.#silentMs;
    if (isSilent) for (const { address } of this.#running) health.failed(address);
    // Silence is one store's. When the other was silent just now it is everybody's, and asking twice for
    // everything would make that worse.
    const isFine = health.isFine(next);
    const ofSilence = isSilent && isFine ? hedges.takeSilent() : undefined;
    const maySpend = isSilent || isFine;
    const end = ofSilence ?? (maySpend && hedges.take() ? () => undefined : undefined);
    if (end !== undefined) {
      counts.hedgedReads += 1;
      this.#beginNext(true, end);
    }
    const isFresh = isSilent || end !== undefined;
    const nextMs = isFresh ? this.#silentMs : this.#silentMs - afterMs;
    this.#wake(nextMs, () => this.#late(this.#silentMs));
  }

  /** Fails the winner when it hands over nothing for too long. */
  #watch(winner: Attempt): void {
    this.#wake(standstillMs, () => {
      winner.control.abort();
      const error = new Failure("timeout", `Cannot read on at ${winner.address}: nothing comes`);
      this.#failed(winner, error);
    });
  }

  #wake(delayMs: number, action: () => void): void {
    const { runtime } = this.#track;
    const movesBefore = this.#moves;
    const winner = this.#winner;
    this.#cancelTimer = runtime.after(delayMs, () => {
      // An answer that lies in the socket is read first: timers come before it in the turn of an event
      // loop, and a loop that was busy would find everybody else late.
      void runtime.giveWay().then(() => {
        if (this.#isOver || this.#winner !== winner) return;
        if (winner !== undefined && this.#moves !== movesBefore) this.#watch(winner);
        else action();
      });
    });
  }

  #succeed(value: Value): void {
    this.#isOver = true;
    this.#cancelTimer();
    this.#outcome.resolve(value);
  }

  #fail(error: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cancelTimer();
    for (const { control } of this.#running) control.abort();
    this.#outcome.reject(error);
  }
}

function nobodyWaits(): Failure {
  return new Failure("unavailable", "Cannot read the blob: nobody waits for it any more");
}

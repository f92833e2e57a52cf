/**
 * Where the directories are that share a database, and which of them to ask: the one that answered last,
 * whom a failure names as the leader, and else one after the other.
 *
 * Invariants:
 * - One call asks each address once at most, so it ends.
 * - An address that accepted and then was silent is asked last for a while: who hangs is paid for once.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";

/** How long who was silent is asked last: longer than it takes another to lead. */
const silentMs = 6_000;

export class DirectoryAddresses {
  readonly #all: readonly string[];
  readonly #clock: Clock;
  readonly #silentUntilMs = new Map<string, number>();
  #last: string;

  /** `text` is `host:port`, or several of them with commas between. */
  constructor(text: string, clock: Clock) {
    this.#all = text
      .split(",")
      .map((each) => each.trim())
      .filter((each) => each !== "");
    const [first] = this.#all;
    if (first === undefined || !this.#all.every((each) => /^[^\s/@]+:[0-9]{1,5}$/.test(each))) {
      const message = `Cannot read "${text}" as a directory's address: it is host:port, or several with commas between`;
      throw new Failure("bad-request", message);
    }
    this.#all = [...new Set(this.#all)];
    this.#last = first;
    this.#clock = clock;
  }

  /** Whether there is another to ask when one is silent. */
  get areSeveral(): boolean {
    return this.#all.length > 1;
  }

  /**
   * The answer of the first that has one. With `canRepeat: false` a call that may have arrived is not made
   * again elsewhere.
   */
  async ask<Answer>(
    call: (address: string) => Promise<Answer>,
    { canRepeat = true, signal }: { canRepeat?: boolean; signal?: AbortSignal | undefined } = {},
  ): Promise<Answer> {
    const asked = new Set<string>();
    let address = this.#next(asked) ?? this.#last;
    let firstFailure: Failure | undefined;
    for (;;) {
      asked.add(address);
      try {
        const answer = await call(address);
        this.#last = address;
        this.#silentUntilMs.delete(address);
        return answer;
      } catch (error) {
        if (signal?.aborted === true || !isElsewhere(error)) throw error;
        if (error.kind === "timeout") {
          this.#silentUntilMs.set(address, this.#clock.monotonicMs() + silentMs);
          if (!canRepeat) throw error;
        }
        // What the leader says itself tells more than that others do not lead.
        if (firstFailure === undefined || firstFailure.leader !== undefined) firstFailure = error;
        const next = this.#next(asked, error.leader);
        if (next === undefined) throw firstFailure;
        address = next;
      }
    }
  }

  #next(asked: ReadonlySet<string>, named?: string): string | undefined {
    // Who is named need not be on our list, but a ring of names has to end.
    if (named !== undefined && this.#isOpen(named, asked) && asked.size <= this.#all.length) {
      return named;
    }
    const at = Math.max(this.#all.indexOf(this.#last), 0);
    const inTurn = [this.#last, ...this.#all.slice(at), ...this.#all.slice(0, at)];
    return (
      inTurn.find((each) => this.#isOpen(each, asked)) ?? inTurn.find((each) => !asked.has(each))
    );
  }

  #isOpen(address: string, asked: ReadonlySet<string>): boolean {
    const untilMs = this.#silentUntilMs.get(address) ?? 0;
    return !asked.has(address) && untilMs <= this.#clock.monotonicMs();
  }
}

/** Whether another directory may well answer. */
function isElsewhere(error: unknown): error is Failure {
  return error instanceof Failure && (error.kind === "unavailable" || error.kind === "timeout");
}

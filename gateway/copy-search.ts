/**
 * The search for one blob over its copies: whom to ask next, and when to give up.
 *
 * Invariants:
 * - Before a blob is given up every copy was asked, the map was asked for anew, and every copy asked again.
 * - A copy that has twice said that it has no good data is not asked a third time.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import { pause, type Runtime } from "../base/runtime.ts";
import type { VolumeDirectory } from "../directory/client.ts";
import type { AroundReason, BlobCounts } from "./blob-counts.ts";
import type { CopyHealth } from "./copy-health.ts";
import { isPassing } from "./passing.ts";

export interface SearchParts {
  directory: Pick<VolumeDirectory, "addressesOf" | "refresh">;
  clock: Clock;
  runtime: Runtime;
  health: CopyHealth;
  counts: BlobCounts;
}

// Long enough for a store that was killed to be back, short enough for a client to wait.
const searchLimitMs = 8_000;
const refreshLimitMs = 500;
const retryMs = { first: 25, last: 500 };

export class CopySearch {
  readonly #parts: SearchParts;
  readonly #fid: string;
  readonly #volume: number;
  readonly #seed: number;
  /** In this round, and what has come of it. */
  readonly #failures = new Map<string, Failure>();
  #last: Failure | undefined;
  #rounds = 0;
  #deadlineMs: number;
  #delayMs = retryMs.first;

  constructor(parts: SearchParts, fid: string) {
    const parsed = parseFid(fid);
    this.#parts = parts;
    this.#fid = fid;
    this.#volume = parsed?.volume ?? 0;
    // The same blob from the same copy: so the page caches of the stores hold different ones.
    this.#seed = parsed?.ordinal ?? 0;
    this.#deadlineMs = parts.clock.monotonicMs() + searchLimitMs;
  }

  /** Whether the blob has more than one copy that may be read. */
  get hasOthers(): boolean {
    return this.#addresses.length > 1;
  }

  /** Addresses to ask now, the best first. Fails when there is no use in asking again. */
  async candidates(): Promise<string[]> {
    for (;;) {
      const open = this.#addresses.filter((address) => !this.#failures.has(address));
      if (open.length > 0) return this.#parts.health.order(open, this.#seed);
      this.#rounds += 1;
      if (this.#rounds === 1) await this.#parts.directory.refresh(refreshLimitMs);
      else await this.#wait();
      for (const [address, failure] of this.#failures) {
        if (this.#rounds === 1 || isPassing(failure)) this.#failures.delete(address);
      }
    }
  }

  /** What an address has answered instead of the blob, or after a part of it. */
  note(address: string, error: unknown, hasBegun: boolean): void {
    const failure = this.#failureOf(error);
    const reason = reasonOf(failure, hasBegun);
    const { health, counts } = this.#parts;
    if (reason === "silent" || reason === "unreachable") health.failed(address);
    if (this.hasOthers) counts.readAround(reason);
    this.#failures.set(address, failure);
    this.#last = failure;
  }

  #failureOf(error: unknown): Failure {
    const what = `Cannot read blob ${this.#fid}`;
    if (!(error instanceof Failure)) {
      return new Failure("unavailable", `${what} to its end`, { cause: error });
    }
    if (error.kind !== "range-not-satisfiable") return error;
    return new Failure("corrupt", `${what}: its copy is too short`, { cause: error });
  }

  /** Something has come: the search for the rest begins anew, though not at copies that are bad. */
  moved(): void {
    this.#deadlineMs = this.#parts.clock.monotonicMs() + searchLimitMs;
    this.#delayMs = retryMs.first;
  }

  /** What every copy said, as one. */
  #verdict(final: readonly (Failure | undefined)[]): Failure {
    const [first] = final;
    const corrupt = final.find((each) => each?.kind === "corrupt");
    if (corrupt !== undefined) return corrupt;
    if (first !== undefined && final.every((each) => each?.kind === "not-found")) return first;
    // Asked for by what the catalog says: a refusal is our fault, and never the reader's.
    return new Failure("internal", `Cannot read blob ${this.#fid}: no store gives it`, {
      cause: this.#last,
    });
  }

  get #addresses(): readonly string[] {
    return this.#parts.directory.addressesOf(this.#volume);
  }

  /** Until the next round; fails if none can be better. */
  async #wait(): Promise<void> {
    const { clock, runtime } = this.#parts;
    const failures = this.#addresses.map((address) => this.#failures.get(address));
    const final = failures.filter((each) => each !== undefined && !isPassing(each));
    if (final.length > 0 && final.length === failures.length) throw this.#verdict(final);
    if (clock.monotonicMs() + this.#delayMs > this.#deadlineMs) {
      throw new Failure(
        "unavailable",
        `Cannot read blob ${this.#fid} now: no store answers for it`,
        {
          cause: this.#last,
          retryAfterSeconds: 2,
        },
      );
    }
    await pause(runtime, this.#delayMs);
    this.#delayMs = Math.min(this.#delayMs * 2, retryMs.last);
  }
}

function reasonOf({ kind }: Failure, hasBegun: boolean): AroundReason {
  switch (kind) {
    case "corrupt":
      return "corrupt";
    case "not-found":
      return "missing";
    case "timeout":
      return "silent";
    case "unavailable":
      // No reason to avoid the store: one bad blob that many ask for would take all others with it.
      return hasBegun ? "cut" : "unreachable";
    default:
      return "refused";
  }
}

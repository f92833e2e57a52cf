/**
 * The loop in which a directory stands by, leads while it has the lease, and stands by again.
 *
 * Invariant: each term begins afresh (`begin` makes what serves it), and nothing of an earlier one is used.
 */

import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { pause, type Runtime } from "../base/runtime.ts";
import type { Lease, Term } from "./lease.ts";

export interface LeadershipOptions {
  lease: Lease;
  runtime: Runtime;
  log: Log;
  /** Called when a term begins. */
  begin: (term: Term) => void;
}

/** How often the lease is looked at, renewed, and tried to renew again when that failed. */
const lookMs = 250;
const renewMs = 1_000;
const retryMs = 200;

export class Leadership {
  readonly #options: LeadershipOptions;
  #term: Term | undefined;
  #isStopping = false;
  #wake: (() => void) | undefined;
  #running: Promise<void> | undefined;
  #isInformed = false;

  constructor(options: LeadershipOptions) {
    this.#options = options;
  }

  /** The present term, while it is held. */
  get term(): Term | undefined {
    return this.#term?.isHeld === true ? this.#term : undefined;
  }

  /** Whether it is known who leads. */
  get isInformed(): boolean {
    return this.#isInformed;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends the present term, so that another directory leads at once. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#wake?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isStopping) {
      const term = await this.#tryToLead();
      if (term === undefined) await this.#pause(lookMs);
      else await this.#lead(term);
    }
  }

  async #tryToLead(): Promise<Term | undefined> {
    const { lease, log } = this.#options;
    try {
      const term = await lease.acquire();
      this.#isInformed = true;
      return term;
    } catch (error) {
      if (this.#isInformed) log.warn({ reason: messageOf(error) }, "the lease can't be looked at");
      this.#isInformed = false;
      return undefined;
    }
  }

  async #lead(term: Term): Promise<void> {
    const { log, begin } = this.#options;
    log.info({ lease: term.number }, "this directory leads");
    begin(term);
    this.#term = term;
    term.ended.addEventListener("abort", () => this.#wake?.(), { once: true });
    let waitMs = renewMs;
    for (;;) {
      await this.#pause(waitMs);
      if (this.#isStopping || !term.isHeld) break;
      waitMs = await term.renew().then(
        () => renewMs,
        (error: unknown) => {
          log.warn({ reason: messageOf(error) }, "the lease was not renewed");
          return retryMs;
        },
      );
    }
    if (this.#isStopping) {
      await term.release().catch((error: unknown) => {
        log.warn({ reason: messageOf(error) }, "the lease is left to end by itself");
      });
    } else {
      log.warn({ lease: term.number }, "this directory leads no more");
    }
    term.end();
  }

  async #pause(ms: number): Promise<void> {
    if (this.#isStopping) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await Promise.race([promise, pause(this.#options.runtime, ms)]);
  }
}

/**
 * The signs of life that a session gives where gateways share a catalog, and what it learns by them: that
 * the database answers, what time it is there, that the session is still open.
 *
 * Invariants:
 * - It has a connection of its own: however much the catalog is asked, the signs of life go out.
 * - Times in the catalog are the database's, carried on by the machine's steady clock between two beats: a
 *   wall clock that jumps moves neither versions nor deletions.
 */

import type { Clock } from "../base/clock.ts";
import { type Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Runtime } from "../base/runtime.ts";
import type { PostgresRunner } from "./postgres-runner.ts";
import type { Sessions } from "./session.ts";
import { SessionClosed } from "./version-changes.ts";

export interface HeartbeatTimes {
  /** From one sign of life to the next. */
  beatMs: number;
  /** A session that gave none for so long is closed by the others. */
  silentMs: number;
}

export const heartbeatDefaults: HeartbeatTimes = { beatMs: 1_000, silentMs: 30_000 };

/** So many beats that did not come make the database one that does not answer. */
const missedMax = 5;

export interface HeartbeatOptions {
  runner: PostgresRunner;
  sessions: Sessions;
  session: number;
  /** The database's time at the opening. */
  nowMs: number;
  times: HeartbeatTimes;
  clock: Clock;
  runtime: Runtime;
  log: Log;
  onSessionClosed: (failure: Failure) => void;
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  #databaseMs: number;
  #atMs: number;
  #failure: string | undefined;
  #cancel: (() => void) | undefined;
  #running: Promise<void> | undefined;
  #isStopping = false;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#databaseMs = options.nowMs;
    this.#atMs = options.clock.monotonicMs();
  }

  start(): void {
    this.#plan();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#cancel?.();
    await this.#running;
  }

  /** The database's time, in whole milliseconds. */
  nowMs(): number {
    return Math.floor(this.#databaseMs + this.#silenceMs());
  }

  unreadiness(): string | undefined {
    if (this.#failure !== undefined) return this.#failure;
    const silenceMs = this.#silenceMs();
    return silenceMs <= this.#options.times.beatMs * missedMax
      ? undefined
      : `the catalog's database has not answered for ${Math.round(silenceMs / 1_000)} s`;
  }

  #silenceMs(): number {
    return this.#options.clock.monotonicMs() - this.#atMs;
  }

  #plan(): void {
    if (this.#isStopping) return;
    const { runtime, times } = this.#options;
    this.#cancel = runtime.after(times.beatMs, () => {
      this.#running = this.#beat().finally(() => this.#plan());
    });
  }

  async #beat(): Promise<void> {
    const { runner, sessions, session, times, clock, log } = this.#options;
    try {
      const nowMs = await runner.read(sessions.beat({ session }));
      if (nowMs === undefined) {
        this.#end();
        return;
      }
      this.#databaseMs = nowMs;
      this.#atMs = clock.monotonicMs();
      await runner.read(sessions.closeSilent({ seenMs: nowMs - times.silentMs, nowMs }));
      if (this.#failure !== undefined) log.info("the catalog's database answers again");
      this.#failure = undefined;
    } catch (error) {
      const failure = `the catalog's database does not answer: ${messageOf(error)}`;
      if (this.#failure === undefined) log.warn(failure);
      this.#failure = failure;
    }
  }

  #end(): void {
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#options.onSessionClosed(new SessionClosed("go on", this.#options.session));
  }
}

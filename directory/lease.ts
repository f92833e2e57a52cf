/**
 * Which of several directories on one PostgreSQL leads: a row with a number, a holder and an end.
 *
 * Invariants:
 * - Each holder has a number of its own, greater than all before. A change is committed only while the row
 *   has the number of who makes it, and locks the row before it commits: once the next holder has its number,
 *   nothing of an earlier one comes after it, however late its process wakes up. No clock has a part in that.
 * - A holder stops acting as one before its lease ends, by its own monotonic clock, counted from before it
 *   asked for it; a term that is over never comes back.
 * - When it ends is decided by the database's clock. Should that have jumped, a row that nobody has renewed
 *   for longer than a lease, by the onlooker's own clock, has ended too: taking it is always safe.
 */

import { type Kysely, sql, type Transaction } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { transact } from "../base/postgres.ts";
import type { Random } from "../base/random.ts";
import type { Runtime } from "../base/runtime.ts";
import type { DirectoryTables } from "./schema.ts";

/** Runs `work` in a transaction of the directory's database. */
export type Transact = <Result>(
  work: (transaction: Transaction<DirectoryTables>) => Promise<Result>,
) => Promise<Result>;

export interface LeaseOptions {
  /** For changes of the directory. */
  database: Kysely<DirectoryTables>;
  /** For the lease itself: what waits in line for the other must not keep it from being renewed. */
  leaseDatabase: Kysely<DirectoryTables>;
  /** Random for each run of the process. */
  holder: string;
  /** `host:port` under which others reach this directory. */
  address: string;
  leaseMs: number;
  clock: Clock;
  random: Random;
  runtime: Runtime;
}

/** Who leads, as far as was last seen. */
export interface Leader {
  number: number;
  holder: string;
  address: string;
}

const leaseName = "leader";

/** What of a lease its holder uses: clocks run at slightly different speeds. */
const usedShare = 0.9;

const databaseNowMs = sql<number>`cast(extract(epoch from clock_timestamp()) * 1000 as bigint)`;

/** The row, as a directory sees it that would like to lead. */
export class Lease {
  readonly #options: LeaseOptions;
  #leader: Leader | undefined;
  /** The row's last renewal that was seen, and when that was. */
  #seen = { number: -1, expiresMs: -1, atMs: 0 };

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  /** Undefined if there is none, or none is known. */
  get leader(): Leader | undefined {
    return this.#leader;
  }

  /** Looks at the row, and takes it if it has ended. */
  async acquire(): Promise<Term | undefined> {
    const { leaseDatabase, holder, address, leaseMs, clock } = this.#options;
    const row = await leaseDatabase
      .selectFrom("leases")
      .select(["number", "holder", "address", "expires_ms"])
      .select(databaseNowMs.as("now_ms"))
      .where("name", "=", leaseName)
      .executeTakeFirst();
    if (row === undefined) {
      throw new Failure("corrupt", "Cannot lead: the directory's database has no lease");
    }
    const { number, expires_ms: expiresMs } = row;
    this.#leader = number === 0 ? undefined : { number, holder: row.holder, address: row.address };
    const askedMs = clock.monotonicMs();
    if (this.#seen.number !== number || this.#seen.expiresMs !== expiresMs) {
      this.#seen = { number, expiresMs, atMs: askedMs };
    }
    const isOver =
      expiresMs <= row.now_ms || askedMs - this.#seen.atMs > leaseMs * 1.5 || row.holder === holder; // it is ours: the answer to its taking was lost, or that term has ended
    if (!isOver) return undefined;
    const { numUpdatedRows } = await leaseDatabase
      .updateTable("leases")
      .set({
        number: number + 1,
        holder,
        address,
        expires_ms: sql<number>`${databaseNowMs} + ${sql.lit(leaseMs)}`,
      })
      .where("name", "=", leaseName)
      .where("number", "=", number)
      .where("expires_ms", "=", expiresMs)
      .executeTakeFirstOrThrow();
    if (numUpdatedRows !== 1n) return undefined; // another was quicker, or its holder is back
    this.#leader = { number: number + 1, holder, address };
    return new Term(this.#options, number + 1, askedMs + leaseMs * usedShare);
  }
}

/** The time that one directory leads, from taking the lease to its end. */
export class Term {
  readonly number: number;
  readonly #options: LeaseOptions;
  readonly #ended = new AbortController();
  #heldUntilMs: number;

  constructor(options: LeaseOptions, number: number, heldUntilMs: number) {
    this.#options = options;
    this.number = number;
    this.#heldUntilMs = heldUntilMs;
  }

  /** Aborts when the term has ended. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Whether this directory leads at this very moment. */
  get isHeld(): boolean {
    if (this.#options.clock.monotonicMs() >= this.#heldUntilMs) this.end();
    return !this.#ended.signal.aborted;
  }

  /** Fails with `unavailable` if the term has ended. */
  requireHeld(): void {
    if (!this.isHeld) throw termEnded();
  }

  end(): void {
    this.#heldUntilMs = Number.NEGATIVE_INFINITY;
    if (!this.#ended.signal.aborted) this.#ended.abort();
  }

  /** Prolongs the lease, or finds that it is another's: then the term ends. */
  async renew(): Promise<void> {
    const { leaseDatabase, leaseMs, clock } = this.#options;
    const askedMs = clock.monotonicMs();
    const { numUpdatedRows } = await leaseDatabase
      .updateTable("leases")
      .set({ expires_ms: sql<number>`${databaseNowMs} + ${sql.lit(leaseMs)}` })
      .where("name", "=", leaseName)
      .where("number", "=", this.number)
      .executeTakeFirstOrThrow();
    if (numUpdatedRows !== 1n) this.end();
    else if (this.isHeld) this.#heldUntilMs = askedMs + leaseMs * usedShare;
  }

  /** Ends the term and the lease, so that another need not wait for its end. */
  async release(): Promise<void> {
    this.end();
    await this.#options.leaseDatabase
      .updateTable("leases")
      .set({ expires_ms: 0 })
      .where("name", "=", leaseName)
      .where("number", "=", this.number)
      .execute();
  }

  /** Runs `work` in a transaction that is committed only if the lease is this term's to the last. */
  readonly transact: Transact = async (work) => {
    this.requireHeld();
    const { database, ...seams } = this.#options;
    try {
      return await transact(
        database,
        { isolation: "read committed", ...seams },
        async (transaction) => {
          const result = await work(transaction);
          await this.#confirm(transaction);
          return result;
        },
      );
    } catch (error) {
      // Whatever it met may be the work of the next holder.
      if (!this.isHeld) throw termEnded(error);
      throw error;
    }
  };

  /**
   * Comes last in a transaction: from here to the commit nobody can take the lease, and as it is ours now, it
   * was all the time. It is not locked any longer than that, so that renewing never waits for a long change.
   */
  async #confirm(transaction: Transaction<DirectoryTables>): Promise<void> {
    const row = await transaction
      .selectFrom("leases")
      .select("number")
      .where("name", "=", leaseName)
      .forUpdate()
      .executeTakeFirst();
    if (row?.number === this.number) return;
    this.end();
    throw termEnded();
  }
}

function termEnded(cause?: unknown): Failure {
  return new Failure("unavailable", "Cannot change anything: this directory leads no more", {
    cause,
    retryAfterSeconds: 1,
  });
}

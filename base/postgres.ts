/**
 * PostgreSQL as Hayloft uses it: a bounded pool with a deadline on everything, kysely on top, and failures
 * that say whether trying again makes sense. Nothing here is lacking in CockroachDB and YugabyteDB.
 *
 * Invariants:
 * - Whatever waits has a limit: for a connection, for a statement (here and on the server), and for a
 *   transaction that its client has left open.
 * - A connection that did not answer in time is not used again: a late answer can't be taken for another's.
 * - A transaction is repeated only when the server says that it did not happen (40001, 40P01). When the answer
 *   to a commit is lost, nobody knows, and the failure says just that the database is unavailable.
 * - Whole numbers come out as numbers, exactly, or not at all.
 */

import { type IsolationLevel, Kysely, PostgresDialect, type Transaction } from "kysely";
import pg from "pg";
import type { Clock } from "./clock.ts";
import { Failure, messageOf } from "./failure.ts";
import type { Log } from "./log.ts";
import type { Random } from "./random.ts";
import { pause, type Runtime } from "./runtime.ts";

export interface PostgresOptions {
  log: Log;
  /** Connections at most, and how long one is waited for. */
  connectionsMax?: number;
  connectTimeoutMs?: number;
  /** How long a statement may run, or wait for a lock. */
  statementTimeoutMs?: number;
  /** How long a transaction may be left alone by its client before the server ends it. */
  idleInTransactionTimeoutMs?: number;
  /** How long a connection is kept that nobody uses. */
  idleTimeoutMs?: number;
  /** What the server's list of sessions shows. */
  applicationName?: string;
}

const defaults = {
  connectionsMax: 10,
  connectTimeoutMs: 3_000,
  statementTimeoutMs: 10_000,
  idleInTransactionTimeoutMs: 10_000,
  idleTimeoutMs: 30_000,
  applicationName: "hayloft",
} as const;

const keepaliveDelayMs = 10_000;

/** The server ends a statement itself; only when it is not heard of at all, the connection is given up here. */
const answerGraceMs = 1_000;

/** What one checkout of a connection is to kysely. */
interface PooledClient {
  // biome-ignore lint/suspicious/noExplicitAny: rows are typed by kysely's queries
  query(sql: string, parameters: readonly unknown[]): Promise<any>;
  query(cursor: never): never;
  release(destroy?: boolean): void;
}

/**
 * A database at `postgres://user:password@host:port/name`. Nothing is connected before the first query. The
 * usual parameters of such URLs hold, `sslmode=verify-full&sslrootcert=FILE` above all.
 */
export function openPostgres<Tables>(url: string, options: PostgresOptions): Kysely<Tables> {
  const limits = { ...defaults, ...options };
  const pool = makePool(url, limits);
  return new Kysely<Tables>({
    dialect: new PostgresDialect({
      pool: {
        options: {},
        connect: () => checkOut(pool),
        end: () => pool.end(),
      },
    }),
  });
}

/** Whether a database's address is one for `openPostgres`. */
export function isPostgresUrl(text: string): boolean {
  return /^postgres(ql)?:\/\//.test(text);
}

function makePool(url: string, limits: Required<PostgresOptions>): pg.Pool {
  let pool: pg.Pool;
  try {
    pool = new pg.Pool({
      connectionString: url,
      max: limits.connectionsMax,
      connectionTimeoutMillis: limits.connectTimeoutMs,
      idleTimeoutMillis: limits.idleTimeoutMs,
      statement_timeout: limits.statementTimeoutMs,
      query_timeout: limits.statementTimeoutMs + answerGraceMs,
      idle_in_transaction_session_timeout: limits.idleInTransactionTimeoutMs,
      keepAlive: true,
      keepAliveInitialDelayMillis: keepaliveDelayMs,
      application_name: limits.applicationName,
      types: { getTypeParser },
    });
  } catch (error) {
    // The message of a URL that can't be read would show its password.
    throw new Failure("bad-request", "Cannot read the database's address", { cause: error });
  }
  // Without a listener, a connection that breaks while nobody uses it would end the process.
  pool.on("error", (error) => {
    limits.log.warn({ reason: messageOf(error) }, "a connection to the database was lost");
  });
  return pool;
}

const typeIds = { int8: 20, numeric: 1_700 } as const;

/** int8 and numeric (what counts and sums come as) are numbers; everything else is as pg has it. */
function getTypeParser(id: number, format?: "text" | "binary"): (value: string) => unknown {
  if (format !== "binary" && id === typeIds.int8) return parseWhole;
  if (format !== "binary" && id === typeIds.numeric) return parseNumeric;
  return pg.types.getTypeParser(id, format as "text");
}

function parseWhole(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    throw new Failure("unsupported", `Cannot read ${text} from the database: it is too large`);
  }
  return value;
}

function parseNumeric(text: string): number {
  return /^-?[0-9]+$/.test(text) ? parseWhole(text) : Number(text);
}

async function checkOut(pool: pg.Pool): Promise<PooledClient> {
  let client: pg.PoolClient;
  try {
    client = await pool.connect();
  } catch (error) {
    throw databaseFailure(error);
  }
  // While it is checked out, the pool does not listen; its next query tells.
  const ignore = () => undefined;
  client.on("error", ignore);
  let isBroken = false;
  return {
    async query(sql: string, parameters?: readonly unknown[]) {
      try {
        if (isBroken)
          throw new Failure("unavailable", "Cannot use the database: the connection broke");
        return await client.query(sql, parameters as unknown[]);
      } catch (error) {
        // What the server itself says arrived whole: only then the connection is in step.
        if (sqlStateOf(error) === undefined) isBroken = true;
        // Dropping the connection rolls back too, and why it is rolled back is what the caller has to hear.
        if (isBroken && sql === "rollback") return { command: "ROLLBACK", rows: [] };
        throw databaseFailure(error);
      }
    },
    release(destroy) {
      client.off("error", ignore);
      client.release(destroy === true || isBroken);
    },
  } as PooledClient;
}

/** Classes and codes (SQLSTATE) that another try, now or soon, may not meet again. */
const passingStates = [
  /^08/, // connection lost
  /^53/, // out of connections, memory, disk
  /^57/, // cancelled, shutting down, starting up
  /^25P0[34]$/, // the transaction was left alone too long
  /^25006$/, // a standby, which takes no writes (yet)
  /^55P03$/, // a lock was not to be had in time
  /^40/, // rolled back; or, 40003, nobody knows
];

function sqlStateOf(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** What went wrong at the database as a `Failure`, unless it is a mistake of ours (a bad query). */
function databaseFailure(error: unknown): unknown {
  if (error instanceof Failure || error instanceof TypeError) return error;
  const state = sqlStateOf(error);
  const isPassing = state === undefined || passingStates.some((pattern) => pattern.test(state));
  if (!isPassing && !/^(28|3D)/.test(state)) return error;
  return new Failure("unavailable", `Cannot use the database: ${reasonOf(error)}`, {
    cause: error,
    retryAfterSeconds: 1,
  });
}

/** Of a name with several addresses none of which answers, Node's error has no message of its own. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join("; ");
  return messageOf(error);
}

/** Whether the server says that the transaction did not happen, for want of a better order. */
function isConflict(error: unknown): boolean {
  const state = sqlStateOf(error instanceof Failure ? error.cause : error);
  return state === "40001" || state === "40P01";
}

export interface TransactOptions {
  isolation: IsolationLevel;
  /** How long conflicts with other transactions are met with another try. */
  retryMsMax?: number;
  clock: Clock;
  random: Random;
  runtime: Runtime;
}

const backoffMs = { first: 5, last: 250 } as const;

/**
 * Runs `work` in a transaction, and again while it conflicts with others. So `work` has no effect but through
 * the transaction, or one that can be had twice.
 */
export async function transact<Tables, Result>(
  database: Kysely<Tables>,
  { isolation, retryMsMax = 5_000, clock, random, runtime }: TransactOptions,
  work: (transaction: Transaction<Tables>) => Promise<Result>,
): Promise<Result> {
  const deadlineMs = clock.monotonicMs() + retryMsMax;
  for (let stepMs: number = backoffMs.first; ; stepMs = Math.min(stepMs * 2, backoffMs.last)) {
    try {
      return await database.transaction().setIsolationLevel(isolation).execute(work);
    } catch (error) {
      // From half to the whole step: those that met must not meet again.
      const delayMs = stepMs * (0.5 + random.fraction() / 2);
      if (!isConflict(error) || clock.monotonicMs() + delayMs > deadlineMs) throw error;
      await pause(runtime, delayMs);
    }
  }
}

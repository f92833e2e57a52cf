/**
 * Runs work on PostgreSQL: reads on any connection of the pool, changes each in a transaction of its own.
 *
 * Transactions are READ COMMITTED, and a change locks what it must find unchanged at its commit (see
 * version-changes.ts). Under SERIALIZABLE two uploads into one leaf of an index abort each other, whatever
 * their keys; this way only those wait that change the same key.
 *
 * Invariants:
 * - A change that met another one's traces (a conflict, a row that was added or removed meanwhile) is made
 *   again from its first question.
 * - A change whose commit was not answered is never made again, and its failure says that nobody knows.
 */

import { CompiledQuery, type IsolationLevel, type Kysely } from "kysely";
import pg from "pg";
import type { Clock } from "../base/clock.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { transact } from "../base/postgres.ts";
import type { Random } from "../base/random.ts";
import { pause, type Runtime } from "../base/runtime.ts";
import { MadeTooEarly, type Question, type Work } from "./query.ts";
import type { Tables } from "./schema.ts";

export interface Seams {
  clock: Clock;
  random: Random;
  runtime: Runtime;
}

/** How long a change is made again and again before its caller hears that too much is going on. */
const retryMsMax = 5_000;
const backoffMs = { first: 2, last: 100 } as const;

export class PostgresRunner {
  readonly #database: Kysely<Tables>;
  readonly #seams: Seams;

  constructor(database: Kysely<Tables>, seams: Seams) {
    this.#database = database;
    this.#seams = seams;
  }

  async read<Value>(work: Work<Value>): Promise<Value> {
    return await answerAll(this.#database, work);
  }

  /** For work whose reads must see the same commits. */
  async readAtOneMoment<Value>(makeWork: () => Work<Value>): Promise<Value> {
    return await this.#transact("repeatable read", makeWork);
  }

  async change<Value>(makeWork: () => Work<Value>): Promise<Value> {
    const { clock, random, runtime } = this.#seams;
    const deadlineMs = clock.monotonicMs() + retryMsMax;
    let isMade = false;
    for (let stepMs: number = backoffMs.first; ; stepMs = Math.min(stepMs * 2, backoffMs.last)) {
      try {
        return await this.#transact("read committed", makeWork, (value) => {
          isMade = value;
        });
      } catch (error) {
        if (!isTrace(error)) {
          if (!isMade) throw error;
          throw new Failure("unavailable", unknownOutcome(error), failureOptions(error));
        }
        const delayMs = stepMs * (0.5 + random.fraction() / 2);
        if (clock.monotonicMs() + delayMs > deadlineMs) {
          throw new Failure(
            "busy",
            "Cannot change the catalog: too many others change the same now",
            { ...failureOptions(error), code: "SlowDown" },
          );
        }
        await pause(runtime, delayMs);
      }
    }
  }

  async #transact<Value>(
    isolation: IsolationLevel,
    makeWork: () => Work<Value>,
    setMade: (isMade: boolean) => void = () => undefined,
  ): Promise<Value> {
    const options = { isolation, retryMsMax, ...this.#seams };
    return await transact(this.#database, options, async (transaction) => {
      setMade(false);
      const value = await answerAll(transaction, makeWork());
      setMade(true);
      return value;
    });
  }
}

async function answerAll<Value>(database: Kysely<Tables>, work: Work<Value>): Promise<Value> {
  let step = work.next();
  while (step.done !== true) step = work.next(await ask(database, step.value));
  return step.value;
}

async function ask(database: Kysely<Tables>, { query, values, wants }: Question): Promise<unknown> {
  try {
    const { rows } = await database.executeQuery(CompiledQuery.raw(query.sql, values));
    return wants === "first" ? rows[0] : rows;
  } catch (error) {
    if (stateOf(error) !== states.unreadableText) throw error;
    throw new Failure("bad-request", "Cannot use a name with a zero character in it", {
      code: "InvalidURI",
      cause: error,
    });
  }
}

/** SQLSTATEs that mean something here. */
const states = {
  unreadableText: "22021",
  /** A row that was referred to is gone: a bucket was deleted. */
  missingReference: "23503",
  /** Somebody else has added the row: the first version of a key, a bucket of that name, a session. */
  duplicate: "23505",
  serializationFailure: "40001",
  deadlock: "40P01",
  lockTimeout: "55P03",
} as const;

const traces: readonly (string | undefined)[] = [
  states.missingReference,
  states.duplicate,
  states.serializationFailure,
  states.deadlock,
  states.lockTimeout,
];

/** Whether a change failed for what another one did meanwhile, so that it may succeed when made again. */
function isTrace(error: unknown): boolean {
  return error instanceof MadeTooEarly || traces.includes(stateOf(error));
}

function stateOf(error: unknown): string | undefined {
  const cause = error instanceof Failure ? error.cause : error;
  return cause instanceof pg.DatabaseError ? cause.code : undefined;
}

function unknownOutcome(error: unknown): string {
  return `Cannot tell whether the change was kept: the commit was not answered: ${messageOf(error)}`;
}

function failureOptions(cause: unknown): { cause: unknown; retryAfterSeconds: number } {
  return { cause, retryAfterSeconds: 1 };
}

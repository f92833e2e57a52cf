/**
 * Queries that kysely writes once, and work that asks them without knowing which database answers.
 *
 * Work is a generator: it yields a question, and goes on with the answer. SQLite answers at once, so that
 * a whole change is one synchronous call; PostgreSQL answers when it can. What the catalog means by a
 * change or a read is so written once, for both.
 *
 * Invariants:
 * - A query's text never depends on what is asked: each database plans it once.
 * - Work holds nothing that must be let go of: whoever runs it may drop it at any question.
 */

import assert from "node:assert";
import {
  type CompiledQuery,
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from "kysely";
import type { Tables } from "./schema.ts";

export type Dialect = "sqlite" | "postgres";

export type SqlValue = string | number | Uint8Array | null;

type Inputs = Record<string, SqlValue>;

/** What is asked: a query with the values of one run. Its answer is rows, the first row if any, or nothing. */
export interface Question {
  readonly query: { readonly sql: string };
  readonly values: SqlValue[];
  readonly wants: "all" | "first" | "nothing";
}

export interface Work<Value> extends Iterator<Question, Value, unknown> {
  [Symbol.iterator](): Iterator<Question, Value, unknown>;
}

/** When a change is made, and by which of those that change the catalog at once. */
export interface Turn {
  nowMs: number;
  /** Small and, at any moment, nobody else's: counters that all change are kept once for each slot. */
  slot: number;
}

/** Thrown by a change that saw another one's traces: made again, it will see what that left. */
export class MadeTooEarly extends Error {
  override readonly name = "MadeTooEarly";
}

/** Stands in the query for a value that each run brings. */
class Placeholder {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/**
 * The least work there is: one question, and its answer as it comes. A generator would do the same, at
 * twice the cost, some ten times for each change.
 */
class Asking<Value> implements Question, Work<Value> {
  readonly query: { readonly sql: string };
  readonly values: SqlValue[];
  readonly wants: Question["wants"];
  #isAsked = false;

  constructor(query: Question["query"], values: SqlValue[], wants: Question["wants"]) {
    this.query = query;
    this.values = values;
    this.wants = wants;
  }

  [Symbol.iterator](): this {
    return this;
  }

  next(answer?: unknown): IteratorResult<Question, Value> {
    if (this.#isAsked) return { done: true, value: answer as Value };
    this.#isAsked = true;
    return { done: false, value: this };
  }
}

export class Query<Input extends Inputs, Row> {
  readonly sql: string;
  readonly #parameters: readonly unknown[];

  constructor(sql: string, parameters: readonly unknown[]) {
    this.sql = sql;
    this.#parameters = parameters;
  }

  first(input: Input): Work<Row | undefined> {
    return new Asking(this, this.#bind(input), "first");
  }

  all(input: Input): Work<Row[]> {
    return new Asking(this, this.#bind(input), "all");
  }

  run(input: Input): Work<void> {
    return new Asking(this, this.#bind(input), "nothing");
  }

  #bind(input: Input): SqlValue[] {
    return this.#parameters.map((parameter) => {
      if (!(parameter instanceof Placeholder)) return parameter as SqlValue;
      const value = input[parameter.name];
      assert(value !== undefined, `a run brings "${parameter.name}"`);
      return value;
    });
  }
}

/** Kysely that writes queries for a database, and runs none. */
export class QueryWriter {
  /** Others write to the same database meanwhile, so what must stay as it was read has to be locked. */
  readonly isShared: boolean;
  readonly #kysely: Kysely<Tables>;

  constructor(dialect: Dialect) {
    this.isShared = dialect === "postgres";
    const createDriver = () => new DummyDriver();
    this.#kysely = new Kysely<Tables>({
      dialect:
        dialect === "postgres"
          ? {
              createDriver,
              createAdapter: () => new PostgresAdapter(),
              createIntrospector: (database) => new PostgresIntrospector(database),
              createQueryCompiler: () => new PostgresQueryCompiler(),
            }
          : {
              createDriver,
              createAdapter: () => new SqliteAdapter(),
              createIntrospector: (database) => new SqliteIntrospector(database),
              createQueryCompiler: () => new SqliteQueryCompiler(),
            },
    });
  }

  /** The query that `build` makes; what it takes of `input` comes with each run. */
  write<Input extends Inputs, Row>(
    build: (kysely: Kysely<Tables>, input: Input) => { compile(): CompiledQuery<Row> },
  ): Query<Input, Row> {
    const placeholders = new Proxy({} as Input, {
      get: (_target, name) => new Placeholder(String(name)),
    });
    const { sql, parameters } = build(this.#kysely, placeholders).compile();
    return new Query(sql, parameters);
  }
}

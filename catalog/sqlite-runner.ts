/** Runs work on SQLite, to its end and at once. Each query is prepared when it is first asked. */

import type { DatabaseSync, StatementSync } from "node:sqlite";
import type { Question, Work } from "./query.ts";

export class SqliteRunner {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<Question["query"], StatementSync>();

  constructor(database: DatabaseSync) {
    this.#database = database;
  }

  run<Value>(work: Work<Value>): Value {
    let step = work.next();
    while (step.done !== true) step = work.next(this.#answer(step.value));
    return step.value;
  }

  #answer({ query, values, wants }: Question): unknown {
    let statement = this.#statements.get(query);
    if (statement === undefined) {
      statement = this.#database.prepare(query.sql);
      this.#statements.set(query, statement);
    }
    if (wants === "first") return statement.get(...values);
    if (wants === "all") return statement.all(...values);
    statement.run(...values);
    return undefined;
  }
}

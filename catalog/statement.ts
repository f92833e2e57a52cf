/**
 * A query that kysely writes once and SQLite then runs directly: going through kysely for every run
 * costs five times as much.
 */

import assert from "node:assert";
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite";
import type { CompiledQuery } from "kysely";

type Inputs = Record<string, SQLInputValue>;

/** Stands in the query for a value that each run brings. */
class Placeholder {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

export class Statement<Input extends Inputs, Row> {
  readonly #statement: StatementSync;
  readonly #parameters: readonly unknown[];

  constructor(statement: StatementSync, parameters: readonly unknown[]) {
    this.#statement = statement;
    this.#parameters = parameters;
  }

  get(input: Input): Row | undefined {
    return this.#statement.get(...this.#bind(input)) as Row | undefined;
  }

  all(input: Input): Row[] {
    return this.#statement.all(...this.#bind(input)) as Row[];
  }

  /** Rows as they are found: whoever stops early spares SQLite the rest. */
  iterate(input: Input): Iterable<Row> {
    return this.#statement.iterate(...this.#bind(input)) as Iterable<unknown> as Iterable<Row>;
  }

  run(input: Input): void {
    this.#statement.run(...this.#bind(input));
  }

  #bind(input: Input): SQLInputValue[] {
    return this.#parameters.map((parameter) => {
      if (!(parameter instanceof Placeholder)) return parameter as SQLInputValue;
      const value = input[parameter.name];
      assert(value !== undefined, `a run brings "${parameter.name}"`);
      return value;
    });
  }
}

/** Prepares the query that `build` makes; what it takes of `input` comes with each run. */
export function prepare<Input extends Inputs, Row>(
  database: DatabaseSync,
  build: (input: Input) => { compile(): CompiledQuery<Row> },
): Statement<Input, Row> {
  const placeholders = new Proxy({} as Input, {
    get: (_target, name) => new Placeholder(String(name)),
  });
  const { sql, parameters } = build(placeholders).compile();
  return new Statement(database.prepare(sql), parameters);
}

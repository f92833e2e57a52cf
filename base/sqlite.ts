/**
 * SQLite as Hayloft uses it: write-ahead log, a sync for every commit, and kysely on top.
 *
 * Invariants:
 * - A committed transaction is on the disk (`synchronous=FULL`).
 * - One process uses a file: whoever opens it for writing holds the lock of its folder (lock.ts).
 */

import { chmodSync } from "node:fs";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { Kysely, SqliteDialect } from "kysely";
import { Failure, messageOf } from "./failure.ts";

/** Opens the file for writing, making it if need be (0600), or read-only beside its writer. */
export function openSqlite(file: string, mode: "write" | "read"): DatabaseSync {
  try {
    const database = new DatabaseSync(file, { readOnly: mode === "read" });
    if (mode === "write") {
      chmodSync(file, 0o600);
      database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
      // After a failed sync frames of the log may be in the page cache alone: they go into the database,
      // which is synced, before anything is written behind them.
      database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    database.exec(
      "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536; PRAGMA mmap_size = 268435456",
    );
    return database;
  } catch (error) {
    throw new Failure("unavailable", `Cannot open the database ${file}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Kysely on an open database. Queries run at once, one after the other: use one per thread. */
export function kyselyOn<Tables>(database: DatabaseSync): Kysely<Tables> {
  return new Kysely<Tables>({
    dialect: new SqliteDialect({
      database: {
        close: () => database.close(),
        prepare(sql: string) {
          const statement = database.prepare(sql);
          return {
            reader: statement.columns().length > 0,
            all: (parameters) => statement.all(...(parameters as SQLInputValue[])),
            run: (parameters) => statement.run(...(parameters as SQLInputValue[])),
            iterate: (parameters) =>
              statement.iterate(...(parameters as SQLInputValue[])) as IterableIterator<unknown>,
          };
        },
      },
    }),
  });
}

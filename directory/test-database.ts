/**
 * For tests: an empty database of the directory, on the dialect that the test file runs on. That is SQLite;
 * `postgres.test.ts` runs the same tests on PostgreSQL.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Kysely } from "kysely";
import { makeLog } from "../base/log.ts";
import { migrate } from "../base/migrate.ts";
import { openPostgres } from "../base/postgres.ts";
import type { PostgresServer } from "../base/postgres-server.ts";
import { kyselyOn, openSqlite } from "../base/sqlite.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";

export interface TestDatabase {
  database: Kysely<DirectoryTables>;
  /** Closes it, and removes what is left of it. */
  destroy(): Promise<void>;
}

let makeEmpty = makeSqlite;

/** From now on tests run on this server. */
export function runOn(server: PostgresServer): void {
  makeEmpty = async () => {
    const url = await server.freshDatabase();
    const database = openPostgres<DirectoryTables>(url, { log: makeLog("test", "silent") });
    return { database, destroy: () => database.destroy() };
  };
}

export async function makeTestDatabase(): Promise<TestDatabase> {
  const made = await makeEmpty();
  await migrate(made.database, directoryMigrations);
  return made;
}

async function makeSqlite(): Promise<TestDatabase> {
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-directory-"));
  const database = kyselyOn<DirectoryTables>(
    openSqlite(path.join(folder, "directory.sqlite"), "write"),
  );
  return {
    database,
    async destroy() {
      await database.destroy();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

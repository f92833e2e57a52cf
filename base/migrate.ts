/** Brings a database up to date, SQLite or PostgreSQL, by migrations in code. */

import type { Kysely } from "kysely";
import { type Migration, Migrator } from "kysely/migration";
import { Failure, messageOf } from "./failure.ts";

/**
 * Brings the schema up to the newest migration; refuses a database that a newer Hayloft has changed.
 *
 * Several processes may do so at once on PostgreSQL: each holds an advisory lock of its session meanwhile,
 * and all migrations that are due are one transaction.
 */
export async function migrate<Tables>(
  database: Kysely<Tables>,
  migrations: Record<string, Migration>,
): Promise<void> {
  const migrator = new Migrator({
    db: database,
    provider: { getMigrations: () => Promise.resolve(migrations) },
  });
  const { error } = await migrator.migrateToLatest();
  if (error !== undefined) {
    throw new Failure("unavailable", `Cannot bring the database up to date: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * A writer session: one opening of the catalog, from open to close.
 *
 * Its number is in every needle that it uploads. What such a session left unreferenced may be collected
 * once it is closed, so an upload is committed only while its session is open.
 */

import type { DatabaseSync } from "node:sqlite";
import { sql } from "kysely";
import { kyselyOn } from "../base/sqlite.ts";
import type { Tables } from "./schema.ts";
import { prepare } from "./statement.ts";

/**
 * Closes what a crash left open and opens the next session. `freshId` becomes the catalog's id if it
 * has none. The caller holds the folder's lock, so no session that is open has a process behind it.
 */
export function openSession(
  database: DatabaseSync,
  { freshId, nowMs }: { freshId: string; nowMs: number },
): { id: string; session: number } {
  const kysely = kyselyOn<Tables>(database);
  const findCatalog = prepare(database, () => kysely.selectFrom("catalog").select("id"));
  const makeCatalog = prepare(database, (v: { id: string }) =>
    kysely.insertInto("catalog").values({ id: v.id, next_bucket_id: 1 }),
  );
  const closeOpenOnes = prepare(database, (v: { nowMs: number }) =>
    kysely.updateTable("sessions").set({ closed_ms: v.nowMs }).where("closed_ms", "is", null),
  );
  const findLast = prepare(database, () =>
    kysely.selectFrom("sessions").select(sql<number>`coalesce(max(id), 0)`.as("id")),
  );
  const make = prepare(database, (v: { session: number; nowMs: number }) =>
    kysely
      .insertInto("sessions")
      .values({ id: v.session, opened_ms: v.nowMs, closed_ms: sql.lit(null) }),
  );

  database.exec("BEGIN IMMEDIATE");
  let id = findCatalog.get({})?.id;
  if (id === undefined) {
    id = freshId;
    makeCatalog.run({ id });
  }
  closeOpenOnes.run({ nowMs });
  const session = (findLast.get({})?.id ?? 0) + 1;
  make.run({ session, nowMs });
  database.exec("COMMIT");
  return { id, session };
}

export function closeSession(
  database: DatabaseSync,
  { session, nowMs }: { session: number; nowMs: number },
): void {
  const kysely = kyselyOn<Tables>(database);
  prepare(database, (v: { session: number; nowMs: number }) =>
    kysely.updateTable("sessions").set({ closed_ms: v.nowMs }).where("id", "=", v.session),
  ).run({ session, nowMs });
}

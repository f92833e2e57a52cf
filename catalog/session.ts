/**
 * A writer session: one opening of the catalog by one gateway, from open to close.
 *
 * Its number is in every needle that it uploads. What such a session left unreferenced may be collected
 * once it is closed, so an upload is committed only while its session is open.
 *
 * Invariants:
 * - No two openings have the same number, however many gateways open the catalog at once.
 * - Where gateways share a catalog, each gives a sign of life; one that gave none for long is closed by
 *   the others, all by the database's clock. What it then tries to commit is refused.
 */

import assert from "node:assert";
import { sql } from "kysely";
import { type Dialect, QueryWriter, type Work } from "./query.ts";

export interface OpenedSession {
  /** The catalog's id. */
  id: string;
  session: number;
}

export class Sessions {
  readonly #queries: ReturnType<typeof writeQueries>;

  constructor(dialect: Dialect) {
    this.#queries = writeQueries(new QueryWriter(dialect));
  }

  /**
   * Opens the next session of a catalog that this process has for itself, so none that is open has a
   * process behind it: a crash left it. `freshId` becomes the catalog's id if it has none.
   */
  *openAlone({ freshId, nowMs }: { freshId: string; nowMs: number }): Work<OpenedSession> {
    yield* this.#queries.closeAll.run({ nowMs });
    return yield* this.#open(freshId, nowMs);
  }

  /** Opens the next session of a catalog that others have open too. */
  *openBeside({ freshId }: { freshId: string }): Work<OpenedSession & { nowMs: number }> {
    const nowMs = yield* this.now();
    const opened = yield* this.#open(freshId, nowMs);
    yield* this.#queries.insertHeartbeat.run({ session: opened.session, nowMs });
    return { ...opened, nowMs };
  }

  /** The database's time. */
  *now(): Work<number> {
    const row = yield* this.#queries.now.first({});
    assert(row !== undefined, "it is always some time");
    return row.now_ms;
  }

  /** Gives a sign of life. Tells the database's time, or undefined if the session was closed. */
  *beat({ session }: { session: number }): Work<number | undefined> {
    return (yield* this.#queries.beat.first({ session }))?.seen_ms;
  }

  /** Closes sessions that gave no sign of life since `seenMs`. */
  *closeSilent({ seenMs, nowMs }: { seenMs: number; nowMs: number }): Work<void> {
    yield* this.#queries.closeSilent.run({ seenMs, nowMs });
    // Only then: whoever finds its heartbeat gone knows that its session is closed.
    yield* this.#queries.forgetClosed.run({});
  }

  *close({ session, nowMs }: { session: number; nowMs: number }): Work<void> {
    yield* this.#queries.close.run({ session, nowMs });
  }

  *#open(freshId: string, nowMs: number): Work<OpenedSession> {
    const id = (yield* this.#queries.findCatalog.first({}))?.id;
    if (id === undefined) {
      // Whoever makes the catalog is session 1, whatever sessions there are to be seen by now: of two that
      // make it at once, the row of one is refused, and with it the catalog's second id.
      yield* this.#queries.makeCatalog.run({ id: freshId });
      yield* this.#queries.insert.run({ session: 1, nowMs });
      return { id: freshId, session: 1 };
    }
    const session = ((yield* this.#queries.findLast.first({}))?.id ?? 0) + 1;
    yield* this.#queries.insert.run({ session, nowMs });
    return { id, session };
  }
}

function writeQueries(writer: QueryWriter) {
  const databaseNow = sql<number>`cast(extract(epoch from clock_timestamp()) * 1000 as bigint)`;
  return {
    now: writer.write((kysely) => kysely.selectNoFrom(databaseNow.as("now_ms"))),
    findCatalog: writer.write((kysely) => kysely.selectFrom("catalog").select("id")),
    makeCatalog: writer.write((kysely, v: { id: string }) =>
      kysely.insertInto("catalog").values({ id: v.id, next_bucket_id: sql.lit(1) }),
    ),
    findLast: writer.write((kysely) =>
      kysely.selectFrom("sessions").select(sql<number>`coalesce(max(id), 0)`.as("id")),
    ),
    insert: writer.write((kysely, v: { session: number; nowMs: number }) =>
      kysely
        .insertInto("sessions")
        .values({ id: v.session, opened_ms: v.nowMs, closed_ms: sql.lit(null) }),
    ),
    close: writer.write((kysely, v: { session: number; nowMs: number }) =>
      kysely
        .updateTable("sessions")
        .set({ closed_ms: v.nowMs })
        .where("id", "=", v.session)
        .where("closed_ms", "is", null),
    ),
    closeAll: writer.write((kysely, v: { nowMs: number }) =>
      kysely.updateTable("sessions").set({ closed_ms: v.nowMs }).where("closed_ms", "is", null),
    ),
    closeSilent: writer.write((kysely, v: { seenMs: number; nowMs: number }) =>
      kysely
        .updateTable("sessions")
        .set({ closed_ms: v.nowMs })
        .where("closed_ms", "is", null)
        .where("id", "in", (silent) =>
          silent.selectFrom("heartbeats").select("session").where("seen_ms", "<", v.seenMs),
        ),
    ),
    // Beside the sessions, not in them: every upload holds its session's row, and would hold this up.
    insertHeartbeat: writer.write((kysely, v: { session: number; nowMs: number }) =>
      kysely.insertInto("heartbeats").values({ session: v.session, seen_ms: v.nowMs }),
    ),
    beat: writer.write((kysely, v: { session: number }) =>
      kysely
        .updateTable("heartbeats")
        .set({ seen_ms: databaseNow })
        .where("session", "=", v.session)
        .returning("seen_ms"),
    ),
    forgetClosed: writer.write((kysely) =>
      kysely
        .deleteFrom("heartbeats")
        .where("session", "in", (closed) =>
          closed.selectFrom("sessions").select("id").where("closed_ms", "is not", null),
        ),
    ),
  };
}

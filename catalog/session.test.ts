import { DatabaseSync } from "node:sqlite";
import { expect, test } from "vitest";
import { migrate } from "../base/migrate.ts";
import { kyselyOn } from "../base/sqlite.ts";
import { migrations, type Tables } from "./schema.ts";
import { closeSession, openSession } from "./session.ts";

test("A session is new at every opening, and one that a crash left open is closed by the next", async () => {
  const database = new DatabaseSync(":memory:");
  await migrate(kyselyOn<Tables>(database), migrations);
  const first = openSession(database, { freshId: "aaaaaaaaaaaaaaaa", nowMs: 1 });
  closeSession(database, { session: first.session, nowMs: 2 });
  const crashed = openSession(database, { freshId: "bbbbbbbbbbbbbbbb", nowMs: 3 });
  const last = openSession(database, { freshId: "cccccccccccccccc", nowMs: 4 });
  expect([first, crashed, last]).toEqual(
    [1, 2, 3].map((session) => ({ id: "aaaaaaaaaaaaaaaa", session })),
  );
  expect(database.prepare("SELECT * FROM sessions ORDER BY id").all()).toEqual([
    { id: 1, opened_ms: 1, closed_ms: 2 },
    { id: 2, opened_ms: 3, closed_ms: 4 },
    { id: 3, opened_ms: 4, closed_ms: null },
  ]);
  database.close();
});

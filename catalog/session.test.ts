import { DatabaseSync } from "node:sqlite";
import { expect, test } from "vitest";
import { migrate } from "../base/migrate.ts";
import { kyselyOn } from "../base/sqlite.ts";
import { migrations, type Tables } from "./schema.ts";
import { Sessions } from "./session.ts";
import { SqliteRunner } from "./sqlite-runner.ts";

test("A session is new at every opening, and one that a crash left open is closed by the next", async () => {
  const database = new DatabaseSync(":memory:");
  await migrate(kyselyOn<Tables>(database), migrations);
  const runner = new SqliteRunner(database);
  const sessions = new Sessions("sqlite");
  const open = (freshId: string, nowMs: number) =>
    runner.run(sessions.openAlone({ freshId, nowMs }));
  const first = open("aaaaaaaaaaaaaaaa", 1);
  runner.run(sessions.close({ session: first.session, nowMs: 2 }));
  const crashed = open("bbbbbbbbbbbbbbbb", 3);
  const last = open("cccccccccccccccc", 4);
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

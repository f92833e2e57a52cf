/**
 * The thread that writes the catalog: it alone has the database open for writing, and runs one group of
 * changes after the other. `WriterQueue` starts it and speaks with it.
 */

import assert from "node:assert";
import { parentPort, workerData } from "node:worker_threads";
import { migrate } from "../base/migrate.ts";
import { kyselyOn, openSqlite } from "../base/sqlite.ts";
import { type Change, Changes } from "./changes.ts";
import { describe, type FailureData, type Group, type GroupResult, runGroup } from "./group.ts";
import type { Turn } from "./query.ts";
import { migrations, type Tables } from "./schema.ts";
import { Sessions } from "./session.ts";
import { SqliteRunner } from "./sqlite-runner.ts";

export interface WriterSettings {
  file: string;
  /** The catalog's id, if it has none yet. */
  freshId: string;
  nowMs: number;
  deleteDelayMs: number;
}

export type ToWriter = { type: "group"; group: Group } | { type: "close"; nowMs: number };

export type FromWriter =
  | { type: "opened"; id: string; session: number }
  | { type: "refused"; failure: FailureData }
  | { type: "answered"; result: GroupResult };

assert(parentPort !== null, "the writer is a thread");
const port = parentPort;
const answer = (message: FromWriter) => port.postMessage(message);

try {
  const { file, freshId, nowMs, deleteDelayMs } = workerData as WriterSettings;
  const database = openSqlite(file, "write");
  await migrate(kyselyOn<Tables>(database), migrations);
  const runner = new SqliteRunner(database);
  const sessions = new Sessions("sqlite");
  database.exec("BEGIN IMMEDIATE");
  const { id, session } = runner.run(sessions.openAlone({ freshId, nowMs }));
  database.exec("COMMIT");
  const changes = new Changes({ dialect: "sqlite", session, deleteDelayMs });
  const make = (change: Change, turn: Turn) => runner.run(changes.make(change, turn));

  port.on("message", (message: ToWriter) => {
    if (message.type === "group") {
      answer({ type: "answered", result: runGroup(database, make, message.group) });
      return;
    }
    runner.run(sessions.close({ session, nowMs: message.nowMs }));
    database.close();
    port.close();
  });
  answer({ type: "opened", id, session });
} catch (error) {
  answer({ type: "refused", failure: describe(error) });
}

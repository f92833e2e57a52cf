import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, expect, test } from "vitest";
import { migrate } from "../base/migrate.ts";
import { kyselyOn, openSqlite } from "../base/sqlite.ts";
import { type Change, Changes } from "./changes.ts";
import { runGroup } from "./group.ts";
import type { Turn } from "./query.ts";
import { migrations, type Tables } from "./schema.ts";
import { Sessions } from "./session.ts";
import { SqliteRunner } from "./sqlite-runner.ts";

let folder: string;
let database: DatabaseSync;
let runner: SqliteRunner;
let changes: Changes;

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-group-"));
  database = openSqlite(path.join(folder, "catalog.sqlite"), "write");
  await migrate(kyselyOn<Tables>(database), migrations);
  runner = new SqliteRunner(database);
  const opening = { freshId: "0123456789abcdef", nowMs: 1 };
  const { session } = runner.run(new Sessions("sqlite").openAlone(opening));
  changes = new Changes({ dialect: "sqlite", session, deleteDelayMs: 1_000 });
});

afterEach(() => {
  database.close();
  rmSync(folder, { recursive: true });
});

function put(key: string, meta: Record<string, string> = {}): Change {
  const version = {
    bucket: "photos",
    key,
    versionId: key,
    size: 1,
    etag: "e",
    contentType: "image/jpeg",
    meta,
    chunks: [{ fid: "1,0000000000", length: 1 }],
  };
  return { name: "putVersion", input: { version, conditions: { ifNoneMatch: "*" } } };
}

const makeBucket: Change = { name: "createBucket", input: { name: "photos", settings: {} } };
const make = (change: Change, turn: Turn) => runner.run(changes.make(change, turn));
const run = (...list: Change[]) => runGroup(database, make, { nowMs: 5, changes: list });
const keyCount = () => database.prepare("SELECT count(*) AS n FROM versions").get()?.n;

test("A failed change undoes itself and none of its group", () => {
  const { answers } = run(makeBucket, put("a"), put("a"), makeBucket, put("b"));
  expect(answers).toMatchObject([
    { value: { name: "photos" } },
    { value: { versionId: "null" } },
    { failure: { kind: "precondition-failed", code: "PreconditionFailed" } },
    { failure: { kind: "conflict", code: "BucketAlreadyOwnedByYou" } },
    { value: { versionId: "null" } },
  ]);
  expect(keyCount()).toBe(2);
});

test("A change that throws half-way through leaves none of its rows", () => {
  run(makeBucket);
  const { answers } = runGroup(
    database,
    (change, turn) => {
      const value = make(change, turn);
      if (change.name === "putVersion" && change.input.version.key === "b") throw new Error("ours");
      return value;
    },
    { nowMs: 5, changes: [put("a"), put("b"), put("c")] },
  );
  expect(answers).toMatchObject([{ value: {} }, { failure: { kind: "internal" } }, { value: {} }]);
  expect(JSON.stringify(answers[1])).not.toContain('"message":"ours"');
  expect(keyCount()).toBe(2);
  expect(database.prepare("SELECT objects, bytes FROM usage_slots").get()).toEqual({
    objects: 2,
    bytes: 2,
  });
});

test("A full disk fails as full, keeps nothing of the change, and goes on once there is room", () => {
  run(makeBucket, put("a"));
  const pages = Number(database.prepare("PRAGMA page_count").get()?.page_count);
  database.exec(`PRAGMA max_page_count = ${pages}`);
  const big = { note: "x".repeat(200_000) };
  const { answers, isFatal } = run(put("b", big));
  expect(answers).toMatchObject([{ failure: { kind: "full" } }]);
  expect(isFatal).toBe(false);
  expect(keyCount()).toBe(1);

  database.exec("PRAGMA max_page_count = 1000000");
  expect(run(put("b", big)).answers).toMatchObject([{ value: {} }]);
});

test("A failed commit fails the whole group with an unknown outcome, and is fatal", () => {
  run(makeBucket);
  const failing = {
    get isTransaction() {
      return database.isTransaction;
    },
    exec(sql: string) {
      if (sql !== "COMMIT") return database.exec(sql);
      throw Object.assign(new Error("disk I/O error"), { errcode: 1_034 });
    },
  };
  const { answers, isFatal } = runGroup(failing, make, { nowMs: 5, changes: [put("a"), put("a")] });
  expect(isFatal).toBe(true);
  for (const answer of answers) {
    expect(answer).toMatchObject({ failure: { kind: "unavailable" } });
    expect(JSON.stringify(answer)).toContain("Cannot tell whether");
  }
  expect(database.isTransaction).toBe(false);
});

test("A transaction that SQLite rolled back by itself fails the whole group", () => {
  run(makeBucket);
  const { answers } = runGroup(
    database,
    (change, turn) => {
      if (change.name !== "createBucket") return make(change, turn);
      database.exec("ROLLBACK");
      throw Object.assign(new Error("database or disk is full"), { errcode: 13 });
    },
    { nowMs: 5, changes: [put("a"), makeBucket, put("b")] },
  );
  expect(answers.map((answer) => "failure" in answer && answer.failure.kind)).toEqual([
    "full",
    "full",
    "full",
  ]);
  expect(keyCount()).toBe(0);
});

test("Neither sequence nor time runs backwards along a key when the clock does", () => {
  const versioned: Change = {
    name: "createBucket",
    input: { name: "photos", settings: { versioning: "on" } },
  };
  runGroup(database, make, { nowMs: 1_000, changes: [versioned, unconditional("v1")] });
  runGroup(database, make, { nowMs: 10, changes: [unconditional("v2"), unconditional("v3")] });
  const rows = database
    .prepare("SELECT version_id, sequence, modified_ms, is_latest FROM versions ORDER BY sequence")
    .all();
  expect(rows).toEqual([
    { version_id: "v1", sequence: 1_000_000, modified_ms: 1_000, is_latest: 0 },
    { version_id: "v2", sequence: 1_000_001, modified_ms: 1_000, is_latest: 0 },
    { version_id: "v3", sequence: 1_000_002, modified_ms: 1_000, is_latest: 1 },
  ]);
});

function unconditional(versionId: string): Change {
  const version = {
    bucket: "photos",
    key: "k",
    versionId,
    size: 1,
    etag: "e",
    contentType: "image/jpeg",
    meta: {},
    chunks: [],
  };
  return { name: "putVersion", input: { version, conditions: {} } };
}

test("An upload whose session is closed is not committed", () => {
  run(makeBucket);
  database.exec("UPDATE sessions SET closed_ms = 2");
  expect(run(put("a")).answers).toMatchObject([{ failure: { kind: "unavailable" } }]);
  expect(keyCount()).toBe(0);
});

test("A migration that a crash cut short is done again", async () => {
  database.exec("DELETE FROM kysely_migration; DROP TABLE access_keys; DROP TABLE heartbeats");
  await migrate(kyselyOn<Tables>(database), migrations);
  expect(run({ name: "putAccessKey", input: { id: "A", secret: "s" } }).answers).toMatchObject([
    { value: undefined },
  ]);
});

test("A catalog of before several gateways keeps its usage, however often its migration is begun", async () => {
  run(makeBucket, put("a"));
  // As it was made by the first migration, and as a crash may leave it in the midst of the second.
  database.exec(`
    DELETE FROM kysely_migration WHERE name = '0002-several-gateways';
    DROP TABLE heartbeats;
    CREATE TABLE usage (bucket_id bigint PRIMARY KEY, objects bigint NOT NULL, bytes bigint NOT NULL);
    INSERT INTO usage VALUES (1, 1, 1), (2, 7, 70);`);
  await migrate(kyselyOn<Tables>(database), migrations);
  expect(database.prepare("SELECT * FROM usage_slots ORDER BY bucket_id").all()).toEqual([
    { bucket_id: 1, slot: 0, objects: 1, bytes: 1 },
    { bucket_id: 2, slot: 0, objects: 7, bytes: 70 },
  ]);
  run(put("b"));
  expect(database.prepare("SELECT objects FROM usage_slots WHERE bucket_id = 1").get()).toEqual({
    objects: 2,
  });
});

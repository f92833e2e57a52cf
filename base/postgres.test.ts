import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "./clock.ts";
import { Failure } from "./failure.ts";
import { makeLog } from "./log.ts";
import { migrate } from "./migrate.ts";
import { openPostgres, type PostgresOptions, transact } from "./postgres.ts";
import { lacksPostgres, needsPostgres, PostgresServer } from "./postgres-server.ts";
import { seededRandom } from "./random.ts";
import { systemRuntime } from "./runtime.ts";

interface Tables {
  numbers: { name: string; value: number; bytes: Buffer | null };
}

const log = makeLog("test", "silent");

/** To make and end a server takes a while on a busy machine. */
const hookMsMax = 120_000;
const seams = { clock: systemClock, random: seededRandom(1), runtime: systemRuntime };

const migrations: Record<string, Migration> = {
  "001-begin": {
    async up(database: Kysely<unknown>) {
      await database.schema
        .createTable("numbers")
        .addColumn("name", "varchar(16)", (column) => column.primaryKey())
        .addColumn("value", "bigint", (column) => column.notNull())
        .addColumn("bytes", sql`bytea`)
        .execute();
      await sql`insert into numbers (name, value) values ('a', 0), ('b', 0)`.execute(database);
    },
  },
};

describe.skipIf(lacksPostgres)(`PostgreSQL ${needsPostgres}`, () => {
  let server: PostgresServer;
  let url: string;
  let database: Kysely<Tables>;
  const opened: Kysely<Tables>[] = [];

  const open = (options: Partial<PostgresOptions> = {}) => {
    const made = openPostgres<Tables>(url, { log, ...options });
    opened.push(made);
    return made;
  };

  beforeAll(async () => {
    server = await PostgresServer.start({ settings: { deadlock_timeout: "20ms" } });
  }, hookMsMax);

  afterAll(async () => {
    await server.destroy();
  }, hookMsMax);

  beforeEach(async () => {
    if (!server.isRunning) await server.restart();
    url = await server.freshDatabase();
    database = open();
  });

  afterEach(async () => {
    for (const each of opened.splice(0)) await each.destroy();
  });

  const readValue = async (name: string) =>
    (
      await database
        .selectFrom("numbers")
        .select("value")
        .where("name", "=", name)
        .executeTakeFirstOrThrow()
    ).value;

  const addTo = async (on: Kysely<Tables>, name: string, value: number) => {
    await on
      .updateTable("numbers")
      .set((row) => ({ value: row("value", "+", value) }))
      .where("name", "=", name)
      .execute();
  };

  test("Many processes that migrate an empty database at once make each table once", async () => {
    for (let round = 0; round < 5; round++) {
      url = await server.freshDatabase();
      const starting = Array.from({ length: 6 }, () => open());
      await Promise.all(starting.map((each) => migrate(each, migrations)));
      const rows = await starting[0]?.selectFrom("numbers").selectAll().execute();
      expect(rows).toHaveLength(2);
    }
  });

  test("A database that a newer Hayloft has changed is refused", async () => {
    await migrate(database, { ...migrations, "002-next": { up: async () => undefined } });
    await expect(migrate(open(), migrations)).rejects.toMatchObject({ kind: "unavailable" });
  });

  test("Whole numbers and counts are numbers, exactly or not at all, and bytes are bytes", async () => {
    await migrate(database, migrations);
    const bytes = Buffer.from([0, 1, 254, 255, 92]);
    const value = Number.MAX_SAFE_INTEGER;
    await database.insertInto("numbers").values({ name: "c", value, bytes }).execute();
    const row = await database
      .selectFrom("numbers")
      .selectAll()
      .where("name", "=", "c")
      .executeTakeFirstOrThrow();
    expect(row.value).toBe(value);
    expect(Buffer.isBuffer(row.bytes) && row.bytes.equals(bytes)).toBe(true);
    const { count, sum, half } = await database
      .selectFrom("numbers")
      .select(({ fn }) => [fn.countAll<number>().as("count"), fn.sum<number>("value").as("sum")])
      .select(sql<number>`0.5::numeric`.as("half"))
      .executeTakeFirstOrThrow();
    expect({ count, sum, half }).toEqual({ count: 3, sum: value, half: 0.5 });
    await addTo(database, "c", 1);
    await expect(readValue("c")).rejects.toMatchObject({ kind: "unsupported" });
    await database.insertInto("numbers").values({ name: "d", value: 1, bytes }).execute();
    const sums = database.selectFrom("numbers").select(({ fn }) => fn.sum("value").as("sum"));
    await expect(sums.execute()).rejects.toMatchObject({ kind: "unsupported" });
  });

  test("Transactions that conflict are repeated until each has happened once", async () => {
    await migrate(database, migrations);
    const changes = Array.from({ length: 16 }, (_, at) =>
      transact(database, { isolation: "serializable", ...seams }, async (transaction) => {
        // Locks in opposite orders: some of these deadlock, others can't be put in a row.
        const names = at % 2 === 0 ? ["a", "b"] : ["b", "a"];
        for (const name of names) await addTo(transaction, name, 1);
      }),
    );
    await Promise.all(changes);
    expect([await readValue("a"), await readValue("b")]).toEqual([16, 16]);
  });

  test("A transaction that conflicts for ever is given up at its deadline", async () => {
    await migrate(database, migrations);
    let tries = 0;
    const options = { isolation: "serializable", retryMsMax: 200, ...seams } as const;
    const changing = transact(database, options, async (transaction) => {
      tries += 1;
      await transaction.selectFrom("numbers").selectAll().execute();
      await addTo(open(), "a", 1);
      await addTo(transaction, "a", 1);
    });
    await expect(changing).rejects.toMatchObject({ kind: "unavailable", retryAfterSeconds: 1 });
    expect(tries).toBeGreaterThan(2);
    expect(await readValue("a")).toBe(tries);
  });

  test("A mistake in a query is no failure of the database, and is not repeated", async () => {
    let tries = 0;
    const asking = transact(database, { isolation: "serializable", ...seams }, async (each) => {
      tries += 1;
      await sql`select nothing from nowhere`.execute(each);
    });
    const error = await asking.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    expect(error).not.toBeInstanceOf(Failure);
    expect(tries).toBe(1);
  });

  test("What a transaction fails with comes out as it is, and nothing of it stays", async () => {
    await migrate(database, migrations);
    const failure = new Failure("conflict", "Cannot do it: it is a test");
    const changing = transact(database, { isolation: "serializable", ...seams }, async (each) => {
      await addTo(each, "a", 1);
      throw failure;
    });
    await expect(changing).rejects.toBe(failure);
    expect(await readValue("a")).toBe(0);
  });

  test("A server that is killed makes calls fail as unavailable, and is used again when it is back", async () => {
    await migrate(database, migrations);
    const busy = sql`select pg_sleep(30)`.execute(database).catch((error: unknown) => error);
    await addTo(database, "a", 1);
    await server.kill();
    expect(await busy).toMatchObject({ kind: "unavailable", retryAfterSeconds: 1 });
    await expect(readValue("a")).rejects.toMatchObject({ kind: "unavailable" });
    await server.restart();
    expect(await readValue("a")).toBe(1);
  });

  test("A server that hangs costs a bounded time, and no late answer is taken for another's", async () => {
    await migrate(database, migrations);
    const hasty = open({ connectionsMax: 1, statementTimeoutMs: 200, connectTimeoutMs: 300 });
    await addTo(hasty, "a", 1);
    server.freeze();
    try {
      const changing = transact(hasty, { isolation: "serializable", ...seams }, (each) =>
        addTo(each, "a", 1),
      );
      await expect(changing).rejects.toMatchObject({ kind: "unavailable" });
      const reading = hasty.selectFrom("numbers").selectAll().execute();
      await expect(reading).rejects.toMatchObject({ kind: "unavailable" });
    } finally {
      server.thaw();
    }
    const { rows } = await sql<{ answer: number }>`select 42 as answer`.execute(hasty);
    expect(rows).toEqual([{ answer: 42 }]);
    expect(await readValue("a")).toBe(1);
  });

  test("More calls than connections wait their turn, and fail as unavailable when it does not come", async () => {
    await migrate(database, migrations);
    const narrow = open({ connectionsMax: 1, connectTimeoutMs: 300 });
    await Promise.all(Array.from({ length: 20 }, () => addTo(narrow, "a", 1)));
    expect(await readValue("a")).toBe(20);
    const busy = sql`select pg_sleep(1)`.execute(narrow);
    await expect(addTo(narrow, "a", 1)).rejects.toMatchObject({ kind: "unavailable" });
    await busy;
  });

  test("A transaction that is left alone is ended by the server, and lets go of what it locked", async () => {
    await migrate(database, migrations);
    const slow = open({ idleInTransactionTimeoutMs: 100 });
    const [locked, lock] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const changing = slow.transaction().execute(async (transaction) => {
      await addTo(transaction, "a", 1);
      locked.resolve();
      await lock.promise;
      await addTo(transaction, "a", 1);
    });
    const ended = changing.catch((error: unknown) => error);
    await locked.promise;
    await addTo(database, "a", 5); // waits until the other has let go
    lock.resolve();
    expect(await ended).toMatchObject({ kind: "unavailable" });
    expect(await readValue("a")).toBe(5);
  });

  test("An address where nobody is, and a database that is not there, are unavailable", async () => {
    for (const bad of ["postgres://127.0.0.1:1/x", server.url("no_such_database")]) {
      url = bad;
      const asking = sql`select 1`.execute(open({ connectTimeoutMs: 500 }));
      await expect(asking).rejects.toMatchObject({ kind: "unavailable" });
    }
  });

  test("A standby takes over what the primary had, once it is promoted", async () => {
    await migrate(database, migrations);
    const standby = await server.startStandby();
    try {
      await addTo(database, "a", 7);
      const name = new URL(url).pathname.slice(1);
      url = standby.url(name);
      const onStandby = open();
      await expect(addTo(onStandby, "a", 1)).rejects.toMatchObject({ kind: "unavailable" });
      await server.kill();
      await standby.promote();
      await addTo(onStandby, "a", 1);
      database = onStandby;
      expect(await readValue("a")).toBe(8);
    } finally {
      await standby.destroy();
    }
  });
});

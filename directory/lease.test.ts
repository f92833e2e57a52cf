import { type Kysely, sql } from "kysely";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import { makeLog } from "../base/log.ts";
import { migrate } from "../base/migrate.ts";
import { openPostgres } from "../base/postgres.ts";
import { lacksPostgres, needsPostgres, PostgresServer } from "../base/postgres-server.ts";
import { seededRandom } from "../base/random.ts";
import { pause, systemRuntime } from "../base/runtime.ts";
import { nextNumber } from "./counters.ts";
import { Lease, type Term } from "./lease.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";

const log = makeLog("test", "silent");

/** To make and end a server takes a while on a busy machine. */
const hookMsMax = 120_000;

describe.skipIf(lacksPostgres)(`A lease ${needsPostgres}`, () => {
  let server: PostgresServer;
  let database: Kysely<DirectoryTables>;
  let holders: number;

  beforeAll(async () => {
    server = await PostgresServer.start();
  }, hookMsMax);

  afterAll(async () => {
    await server.destroy();
  }, hookMsMax);

  beforeEach(async () => {
    holders = 0;
    database = openPostgres<DirectoryTables>(await server.freshDatabase(), { log });
    await migrate(database, directoryMigrations);
  });

  afterEach(async () => {
    await database.destroy();
  });

  /** One of several directories, with a clock of its own. */
  function makeRival(leaseMs = 60_000) {
    holders += 1;
    const clock = { offsetMs: 0, isStopped: false, stoppedMs: 0 };
    const holder = `holder ${holders}`;
    const lease = new Lease({
      ...{ database, leaseDatabase: database, leaseMs, runtime: systemRuntime },
      ...{ holder, address: `127.0.0.1:${holders}`, random: seededRandom(holders) },
      clock: {
        nowMs: () => 0,
        monotonicMs: () =>
          clock.isStopped ? clock.stoppedMs : systemClock.monotonicMs() + clock.offsetMs,
      },
    });
    const stopClock = () => {
      clock.stoppedMs = systemClock.monotonicMs() + clock.offsetMs;
      clock.isStopped = true;
    };
    return { lease, holder, clock, stopClock };
  }

  async function lead({ lease }: { lease: Lease }): Promise<Term> {
    const term = await lease.acquire();
    if (term === undefined) throw new Error("the lease was not to be had");
    return term;
  }

  /** As if it had run out, for those who look at the database's clock. */
  const expire = async () => await database.updateTable("leases").set({ expires_ms: 1 }).execute();

  const nextVolume = (term: Term) =>
    term.transact((transaction) => nextNumber(transaction, "volume"));

  const readVolume = async () =>
    await database
      .selectFrom("counters")
      .select("value")
      .where("name", "=", "volume")
      .executeTakeFirstOrThrow();

  test("One directory leads, the others know who, and the next has a greater number", async () => {
    const [first, second] = [makeRival(), makeRival()];
    const term = await lead(first);
    expect(await second.lease.acquire()).toBeUndefined();
    expect(second.lease.leader).toEqual({ number: 1, holder: "holder 1", address: "127.0.0.1:1" });
    await term.release();
    expect(term.isHeld).toBe(false);
    expect((await lead(second)).number).toBe(2);
    expect(await first.lease.acquire()).toBeUndefined();
    expect(first.lease.leader?.address).toBe("127.0.0.1:2");
  });

  test("Of many that find the lease free at once, one has it", async () => {
    const rivals = Array.from({ length: 8 }, () => makeRival());
    const terms = await Promise.all(rivals.map(({ lease }) => lease.acquire()));
    expect(terms.filter((term) => term !== undefined)).toHaveLength(1);
  });

  test("A lease that is renewed stays, and one that is not goes to the next", async () => {
    const [first, second] = [makeRival(400), makeRival(400)];
    const term = await lead(first);
    for (let at = 0; at < 8; at++) {
      await pause(systemRuntime, 100);
      await term.renew();
      expect(await second.lease.acquire()).toBeUndefined();
    }
    expect(term.isHeld).toBe(true);
    let next: Term | undefined;
    while (next === undefined) next = await second.lease.acquire();
    expect(term.isHeld).toBe(false); // by its own clock, before the other could have it
    expect(next.number).toBe(2);
  });

  test("A holder whose own clock says that the lease is over changes nothing, and never leads on", async () => {
    const rival = makeRival();
    const term = await lead(rival);
    expect(await nextVolume(term)).toBe(1);
    rival.clock.offsetMs = 54_000;
    await expect(nextVolume(term)).rejects.toMatchObject({ kind: "unavailable" });
    expect(term.ended.aborted).toBe(true);
    rival.clock.offsetMs = 0;
    await term.renew();
    expect(term.isHeld).toBe(false);
    expect((await readVolume()).value).toBe(1);
  });

  test("A holder whose clock has stopped is refused by the database once another leads", async () => {
    const [first, second] = [makeRival(), makeRival()];
    const term = await lead(first);
    first.stopClock();
    expect(await nextVolume(term)).toBe(1);
    await expire();
    expect(await nextVolume(term)).toBe(2); // nobody has taken it: it may
    await expire();
    const next = await lead(second);
    expect(term.isHeld).toBe(true); // as far as it knows
    await expect(nextVolume(term)).rejects.toMatchObject({ kind: "unavailable" });
    expect(term.isHeld).toBe(false);
    expect(await nextVolume(next)).toBe(3);
  });

  test("A change that began before another led is not committed after it", async () => {
    const [first, second] = [makeRival(), makeRival()];
    const term = await lead(first);
    first.stopClock();
    const late = term.transact(async (transaction) => {
      const number = await nextNumber(transaction, "order");
      await expire();
      await lead(second);
      return number;
    });
    await expect(late).rejects.toMatchObject({ kind: "unavailable" });
    const orders = await database
      .selectFrom("counters")
      .selectAll()
      .where("value", ">", 0)
      .execute();
    expect(orders).toEqual([]);
  });

  test("Whoever takes the lease while a change is being committed waits for its end", async () => {
    await sql`create function dawdle() returns trigger as 'begin perform pg_sleep(0.5); return null; end'
      language plpgsql`.execute(database);
    await sql`create constraint trigger dawdle after update on counters
      deferrable initially deferred for each row execute function dawdle()`.execute(database);
    const [first, second] = [makeRival(), makeRival()];
    const term = await lead(first);
    await expire();
    const change = nextVolume(term);
    const isCommitting = async () =>
      (await server.query("select from pg_stat_activity where wait_event = 'PgSleep'")).length > 0;
    while (!(await isCommitting())) await pause(systemRuntime, 5);
    await lead(second);
    expect((await readVolume()).value).toBe(1);
    expect(await change).toBe(1);
  });

  test("Whatever a late change trips over, its holder hears that it leads no more", async () => {
    const [first, second] = [makeRival(), makeRival()];
    const term = await lead(first);
    first.stopClock();
    const late = term.transact(async () => {
      await expire();
      await lead(second);
      term.end();
      throw new Error("a row of the next leader stands in the way");
    });
    await expect(late).rejects.toMatchObject({ kind: "unavailable" });
  });

  test("Should the database's clock jump back, a lease that nobody renews ends all the same", async () => {
    const [first, second] = [makeRival(), makeRival()];
    await lead(first);
    await database
      .updateTable("leases")
      .set({ expires_ms: sql<number>`expires_ms + 3600000` })
      .execute();
    expect(await second.lease.acquire()).toBeUndefined();
    second.clock.offsetMs = 80_000;
    expect(await second.lease.acquire()).toBeUndefined();
    second.clock.offsetMs = 100_000;
    expect((await lead(second)).number).toBe(2);
  });

  test("A holder whose taking was answered by nobody takes it again at once", async () => {
    const rival = makeRival();
    await lead(rival);
    expect((await lead(rival)).number).toBe(2);
  });

  test("However rivals with stopped clocks fight, changes come in the order of their leases", async () => {
    await sql`create table history (value bigint primary key, lease bigint not null)`.execute(
      database,
    );
    let isOver = false;
    let refusedCount = 0;
    const fight = async (rival: ReturnType<typeof makeRival>) => {
      while (!isOver) {
        await expire();
        const term = await rival.lease.acquire();
        if (term === undefined) continue;
        rival.stopClock(); // never learns from it that its time is over
        for (let at = 0; at < 5 && term.isHeld; at++) {
          const change = term.transact(async (transaction) => {
            const value = await nextNumber(transaction, "volume");
            await sql`insert into history values (${value}, ${term.number})`.execute(transaction);
          });
          await change.catch(() => {
            refusedCount += 1;
          });
        }
        rival.clock.isStopped = false;
      }
    };
    const fighting = Array.from({ length: 4 }, () => fight(makeRival()));
    await pause(systemRuntime, 2_000);
    isOver = true;
    await Promise.all(fighting);
    const { rows } = await sql<{ value: number; lease: number }>`
      select value, lease from history order by value`.execute(database);
    expect(rows.map(({ value }) => value)).toEqual(rows.map((_, at) => at + 1));
    const leases = rows.map(({ lease }) => lease);
    expect(leases).toEqual(leases.toSorted((left, right) => left - right));
    expect(new Set(leases).size).toBeGreaterThan(5);
    expect(refusedCount).toBeGreaterThan(5);
  });
});

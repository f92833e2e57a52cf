import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import type { Failure } from "../base/failure.ts";
import { lacksPostgres, needsPostgres, PostgresServer } from "../base/postgres-server.ts";
import { seededRandom } from "../base/random.ts";
import { mayAbandon } from "./catalog.ts";
import { deleteDelayMs, PostgresPlace } from "./catalog-place.ts";
import type { NewVersion } from "./model.ts";
import type { PostgresCatalog } from "./postgres-catalog.ts";

let fids = 0;

function version(key: string, size = 10): NewVersion {
  fids += 1;
  const fid = `1,${fids.toString(16).padStart(8, "0")}00000000`;
  return {
    bucket: "photos",
    key,
    versionId: `v${fids}`,
    size,
    etag: fids.toString(16).padStart(32, "0"),
    contentType: "image/jpeg",
    meta: {},
    chunks: [{ fid, length: size }],
  };
}

const kindOf = (result: PromiseSettledResult<unknown>) =>
  result.status === "rejected" ? (result.reason as Failure).kind : "fulfilled";

describe.skipIf(lacksPostgres)(`Gateways on one PostgreSQL ${needsPostgres}`, () => {
  let server: PostgresServer;
  let place: PostgresPlace;
  /** Two gateways. */
  let here: PostgresCatalog;
  let there: PostgresCatalog;

  beforeAll(async () => {
    server = await PostgresServer.start();
  });

  afterAll(async () => {
    await server.destroy();
  });

  beforeEach(async () => {
    if (!server.isRunning) await server.restart();
    place = await PostgresPlace.make(server);
    [here, there] = await Promise.all([place.open(1), place.open(2)]);
  });

  afterEach(async () => {
    await Promise.all([here.close(), there.close()]);
  });

  /** Whatever was done: what must be true of the rows. */
  async function checkRows(stored: ReadonlyMap<string, number>): Promise<void> {
    const versions = await place.query(
      "SELECT encode(key, 'escape') AS key, sequence, is_latest, is_delete_marker, size, chunks FROM versions",
    );
    const keys = Map.groupBy(versions, ({ key }) => key);
    for (const rows of keys.values()) {
      const newest = Math.max(...rows.map(({ sequence }) => Number(sequence)));
      const latest = rows.filter(({ is_latest }) => is_latest === 1);
      expect(latest.map(({ sequence }) => sequence)).toEqual([newest]);
    }

    const live = versions.filter((row) => row.is_latest === 1 && row.is_delete_marker === 0);
    const bytes = versions.reduce((sum, { size }) => sum + Number(size), 0);
    const usage = [{ bucket: "photos", objects: live.length, bytes }];
    expect(await here.usage()).toEqual(usage);
    expect(await there.usage()).toEqual(usage);

    // Each blob is named by one version, or due for deletion once.
    const named = versions.flatMap(({ chunks }) =>
      (JSON.parse(String(chunks)) as [string, number][]).map(([fid]) => fid),
    );
    const due = (await place.query("SELECT fid FROM outbox")).map(({ fid }) => String(fid));
    expect([...named, ...due].sort()).toEqual([...stored.keys()].sort());
  }

  test("Gateways that open an empty database at once make one catalog, and a session each", async () => {
    for (let round = 0; round < 10; round++) {
      const fresh = await PostgresPlace.make(server);
      const opened = await Promise.all([1, 2, 3, 4, 5].map((seed) => fresh.open(seed)));
      expect(new Set(opened.map(({ id }) => id)).size).toBe(1);
      expect(opened.map(({ session }) => session).sort()).toEqual([1, 2, 3, 4, 5]);
      await Promise.all(opened.map((each) => each.close()));
      expect(await fresh.query("SELECT id FROM sessions WHERE closed_ms IS NULL")).toEqual([]);
      expect(await fresh.query("SELECT id FROM catalog")).toHaveLength(1);
    }
  }, 60_000);

  test("What one gateway was told is done, another sees with its next call", async () => {
    await here.createBucket("photos");
    expect(await there.bucket("photos")).toBeDefined();
    for (let round = 0; round < 50; round++) {
      const put = version("k");
      await here.putVersion(put);
      expect((await there.find({ bucket: "photos", key: "k" }))?.version?.etag).toBe(put.etag);
      await there.updateBucket("photos", { maxObjectBytes: round });
      const seen = await here.find({ bucket: "photos", key: "k" });
      expect(seen?.bucket.settings.maxObjectBytes).toBe(round);
      await there.deleteObject({ bucket: "photos", key: "k" });
      expect((await here.find({ bucket: "photos", key: "k" }))?.version).toBeUndefined();
      expect((await here.list({ bucket: "photos", maxKeys: 1 })).objects).toEqual([]);
    }
  });

  test("Of 200 that create one key through two gateways at once, exactly one wins", async () => {
    await here.createBucket("photos");
    const stored = new Map<string, number>();
    const results = await Promise.allSettled(
      Array.from({ length: 200 }, (_, at) => {
        const put = version("k");
        const catalog = at % 2 === 0 ? here : there;
        return catalog.putVersion(put, { ifNoneMatch: "*" }).then(() => {
          stored.set(put.chunks[0]?.fid ?? "", 10);
        });
      }),
    );
    const kinds = results.map(kindOf);
    expect(kinds.filter((kind) => kind === "fulfilled").length).toBe(1);
    expect(kinds.filter((kind) => kind === "precondition-failed").length).toBe(199);
    await checkRows(stored);
  });

  test("Of those who replace what they have seen, one wins at a time, through whichever gateway", async () => {
    await here.createBucket("photos");
    await here.putVersion(version("k", 0));
    const addOne = async (catalog: PostgresCatalog) => {
      for (;;) {
        const seen = (await catalog.find({ bucket: "photos", key: "k" }))?.version;
        if (seen === undefined) throw new Error("it is there all the time");
        const next = version("k", seen.size + 1);
        try {
          return await catalog.putVersion(next, { ifMatch: [seen.etag] });
        } catch (error) {
          // Never that there is no such key: it was replaced, and at no moment gone.
          expect((error as Failure).kind).toBe("precondition-failed");
        }
      }
    };
    await Promise.all(Array.from({ length: 24 }, (_, at) => addOne(at % 2 === 0 ? here : there)));
    expect((await here.find({ bucket: "photos", key: "k" }))?.version?.size).toBe(24);
  });

  test("A delete that meets a replacement deletes one of the two, never nothing", async () => {
    await here.createBucket("photos");
    for (let round = 0; round < 60; round++) {
      await here.putVersion(version("k"));
      const [, deleted] = await Promise.all([
        here.putVersion(version("k")),
        there.deleteObject({ bucket: "photos", key: "k" }),
      ]);
      expect(deleted.deleted).toBe("version");
    }
  });

  test.each(["off", "on", "suspended"] as const)(
    "Puts and deletes of few keys through two gateways leave every row right (versioning %s)",
    async (versioning) => {
      await here.createBucket("photos");
      if (versioning !== "off") await here.updateBucket("photos", { versioning: "on" });
      if (versioning === "suspended") await here.updateBucket("photos", { versioning });
      const random = seededRandom(7);
      const stored = new Map<string, number>();
      const doOne = async () => {
        const catalog = random.fraction() < 0.5 ? here : there;
        const key = `k${random.u32() % 3}`;
        if (random.fraction() < 0.6) {
          const put = version(key, random.u32() % 100);
          const conditions = random.fraction() < 0.2 ? { ifNoneMatch: "*" as const } : {};
          try {
            await catalog.putVersion(put, conditions);
            stored.set(put.chunks[0]?.fid ?? "", put.size);
          } catch (error) {
            expect((error as Failure).kind).toBe("precondition-failed");
          }
        } else {
          const found = await catalog.find({ bucket: "photos", key });
          const versionId = random.fraction() < 0.5 ? found?.version?.versionId : undefined;
          await catalog.deleteObject({ bucket: "photos", key, versionId });
        }
      };
      for (let round = 0; round < 12; round++) {
        await Promise.all(Array.from({ length: 25 }, doOne));
      }
      await checkRows(stored);
    },
  );

  test("A bucket that is deleted while uploads into it run is gone, or keeps what was stored", async () => {
    for (let round = 0; round < 20; round++) {
      await here.createBucket("photos");
      const [stored, deleted] = await Promise.allSettled([
        here.putVersion(version("k")),
        there.deleteBucket("photos"),
      ]);
      const outcome = [kindOf(stored), kindOf(deleted)].join();
      expect(["fulfilled,conflict", "not-found,fulfilled"]).toContain(outcome);
      const isThere = (await here.bucket("photos")) !== undefined;
      expect(isThere).toBe(deleted.status === "rejected");
      if (!isThere) continue;
      await here.deleteObject({ bucket: "photos", key: "k" });
      await here.deleteBucket("photos");
    }
    expect(await place.query("SELECT * FROM usage_slots")).toEqual([]);
  });

  test("Settings that two gateways change at once are all kept, and one name is one bucket", async () => {
    const made = await Promise.allSettled(
      [here, there, here, there].map((catalog) => catalog.createBucket("photos")),
    );
    expect(made.map(kindOf).sort()).toEqual(["conflict", "conflict", "conflict", "fulfilled"]);
    await Promise.all([
      here.updateBucket("photos", { publicRead: true }),
      there.updateBucket("photos", { images: "open" }),
      here.updateBucket("photos", { maxObjectBytes: 7 }),
      there.updateBucket("photos", { copies: 3 }),
    ]);
    const bucket = await here.bucket("photos");
    const settings = { publicRead: true, images: "open", maxObjectBytes: 7, copies: 3 };
    expect(bucket?.settings).toMatchObject(settings);
  });

  test("Deletions that two gateways work off at once are done with, and no others", async () => {
    await here.abandon(Array.from({ length: 300 }, (_, at) => `9,${at}00000000`));
    place.pass(1_000); // their clocks were set one after the other
    const [ours, theirs] = await Promise.all([here.dueDeletions(200), there.dueDeletions(300)]);
    expect([ours.length, theirs.length]).toEqual([200, 300]);
    const ids = ours.map(({ id }) => id);
    await Promise.all([
      here.finishDeletions(ids),
      there.finishDeletions(ids.toReversed()),
      there.postponeDeletions(ids, 10),
    ]);
    expect(await here.dueDeletions(300)).toEqual(theirs.slice(200));
  });

  test("A listing is of one moment, however many pages of rows it takes", async () => {
    await here.createBucket("photos");
    const keys = Array.from({ length: 60 }, (_, at) => `${String(at).padStart(2, "0")}/x`);
    await Promise.all(keys.map((key) => here.putVersion(version(key))));
    // Each is put before the one after it is deleted: at no moment are there fewer than sixty.
    let isOver = false;
    const churn = (async () => {
      for (let at = 0; !isOver; at = (at + 1) % 60) {
        await there.putVersion(version(`${keys[at]}y`));
        await there.deleteObject({ bucket: "photos", key: keys[at] ?? "" });
        await there.putVersion(version(keys[at] ?? ""));
        await there.deleteObject({ bucket: "photos", key: `${keys[at]}y` });
      }
    })();
    for (let round = 0; round < 30; round++) {
      const page = await here.list({ bucket: "photos", delimiter: "/", maxKeys: 1_000 });
      expect(page.prefixes).toHaveLength(60);
    }
    isOver = true;
    await churn;
  });

  test("A session that is silent for too long is closed by others, and commits nothing more", async () => {
    const fatal = Promise.withResolvers<Failure>();
    const silent = await place.open(3, { onFatal: fatal.resolve });
    await silent.createBucket("photos");
    await silent.putVersion(version("a"));
    const watchful = await place.open(4, { heartbeat: { beatMs: 20, silentMs: 200 } });
    const isClosed = async () => {
      const where = `id = ${silent.session} AND closed_ms IS NOT NULL`;
      return (await place.query(`SELECT id FROM sessions WHERE ${where}`)).length === 1;
    };
    while (!(await isClosed())) await sleep(20);
    await expect(silent.putVersion(version("b"))).rejects.toMatchObject({ kind: "unavailable" });
    expect((await fatal.promise).message).toContain(`session ${silent.session} is closed`);
    await expect(silent.createBucket("other")).rejects.toMatchObject({ kind: "unavailable" });
    expect((await here.find({ bucket: "photos", key: "b" }))?.version).toBeUndefined();

    // The one that gives signs of life stays open.
    await watchful.putVersion(version("c"));
    await Promise.all([silent.close(), watchful.close()]);
  });

  test("A session that learns by its heartbeat that it was closed says so by itself", async () => {
    const fatal = Promise.withResolvers<Failure>();
    const heartbeat = { beatMs: 20, silentMs: 60_000 };
    const fenced = await place.open(3, { onFatal: fatal.resolve, heartbeat });
    await server.query(
      `UPDATE sessions SET closed_ms = 1 WHERE id = ${fenced.session}`,
      new URL(place.url).pathname.slice(1),
    );
    expect((await fatal.promise).message).toContain("is closed");
    await fenced.close();
  });

  test("Times are the database's, wherever the gateway's clock stands", async () => {
    const before = systemClock.nowMs();
    const { createdMs } = await here.createBucket("photos");
    const { modifiedMs } = await here.putVersion(version("k"));
    // The clock of this place stands in 2023.
    for (const ms of [createdMs, modifiedMs]) expect(Math.abs(ms - before)).toBeLessThan(600_000);
    await here.putVersion(version("k"));
    const [row] = await place.query("SELECT due_ms FROM outbox");
    expect(Math.abs(Number(row?.due_ms) - before - deleteDelayMs)).toBeLessThan(600_000);
  });

  test("While PostgreSQL is away calls fail as unavailable with a time to try again, and work when it is back", async () => {
    await here.createBucket("photos");
    const watchful = await place.open(3, {
      clock: systemClock,
      heartbeat: { beatMs: 20, silentMs: 600_000 },
    });
    const put = version("k");
    await watchful.putVersion(put);
    expect(watchful.unreadiness()).toBeUndefined();
    await server.kill();
    const failures = await Promise.allSettled([
      watchful.find({ bucket: "photos", key: "k" }),
      watchful.list({ bucket: "photos", maxKeys: 1 }),
      watchful.accessKey("ID"),
      ...Array.from({ length: 30 }, () => watchful.putVersion(version("k"))),
      watchful.deleteObject({ bucket: "photos", key: "k" }),
    ]);
    for (const failure of failures) {
      const reason = failure.status === "rejected" ? failure.reason : undefined;
      expect(reason).toMatchObject({ kind: "unavailable", retryAfterSeconds: 1 });
      expect(mayAbandon(reason)).toBe(false);
    }
    while (watchful.unreadiness() === undefined) await sleep(20);
    expect(watchful.unreadiness()).toContain("does not answer");

    await server.restart();
    expect((await watchful.find({ bucket: "photos", key: "k" }))?.version?.etag).toBe(put.etag);
    await watchful.putVersion(version("k"));
    while (watchful.unreadiness() !== undefined) await sleep(20);
    await watchful.close();
  });

  test("While PostgreSQL hangs no call does, and nothing is kept of what was refused", async () => {
    await here.createBucket("photos");
    const watchful = await place.open(3, { clock: systemClock });
    const put = version("k");
    await watchful.putVersion(put);
    server.freeze();
    try {
      const results = await Promise.allSettled([
        watchful.find({ bucket: "photos", key: "k" }),
        watchful.list({ bucket: "photos", maxKeys: 1 }),
        ...Array.from({ length: 20 }, () => watchful.putVersion(version("k"))),
      ]);
      for (const result of results) expect(["unavailable", "busy"]).toContain(kindOf(result));
    } finally {
      server.thaw();
    }
    expect((await watchful.find({ bucket: "photos", key: "k" }))?.version?.etag).toBe(put.etag);
    await watchful.putVersion(version("k"));
    await watchful.close();
  }, 60_000);

  test("A gateway that starts while PostgreSQL is away waits for it", async () => {
    await server.kill();
    const opening = place.open(3, { clock: systemClock });
    await sleep(700);
    await server.restart();
    const opened = await opening;
    expect(opened.session).toBe(3);
    await opened.close();
  });

  test("A gateway that hangs within a change keeps others from its key for seconds, not for ever", async () => {
    await here.createBucket("photos");
    await here.putVersion(version("k"));
    const hung = new pg.Client({
      connectionString: place.url,
      idle_in_transaction_session_timeout: 4_000,
    });
    hung.on("error", () => undefined); // the server ends it
    await hung.connect();
    await hung.query("BEGIN; SELECT * FROM versions FOR UPDATE");
    await there.putVersion(version("k"));
    await hung.end();
  });

  test("A name with a zero character is refused, not a mistake of ours", async () => {
    await here.createBucket("photos");
    const reads = [here.bucket("a\0"), here.accessKey("\0"), here.deleteBucket("\0")];
    for (const result of await Promise.allSettled(reads))
      expect(kindOf(result)).toBe("bad-request");
    const named = here.find({ bucket: "photos", key: "k\0", versionId: "\0" });
    expect((await named)?.version).toBeUndefined();
    await here.putVersion(version("k\0"));
    expect((await here.find({ bucket: "photos", key: "k\0" }))?.version?.key).toBe("k\0");
  });

  test("Lookups and listings go by the index of what is latest, as the planner sees it in a large table", async () => {
    await here.createBucket("photos");
    await here.putVersion(version("k"));
    const name = new URL(place.url).pathname.slice(1);
    await server.query(
      `INSERT INTO versions SELECT bucket_id, convert_to('x' || n, 'UTF8'), sequence, version_id, 1, 0, size, etag,
         content_type, NULL, NULL, meta, image, chunks, modified_ms
       FROM versions, generate_series(1, 20000) AS n`,
      name,
    );
    await server.query("ANALYZE", name);
    const plan = async (sql: string) => JSON.stringify(await server.query(`EXPLAIN ${sql}`, name));
    const range = "bucket_id = 1 AND key >= 'x1' AND key < '\\xff' AND is_latest = 1";
    expect(
      await plan(
        `SELECT * FROM versions WHERE ${range} AND is_delete_marker = 0 ORDER BY key LIMIT 8`,
      ),
    ).toMatch(/Index Scan using versions_(live|latest)/);
    expect(
      await plan(
        "SELECT * FROM buckets LEFT JOIN versions ON bucket_id = id AND key = 'x7' AND is_latest = 1 WHERE name = 'photos'",
      ),
    ).toMatch(/Index Scan using versions_(live|latest)/);
  });
});

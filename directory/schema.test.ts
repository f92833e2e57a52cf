import { DatabaseSync } from "node:sqlite";
import { sql } from "kysely";
import { expect, test } from "vitest";
import { makeLog } from "../base/log.ts";
import { migrate } from "../base/migrate.ts";
import { seededRandom } from "../base/random.ts";
import { kyselyOn } from "../base/sqlite.ts";
import { Directory } from "./directory.ts";
import { emptyStatus, FakeStore } from "./fake-store.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";

test("A database from before replicas is carried over: each volume has one copy, where it was", async () => {
  const database = kyselyOn<DirectoryTables>(new DatabaseSync(":memory:"));
  const { "004-replicas": _, ...before } = directoryMigrations;
  await migrate(database, before);
  const store = new FakeStore("a");
  await sql`insert into stores values (${store.id}, 'a:1', ${store.run}, 1)`.execute(database);
  for (const [volume, state] of ["open", "sealed", "dropped"].entries()) {
    const uuid = `${volume + 1}`.padStart(32, "0");
    await sql`insert into volumes values
      (${volume + 1}, ${uuid}, 'original', 0, 'aa', 4, ${state}, null, ${store.id}, 0)`.execute(
      database,
    );
    const sealed = { state: "sealed", isWritable: false } as const;
    const status = { ...emptyStatus, volume: volume + 1, uuid, epoch: 4 };
    if (state !== "dropped") {
      store.volumes.set(volume + 1, state === "sealed" ? { ...status, ...sealed } : status);
    }
  }
  await sql`update counters set value = 3 where name = 'volume'`.execute(database);
  await migrate(database, directoryMigrations);
  const directory = new Directory({
    ...{ database, random: seededRandom(1), log: makeLog("test", "silent") },
    clock: { nowMs: () => 5_000, monotonicMs: () => 5_000 },
  });
  const orders = await store.beat(directory);
  expect(orders).toMatchObject([
    { kind: "begin-epoch", volume: 1, epoch: 5, members: [{ store: store.id }] },
    { kind: "create", volume: 4 },
  ]);
  await store.beat(directory);
  expect(directory.map().volumes).toMatchObject([
    { volume: 1, isWritable: true, placement: "copies=1 spread=machine" },
    { volume: 2, isWritable: false, addresses: [store.address] },
    { volume: 4, isWritable: true },
  ]);
  await database.destroy();
});

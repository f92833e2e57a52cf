import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import { makeLog } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { SqlitePlace } from "./catalog-place.ts";
import { SqliteCatalog } from "./sqlite-catalog.ts";

test("A second opening of the folder is refused, and leaves the first alone", async () => {
  const place = new SqlitePlace();
  const catalog = await place.open();
  await expect(place.open()).rejects.toMatchObject({ kind: "conflict" });
  await catalog.createBucket("photos");
  expect(await catalog.bucket("photos")).toBeDefined();
  expect(statSync(path.join(place.folder, "catalog.sqlite")).mode & 0o777).toBe(0o600);
  await catalog.close();
  await place.remove();
});

test("A file that is no database is refused with a sentence, and the folder is let go", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-catalog-"));
  writeFileSync(path.join(folder, "catalog.sqlite"), "x".repeat(10_000));
  const log = makeLog("test", "silent");
  const options = { folder, log, clock: systemClock, random: seededRandom(1) };
  await expect(SqliteCatalog.open(options)).rejects.toThrow("Cannot open the database");
  rmSync(path.join(folder, "catalog.sqlite"));
  await (await SqliteCatalog.open(options)).close();
  rmSync(folder, { recursive: true });
});

/** For tests: somewhere to open a catalog, of either kind, by a clock that stands until it is moved. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import type { Clock } from "../base/clock.ts";
import { makeLog } from "../base/log.ts";
import type { PostgresServer } from "../base/postgres-server.ts";
import { seededRandom } from "../base/random.ts";
import { systemRuntime } from "../base/runtime.ts";
import type { Catalog, CatalogOptions } from "./catalog.ts";
import type { HeartbeatTimes } from "./heartbeat.ts";
import { PostgresCatalog } from "./postgres-catalog.ts";
import { SqliteCatalog } from "./sqlite-catalog.ts";

export const deleteDelayMs = 1_000;

export interface CatalogPlace {
  /** Opens the catalog that is there, once more. */
  open(seed?: number): Promise<Catalog>;
  /** All rows of a query, past the catalog. */
  query(sql: string): Promise<Record<string, unknown>[]>;
  /** Turns the clock of every catalog that is open here. */
  pass(ms: number): void;
  remove(): Promise<void>;
}

class StandingClock implements Clock {
  #ms = 1_700_000_000_000;

  nowMs(): number {
    return this.#ms;
  }

  monotonicMs(): number {
    return this.#ms;
  }

  pass(ms: number): void {
    this.#ms += ms;
  }
}

export class SqlitePlace implements CatalogPlace {
  readonly folder: string = mkdtempSync(path.join(tmpdir(), "hayloft-catalog-"));
  readonly #clock = new StandingClock();

  async open(seed = 1): Promise<SqliteCatalog> {
    return await SqliteCatalog.open({ folder: this.folder, ...optionsOf(this.#clock, seed) });
  }

  async query(sql: string): Promise<Record<string, unknown>[]> {
    const database = new DatabaseSync(path.join(this.folder, "catalog.sqlite"), { readOnly: true });
    const rows = database.prepare(sql).all();
    database.close();
    return rows.map((row) => ({ ...row }));
  }

  pass(ms: number): void {
    this.#clock.pass(ms);
  }

  async remove(): Promise<void> {
    rmSync(this.folder, { recursive: true });
  }
}

// The clock stands still, so a sign of life would set it right.
const noHeartbeat: HeartbeatTimes = { beatMs: 600_000, silentMs: 600_000 };

export class PostgresPlace implements CatalogPlace {
  readonly url: string;
  readonly #server: PostgresServer;
  readonly #clock = new StandingClock();

  constructor(server: PostgresServer, url: string) {
    this.#server = server;
    this.url = url;
  }

  static async make(server: PostgresServer): Promise<PostgresPlace> {
    return new PostgresPlace(server, await server.freshDatabase());
  }

  async open(seed = 1, more: Partial<PostgresOpening> = {}): Promise<PostgresCatalog> {
    return await PostgresCatalog.open({
      url: this.url,
      runtime: systemRuntime,
      heartbeat: noHeartbeat,
      ...optionsOf(this.#clock, seed),
      ...more,
    });
  }

  async query(sql: string): Promise<Record<string, unknown>[]> {
    // Whole numbers as numbers: pg gives them as text to those who don't say otherwise.
    const [row] = await this.#server.query(
      `SELECT coalesce(json_agg(each), '[]') AS rows FROM (${sql}) AS each`,
      new URL(this.url).pathname.slice(1),
    );
    return (row?.rows ?? []) as Record<string, unknown>[];
  }

  pass(ms: number): void {
    this.#clock.pass(ms);
  }

  async remove(): Promise<void> {
    // Its server goes, and the database with it.
  }
}

interface PostgresOpening extends CatalogOptions {
  heartbeat: HeartbeatTimes;
}

function optionsOf(clock: Clock, seed: number) {
  return { log: makeLog("test", "silent"), clock, random: seededRandom(seed), deleteDelayMs };
}

/** For tests: a directory in memory and stores that do as they are told, under one clock. */

import { DatabaseSync } from "node:sqlite";
import type { Kysely } from "kysely";
import { makeLog } from "../base/log.ts";
import { migrate } from "../base/migrate.ts";
import { seededRandom } from "../base/random.ts";
import { kyselyOn } from "../base/sqlite.ts";
import { Directory, type DirectoryOptions } from "./directory.ts";
import { FakeStore } from "./fake-store.ts";
import type { MapVolume, VolumeSummary } from "./protocol.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";

export class FakeCluster {
  nowMs = 1_000_000;
  readonly stores: Map<string, FakeStore> = new Map();
  readonly database: Kysely<DirectoryTables>;
  readonly #options: Partial<DirectoryOptions>;
  directory: Directory;
  #boots = 0;
  #runs = 1;

  static async start(
    racks: readonly string[],
    options: Partial<DirectoryOptions> = {},
  ): Promise<FakeCluster> {
    const database = kyselyOn<DirectoryTables>(new DatabaseSync(":memory:"));
    await migrate(database, directoryMigrations);
    const cluster = new FakeCluster(database, options);
    for (const rack of racks) cluster.addStore(rack);
    return cluster;
  }

  private constructor(database: Kysely<DirectoryTables>, options: Partial<DirectoryOptions>) {
    this.database = database;
    this.#options = options;
    this.directory = this.#boot();
  }

  #boot(): Directory {
    this.#boots += 1;
    return new Directory({
      database: this.database,
      clock: { nowMs: () => this.nowMs, monotonicMs: () => this.nowMs },
      random: seededRandom(this.#boots),
      log: makeLog("test", "silent"),
      compaction: "off",
      isBalancing: false,
      ...this.#options,
    });
  }

  addStore(rack: string): FakeStore {
    const store = new FakeStore((this.stores.size + 10).toString(16));
    store.rack = rack;
    store.address = `${store.id.slice(-4)}:80`;
    store.peers = this.stores;
    this.stores.set(store.id, store);
    return store;
  }

  /** A new process of the directory, that knows what is in the database. */
  restartDirectory(): void {
    this.directory = this.#boot();
  }

  restart(store: FakeStore): void {
    this.#runs += 1;
    store.restart(this.#runs.toString(16).padStart(16, "0"));
    store.isUp = true;
  }

  /** Every store that is up says what it has and does as it is told, once; half a second passes. */
  async round(): Promise<void> {
    for (const store of this.stores.values()) {
      if (store.isUp) await store.beat(this.directory);
    }
    this.nowMs += 500;
    await this.directory.tick();
  }

  async rounds(count: number): Promise<void> {
    for (let at = 0; at < count; at++) await this.round();
  }

  /** Makes volumes of a placement and waits until one can be written. */
  async want(text: string): Promise<MapVolume> {
    await this.directory.mapAfter("", 0, new AbortController().signal, [text]);
    await this.rounds(3);
    const entry = this.directory
      .map()
      .volumes.find(({ placement, isWritable }) => isWritable && text.endsWith(placement));
    if (entry === undefined) throw new Error(`no volume is writable for ${text}`);
    return entry;
  }

  entry(volume: number): MapVolume | undefined {
    return this.directory.map().volumes.find((entry) => entry.volume === volume);
  }

  summary(volume: number): VolumeSummary {
    const summary = this.directory.status().volumes.find((each) => each.volume === volume);
    if (summary === undefined) throw new Error(`volume ${volume} is not on record`);
    return summary;
  }

  /** Stores on record with a copy of a volume, the primary first. */
  holders(volume: number): FakeStore[] {
    return this.summary(volume).replicas.flatMap(({ store }) => this.stores.get(store) ?? []);
  }
}

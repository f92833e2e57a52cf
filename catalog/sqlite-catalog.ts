/**
 * The catalog in a file of its own, for one gateway.
 *
 * Invariants:
 * - One process has a catalog folder open; the kernel's lock on it tells a second one so.
 * - Writes run in a thread of their own, in the order of the calls. Reads run here, on a read-only
 *   connection, and never wait for a write.
 */

import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import type { Clock } from "../base/clock.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import type { Random } from "../base/random.ts";
import { openSqlite } from "../base/sqlite.ts";
import { type Catalog, type CatalogOptions, catalogDefaults } from "./catalog.ts";
import { fidsOf } from "./changes.ts";
import type { ListQuery } from "./listing.ts";
import type {
  Bucket,
  BucketSettings,
  ChunkRef,
  DeleteResult,
  NewVersion,
  PutConditions,
} from "./model.ts";
import type { Work } from "./query.ts";
import {
  type BucketUsage,
  type DueDeletion,
  type Found,
  type ListPage,
  type ObjectName,
  Reads,
} from "./reads.ts";
import { SqliteRunner } from "./sqlite-runner.ts";
import { newVersionId } from "./version-id.ts";
import { WriterQueue } from "./writer-queue.ts";

export interface SqliteCatalogOptions extends CatalogOptions {
  folder: string;
}

// Type stripping serves the .ts in a checkout; the npm package carries it compiled.
const writerScript = new URL(
  import.meta.url.endsWith(".ts") ? "./writer.ts" : "./writer.js",
  import.meta.url,
);

export class SqliteCatalog implements Catalog {
  readonly id: string;
  readonly session: number;
  readonly #lock: FolderLock;
  readonly #queue: WriterQueue;
  readonly #database: DatabaseSync;
  readonly #runner: SqliteRunner;
  readonly #reads = new Reads("sqlite");
  readonly #clock: Clock;
  readonly #random: Random;
  #closing: Promise<void> | undefined;

  private constructor(parts: {
    id: string;
    session: number;
    lock: FolderLock;
    queue: WriterQueue;
    database: DatabaseSync;
    clock: Clock;
    random: Random;
  }) {
    this.id = parts.id;
    this.session = parts.session;
    this.#lock = parts.lock;
    this.#queue = parts.queue;
    this.#database = parts.database;
    this.#runner = new SqliteRunner(parts.database);
    this.#clock = parts.clock;
    this.#random = parts.random;
  }

  static async open({
    folder,
    log,
    clock,
    random,
    deleteDelayMs = catalogDefaults.deleteDelayMs,
    waitingMax = catalogDefaults.waitingMax,
    onFatal = () => undefined,
  }: SqliteCatalogOptions): Promise<SqliteCatalog> {
    const lock = lockFolder(folder, "gateway");
    try {
      const file = path.join(folder, "catalog.sqlite");
      const { queue, id, session } = await WriterQueue.start({
        script: writerScript,
        settings: {
          file,
          freshId: random.bytes(8).toString("hex"),
          nowMs: Math.floor(clock.nowMs()),
          deleteDelayMs,
        },
        clock,
        log,
        waitingMax,
        onFatal,
      });
      try {
        // Only now: the writer has made the file and brought its tables up to date.
        const database = openSqlite(file, "read");
        return new SqliteCatalog({ id, session, lock, queue, database, clock, random });
      } catch (error) {
        await queue.close();
        throw error;
      }
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  async bucket(name: string): Promise<Bucket | undefined> {
    return this.#runner.run(this.#reads.bucket(name));
  }

  async buckets(): Promise<Bucket[]> {
    return this.#runner.run(this.#reads.buckets());
  }

  async find(name: ObjectName): Promise<Found | undefined> {
    const work = this.#reads.find(name);
    return name.versionId === undefined ? this.#runner.run(work) : this.#runAtOneMoment(work);
  }

  async list(query: ListQuery & { bucket: string }): Promise<ListPage> {
    return this.#runAtOneMoment(this.#reads.list(query));
  }

  async accessKey(id: string): Promise<{ secret: string } | undefined> {
    return this.#runner.run(this.#reads.accessKey(id));
  }

  async usage(): Promise<BucketUsage[]> {
    return this.#runner.run(this.#reads.usage());
  }

  async dueDeletions(limit: number): Promise<DueDeletion[]> {
    return this.#runner.run(this.#reads.dueDeletions({ nowMs: this.#clock.nowMs(), limit }));
  }

  createBucket(name: string, settings: Partial<BucketSettings> = {}): Promise<Bucket> {
    return this.#queue.submit("createBucket", { name, settings });
  }

  deleteBucket(name: string): Promise<void> {
    return this.#queue.submit("deleteBucket", { name });
  }

  updateBucket(name: string, patch: Partial<BucketSettings>): Promise<Bucket> {
    return this.#queue.submit("updateBucket", { name, patch });
  }

  putVersion(
    version: NewVersion,
    conditions: PutConditions = {},
  ): Promise<{ versionId: string; modifiedMs: number }> {
    return this.#queue.submit("putVersion", { version, conditions });
  }

  deleteObject(name: ObjectName): Promise<DeleteResult> {
    const freshVersionId = newVersionId(this.#random, this.#clock);
    return this.#queue.submit("deleteObject", { ...name, freshVersionId });
  }

  putAccessKey(id: string, secret: string): Promise<void> {
    return this.#queue.submit("putAccessKey", { id, secret });
  }

  abandon(chunks: readonly (ChunkRef | string)[]): Promise<void> {
    return this.#queue.submit("abandon", { fids: fidsOf(chunks) });
  }

  finishDeletions(ids: readonly number[]): Promise<void> {
    return this.#queue.submit("finishDeletions", { ids });
  }

  postponeDeletions(ids: readonly number[], delayMs: number): Promise<void> {
    return this.#queue.submit("postponeDeletions", { ids, delayMs });
  }

  /** A file is there as long as the process that has opened it. */
  unreadiness(): undefined {
    return undefined;
  }

  /** Lets go of the folder too. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Runs work whose reads must see the same commits: the writer goes on meanwhile. */
  #runAtOneMoment<Result>(work: Work<Result>): Result {
    this.#database.exec("BEGIN");
    try {
      return this.#runner.run(work);
    } finally {
      this.#database.exec("ROLLBACK");
    }
  }

  async #close(): Promise<void> {
    try {
      await this.#queue.close();
    } finally {
      this.#database.close();
      this.#lock.release();
    }
  }
}

/**
 * The catalog: which buckets there are, and which chunks every version of every object is made of.
 *
 * Invariants:
 * - One process has a catalog folder open; the kernel's lock on it tells a second one so.
 * - A write's promise resolves once its commit is on the disk, and every read after that sees it.
 * - Writes run in a thread of their own, in the order of the calls. Reads run here, on a read-only
 *   connection, and never wait for a write.
 * - What must be atomic is decided inside the write's transaction; nothing read here decides it.
 */

import path from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { type Kysely, sql } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure, type FailureKind } from "../base/failure.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { kyselyOn, openSqlite } from "../base/sqlite.ts";
import { fidsOf } from "./changes.ts";
import { type ListQuery, listKeys } from "./listing.ts";
import {
  type Bucket,
  type BucketSettings,
  type ChunkRef,
  type DeleteResult,
  encodeKey,
  type NewVersion,
  type ObjectVersion,
  type PutConditions,
} from "./model.ts";
import { decodeBucket, decodeVersion, type Tables } from "./schema.ts";
import { prepare } from "./statement.ts";
import { newVersionId } from "./version-id.ts";
import { WriterQueue } from "./writer-queue.ts";

export interface CatalogOptions {
  folder: string;
  log: Log;
  clock: Clock;
  random: Random;
  /** How long the blobs of a removed version stay, so that reads of it can finish. */
  deleteDelayMs?: number;
  /** Changes that may wait for the writer; more are refused as busy. */
  waitingMax?: number;
  /** The catalog can't be written any more: the process should end and open it anew. */
  onFatal?: (error: Failure) => void;
}

export interface ListPage {
  objects: ObjectVersion[];
  prefixes: string[];
  isTruncated: boolean;
  /** The `startAfter` of the next page. */
  next?: string;
}

export interface BucketUsage {
  bucket: string;
  /** Keys whose latest version is no delete marker. */
  objects: number;
  /** Of all versions kept. */
  bytes: number;
}

const defaultDeleteDelayMs = 15 * 60_000;
const defaultWaitingMax = 10_000;

// Type stripping serves the .ts in a checkout; the npm package carries it compiled.
const writerScript = new URL(
  import.meta.url.endsWith(".ts") ? "./writer.ts" : "./writer.js",
  import.meta.url,
);

export class Catalog {
  /** The catalog's own: 16 hex digits, made once. */
  readonly id: string;
  /** The number of this opening; the needles that it uploads carry it. */
  readonly session: number;
  readonly #lock: FolderLock;
  readonly #queue: WriterQueue;
  readonly #database: DatabaseSync;
  readonly #reads: ReturnType<typeof prepareReads>;
  readonly #clock: Clock;
  readonly #random: Random;
  /** All of them, by name: each request asks for one, and only this process changes them. */
  #buckets = new Map<string, Bucket>();
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
    this.#clock = parts.clock;
    this.#random = parts.random;
    this.#reads = prepareReads(parts.database, kyselyOn<Tables>(parts.database));
    this.#loadBuckets();
  }

  static async open({
    folder,
    log,
    clock,
    random,
    deleteDelayMs = defaultDeleteDelayMs,
    waitingMax = defaultWaitingMax,
    onFatal = () => undefined,
  }: CatalogOptions): Promise<Catalog> {
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
        return new Catalog({ id, session, lock, queue, database, clock, random });
      } catch (error) {
        await queue.close();
        throw error;
      }
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  bucket(name: string): Bucket | undefined {
    return this.#buckets.get(name);
  }

  /** In the order of their names. */
  buckets(): Bucket[] {
    return this.#reads.allBuckets.all({}).map(decodeBucket);
  }

  /** The latest version, or the one named; it may be a delete marker. */
  find(q: {
    bucket: string;
    key: string;
    versionId?: string | undefined;
  }): ObjectVersion | undefined {
    const { bucket, versionId } = q;
    const key = encodeKey(q.key);
    if (versionId === undefined) {
      const latest = this.#reads.findLatest.get({ bucket, key });
      return latest === undefined ? undefined : decodeVersion(bucket, latest);
    }
    return this.#atOneMoment(() => {
      const latest = this.#reads.findLatest.get({ bucket, key });
      if (latest === undefined) return undefined;
      const row =
        latest.version_id === versionId
          ? latest
          : this.#reads.findOlder.get({ bucketId: latest.bucket_id, key, versionId });
      return row === undefined ? undefined : decodeVersion(bucket, row);
    });
  }

  /** A page of the live objects, as of one moment; none if there is no such bucket. */
  list({ bucket, ...query }: ListQuery & { bucket: string }): ListPage {
    return this.#atOneMoment(() => {
      const bucketId = this.#reads.findBucket.get({ name: bucket })?.id;
      if (bucketId === undefined) return { objects: [], prefixes: [], isTruncated: false };
      const { rows, ...page } = listKeys(
        ({ from, end }) => this.#reads.scan.iterate({ bucketId, from, end }),
        query,
      );
      return { objects: rows.map((row) => decodeVersion(bucket, row)), ...page };
    });
  }

  accessKey(id: string): { secret: string } | undefined {
    const row = this.#reads.findAccessKey.get({ id });
    return row === undefined ? undefined : { secret: row.secret };
  }

  usage(): BucketUsage[] {
    return this.#reads.usage.all({}).map(({ bucket, objects, bytes }) => ({
      bucket,
      objects,
      bytes,
    }));
  }

  /** Blobs whose deletion is due, the longest due first. */
  dueDeletions(limit: number): { id: number; fid: string }[] {
    const nowMs = this.#clock.nowMs();
    return this.#reads.dueDeletions.all({ nowMs, limit }).map(({ id, fid }) => ({ id, fid }));
  }

  createBucket(name: string, settings: Partial<BucketSettings> = {}): Promise<Bucket> {
    return this.#changeBuckets(this.#queue.submit("createBucket", { name, settings }));
  }

  deleteBucket(name: string): Promise<void> {
    return this.#changeBuckets(this.#queue.submit("deleteBucket", { name }));
  }

  updateBucket(name: string, patch: Partial<BucketSettings>): Promise<Bucket> {
    return this.#changeBuckets(this.#queue.submit("updateBucket", { name, patch }));
  }

  /** Commits an upload whose chunks are durable already. If it fails, see `mayAbandon`. */
  putVersion(
    version: NewVersion,
    conditions: PutConditions = {},
  ): Promise<{ versionId: string; modifiedMs: number }> {
    return this.#queue.submit("putVersion", { version, conditions });
  }

  deleteObject(q: {
    bucket: string;
    key: string;
    versionId?: string | undefined;
  }): Promise<DeleteResult> {
    const freshVersionId = newVersionId(this.#random, this.#clock);
    return this.#queue.submit("deleteObject", { ...q, freshVersionId });
  }

  /** Adds the key, or gives it another secret. */
  putAccessKey(id: string, secret: string): Promise<void> {
    return this.#queue.submit("putAccessKey", { id, secret });
  }

  /** Has blobs deleted that no version names, and none ever will. */
  abandon(chunks: readonly (ChunkRef | string)[]): Promise<void> {
    return this.#queue.submit("abandon", { fids: fidsOf(chunks) });
  }

  finishDeletions(ids: readonly number[]): Promise<void> {
    return this.#queue.submit("finishDeletions", { ids });
  }

  /** Lets deletions that can't be done now come up again after `delayMs`. */
  postponeDeletions(ids: readonly number[], delayMs: number): Promise<void> {
    return this.#queue.submit("postponeDeletions", { ids, delayMs });
  }

  /** Commits what was asked for before, closes the session, and lets go of the folder. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Looks at all buckets anew before the change is told, whatever came of it. */
  async #changeBuckets<Result>(change: Promise<Result>): Promise<Result> {
    try {
      return await change;
    } finally {
      this.#loadBuckets();
    }
  }

  #loadBuckets(): void {
    this.#buckets = new Map(this.buckets().map((bucket) => [bucket.name, bucket]));
  }

  /** Runs several reads that must see the same commits: the writer goes on meanwhile. */
  #atOneMoment<Result>(read: () => Result): Result {
    this.#database.exec("BEGIN");
    try {
      return read();
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

const certainKinds: readonly FailureKind[] = [
  "bad-request",
  "not-found",
  "conflict",
  "precondition-failed",
  "busy",
];

/**
 * Whether a failed `putVersion` is certain to have kept nothing, so that its chunks may be abandoned.
 * Otherwise they must stay: the version may turn out to exist when the catalog is opened again.
 */
export function mayAbandon(error: unknown): boolean {
  return error instanceof Failure && certainKinds.includes(error.kind);
}

function prepareReads(database: DatabaseSync, kysely: Kysely<Tables>) {
  // The planner takes a partial index only if the query repeats its condition word for word.
  return {
    findBucket: prepare(database, (v: { name: string }) =>
      kysely.selectFrom("buckets").selectAll().where("name", "=", v.name),
    ),
    allBuckets: prepare(database, () => kysely.selectFrom("buckets").selectAll().orderBy("name")),
    findLatest: prepare(database, (v: { bucket: string; key: Uint8Array }) =>
      kysely
        .selectFrom("buckets")
        .innerJoin("versions", "versions.bucket_id", "buckets.id")
        .selectAll("versions")
        .where("buckets.name", "=", v.bucket)
        .where("versions.key", "=", v.key)
        .where("versions.is_latest", "=", sql.lit(1)),
    ),
    findOlder: prepare(database, (v: { bucketId: number; key: Uint8Array; versionId: string }) =>
      kysely
        .selectFrom("versions")
        .selectAll()
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("version_id", "=", v.versionId)
        .where("is_latest", "=", sql.lit(0)),
    ),
    scan: prepare(database, (v: { bucketId: number; from: Uint8Array; end: Uint8Array }) =>
      kysely
        .selectFrom("versions")
        .selectAll()
        .where("bucket_id", "=", v.bucketId)
        .where("key", ">=", v.from)
        .where("key", "<", v.end)
        .where("is_latest", "=", sql.lit(1))
        .where("is_delete_marker", "=", sql.lit(0))
        .orderBy("key"),
    ),
    findAccessKey: prepare(database, (v: { id: string }) =>
      kysely.selectFrom("access_keys").select("secret").where("id", "=", v.id),
    ),
    usage: prepare(database, () =>
      kysely
        .selectFrom("usage")
        .innerJoin("buckets", "buckets.id", "usage.bucket_id")
        .select(["buckets.name as bucket", "usage.objects", "usage.bytes"])
        .orderBy("buckets.name"),
    ),
    dueDeletions: prepare(database, (v: { nowMs: number; limit: number }) =>
      kysely
        .selectFrom("outbox")
        .select(["id", "fid"])
        .where("due_ms", "<=", v.nowMs)
        .orderBy("due_ms")
        .orderBy("id")
        .limit(v.limit),
    ),
  };
}

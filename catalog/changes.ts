/**
 * Every change of the catalog, as plain synchronous work inside a transaction that the caller holds.
 *
 * Invariants:
 * - What a change removes goes into the outbox in the same transaction: a blob is named by a version,
 *   or due for deletion, never both and never neither.
 * - `usage` changes by what the change adds and removes; it is never counted.
 * - Along the versions of a key neither the sequence nor the time of change runs backwards, whatever
 *   the clock does.
 */

import assert from "node:assert";
import type { DatabaseSync } from "node:sqlite";
import { type Kysely, sql } from "kysely";
import { Failure } from "../base/failure.ts";
import { kyselyOn } from "../base/sqlite.ts";
import { checkConditions } from "./conditions.ts";
import {
  type Bucket,
  type BucketSettings,
  type ChunkRef,
  type DeleteResult,
  defaultSettings,
  encodeKey,
  type NewVersion,
  type PutConditions,
  patchSettings,
} from "./model.ts";
import {
  type BucketRow,
  decodeBucket,
  decodeChunks,
  encodeChunks,
  type Tables,
  type VersionRow,
} from "./schema.ts";
import { prepare } from "./statement.ts";

export type ChangeName =
  | "createBucket"
  | "deleteBucket"
  | "updateBucket"
  | "putVersion"
  | "deleteObject"
  | "putAccessKey"
  | "abandon"
  | "finishDeletions"
  | "postponeDeletions";

export type ChangeInput<Name extends ChangeName> = Parameters<Changes[Name]>[0];
export type ChangeOutput<Name extends ChangeName> = ReturnType<Changes[Name]>;

/** A change as it travels to the thread that makes it. */
export type Change = {
  [Name in ChangeName]: { name: Name; input: ChangeInput<Name> };
}[ChangeName];

/** The outbox numbers that one session may give out. */
const numbersPerSession = 2 ** 32;

const nullVersionId = "null";

/** What a change must know of a version that is there already. */
type Standing = Pick<
  VersionRow,
  | "sequence"
  | "version_id"
  | "is_latest"
  | "is_delete_marker"
  | "size"
  | "etag"
  | "chunks"
  | "modified_ms"
>;

/** One key in a bucket, and what stands under it when a change begins. */
interface Place {
  bucketId: number;
  key: Buffer;
  latest: Standing | undefined;
}

export class Changes {
  readonly #statements: ReturnType<typeof prepareAll>;
  readonly #session: number;
  readonly #deleteDelayMs: number;
  #nextNumber: number;

  constructor({
    database,
    session,
    deleteDelayMs,
  }: {
    database: DatabaseSync;
    session: number;
    deleteDelayMs: number;
  }) {
    this.#statements = prepareAll(database, kyselyOn<Tables>(database));
    this.#session = session;
    this.#deleteDelayMs = deleteDelayMs;
    this.#nextNumber = session * numbersPerSession;
  }

  make({ name, input }: Change, nowMs: number): unknown {
    const method = this[name] as (input: unknown, nowMs: number) => unknown;
    return method.call(this, input, nowMs);
  }

  createBucket(
    { name, settings: patch }: { name: string; settings: Partial<BucketSettings> },
    nowMs: number,
  ): Bucket {
    if (this.#statements.findBucket.get({ name }) !== undefined) {
      throw new Failure("conflict", `Cannot create bucket "${name}": it exists already`, {
        code: "BucketAlreadyOwnedByYou",
      });
    }
    const settings = { ...defaultSettings, ...patch };
    const id = this.#statements.nextBucketId.get({})?.next_bucket_id;
    assert(id !== undefined, "an open catalog has its row");
    this.#statements.advanceBucketId.run({ next: id + 1 });
    this.#statements.insertBucket.run({ id, name, nowMs, settings: JSON.stringify(settings) });
    this.#statements.insertUsage.run({ id });
    return { name, createdMs: nowMs, settings };
  }

  deleteBucket({ name }: { name: string }, _nowMs: number): void {
    const { id } = this.#bucket(name, `delete bucket "${name}"`);
    if (this.#statements.findAnyVersion.get({ id }) !== undefined) {
      throw new Failure("conflict", `Cannot delete bucket "${name}": it is not empty`, {
        code: "BucketNotEmpty",
      });
    }
    this.#statements.deleteUsage.run({ id });
    this.#statements.deleteBucket.run({ id });
  }

  updateBucket(
    { name, patch }: { name: string; patch: Partial<BucketSettings> },
    _nowMs: number,
  ): Bucket {
    const row = this.#bucket(name, `change bucket "${name}"`);
    const bucket = decodeBucket(row);
    const settings = patchSettings(bucket.settings, patch);
    this.#statements.updateBucket.run({ id: row.id, settings: JSON.stringify(settings) });
    return { ...bucket, settings };
  }

  putVersion(
    { version, conditions }: { version: NewVersion; conditions: PutConditions },
    nowMs: number,
  ): { versionId: string; modifiedMs: number } {
    const what = `"${version.bucket}/${version.key}"`;
    const bucket = this.#bucket(version.bucket, `store ${what}`);
    if (this.#statements.findOpenSession.get({ session: this.#session }) === undefined) {
      throw new Failure(
        "unavailable",
        `Cannot store ${what}: writer session ${this.#session} is closed`,
      );
    }
    const place = this.#place(bucket.id, version.key);
    const live = place.latest?.is_delete_marker === 0 ? place.latest : undefined;
    checkConditions(what, live, conditions);

    const { versioning } = decodeBucket(bucket).settings;
    const versionId = versioning === "on" ? version.versionId : nullVersionId;
    const namesake = this.#find(place, versionId);
    assert(versioning !== "on" || versionId !== nullVersionId, "an id of its own for each version");
    if (versioning === "on" && namesake !== undefined) {
      throw new Failure("conflict", `Cannot store ${what}: it has a version ${versionId} already`);
    }
    const modifiedMs = this.#add(place, namesake, nowMs, {
      version_id: versionId,
      is_delete_marker: 0,
      size: version.size,
      etag: version.etag,
      content_type: version.contentType,
      cache_control: version.cacheControl ?? null,
      content_disposition: version.contentDisposition ?? null,
      meta: JSON.stringify(version.meta),
      image: version.image === undefined ? null : JSON.stringify(version.image),
      chunks: encodeChunks(version.chunks),
    });
    return { versionId, modifiedMs };
  }

  deleteObject(
    q: {
      bucket: string;
      key: string;
      versionId?: string | undefined;
      /** For the delete marker, where one is made. */
      freshVersionId: string;
    },
    nowMs: number,
  ): DeleteResult {
    const bucket = this.#bucket(q.bucket, `delete "${q.bucket}/${q.key}"`);
    const { versioning } = decodeBucket(bucket).settings;
    const place = this.#place(bucket.id, q.key);

    if (q.versionId !== undefined || versioning === "off") {
      const version = this.#find(place, q.versionId ?? nullVersionId);
      if (version === undefined) return { deleted: "nothing", isDeleteMarker: false };
      this.#remove(place, version, nowMs);
      const isDeleteMarker = version.is_delete_marker === 1;
      return {
        deleted: isDeleteMarker ? "marker-removed" : "version",
        ...(q.versionId === undefined ? {} : { versionId: q.versionId }),
        isDeleteMarker,
      };
    }

    const versionId = versioning === "on" ? q.freshVersionId : nullVersionId;
    const replaced = versioning === "on" ? undefined : this.#find(place, nullVersionId);
    this.#add(place, replaced, nowMs, {
      version_id: versionId,
      is_delete_marker: 1,
      size: 0,
      etag: "",
      content_type: "",
      cache_control: null,
      content_disposition: null,
      meta: "{}",
      image: null,
      chunks: "[]",
    });
    return { deleted: "marker-created", versionId, isDeleteMarker: true };
  }

  putAccessKey({ id, secret }: { id: string; secret: string }, nowMs: number): void {
    this.#statements.putAccessKey.run({ id, secret, nowMs });
  }

  /** Due at once: no version ever named these blobs, so nobody is reading them. */
  abandon({ fids }: { fids: readonly string[] }, nowMs: number): void {
    for (const fid of fids) this.#schedule(fid, nowMs);
  }

  finishDeletions({ ids }: { ids: readonly number[] }, _nowMs: number): void {
    for (const id of ids) this.#statements.deleteScheduled.run({ id });
  }

  /** Due again after `delayMs`: what can't be deleted now must not stand before what can. */
  postponeDeletions(
    { ids, delayMs }: { ids: readonly number[]; delayMs: number },
    nowMs: number,
  ): void {
    for (const id of ids) this.#statements.postponeScheduled.run({ id, dueMs: nowMs + delayMs });
  }

  #bucket(name: string, purpose: string): BucketRow {
    const row = this.#statements.findBucket.get({ name });
    if (row === undefined) {
      throw new Failure("not-found", `Cannot ${purpose}: there is no bucket "${name}"`, {
        code: "NoSuchBucket",
      });
    }
    return row;
  }

  #place(bucketId: number, text: string): Place {
    const key = encodeKey(text);
    return { bucketId, key, latest: this.#statements.findLatest.get({ bucketId, key }) };
  }

  #find({ bucketId, key, latest }: Place, versionId: string): Standing | undefined {
    if (latest === undefined || latest.version_id === versionId) return latest;
    return this.#statements.findOlder.get({ bucketId, key, versionId });
  }

  /** Adds a version as the latest of its key, in the place of `replaced` if given; tells its time. */
  #add(
    { bucketId, key, latest }: Place,
    replaced: Standing | undefined,
    nowMs: number,
    columns: Omit<VersionRow, "bucket_id" | "key" | "sequence" | "is_latest" | "modified_ms">,
  ): number {
    const modifiedMs = Math.max(nowMs, latest?.modified_ms ?? 0);
    const sequence = Math.max(nowMs * 1_000, (latest?.sequence ?? 0) + 1);
    if (replaced !== undefined) this.#drop(bucketId, key, replaced, nowMs);
    if (latest !== undefined && latest.sequence !== replaced?.sequence) {
      this.#statements.setLatest.run({ bucketId, key, sequence: latest.sequence, isLatest: 0 });
    }
    this.#statements.insertVersion.run({ ...columns, bucketId, key, sequence, modifiedMs });
    this.#addUsage(bucketId, {
      objects: liveCount(columns) - liveCount(latest),
      bytes: columns.size - (replaced?.size ?? 0),
    });
    return modifiedMs;
  }

  /** Removes a version for good; if it was the latest, the next newest takes its place. */
  #remove({ bucketId, key, latest }: Place, version: Standing, nowMs: number): void {
    this.#drop(bucketId, key, version, nowMs);
    let newest = latest;
    if (version.is_latest === 1) {
      newest = this.#statements.findNewest.get({ bucketId, key });
      if (newest !== undefined) {
        this.#statements.setLatest.run({ bucketId, key, sequence: newest.sequence, isLatest: 1 });
      }
    }
    this.#addUsage(bucketId, {
      objects: liveCount(newest) - liveCount(latest),
      bytes: -version.size,
    });
  }

  #drop(bucketId: number, key: Buffer, version: Standing, nowMs: number): void {
    this.#statements.deleteVersion.run({ bucketId, key, sequence: version.sequence });
    for (const { fid } of decodeChunks(version.chunks)) {
      this.#schedule(fid, nowMs + this.#deleteDelayMs);
    }
  }

  #schedule(fid: string, dueMs: number): void {
    const id = this.#nextNumber++;
    assert(id < (this.#session + 1) * numbersPerSession, "a session has numbers to spare");
    this.#statements.insertScheduled.run({ id, fid, dueMs });
  }

  #addUsage(bucketId: number, { objects, bytes }: { objects: number; bytes: number }): void {
    if (objects !== 0 || bytes !== 0) this.#statements.addUsage.run({ bucketId, objects, bytes });
  }
}

/** What a version adds to its bucket's number of objects while it is the latest. */
function liveCount(version: Pick<VersionRow, "is_delete_marker"> | undefined): 0 | 1 {
  return version?.is_delete_marker === 0 ? 1 : 0;
}

export function fidsOf(chunks: readonly (ChunkRef | string)[]): string[] {
  return chunks.map((chunk) => (typeof chunk === "string" ? chunk : chunk.fid));
}

type KeyOf = { bucketId: number; key: Uint8Array };
type RowOf = KeyOf & { sequence: number };

function prepareAll(database: DatabaseSync, kysely: Kysely<Tables>) {
  const standing = kysely
    .selectFrom("versions")
    .select([
      "sequence",
      "version_id",
      "is_latest",
      "is_delete_marker",
      "size",
      "etag",
      "chunks",
      "modified_ms",
    ]);
  const keyed = (v: KeyOf) => standing.where("bucket_id", "=", v.bucketId).where("key", "=", v.key);

  return {
    findOpenSession: prepare(database, (v: { session: number }) =>
      kysely
        .selectFrom("sessions")
        .select("id")
        .where("id", "=", v.session)
        .where("closed_ms", "is", null),
    ),
    findBucket: prepare(database, (v: { name: string }) =>
      kysely.selectFrom("buckets").selectAll().where("name", "=", v.name),
    ),
    nextBucketId: prepare(database, () => kysely.selectFrom("catalog").select("next_bucket_id")),
    advanceBucketId: prepare(database, (v: { next: number }) =>
      kysely.updateTable("catalog").set({ next_bucket_id: v.next }),
    ),
    insertBucket: prepare(
      database,
      (v: { id: number; name: string; nowMs: number; settings: string }) =>
        kysely
          .insertInto("buckets")
          .values({ id: v.id, name: v.name, created_ms: v.nowMs, settings: v.settings }),
    ),
    updateBucket: prepare(database, (v: { id: number; settings: string }) =>
      kysely.updateTable("buckets").set({ settings: v.settings }).where("id", "=", v.id),
    ),
    deleteBucket: prepare(database, (v: { id: number }) =>
      kysely.deleteFrom("buckets").where("id", "=", v.id),
    ),
    findAnyVersion: prepare(database, (v: { id: number }) =>
      kysely.selectFrom("versions").select("sequence").where("bucket_id", "=", v.id).limit(1),
    ),

    // The planner takes a partial index only if the query repeats its condition word for word.
    findLatest: prepare(database, (v: KeyOf) => keyed(v).where("is_latest", "=", sql.lit(1))),
    findOlder: prepare(database, (v: KeyOf & { versionId: string }) =>
      keyed(v).where("version_id", "=", v.versionId).where("is_latest", "=", sql.lit(0)),
    ),
    findNewest: prepare(database, (v: KeyOf) => keyed(v).orderBy("sequence", "desc").limit(1)),
    insertVersion: prepare(
      database,
      (
        v: RowOf & { modifiedMs: number } & Omit<
            VersionRow,
            "bucket_id" | "key" | "sequence" | "is_latest" | "modified_ms"
          >,
      ) =>
        kysely.insertInto("versions").values({
          bucket_id: v.bucketId,
          key: v.key,
          sequence: v.sequence,
          version_id: v.version_id,
          is_latest: sql.lit(1),
          is_delete_marker: v.is_delete_marker,
          size: v.size,
          etag: v.etag,
          content_type: v.content_type,
          cache_control: v.cache_control,
          content_disposition: v.content_disposition,
          meta: v.meta,
          image: v.image,
          chunks: v.chunks,
          modified_ms: v.modifiedMs,
        }),
    ),
    setLatest: prepare(database, (v: RowOf & { isLatest: number }) =>
      kysely
        .updateTable("versions")
        .set({ is_latest: v.isLatest })
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("sequence", "=", v.sequence),
    ),
    deleteVersion: prepare(database, (v: RowOf) =>
      kysely
        .deleteFrom("versions")
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("sequence", "=", v.sequence),
    ),

    insertUsage: prepare(database, (v: { id: number }) =>
      kysely
        .insertInto("usage")
        .values({ bucket_id: v.id, objects: sql.lit(0), bytes: sql.lit(0) }),
    ),
    addUsage: prepare(database, (v: { bucketId: number; objects: number; bytes: number }) =>
      kysely
        .updateTable("usage")
        .set((row) => ({
          objects: row("objects", "+", v.objects),
          bytes: row("bytes", "+", v.bytes),
        }))
        .where("bucket_id", "=", v.bucketId),
    ),
    deleteUsage: prepare(database, (v: { id: number }) =>
      kysely.deleteFrom("usage").where("bucket_id", "=", v.id),
    ),

    putAccessKey: prepare(database, (v: { id: string; secret: string; nowMs: number }) =>
      kysely
        .insertInto("access_keys")
        .values({ id: v.id, secret: v.secret, created_ms: v.nowMs })
        .onConflict((conflict) => conflict.column("id").doUpdateSet({ secret: v.secret })),
    ),

    insertScheduled: prepare(database, (v: { id: number; fid: string; dueMs: number }) =>
      kysely.insertInto("outbox").values({ id: v.id, fid: v.fid, due_ms: v.dueMs }),
    ),
    deleteScheduled: prepare(database, (v: { id: number }) =>
      kysely.deleteFrom("outbox").where("id", "=", v.id),
    ),
    postponeScheduled: prepare(database, (v: { id: number; dueMs: number }) =>
      kysely.updateTable("outbox").set({ due_ms: v.dueMs }).where("id", "=", v.id),
    ),
  };
}

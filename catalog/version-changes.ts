/**
 * What puts and deletes of objects do to the tables.
 *
 * Invariants:
 * - What a change removes goes into the outbox in the same transaction: a blob is named by a version,
 *   or due for deletion, never both and never neither.
 * - Usage changes by what the change adds and removes; it is never counted.
 * - Along the versions of a key neither the sequence nor the time of change runs backwards, whatever
 *   the clock does.
 * - Whoever changes a key holds its latest version from then to the commit. Where there is none, the
 *   index that allows one latest version lets one of those who add the first succeed; the others are
 *   made again.
 */

import assert from "node:assert";
import { type Kysely, sql } from "kysely";
import { Failure } from "../base/failure.ts";
import type { BucketChanges } from "./bucket-changes.ts";
import { checkConditions } from "./conditions.ts";
import { type DeleteResult, encodeKey, type NewVersion, type PutConditions } from "./model.ts";
import type { OutboxChanges } from "./outbox-changes.ts";
import { MadeTooEarly, type QueryWriter, type Turn, type Work } from "./query.ts";
import {
  decodeBucket,
  decodeChunks,
  encodeChunks,
  type Tables,
  type VersionRow,
} from "./schema.ts";

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

/** What a new version's row has beside its place and its time. */
type NewColumns = Omit<VersionRow, "bucket_id" | "key" | "sequence" | "is_latest" | "modified_ms">;

/** One key in a bucket, and what stands under it when a change begins. */
interface Place {
  bucketId: number;
  key: Buffer;
  latest: Standing | undefined;
}

export interface VersionChangesOptions {
  writer: QueryWriter;
  buckets: BucketChanges;
  outbox: OutboxChanges;
  session: number;
  deleteDelayMs: number;
}

export class VersionChanges {
  readonly #options: VersionChangesOptions;
  readonly #queries: ReturnType<typeof writeQueries>;

  constructor(options: VersionChangesOptions) {
    this.#options = options;
    this.#queries = writeQueries(options.writer);
  }

  *put(
    { version, conditions }: { version: NewVersion; conditions: PutConditions },
    turn: Turn,
  ): Work<{ versionId: string; modifiedMs: number }> {
    const { buckets, session } = this.#options;
    const what = `"${version.bucket}/${version.key}"`;
    const bucket = yield* buckets.require(version.bucket, `store ${what}`);
    if ((yield* this.#queries.holdOpenSession.first({ session })) === undefined) {
      throw new SessionClosed(`store ${what}`, session);
    }
    const place = yield* this.#place(bucket.id, version.key);
    const live = place.latest?.is_delete_marker === 0 ? place.latest : undefined;
    if (conditions.ifMatch !== undefined) yield* this.#makeSureOfAbsence(place);
    checkConditions(what, live, conditions);

    const { versioning } = decodeBucket(bucket).settings;
    const versionId = versioning === "on" ? version.versionId : nullVersionId;
    const namesake = yield* this.#find(place, versionId);
    assert(versioning !== "on" || versionId !== nullVersionId, "an id of its own for each version");
    if (versioning === "on" && namesake !== undefined) {
      throw new Failure("conflict", `Cannot store ${what}: it has a version ${versionId} already`);
    }
    const modifiedMs = yield* this.#add(place, namesake, turn, {
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

  *delete(
    q: {
      bucket: string;
      key: string;
      versionId?: string | undefined;
      /** For the delete marker, where one is made. */
      freshVersionId: string;
    },
    turn: Turn,
  ): Work<DeleteResult> {
    const bucket = yield* this.#options.buckets.require(q.bucket, `delete "${q.bucket}/${q.key}"`);
    const { versioning } = decodeBucket(bucket).settings;
    const place = yield* this.#place(bucket.id, q.key);

    if (q.versionId !== undefined || versioning === "off") {
      yield* this.#makeSureOfAbsence(place);
      const version = yield* this.#find(place, q.versionId ?? nullVersionId);
      if (version === undefined) return { deleted: "nothing", isDeleteMarker: false };
      yield* this.#remove(place, version, turn);
      const isDeleteMarker = version.is_delete_marker === 1;
      return {
        deleted: isDeleteMarker ? "marker-removed" : "version",
        ...(q.versionId === undefined ? {} : { versionId: q.versionId }),
        isDeleteMarker,
      };
    }

    const versionId = versioning === "on" ? q.freshVersionId : nullVersionId;
    const replaced = versioning === "on" ? undefined : yield* this.#find(place, nullVersionId);
    yield* this.#add(place, replaced, turn, {
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

  *#place(bucketId: number, text: string): Work<Place> {
    const key = encodeKey(text);
    return { bucketId, key, latest: yield* this.#queries.holdLatest.first({ bucketId, key }) };
  }

  /**
   * For whoever concludes something from there being no version. The query that holds the latest one
   * may have waited for a change that made another the latest, and then finds neither.
   */
  *#makeSureOfAbsence({ bucketId, key, latest }: Place): Work<void> {
    if (latest !== undefined || !this.#options.writer.isShared) return;
    if ((yield* this.#queries.findLatest.first({ bucketId, key })) !== undefined) {
      throw new MadeTooEarly();
    }
  }

  *#find({ bucketId, key, latest }: Place, versionId: string): Work<Standing | undefined> {
    if (latest === undefined || latest.version_id === versionId) return latest;
    return yield* this.#queries.findOlder.first({ bucketId, key, versionId });
  }

  /** Adds a version as the latest of its key, in the place of `replaced` if given; tells its time. */
  *#add(
    { bucketId, key, latest }: Place,
    replaced: Standing | undefined,
    turn: Turn,
    columns: NewColumns,
  ): Work<number> {
    const modifiedMs = Math.max(turn.nowMs, latest?.modified_ms ?? 0);
    const sequence = Math.max(turn.nowMs * 1_000, (latest?.sequence ?? 0) + 1);
    if (replaced !== undefined) yield* this.#drop(bucketId, key, replaced, turn);
    if (latest !== undefined && latest.sequence !== replaced?.sequence) {
      const demoted = { bucketId, key, sequence: latest.sequence, isLatest: 0 };
      yield* this.#queries.setLatest.run(demoted);
    }
    yield* this.#queries.insert.run({ ...columns, bucketId, key, sequence, modifiedMs });
    yield* this.#addUsage(bucketId, turn, {
      objects: liveCount(columns) - liveCount(latest),
      bytes: columns.size - (replaced?.size ?? 0),
    });
    return modifiedMs;
  }

  /** Removes a version for good; if it was the latest, the next newest takes its place. */
  *#remove({ bucketId, key, latest }: Place, version: Standing, turn: Turn): Work<void> {
    yield* this.#drop(bucketId, key, version, turn);
    let newest = latest;
    if (version.is_latest === 1) {
      newest = yield* this.#queries.findNewest.first({ bucketId, key });
      if (newest !== undefined) {
        const promoted = { bucketId, key, sequence: newest.sequence, isLatest: 1 };
        yield* this.#queries.setLatest.run(promoted);
      }
    }
    yield* this.#addUsage(bucketId, turn, {
      objects: liveCount(newest) - liveCount(latest),
      bytes: -version.size,
    });
  }

  *#drop(bucketId: number, key: Buffer, version: Standing, { nowMs }: Turn): Work<void> {
    const { outbox, deleteDelayMs } = this.#options;
    yield* this.#queries.delete.run({ bucketId, key, sequence: version.sequence });
    const fids = decodeChunks(version.chunks).map(({ fid }) => fid);
    yield* outbox.schedule(fids, nowMs + deleteDelayMs);
  }

  *#addUsage(
    bucketId: number,
    { slot }: Turn,
    { objects, bytes }: { objects: number; bytes: number },
  ): Work<void> {
    if (objects === 0 && bytes === 0) return;
    yield* this.#queries.addUsage.run({ bucketId, slot, objects, bytes });
  }
}

/** The writer session was closed by others: the process has to end, and to open another one. */
export class SessionClosed extends Failure {
  constructor(purpose: string, session: number) {
    super("unavailable", `Cannot ${purpose}: writer session ${session} is closed`, {
      retryAfterSeconds: 1,
    });
  }
}

/** What a version adds to its bucket's number of objects while it is the latest. */
function liveCount(version: Pick<VersionRow, "is_delete_marker"> | undefined): 0 | 1 {
  return version?.is_delete_marker === 0 ? 1 : 0;
}

type KeyOf = { bucketId: number; key: Uint8Array };
type RowOf = KeyOf & { sequence: number };

function writeQueries(writer: QueryWriter) {
  const keyed = (kysely: Kysely<Tables>, v: KeyOf) =>
    kysely
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
      ])
      .where("bucket_id", "=", v.bucketId)
      .where("key", "=", v.key);
  // The planner takes a partial index only if the query repeats its condition word for word.
  const latest = (kysely: Kysely<Tables>, v: KeyOf) =>
    keyed(kysely, v).where("is_latest", "=", sql.lit(1));

  return {
    /** Until the commit the session can't be closed. */
    holdOpenSession: writer.write((kysely, v: { session: number }) =>
      kysely
        .selectFrom("sessions")
        .select("id")
        .where("id", "=", v.session)
        .where("closed_ms", "is", null)
        .$if(writer.isShared, (query) => query.forShare()),
    ),
    findLatest: writer.write(latest),
    holdLatest: writer.write((kysely, v: KeyOf) =>
      latest(kysely, v).$if(writer.isShared, (query) => query.forUpdate()),
    ),
    findOlder: writer.write((kysely, v: KeyOf & { versionId: string }) =>
      keyed(kysely, v).where("version_id", "=", v.versionId).where("is_latest", "=", sql.lit(0)),
    ),
    findNewest: writer.write((kysely, v: KeyOf) =>
      keyed(kysely, v).orderBy("sequence", "desc").limit(1),
    ),
    insert: writer.write((kysely, v: RowOf & { modifiedMs: number } & NewColumns) =>
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
    setLatest: writer.write((kysely, v: RowOf & { isLatest: number }) =>
      kysely
        .updateTable("versions")
        .set({ is_latest: v.isLatest })
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("sequence", "=", v.sequence),
    ),
    delete: writer.write((kysely, v: RowOf) =>
      kysely
        .deleteFrom("versions")
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("sequence", "=", v.sequence),
    ),
    addUsage: writer.write(
      (kysely, v: { bucketId: number; slot: number; objects: number; bytes: number }) =>
        kysely
          .insertInto("usage_slots")
          .values({ bucket_id: v.bucketId, slot: v.slot, objects: v.objects, bytes: v.bytes })
          .onConflict((conflict) =>
            conflict.columns(["bucket_id", "slot"]).doUpdateSet((row) => ({
              objects: row("usage_slots.objects", "+", row.ref("excluded.objects")),
              bytes: row("usage_slots.bytes", "+", row.ref("excluded.bytes")),
            })),
          ),
    ),
  };
}

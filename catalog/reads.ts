/**
 * Every read of the catalog, as work for either database.
 *
 * What one read asks in several queries must be answered as of one moment: `find` with a version, `list`.
 */

import { sql } from "kysely";
import { type ListQuery, listKeys } from "./listing.ts";
import { type Bucket, encodeKey, type ObjectVersion } from "./model.ts";
import { type Dialect, QueryWriter, type Work } from "./query.ts";
import { decodeBucket, decodeVersion, type VersionRow } from "./schema.ts";

export interface ObjectName {
  bucket: string;
  key: string;
  versionId?: string | undefined;
}

/** A bucket as it is, and what was asked for in it, both of one moment. */
export interface Found {
  bucket: Bucket;
  version: ObjectVersion | undefined;
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

/** A blob whose deletion is due, and the number of its row. */
export interface DueDeletion {
  id: number;
  fid: string;
}

export class Reads {
  readonly #queries: ReturnType<typeof writeQueries>;

  constructor(dialect: Dialect) {
    this.#queries = writeQueries(new QueryWriter(dialect));
  }

  *bucket(name: string): Work<Bucket | undefined> {
    const row = yield* this.#queries.findBucket.first({ name });
    return row === undefined ? undefined : decodeBucket(row);
  }

  *buckets(): Work<Bucket[]> {
    const rows = yield* this.#queries.allBuckets.all({});
    return byName(rows.map(decodeBucket), ({ name }) => name);
  }

  *find({ bucket: name, key: text, versionId }: ObjectName): Work<Found | undefined> {
    const key = encodeKey(text);
    const row = yield* this.#queries.findLatest.first({ name, key });
    if (row === undefined) return undefined;
    const bucket = decodeBucket({
      name,
      created_ms: row.bucket_created_ms,
      settings: row.bucket_settings,
    });
    if (row.version_id === null) return { bucket, version: undefined };
    let version: VersionRow | undefined = row as VersionRow;
    if (versionId !== undefined && version.version_id !== versionId) {
      const { bucket_id: bucketId } = version;
      version = yield* this.#queries.findOlder.first({ bucketId, key, versionId });
    }
    return { bucket, version: version === undefined ? undefined : decodeVersion(name, version) };
  }

  *list({ bucket, ...query }: ListQuery & { bucket: string }): Work<ListPage> {
    const bucketId = (yield* this.#queries.findBucket.first({ name: bucket }))?.id;
    if (bucketId === undefined) return { objects: [], prefixes: [], isTruncated: false };
    const { scan } = this.#queries;
    const { rows, ...page } = yield* listKeys((range) => scan.all({ bucketId, ...range }), query);
    return { objects: rows.map((row) => decodeVersion(bucket, row)), ...page };
  }

  *accessKey(id: string): Work<{ secret: string } | undefined> {
    const row = yield* this.#queries.findAccessKey.first({ id });
    return row === undefined ? undefined : { secret: row.secret };
  }

  *usage(): Work<BucketUsage[]> {
    const rows = yield* this.#queries.usage.all({});
    const usage = rows.map(({ bucket, objects, bytes }) => ({ bucket, objects, bytes }));
    return byName(usage, ({ bucket }) => bucket);
  }

  *dueDeletions({ nowMs, limit }: { nowMs: number; limit: number }): Work<DueDeletion[]> {
    const rows = yield* this.#queries.dueDeletions.all({ nowMs, limit });
    return rows.map(({ id, fid }) => ({ id, fid }));
  }
}

/** Sorted here: the order of text in a database is a matter of how it was set up. */
function byName<Item>(items: Item[], nameOf: (item: Item) => string): Item[] {
  return items.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
}

function writeQueries(writer: QueryWriter) {
  // The planner takes a partial index only if the query repeats its condition word for word.
  return {
    findBucket: writer.write((kysely, v: { name: string }) =>
      kysely.selectFrom("buckets").selectAll().where("name", "=", v.name),
    ),
    allBuckets: writer.write((kysely) => kysely.selectFrom("buckets").selectAll()),
    findLatest: writer.write((kysely, v: { name: string; key: Uint8Array }) =>
      kysely
        .selectFrom("buckets")
        .leftJoin("versions", (join) =>
          join
            .onRef("versions.bucket_id", "=", "buckets.id")
            .on("versions.key", "=", v.key)
            .on("versions.is_latest", "=", sql.lit(1)),
        )
        .selectAll("versions")
        .select(["buckets.created_ms as bucket_created_ms", "buckets.settings as bucket_settings"])
        .where("buckets.name", "=", v.name),
    ),
    findOlder: writer.write((kysely, v: { bucketId: number; key: Uint8Array; versionId: string }) =>
      kysely
        .selectFrom("versions")
        .selectAll()
        .where("bucket_id", "=", v.bucketId)
        .where("key", "=", v.key)
        .where("version_id", "=", v.versionId)
        .where("is_latest", "=", sql.lit(0)),
    ),
    scan: writer.write(
      (kysely, v: { bucketId: number; from: Uint8Array; end: Uint8Array; limit: number }) =>
        kysely
          .selectFrom("versions")
          .selectAll()
          .where("bucket_id", "=", v.bucketId)
          .where("key", ">=", v.from)
          .where("key", "<", v.end)
          .where("is_latest", "=", sql.lit(1))
          .where("is_delete_marker", "=", sql.lit(0))
          .orderBy("key")
          .limit(v.limit),
    ),
    findAccessKey: writer.write((kysely, v: { id: string }) =>
      kysely.selectFrom("access_keys").select("secret").where("id", "=", v.id),
    ),
    usage: writer.write((kysely) =>
      kysely
        .selectFrom("buckets")
        .leftJoin("usage_slots", "usage_slots.bucket_id", "buckets.id")
        .select(({ fn, lit }) => [
          "buckets.name as bucket",
          fn.coalesce(fn.sum<number>("usage_slots.objects"), lit(0)).as("objects"),
          fn.coalesce(fn.sum<number>("usage_slots.bytes"), lit(0)).as("bytes"),
        ])
        .groupBy("buckets.name"),
    ),
    dueDeletions: writer.write((kysely, v: { nowMs: number; limit: number }) =>
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

/**
 * The catalog's tables, the migrations that make them, and the form of what lies in their columns.
 *
 * Only what PostgreSQL, CockroachDB and YugabyteDB have too: no row ids, no sequences, flags as 0 and 1,
 * `bytea` for bytes (SQLite takes any type name and keeps bytes as they are).
 *
 * Invariants:
 * - Keys are UTF-8 bytes, so that the database compares them byte by byte.
 * - At most one version of a key is the latest; it is the one with the highest sequence.
 * - A row's number is never given out twice: what is named by it can't come to mean another row.
 */

import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";
import {
  type Bucket,
  type BucketSettings,
  type ChunkRef,
  decodeText,
  defaultSettings,
  type ImageFacts,
  type ObjectVersion,
} from "./model.ts";

export interface BucketRow {
  id: number;
  name: string;
  created_ms: number;
  /** JSON; what it leaves out has the default, so a new setting needs no migration. */
  settings: string;
}

export interface VersionRow {
  bucket_id: number;
  key: Uint8Array;
  /** Orders the versions of a key: microseconds since 1970, or one more than the last. */
  sequence: number;
  version_id: string;
  is_latest: number;
  is_delete_marker: number;
  size: number;
  etag: string;
  content_type: string;
  cache_control: string | null;
  content_disposition: string | null;
  meta: string;
  image: string | null;
  chunks: string;
  modified_ms: number;
}

export interface Tables {
  /** One row. */
  catalog: { id: string; next_bucket_id: number };
  /** A session without `closed_ms` may commit uploads. */
  sessions: { id: number; opened_ms: number; closed_ms: number | null };
  buckets: BucketRow;
  versions: VersionRow;
  /** Blobs to delete once `due_ms` has come. */
  outbox: { id: number; fid: string; due_ms: number };
  /** What is in a bucket is the sum over its slots: one row for each bucket would make all uploads to it wait. */
  usage_slots: { bucket_id: number; slot: number; objects: number; bytes: number };
  /** When an open session of a shared catalog last gave a sign of life, by the database's clock. */
  heartbeats: { session: number; seen_ms: number };
  access_keys: { id: string; secret: string; created_ms: number };
}

// SQLite commits each step of a migration by itself, so every step must bear being done again.
export const migrations: Record<string, Migration> = {
  "0001-first": {
    async up(database: Kysely<unknown>): Promise<void> {
      const { schema } = database;
      await schema
        .createTable("catalog")
        .ifNotExists()
        .addColumn("id", "text", (column) => column.primaryKey())
        .addColumn("next_bucket_id", "bigint", (column) => column.notNull())
        .execute();
      await schema
        .createTable("sessions")
        .ifNotExists()
        .addColumn("id", "bigint", (column) => column.primaryKey())
        .addColumn("opened_ms", "bigint", (column) => column.notNull())
        .addColumn("closed_ms", "bigint")
        .execute();
      await schema
        .createTable("buckets")
        .ifNotExists()
        .addColumn("id", "bigint", (column) => column.primaryKey())
        .addColumn("name", "text", (column) => column.notNull().unique())
        .addColumn("created_ms", "bigint", (column) => column.notNull())
        .addColumn("settings", "text", (column) => column.notNull())
        .execute();
      await schema
        .createTable("versions")
        .ifNotExists()
        .addColumn("bucket_id", "bigint", (column) => column.notNull().references("buckets.id"))
        .addColumn("key", "bytea", (column) => column.notNull())
        .addColumn("sequence", "bigint", (column) => column.notNull())
        .addColumn("version_id", "text", (column) => column.notNull())
        .addColumn("is_latest", "smallint", (column) => column.notNull())
        .addColumn("is_delete_marker", "smallint", (column) => column.notNull())
        .addColumn("size", "bigint", (column) => column.notNull())
        .addColumn("etag", "text", (column) => column.notNull())
        .addColumn("content_type", "text", (column) => column.notNull())
        .addColumn("cache_control", "text")
        .addColumn("content_disposition", "text")
        .addColumn("meta", "text", (column) => column.notNull())
        .addColumn("image", "text")
        .addColumn("chunks", "text", (column) => column.notNull())
        .addColumn("modified_ms", "bigint", (column) => column.notNull())
        .addPrimaryKeyConstraint("versions_pk", ["bucket_id", "key", "sequence"])
        .execute();
      await schema
        .createIndex("versions_latest")
        .ifNotExists()
        .unique()
        .on("versions")
        .columns(["bucket_id", "key"])
        .where(sql.ref("is_latest"), "=", 1)
        .execute();
      // Listings walk this one, so what is deleted costs them nothing.
      await schema
        .createIndex("versions_live")
        .ifNotExists()
        .on("versions")
        .columns(["bucket_id", "key"])
        .where(sql.ref("is_latest"), "=", 1)
        .where(sql.ref("is_delete_marker"), "=", 0)
        .execute();
      // Old versions only: most objects have none, and need no fourth copy of their key.
      await schema
        .createIndex("versions_older")
        .ifNotExists()
        .unique()
        .on("versions")
        .columns(["bucket_id", "key", "version_id"])
        .where(sql.ref("is_latest"), "=", 0)
        .execute();
      await schema
        .createTable("outbox")
        .ifNotExists()
        .addColumn("id", "bigint", (column) => column.primaryKey())
        .addColumn("fid", "text", (column) => column.notNull())
        .addColumn("due_ms", "bigint", (column) => column.notNull())
        .execute();
      await schema
        .createIndex("outbox_due")
        .ifNotExists()
        .on("outbox")
        .columns(["due_ms", "id"])
        .execute();
      await schema
        .createTable("usage")
        .ifNotExists()
        .addColumn("bucket_id", "bigint", (column) => column.primaryKey().references("buckets.id"))
        .addColumn("objects", "bigint", (column) => column.notNull())
        .addColumn("bytes", "bigint", (column) => column.notNull())
        .execute();
      await schema
        .createTable("access_keys")
        .ifNotExists()
        .addColumn("id", "text", (column) => column.primaryKey())
        .addColumn("secret", "text", (column) => column.notNull())
        .addColumn("created_ms", "bigint", (column) => column.notNull())
        .execute();
    },
  },
  "0002-several-gateways": {
    async up(database: Kysely<unknown>): Promise<void> {
      const { schema } = database;
      await schema
        .createTable("usage_slots")
        .ifNotExists()
        .addColumn("bucket_id", "bigint", (column) => column.notNull())
        .addColumn("slot", "bigint", (column) => column.notNull())
        .addColumn("objects", "bigint", (column) => column.notNull())
        .addColumn("bytes", "bigint", (column) => column.notNull())
        .addPrimaryKeyConstraint("usage_slots_pk", ["bucket_id", "slot"])
        .execute();
      // Gone if this step is being done again.
      const tables = await database.introspection.getTables();
      if (tables.some(({ name }) => name === "usage")) {
        const copy = sql`
          insert into usage_slots (bucket_id, slot, objects, bytes)
          select bucket_id, 0, objects, bytes from usage where true
          on conflict (bucket_id, slot) do nothing`;
        await copy.execute(database);
        await schema.dropTable("usage").execute();
      }
      await schema
        .createTable("heartbeats")
        .ifNotExists()
        .addColumn("session", "bigint", (column) => column.primaryKey())
        .addColumn("seen_ms", "bigint", (column) => column.notNull())
        .execute();
    },
  },
};

export function decodeBucket(row: Omit<BucketRow, "id">): Bucket {
  return { name: row.name, createdMs: row.created_ms, settings: decodeSettings(row.settings) };
}

/** Settings by their text. Every request decodes a bucket, and there are few ways in which they are set. */
const settingsByText = new Map<string, Readonly<BucketSettings>>();
const settingsKeptMax = 1_000;

function decodeSettings(text: string): Readonly<BucketSettings> {
  let settings = settingsByText.get(text);
  if (settings === undefined) {
    if (settingsByText.size >= settingsKeptMax) settingsByText.clear();
    const given = JSON.parse(text) as Partial<BucketSettings>;
    settings = Object.freeze({ ...defaultSettings, ...given });
    settingsByText.set(text, settings);
  }
  return settings;
}

/** Chunks as JSON pairs, `[["3,01637037d6",8388608],…]`: an object of 5 GiB has 640 of them. */
export function encodeChunks(chunks: readonly ChunkRef[]): string {
  return JSON.stringify(chunks.map(({ fid, length }) => [fid, length]));
}

export function decodeChunks(text: string): ChunkRef[] {
  const pairs = JSON.parse(text) as [fid: string, length: number][];
  return pairs.map(([fid, length]) => ({ fid, length }));
}

export function decodeVersion(bucket: string, row: VersionRow): ObjectVersion {
  return {
    bucket,
    key: decodeText(row.key),
    versionId: row.version_id,
    isDeleteMarker: row.is_delete_marker === 1,
    isLatest: row.is_latest === 1,
    size: row.size,
    etag: row.etag,
    contentType: row.content_type,
    ...(row.cache_control === null ? {} : { cacheControl: row.cache_control }),
    ...(row.content_disposition === null ? {} : { contentDisposition: row.content_disposition }),
    meta: JSON.parse(row.meta) as Record<string, string>,
    ...(row.image === null ? {} : { image: JSON.parse(row.image) as ImageFacts }),
    chunks: decodeChunks(row.chunks),
    modifiedMs: row.modified_ms,
  };
}

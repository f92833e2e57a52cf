/** What changes of buckets do to the tables. */

import assert from "node:assert";
import { Failure } from "../base/failure.ts";
import { type Bucket, type BucketSettings, defaultSettings, patchSettings } from "./model.ts";
import type { QueryWriter, Turn, Work } from "./query.ts";
import { type BucketRow, decodeBucket } from "./schema.ts";

export class BucketChanges {
  readonly #queries: ReturnType<typeof writeQueries>;

  constructor(writer: QueryWriter) {
    this.#queries = writeQueries(writer);
  }

  *create(
    { name, settings: patch }: { name: string; settings: Partial<BucketSettings> },
    { nowMs }: Turn,
  ): Work<Bucket> {
    if ((yield* this.#queries.find.first({ name })) !== undefined) {
      throw new Failure("conflict", `Cannot create bucket "${name}": it exists already`, {
        code: "BucketAlreadyOwnedByYou",
      });
    }
    const settings = patchSettings(defaultSettings, patch);
    const catalog = yield* this.#queries.takeId.first({});
    assert(catalog !== undefined, "an open catalog has its row");
    const id = catalog.next_bucket_id - 1;
    yield* this.#queries.insert.run({ id, name, nowMs, settings: JSON.stringify(settings) });
    return { name, createdMs: nowMs, settings };
  }

  *delete({ name }: { name: string }): Work<void> {
    const purpose = `delete bucket "${name}"`;
    const { id } = yield* this.require(name, purpose);
    // Looked at before it is held too: whoever tries to delete a busy bucket must not hold up its uploads.
    yield* this.#requireEmpty(id, name);
    if ((yield* this.#queries.hold.first({ name }))?.id !== id) throw missing(name, purpose);
    yield* this.#requireEmpty(id, name);
    yield* this.#queries.deleteUsage.run({ id });
    yield* this.#queries.delete.run({ id });
  }

  *update({ name, patch }: { name: string; patch: Partial<BucketSettings> }): Work<Bucket> {
    const row = yield* this.#queries.holdSettings.first({ name });
    if (row === undefined) throw missing(name, `change bucket "${name}"`);
    const bucket = decodeBucket(row);
    const settings = patchSettings(bucket.settings, patch);
    yield* this.#queries.update.run({ id: row.id, settings: JSON.stringify(settings) });
    return { ...bucket, settings };
  }

  *require(name: string, purpose: string): Work<BucketRow> {
    const row = yield* this.#queries.find.first({ name });
    if (row === undefined) throw missing(name, purpose);
    return row;
  }

  *#requireEmpty(id: number, name: string): Work<void> {
    if ((yield* this.#queries.findAnyVersion.first({ id })) === undefined) return;
    throw new Failure("conflict", `Cannot delete bucket "${name}": it is not empty`, {
      code: "BucketNotEmpty",
    });
  }
}

function missing(name: string, purpose: string): Failure {
  return new Failure("not-found", `Cannot ${purpose}: there is no bucket "${name}"`, {
    code: "NoSuchBucket",
  });
}

function writeQueries(writer: QueryWriter) {
  return {
    find: writer.write((kysely, v: { name: string }) =>
      kysely.selectFrom("buckets").selectAll().where("name", "=", v.name),
    ),
    /** Until the commit nobody adds a version: each new one refers to its bucket's row. */
    hold: writer.write((kysely, v: { name: string }) =>
      kysely
        .selectFrom("buckets")
        .selectAll()
        .where("name", "=", v.name)
        .$if(writer.isShared, (query) => query.forUpdate()),
    ),
    /** Until the commit nobody else changes its settings; uploads go on. */
    holdSettings: writer.write((kysely, v: { name: string }) =>
      kysely
        .selectFrom("buckets")
        .selectAll()
        .where("name", "=", v.name)
        .$if(writer.isShared, (query) => query.forNoKeyUpdate()),
    ),
    takeId: writer.write((kysely) =>
      kysely
        .updateTable("catalog")
        .set((row) => ({ next_bucket_id: row("next_bucket_id", "+", 1) }))
        .returning("next_bucket_id"),
    ),
    insert: writer.write(
      (kysely, v: { id: number; name: string; nowMs: number; settings: string }) =>
        kysely
          .insertInto("buckets")
          .values({ id: v.id, name: v.name, created_ms: v.nowMs, settings: v.settings }),
    ),
    update: writer.write((kysely, v: { id: number; settings: string }) =>
      kysely.updateTable("buckets").set({ settings: v.settings }).where("id", "=", v.id),
    ),
    delete: writer.write((kysely, v: { id: number }) =>
      kysely.deleteFrom("buckets").where("id", "=", v.id),
    ),
    deleteUsage: writer.write((kysely, v: { id: number }) =>
      kysely.deleteFrom("usage_slots").where("bucket_id", "=", v.id),
    ),
    findAnyVersion: writer.write((kysely, v: { id: number }) =>
      kysely.selectFrom("versions").select("sequence").where("bucket_id", "=", v.id).limit(1),
    ),
  };
}

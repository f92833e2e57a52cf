/**
 * Every change of the catalog by its name, as work inside a transaction that the caller holds. What each
 * does is written beside its noun: buckets, versions, outbox.
 */

import { BucketChanges } from "./bucket-changes.ts";
import type {
  Bucket,
  BucketSettings,
  ChunkRef,
  DeleteResult,
  NewVersion,
  PutConditions,
} from "./model.ts";
import { OutboxChanges } from "./outbox-changes.ts";
import { type Dialect, QueryWriter, type Turn, type Work } from "./query.ts";
import { VersionChanges } from "./version-changes.ts";

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
export type ChangeOutput<Name extends ChangeName> =
  ReturnType<Changes[Name]> extends Work<infer Output> ? Output : never;

/** A change as it travels to whoever makes it. */
export type Change = {
  [Name in ChangeName]: { name: Name; input: ChangeInput<Name> };
}[ChangeName];

export class Changes {
  readonly #buckets: BucketChanges;
  readonly #outbox: OutboxChanges;
  readonly #versions: VersionChanges;
  readonly #queries: ReturnType<typeof writeQueries>;

  constructor({
    dialect,
    session,
    deleteDelayMs,
  }: {
    dialect: Dialect;
    session: number;
    deleteDelayMs: number;
  }) {
    const writer = new QueryWriter(dialect);
    this.#buckets = new BucketChanges(writer);
    this.#outbox = new OutboxChanges(writer, session);
    this.#versions = new VersionChanges({
      writer,
      buckets: this.#buckets,
      outbox: this.#outbox,
      session,
      deleteDelayMs,
    });
    this.#queries = writeQueries(writer);
  }

  make({ name, input }: Change, turn: Turn): Work<unknown> {
    const method = this[name] as (input: unknown, turn: Turn) => Work<unknown>;
    return method.call(this, input, turn);
  }

  createBucket(
    input: { name: string; settings: Partial<BucketSettings> },
    turn: Turn,
  ): Work<Bucket> {
    return this.#buckets.create(input, turn);
  }

  deleteBucket(input: { name: string }, _turn: Turn): Work<void> {
    return this.#buckets.delete(input);
  }

  updateBucket(input: { name: string; patch: Partial<BucketSettings> }, _turn: Turn): Work<Bucket> {
    return this.#buckets.update(input);
  }

  putVersion(
    input: { version: NewVersion; conditions: PutConditions },
    turn: Turn,
  ): Work<{ versionId: string; modifiedMs: number }> {
    return this.#versions.put(input, turn);
  }

  deleteObject(
    input: {
      bucket: string;
      key: string;
      versionId?: string | undefined;
      /** For the delete marker, where one is made. */
      freshVersionId: string;
    },
    turn: Turn,
  ): Work<DeleteResult> {
    return this.#versions.delete(input, turn);
  }

  putAccessKey({ id, secret }: { id: string; secret: string }, { nowMs }: Turn): Work<void> {
    return this.#queries.putAccessKey.run({ id, secret, nowMs });
  }

  /** Due at once: no version ever named these blobs, so nobody is reading them. */
  abandon({ fids }: { fids: readonly string[] }, { nowMs }: Turn): Work<void> {
    return this.#outbox.schedule(fids, nowMs);
  }

  finishDeletions(input: { ids: readonly number[] }, _turn: Turn): Work<void> {
    return this.#outbox.finish(input);
  }

  postponeDeletions(input: { ids: readonly number[]; delayMs: number }, turn: Turn): Work<void> {
    return this.#outbox.postpone(input, turn);
  }
}

export function fidsOf(chunks: readonly (ChunkRef | string)[]): string[] {
  return chunks.map((chunk) => (typeof chunk === "string" ? chunk : chunk.fid));
}

function writeQueries(writer: QueryWriter) {
  return {
    putAccessKey: writer.write((kysely, v: { id: string; secret: string; nowMs: number }) =>
      kysely
        .insertInto("access_keys")
        .values({ id: v.id, secret: v.secret, created_ms: v.nowMs })
        .onConflict((conflict) => conflict.column("id").doUpdateSet({ secret: v.secret })),
    ),
  };
}

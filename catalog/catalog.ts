/**
 * The catalog: which buckets there are, and which chunks every version of every object is made of. One
 * contract, kept by two: `SqliteCatalog` for one gateway, `PostgresCatalog` for several on one database.
 *
 * Invariants:
 * - A write's promise resolves once its commit is on the disk, and every read that is begun after that
 *   sees it, whichever gateway asks.
 * - Each read shows the catalog as it was at one moment between its call and its answer.
 * - What must be atomic is decided inside the write's transaction; nothing read before decides it.
 */

import type { Clock } from "../base/clock.ts";
import { Failure, type FailureKind } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { ListQuery } from "./listing.ts";
import type {
  Bucket,
  BucketSettings,
  ChunkRef,
  DeleteResult,
  NewVersion,
  PutConditions,
} from "./model.ts";
import type { BucketUsage, DueDeletion, Found, ListPage, ObjectName } from "./reads.ts";

export interface Catalog {
  /** The catalog's own: 16 hex digits, made once. */
  readonly id: string;
  /** The number of this opening; the needles that it uploads carry it. */
  readonly session: number;

  bucket(name: string): Promise<Bucket | undefined>;
  /** In the order of their names. */
  buckets(): Promise<Bucket[]>;
  /**
   * The latest version, or the one named, with its bucket; nothing if there is no such bucket. The version
   * may be a delete marker.
   */
  find(name: ObjectName): Promise<Found | undefined>;
  /** A page of the live objects; none if there is no such bucket. */
  list(query: ListQuery & { bucket: string }): Promise<ListPage>;
  accessKey(id: string): Promise<{ secret: string } | undefined>;
  /** Of all buckets, in the order of their names. */
  usage(): Promise<BucketUsage[]>;
  /** Blobs whose deletion is due, the longest due first. Others may be working them off too: no harm is done. */
  dueDeletions(limit: number): Promise<DueDeletion[]>;

  createBucket(name: string, settings?: Partial<BucketSettings>): Promise<Bucket>;
  deleteBucket(name: string): Promise<void>;
  updateBucket(name: string, patch: Partial<BucketSettings>): Promise<Bucket>;
  /** Commits an upload whose chunks are durable already. If it fails, see `mayAbandon`. */
  putVersion(
    version: NewVersion,
    conditions?: PutConditions,
  ): Promise<{ versionId: string; modifiedMs: number }>;
  deleteObject(name: ObjectName): Promise<DeleteResult>;
  /** Adds the key, or gives it another secret. */
  putAccessKey(id: string, secret: string): Promise<void>;
  /** Has blobs deleted that no version names, and none ever will. */
  abandon(chunks: readonly (ChunkRef | string)[]): Promise<void>;
  finishDeletions(ids: readonly number[]): Promise<void>;
  /** Lets deletions that can't be done now come up again after `delayMs`. */
  postponeDeletions(ids: readonly number[], delayMs: number): Promise<void>;

  /** Why it can't be asked now, or undefined when it can. */
  unreadiness(): string | undefined;
  /** Commits what was asked for before, and closes the session. */
  close(): Promise<void>;
}

/** What either kind is opened with. */
export interface CatalogOptions {
  log: Log;
  clock: Clock;
  random: Random;
  /** How long the blobs of a removed version stay, so that reads of it can finish. */
  deleteDelayMs?: number;
  /** Changes that may wait their turn; more are refused as busy. */
  waitingMax?: number;
  /** The catalog can't be written any more: the process should end and open it anew. */
  onFatal?: (error: Failure) => void;
}

export const catalogDefaults: { deleteDelayMs: number; waitingMax: number } = {
  deleteDelayMs: 15 * 60_000,
  waitingMax: 10_000,
};

const certainKinds: readonly FailureKind[] = [
  "bad-request",
  "not-found",
  "conflict",
  "precondition-failed",
  "busy",
];

/**
 * Whether a failed `putVersion` is certain to have kept nothing, so that its chunks may be abandoned.
 * Otherwise they must stay: the version may turn out to exist when the catalog is asked again.
 */
export function mayAbandon(error: unknown): boolean {
  return error instanceof Failure && certainKinds.includes(error.kind);
}

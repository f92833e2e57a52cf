/**
 * The catalog on PostgreSQL, or what speaks like it: several gateways on one database.
 *
 * Invariants:
 * - Nothing that another gateway may change is kept here: each read asks the database.
 * - Whatever waits has a limit, so that a database that is away is answered for in seconds, as unavailable;
 *   when it is back, the next call finds it.
 * - What this gateway commits, it commits in its session. Once that is closed it tells so, and nothing of it
 *   is kept.
 */

import type { Kysely } from "kysely";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { migrate } from "../base/migrate.ts";
import { openPostgres } from "../base/postgres.ts";
import type { Random } from "../base/random.ts";
import { pause, type Runtime } from "../base/runtime.ts";
import { type Catalog, type CatalogOptions, catalogDefaults } from "./catalog.ts";
import { Changes, fidsOf } from "./changes.ts";
import { Heartbeat, type HeartbeatTimes, heartbeatDefaults } from "./heartbeat.ts";
import { Lanes, laneCount } from "./lanes.ts";
import type { ListQuery } from "./listing.ts";
import type {
  Bucket,
  BucketSettings,
  ChunkRef,
  DeleteResult,
  NewVersion,
  PutConditions,
} from "./model.ts";
import { PostgresRunner } from "./postgres-runner.ts";
import {
  type BucketUsage,
  type DueDeletion,
  type Found,
  type ListPage,
  type ObjectName,
  Reads,
} from "./reads.ts";
import { migrations, type Tables } from "./schema.ts";
import { Sessions } from "./session.ts";
import { newVersionId } from "./version-id.ts";

export interface PostgresCatalogOptions extends CatalogOptions {
  /** `postgres://…`; the database is the catalog's alone. */
  url: string;
  runtime: Runtime;
  heartbeat?: HeartbeatTimes;
}

/** What reads may use beside the lanes. */
const readersMax = 8;

// A gateway that hangs within a change keeps others from its key no longer than the second of these; the
// first is longer, so that those who wait for that get through.
const timeouts = {
  connectTimeoutMs: 3_000,
  statementTimeoutMs: 8_000,
  idleInTransactionTimeoutMs: 4_000,
} as const;

// A database that is being failed over is worth a wait; a wrong address is not worth a long one.
const openLimitMs = 30_000;
const openRetryMs = 500;

export class PostgresCatalog implements Catalog {
  readonly id: string;
  readonly session: number;
  readonly #databases: readonly Kysely<Tables>[];
  readonly #runner: PostgresRunner;
  readonly #sessions: Sessions;
  readonly #reads = new Reads("postgres");
  readonly #lanes: Lanes;
  readonly #heartbeat: Heartbeat;
  readonly #random: Random;
  #closing: Promise<void> | undefined;

  private constructor(parts: {
    id: string;
    session: number;
    databases: readonly Kysely<Tables>[];
    runner: PostgresRunner;
    sessions: Sessions;
    lanes: Lanes;
    heartbeat: Heartbeat;
    random: Random;
  }) {
    this.id = parts.id;
    this.session = parts.session;
    this.#databases = parts.databases;
    this.#runner = parts.runner;
    this.#sessions = parts.sessions;
    this.#lanes = parts.lanes;
    this.#heartbeat = parts.heartbeat;
    this.#random = parts.random;
  }

  static async open({
    url,
    log,
    clock,
    random,
    runtime,
    deleteDelayMs = catalogDefaults.deleteDelayMs,
    waitingMax = catalogDefaults.waitingMax,
    heartbeat: times = heartbeatDefaults,
    onFatal = () => undefined,
  }: PostgresCatalogOptions): Promise<PostgresCatalog> {
    const applicationName = "hayloft gateway";
    const connectionsMax = laneCount + readersMax;
    const limits = { log, applicationName, ...timeouts };
    const database = openPostgres<Tables>(url, { ...limits, connectionsMax });
    const databaseOfHeartbeat = openPostgres<Tables>(url, { ...limits, connectionsMax: 1 });
    const databases = [database, databaseOfHeartbeat];
    try {
      const seams = { clock, random, runtime };
      const runner = new PostgresRunner(database, seams);
      const sessions = new Sessions("postgres");
      await waitUntilAnswered(() => runner.read(sessions.now()), { clock, runtime, log });
      await migrate(database, migrations);
      const freshId = random.bytes(8).toString("hex");
      const { id, session, nowMs } = await runner.change(() => sessions.openBeside({ freshId }));

      let hasEnded = false;
      const onSessionClosed = (failure: Failure) => {
        if (hasEnded) return;
        hasEnded = true;
        onFatal(failure);
      };
      const heartbeat = new Heartbeat({
        runner: new PostgresRunner(databaseOfHeartbeat, seams),
        ...{ sessions, session, nowMs, times, clock, runtime, log, onSessionClosed },
      });
      const lanes = new Lanes({
        changes: new Changes({ dialect: "postgres", session, deleteDelayMs }),
        nowMs: () => heartbeat.nowMs(),
        ...{ runner, session, clock, log, waitingMax, onSessionClosed },
      });
      heartbeat.start();
      const parts = { id, session, databases, runner, sessions, lanes, heartbeat, random };
      return new PostgresCatalog(parts);
    } catch (error) {
      for (const each of databases) await each.destroy();
      throw error;
    }
  }

  bucket(name: string): Promise<Bucket | undefined> {
    return this.#runner.read(this.#reads.bucket(name));
  }

  buckets(): Promise<Bucket[]> {
    return this.#runner.read(this.#reads.buckets());
  }

  async find(name: ObjectName): Promise<Found | undefined> {
    return name.versionId === undefined
      ? await this.#runner.read(this.#reads.find(name))
      : await this.#runner.readAtOneMoment(() => this.#reads.find(name));
  }

  list(query: ListQuery & { bucket: string }): Promise<ListPage> {
    return this.#runner.readAtOneMoment(() => this.#reads.list(query));
  }

  accessKey(id: string): Promise<{ secret: string } | undefined> {
    return this.#runner.read(this.#reads.accessKey(id));
  }

  usage(): Promise<BucketUsage[]> {
    return this.#runner.read(this.#reads.usage());
  }

  dueDeletions(limit: number): Promise<DueDeletion[]> {
    const nowMs = this.#heartbeat.nowMs();
    return this.#runner.read(this.#reads.dueDeletions({ nowMs, limit }));
  }

  createBucket(name: string, settings: Partial<BucketSettings> = {}): Promise<Bucket> {
    return this.#lanes.submit("createBucket", { name, settings });
  }

  deleteBucket(name: string): Promise<void> {
    return this.#lanes.submit("deleteBucket", { name });
  }

  updateBucket(name: string, patch: Partial<BucketSettings>): Promise<Bucket> {
    return this.#lanes.submit("updateBucket", { name, patch });
  }

  putVersion(
    version: NewVersion,
    conditions: PutConditions = {},
  ): Promise<{ versionId: string; modifiedMs: number }> {
    return this.#lanes.submit("putVersion", { version, conditions });
  }

  deleteObject(name: ObjectName): Promise<DeleteResult> {
    const clock = { nowMs: () => this.#heartbeat.nowMs(), monotonicMs: () => 0 };
    const freshVersionId = newVersionId(this.#random, clock);
    return this.#lanes.submit("deleteObject", { ...name, freshVersionId });
  }

  putAccessKey(id: string, secret: string): Promise<void> {
    return this.#lanes.submit("putAccessKey", { id, secret });
  }

  abandon(chunks: readonly (ChunkRef | string)[]): Promise<void> {
    return this.#lanes.submit("abandon", { fids: fidsOf(chunks) });
  }

  finishDeletions(ids: readonly number[]): Promise<void> {
    return this.#lanes.submit("finishDeletions", { ids });
  }

  postponeDeletions(ids: readonly number[], delayMs: number): Promise<void> {
    return this.#lanes.submit("postponeDeletions", { ids, delayMs });
  }

  unreadiness(): string | undefined {
    return this.#heartbeat.unreadiness();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#lanes.close();
    await this.#heartbeat.stop();
    try {
      const nowMs = this.#heartbeat.nowMs();
      await this.#runner.read(this.#sessions.close({ session: this.session, nowMs }));
    } catch (error) {
      // The others close it when it has been silent for long enough.
      if (!(error instanceof Failure)) throw error;
    } finally {
      for (const each of this.#databases) await each.destroy();
    }
  }
}

async function waitUntilAnswered(
  ask: () => Promise<unknown>,
  { clock, runtime, log }: { clock: Clock; runtime: Runtime; log: Log },
): Promise<void> {
  const deadlineMs = clock.monotonicMs() + openLimitMs;
  for (let tries = 1; ; tries++) {
    try {
      await ask();
      return;
    } catch (error) {
      const isAway = error instanceof Failure && error.kind === "unavailable";
      if (!isAway || clock.monotonicMs() > deadlineMs) throw error;
      if (tries === 1) log.warn(`waiting for the catalog's database: ${error.message}`);
      await pause(runtime, openRetryMs);
    }
  }
}

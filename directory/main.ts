/** The directory's process: opens its database, serves, stops. */

import type { Server } from "node:http";
import path from "node:path";
import type { Kysely } from "kysely";
import { advertisedAddress } from "../base/advertise.ts";
import { CallVerifier } from "../base/call-verifier.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { lockFolder } from "../base/lock.ts";
import { type Log, type LogLevel, makeLog } from "../base/log.ts";
import { makeRegistry, startOpsServer } from "../base/metrics.ts";
import { migrate } from "../base/migrate.ts";
import { defaultNativeAccess, type NativeAccess } from "../base/native-access.ts";
import { isPostgresUrl, openPostgres } from "../base/postgres.ts";
import { type Random, systemRandom } from "../base/random.ts";
import { type RunningRole, runRole } from "../base/role.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import { kyselyOn, openSqlite } from "../base/sqlite.ts";
import { DirectoryClient } from "./client.ts";
import { type CompactionOptions, Directory } from "./directory.ts";
import { FollowedMap } from "./followed-map.ts";
import { Gateways } from "./gateways.ts";
import { Leadership } from "./leadership.ts";
import { Lease, type Term } from "./lease.ts";
import { watchDirectory } from "./metrics.ts";
import { Operations } from "./operations.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";
import { type Answers, makeAnswers, serveAnswers } from "./server.ts";
import { makeStandbyAnswers } from "./standby.ts";

export interface DirectoryConfig {
  /** Folder of the database, where this directory is the only one. */
  data?: string | undefined;
  /** A PostgreSQL that several directories share. */
  database?: string | undefined;
  /** `host:port` under which the others reach this one, where it is not the one it listens on. */
  advertise?: string | undefined;
  host: string;
  port: number;
  opsHost: string;
  opsPort: number;
  tokenFile: string;
  logLevel: LogLevel;
  /** Who may make SeaweedFS's calls; by default everybody where only this machine reaches the port. */
  native?: NativeAccess | undefined;
  compaction: CompactionOptions | "off";
}

// A directory that dies is succeeded within the lease and a look at it: under five seconds with room for
// stores to find the next. Shorter, and a pause of the database would depose a leader that is well.
const leaseMs = 3_000;

/**
 * A transaction that its directory has left alone (it hangs, it is cut off) must be over before the lease
 * is, since it may have locked what the next leader needs.
 */
const databaseLimits = { idleInTransactionTimeoutMs: 2_000, connectTimeoutMs: 2_000 } as const;

/** Two tries have to fit into a lease. */
const leaseLimits = {
  connectionsMax: 2,
  connectTimeoutMs: 1_000,
  statementTimeoutMs: 500,
  idleInTransactionTimeoutMs: 1_000,
} as const;

const followedMapWaitMs = 2_000;

export async function runDirectory(config: DirectoryConfig): Promise<void> {
  const log = makeLog("directory", config.logLevel);
  await runRole(log, async (): Promise<RunningRole> => {
    const secret = ClusterSecret.read(config.tokenFile, {
      onProblem: (failure) => log.error(failure.message),
    });
    const verifier = new CallVerifier(secret);
    const seams = { clock: systemClock, random: systemRandom, runtime: systemRuntime };
    const native = config.native ?? defaultNativeAccess(config.host);
    const gateways = new Gateways(systemClock);
    const parts = { ...config, ...seams, gateways, secret, verifier, native, log };
    return config.database === undefined ? await runAlone(parts) : await runAmongOthers(parts);
  });
}

interface Parts extends DirectoryConfig {
  clock: Clock;
  random: Random;
  runtime: Runtime;
  secret: ClusterSecret;
  verifier: CallVerifier;
  native: NativeAccess;
  gateways: Gateways;
  log: Log;
}

/** The only directory, on a SQLite file. */
async function runAlone(parts: Parts): Promise<RunningRole> {
  const { data } = parts;
  if (data === undefined) {
    const message = "Cannot run a directory: it needs --data, or the --database of several";
    throw new Failure("bad-request", message);
  }
  const lock = lockFolder(data, "directory");
  const database = kyselyOn<DirectoryTables>(
    openSqlite(path.join(data, "directory.sqlite"), "write"),
  );
  await migrate(database, directoryMigrations);
  const { directory, answers } = lead(parts, { database });
  await directory.load();
  const server = serveAnswers(() => answers, parts.log);
  const address = formatAddress(await listen(server, parts));
  const { ops, opsAddress } = await startOps(parts, {
    leading: () => directory,
    readiness: () => undefined,
  });
  return {
    ready: { address, opsAddress },
    async close(graceMs) {
      directory.close();
      await closeServer(server, Math.min(graceMs, 2_000));
      await closeServer(ops, 100);
      await database.destroy();
      lock.release();
    },
  };
}

/** One of several, on a PostgreSQL: it leads while it has the lease, and stands by else. */
async function runAmongOthers(parts: Parts): Promise<RunningRole> {
  const {
    secret,
    verifier,
    native,
    gateways,
    log,
    clock,
    random,
    runtime,
    database: url = "",
  } = parts;
  if (!isPostgresUrl(url)) {
    const message = "Cannot use --database: it is postgres://USER@HOST:PORT/NAME";
    throw new Failure("bad-request", message);
  }
  const database = openPostgres<DirectoryTables>(url, { log, ...databaseLimits });
  const leaseDatabase = openPostgres<DirectoryTables>(url, { log, ...leaseLimits });
  await migrate(database, directoryMigrations);

  let leading: { directory: Directory; answers: Answers } | undefined;
  let answers: Answers = async () => {
    throw new Failure("unavailable", "Cannot answer yet: the directory starts");
  };
  const server = serveAnswers(() => answers, log);
  const listening = formatAddress(await listen(server, parts));
  const address = advertisedAddress(listening, { advertise: parts.advertise, peers: [] });

  const lease = new Lease({
    ...{ database, leaseDatabase, address, leaseMs, clock, random, runtime },
    holder: random.bytes(16).toString("hex"),
  });
  const leader = () => {
    const known = lease.leader?.address;
    return known === address ? undefined : known;
  };
  const caller = new Caller(secret);
  const map = new FollowedMap({
    ...{ database, leader, clock, runtime, log },
    ask: (leaderAddress, after, signal, wants) =>
      new DirectoryClient(caller, leaderAddress).map(
        after,
        followedMapWaitMs,
        signal,
        wants,
        gateways.all(),
      ),
  });
  const leadership = new Leadership({
    ...{ lease, runtime, log },
    begin: (term) => {
      const { directory, ...rest } = lead(parts, { database, term, address });
      leading = { directory, ...rest };
      term.ended.addEventListener("abort", () => map.replace(directory.map()), { once: true });
    },
  });
  const standby = makeStandbyAnswers({ map, secret, verifier, native, leader, gateways });
  answers = (request, response) => {
    const now = leadership.term === undefined ? undefined : leading;
    return (now?.answers ?? standby)(request, response);
  };
  leadership.start();
  map.start();
  const { ops, opsAddress } = await startOps(parts, {
    leading: () => (leadership.term === undefined ? undefined : leading?.directory),
    readiness: () => (leadership.isInformed ? undefined : "the database does not answer"),
  });
  return {
    ready: { address: listening, opsAddress },
    async close(graceMs) {
      // First, so that another leads while this one drains.
      await leadership.stop();
      await map.stop();
      await closeServer(server, Math.min(graceMs, 2_000));
      await closeServer(ops, 100);
      await caller.close();
      await leaseDatabase.destroy();
      await database.destroy();
    },
  };
}

/** What is there while this directory leads: nothing in it is older than that. */
function lead(
  { clock, random, runtime, log, compaction, secret, verifier, native, gateways }: Parts,
  { database, term, address }: { database: Kysely<DirectoryTables>; term?: Term; address?: string },
): { directory: Directory; answers: Answers } {
  const directory = new Directory({
    ...{ database, clock, random, runtime, log, compaction },
    ...(term === undefined ? {} : { transact: term.transact }),
  });
  directory.start();
  term?.ended.addEventListener("abort", () => directory.close(), { once: true });
  const answers = makeAnswers({
    ...{ directory, secret, verifier, log, native, gateways },
    operations: new Operations(directory, { clock, random }),
    rateBytes: compaction === "off" ? 0 : compaction.rateBytes,
    ...(term === undefined ? {} : { term }),
    ...(address === undefined ? {} : { address }),
  });
  return { directory, answers };
}

async function startOps(
  { opsHost, opsPort }: Parts,
  {
    leading,
    readiness,
  }: { leading: () => Directory | undefined; readiness: () => string | undefined },
): Promise<{ ops: Server; opsAddress: string }> {
  const registry = makeRegistry("directory");
  watchDirectory(leading, registry);
  const { server, address } = await startOpsServer(
    { host: opsHost, port: opsPort },
    { registry, readiness },
  );
  return { ops: server, opsAddress: formatAddress(address) };
}

/** The directory's process: opens its database, serves, stops. */

import path from "node:path";
import { systemClock } from "../base/clock.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { lockFolder } from "../base/lock.ts";
import { type LogLevel, makeLog } from "../base/log.ts";
import { makeRegistry, startOpsServer } from "../base/metrics.ts";
import { defaultNativeAccess, type NativeAccess } from "../base/native-access.ts";
import { systemRandom } from "../base/random.ts";
import { type RunningRole, runRole } from "../base/role.ts";
import { kyselyOn, migrate, openSqlite } from "../base/sqlite.ts";
import { readToken } from "../base/token.ts";
import { type CompactionOptions, Directory } from "./directory.ts";
import { watchDirectory } from "./metrics.ts";
import { Operations } from "./operations.ts";
import { type DirectoryTables, directoryMigrations } from "./schema.ts";
import { makeDirectoryServer } from "./server.ts";

export interface DirectoryConfig {
  /** Folder of the database. */
  data: string;
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

export async function runDirectory(config: DirectoryConfig): Promise<void> {
  const log = makeLog("directory", config.logLevel);
  await runRole(log, async (): Promise<RunningRole> => {
    const token = readToken(config.tokenFile);
    const lock = lockFolder(config.data, "directory");
    const database = kyselyOn<DirectoryTables>(
      openSqlite(path.join(config.data, "directory.sqlite"), "write"),
    );
    await migrate(database, directoryMigrations);
    const { compaction } = config;
    const seams = { clock: systemClock, random: systemRandom };
    const directory = new Directory({ database, ...seams, log, compaction });
    await directory.load();
    directory.start();
    const registry = makeRegistry("directory");
    watchDirectory(directory, registry);
    const server = makeDirectoryServer({
      directory,
      operations: new Operations(directory, seams),
      token,
      log,
      native: config.native ?? defaultNativeAccess(config.host),
      rateBytes: compaction === "off" ? 0 : compaction.rateBytes,
    });
    const address = await listen(server, config);
    const ops = await startOpsServer(
      { host: config.opsHost, port: config.opsPort },
      { registry, readiness: () => undefined },
    );
    return {
      ready: { address: formatAddress(address), opsAddress: formatAddress(ops.address) },
      async close(graceMs) {
        directory.close();
        await closeServer(server, Math.min(graceMs, 2_000));
        await closeServer(ops.server, 100);
        await database.destroy();
        lock.release();
      },
    };
  });
}

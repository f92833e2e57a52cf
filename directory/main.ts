/** The directory's process: opens its database, serves, stops. */

import path from "node:path";
import { systemClock } from "../base/clock.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { lockFolder } from "../base/lock.ts";
import { type LogLevel, makeLog } from "../base/log.ts";
import { makeRegistry, startOpsServer } from "../base/metrics.ts";
import { systemRandom } from "../base/random.ts";
import { type RunningRole, runRole } from "../base/role.ts";
import { kyselyOn, migrate, openSqlite } from "../base/sqlite.ts";
import { readToken } from "../base/token.ts";
import { Directory } from "./directory.ts";
import { watchDirectory } from "./metrics.ts";
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
    const directory = new Directory({ database, clock: systemClock, random: systemRandom, log });
    const registry = makeRegistry("directory");
    watchDirectory(directory, registry);
    const server = makeDirectoryServer(directory, { token, log });
    const address = await listen(server, config);
    const ops = await startOpsServer(
      { host: config.opsHost, port: config.opsPort },
      { registry, readiness: () => undefined },
    );
    return {
      ready: { address: formatAddress(address), opsAddress: formatAddress(ops.address) },
      async close(graceMs) {
        await closeServer(server, Math.min(graceMs, 2_000));
        await closeServer(ops.server, 100);
        await database.destroy();
        lock.release();
      },
    };
  });
}

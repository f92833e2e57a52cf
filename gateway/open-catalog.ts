/** Opens the catalog that a gateway is told of: a file in its own folder, or a database for several. */

import { systemClock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import type { Log } from "../base/log.ts";
import { isPostgresUrl } from "../base/postgres.ts";
import { systemRandom } from "../base/random.ts";
import { systemRuntime } from "../base/runtime.ts";
import type { Catalog, CatalogOptions } from "../catalog/catalog.ts";
import { PostgresCatalog } from "../catalog/postgres-catalog.ts";
import { SqliteCatalog } from "../catalog/sqlite-catalog.ts";

export interface OpenedCatalog {
  catalog: Catalog;
  close(): Promise<void>;
}

export async function openCatalog({
  folder,
  url,
  deleteDelayMs,
  log,
}: {
  /** The gateway's own. */
  folder: string;
  /** Of a PostgreSQL, where the catalog is shared. */
  url: string | undefined;
  deleteDelayMs: number;
  log: Log;
}): Promise<OpenedCatalog> {
  const options: CatalogOptions = {
    log,
    clock: systemClock,
    random: systemRandom,
    deleteDelayMs,
    onFatal: (error) => {
      // Whether its last commits happened, or others closed its session: only opening it anew can tell.
      log.fatal({ err: error }, "the catalog failed");
      process.exit(1);
    },
  };
  if (url === undefined) {
    const catalog = await SqliteCatalog.open({ ...options, folder });
    return { catalog, close: () => catalog.close() };
  }
  if (!isPostgresUrl(url)) {
    throw new Failure("bad-request", "Cannot open the catalog: its address is no postgres://… URL");
  }
  // The folder is this process's alone in either case: its supervisor tells by that whether it still runs.
  const lock: FolderLock = lockFolder(folder, "gateway");
  const catalog = await PostgresCatalog.open({ ...options, url, runtime: systemRuntime });
  return {
    catalog,
    async close() {
      await catalog.close();
      lock.release();
    },
  };
}

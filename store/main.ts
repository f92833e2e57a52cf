/** The store's process: recovers its volumes, talks to the directory, serves, stops. */

import { hostname } from "node:os";
import path from "node:path";
import { advertisedAddress } from "../base/advertise.ts";
import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { diskFiles } from "../base/files.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { type LogLevel, makeLog } from "../base/log.ts";
import { makeRegistry, startOpsServer } from "../base/metrics.ts";
import { defaultNativeAccess, type NativeAccess } from "../base/native-access.ts";
import { systemRandom } from "../base/random.ts";
import { type RunningRole, runRole } from "../base/role.ts";
import { DirectoryClient } from "../directory/client.ts";
import { HeartbeatLoop } from "./heartbeat.ts";
import { Maintenance } from "./maintenance.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { HttpPeers } from "./peers.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";

export interface StoreConfig {
  /** Folder of the volumes. */
  data: string;
  host: string;
  port: number;
  opsHost: string;
  opsPort: number;
  /** `host:port` under which gateways reach this store, where it is not the one it listens on. */
  advertise?: string | undefined;
  /** `host:port` of the directory, or of several with commas between. */
  directory: string;
  tokenFile: string;
  volumeBytes: number;
  reserveBytes: number;
  /** Bytes a second at which volumes are verified in the background, 0 for no limit. */
  scrubRateBytes: number;
  scrubIntervalMs: number;
  trashMs: number;
  /** A replica that does not answer an append within this time is lost. */
  replicaTimeoutMs: number;
  /** Where it stands: copies of a volume are spread over these. The machine's own name where it is not said. */
  machine?: string | undefined;
  rack: string;
  dataCentre: string;
  checkpointNeedles?: number | undefined;
  /** Who may make native calls: everybody if nobody but this machine can call, else who shows the token. */
  native?: NativeAccess | undefined;
  logLevel: LogLevel;
}

export async function runStore(config: StoreConfig): Promise<void> {
  const log = makeLog("store", config.logLevel);
  await runRole(log, async (): Promise<RunningRole> => {
    const secret = ClusterSecret.read(config.tokenFile, {
      onProblem: (failure) => log.error(failure.message),
    });
    const caller = new Caller(secret);
    let heartbeats: HeartbeatLoop | undefined;
    const store = await Store.open({
      files: diskFiles,
      clock: systemClock,
      random: systemRandom,
      log,
      folder: path.resolve(config.data),
      volumeBytes: config.volumeBytes,
      reserveBytes: config.reserveBytes,
      trashMs: config.trashMs,
      peers: new HttpPeers(caller),
      replicaTimeoutMs: config.replicaTimeoutMs,
      onVolumeClosed: () => heartbeats?.hurry(),
      checkpointNeedles: config.checkpointNeedles,
    });
    const maintenance = new Maintenance({
      store,
      clock: systemClock,
      log,
      scrubIntervalMs: config.scrubIntervalMs,
      scrubRateBytes: config.scrubRateBytes,
    });
    const registry = makeRegistry("store");
    const readiness = () =>
      heartbeats?.isAnswered === true ? undefined : "the directory does not answer";
    const server = makeStoreServer({
      store,
      secret,
      log,
      metrics: makeStoreMetrics(store, registry),
      onVolumeClosed: () => heartbeats?.hurry(),
      native: config.native ?? defaultNativeAccess(config.host),
      readiness,
    });
    const address = formatAddress(await listen(server, config));
    const peers = config.directory.split(",").map((each) => each.trim());
    const advertised = advertisedAddress(address, { advertise: config.advertise, peers });
    heartbeats = new HeartbeatLoop({
      store,
      directory: new DirectoryClient(caller, config.directory),
      run: systemRandom.bytes(8).toString("hex"),
      address: advertised,
      place: {
        machine: config.machine ?? hostname(),
        rack: config.rack,
        dataCentre: config.dataCentre,
      },
      log,
    });
    heartbeats.start();
    maintenance.start();
    const ops = await startOpsServer(
      { host: config.opsHost, port: config.opsPort },
      { registry, readiness },
    );
    return {
      ready: { address, opsAddress: formatAddress(ops.address) },
      async close(graceMs) {
        await closeServer(server, graceMs);
        // A heartbeat that waits for a directory that is away is cut short.
        const stopped = heartbeats?.stop();
        await caller.close();
        await stopped;
        const idle = maintenance.stop();
        await store.close();
        await idle;
        await closeServer(ops.server, 100);
      },
    };
  });
}

/** The gateway's process: opens the catalog, starts the image process, serves, stops. */

import { systemClock } from "../base/clock.ts";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { type LogLevel, makeLog } from "../base/log.ts";
import { makeRegistry, startOpsServer } from "../base/metrics.ts";
import { defaultNativeAccess, type NativeAccess } from "../base/native-access.ts";
import { systemRandom } from "../base/random.ts";
import { type RunningRole, runRole } from "../base/role.ts";
import { BlobCache } from "../cache/lru.ts";
import type { Catalog } from "../catalog/catalog.ts";
import { DirectoryClient, VolumeDirectory } from "../directory/client.ts";
import { StoreClient } from "../store/client.ts";
import { Blobs } from "./blobs.ts";
import { bucketPlacement } from "./bucket-placement.ts";
import { Buckets } from "./buckets.ts";
import { readCredentials } from "./client.ts";
import { Explainer } from "./explain.ts";
import { Forms } from "./forms.ts";
import { Images } from "./images/images.ts";
import { makeGatewayMetrics } from "./metrics.ts";
import { Objects } from "./objects.ts";
import { openCatalog } from "./open-catalog.ts";
import { Outbox } from "./outbox.ts";
import { Pictures } from "./pictures.ts";
import { makeGatewayServer } from "./server.ts";
import { Submitter } from "./submit.ts";
import { Uploader } from "./upload.ts";

export interface GatewayConfig {
  /** Its own folder; the catalog's too, unless `catalog` says that it is elsewhere. */
  data: string;
  /** `postgres://…` of a catalog that several gateways share. */
  catalog?: string | undefined;
  host: string;
  port: number;
  opsHost: string;
  opsPort: number;
  /** `host:port` of the directory, or of several with commas between. */
  directory: string;
  /** `host:port` under which the directory sends clients here, where it is not the one it listens on. */
  advertise?: string | undefined;
  /** Who may submit as SeaweedFS's clients do: everybody if nobody but this machine can call. */
  native?: NativeAccess | undefined;
  /** JSON with accessKey and secretKey of the root user. */
  credentials: string;
  tokenFile: string;
  cacheBytes: number;
  deleteDelayMs: number;
  logLevel: LogLevel;
}

/** A value may take this part of the cache: one large picture must not push out all others. */
const valueShare = 1 / 16;

export async function runGateway(config: GatewayConfig): Promise<void> {
  const log = makeLog("gateway", config.logLevel);
  await runRole(log, async (): Promise<RunningRole> => {
    const registry = makeRegistry("gateway");
    const root = readCredentials(config.credentials);
    const secret = ClusterSecret.read(config.tokenFile, {
      onProblem: (failure) => log.error(failure.message),
    });
    const caller = new Caller(secret);
    const stores = new StoreClient(caller);
    const opened = await openCatalog({
      folder: config.data,
      url: config.catalog,
      deleteDelayMs: config.deleteDelayMs,
      log,
    });
    const { catalog } = opened;
    await catalog.putAccessKey(root.accessKey, root.secretKey);

    const directory = new DirectoryClient(caller, config.directory);
    const volumes = new VolumeDirectory({ source: directory, log });
    // Before the first put of each: a volume that is there already costs nobody a wait.
    for (const { settings } of await catalog.buckets()) volumes.want(bucketPlacement(settings));
    volumes.start();
    const blobs = new Blobs({
      directory: volumes,
      stores,
      random: systemRandom,
      owner: { catalog: catalog.id, session: catalog.session },
    });
    const images = await Images.start({ log, registry });
    const cache = new BlobCache<Buffer>({
      capacityBytes: config.cacheBytes,
      valueBytesMax: Math.max(config.cacheBytes * valueShare, 1),
      sizeOf: (value) => value.length,
    });
    const uploader = new Uploader({ catalog, blobs, images, log });
    const pictures = new Pictures({ blobs, images, cache });
    const parts = { catalog, blobs, uploader, clock: systemClock, random: systemRandom };
    const server = makeGatewayServer({
      catalog,
      buckets: new Buckets(catalog),
      objects: new Objects({ ...parts, cache, pictures }),
      explainer: new Explainer({ catalog, directory, stores, cache, pictures }),
      forms: new Forms(parts),
      submitter: new Submitter({
        ...{ catalog, directory, caller, secret, log },
        access: config.native ?? defaultNativeAccess(config.host),
      }),
      directory,
      metrics: makeGatewayMetrics(registry, cache, blobs.counts),
      log,
    });
    const outbox = new Outbox({ catalog, blobs, log, onDeleted: (fid) => cache.delete(fid) });
    outbox.start();
    const address = await listen(server, config);
    const publicAddress = publicAddressOf(formatAddress(address), config.advertise);
    if (publicAddress !== undefined) volumes.announce(publicAddress);
    const ops = await startOpsServer(
      { host: config.opsHost, port: config.opsPort },
      { registry, readiness: () => unreadiness(catalog, volumes, images) },
    );
    return {
      ready: { address: formatAddress(address), opsAddress: formatAddress(ops.address) },
      async close(graceMs) {
        await closeServer(server, graceMs);
        await outbox.stop();
        await images.close();
        await volumes.close();
        await opened.close();
        await caller.close();
        stores.close();
        await closeServer(ops.server, 100);
      },
    };
  });
}

/** Where the directory may send clients; nowhere if it is not said and can't be told. */
function publicAddressOf(listening: string, advertise: string | undefined): string | undefined {
  if (advertise !== undefined) return advertise;
  return /^(0\.0\.0\.0|\[::\]):/.test(listening) ? undefined : listening;
}

function unreadiness(
  catalog: Catalog,
  volumes: VolumeDirectory,
  images: Images,
): string | undefined {
  const reason = catalog.unreadiness();
  if (reason !== undefined) return reason;
  if (!volumes.isReady) return "the directory has not answered yet";
  if (!images.isReady) return "the image process is not ready";
  return volumes.isWritable("original") || volumes.isFull("original")
    ? undefined
    : "no store takes blobs";
}

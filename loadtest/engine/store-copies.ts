/** For tests of the gateway: real stores that hold the same volume, and a map that says so. */

import { once } from "node:events";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { sha256 } from "../../base/checksum.ts";
import { systemClock } from "../../base/clock.ts";
import { ClusterSecret } from "../../base/cluster-secret.ts";
import { diskFiles } from "../../base/files.ts";
import { Caller } from "../../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../../base/http-serve.ts";
import { makeRegistry } from "../../base/metrics.ts";
import { seededRandom } from "../../base/random.ts";
import { type MapVolume, placementText, VolumeDirectory } from "../../directory/client.ts";
import type { VolumeMap } from "../../directory/protocol.ts";
import { type BlobMetadata, type BlobOwner, StoreClient } from "../../store/client.ts";
import { makeStoreMetrics } from "../../store/metrics.ts";
import { makeStoreServer } from "../../store/server.ts";
import { Store } from "../../store/store.ts";

const secret = ClusterSecret.of("ab".repeat(32));
const log = pino({ level: "silent" });
const random = seededRandom(11);

export const placement: string = placementText({ copies: 2, spread: "machine", min: 2 });

/** What is to be closed after a test, the last one first. */
const cleanups: (() => Promise<void> | void)[] = [];

export async function closeAll(): Promise<void> {
  for (const close of cleanups.splice(0).reverse()) await close();
}

export function makeClient(): StoreClient {
  const caller = new Caller(secret);
  const client = new StoreClient(caller);
  cleanups.push(async () => {
    client.close();
    await caller.close();
  });
  return client;
}

export function makeFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-copies-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export interface ServedStore {
  store: Store;
  folder: string;
  address: string;
  /** Ends it, if it was not ended: its address refuses connections then. */
  stop: () => Promise<void>;
}

export async function serveStore(folder: string, port = 0): Promise<ServedStore> {
  const store = await Store.open({
    files: diskFiles,
    clock: systemClock,
    random,
    log,
    folder,
    volumeBytes: 1_073_741_824,
    reserveBytes: 0,
    trashMs: 0,
  });
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  const server: Server = makeStoreServer({
    store,
    secret,
    log,
    metrics,
    onVolumeClosed: () => undefined,
  });
  const address = formatAddress(await listen(server, { host: "127.0.0.1", port }));
  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= closeServer(server, 0).then(() => store.close());
    return stopping;
  };
  cleanups.push(stop);
  return { store, folder, address, stop };
}

export async function createVolume({ store, address }: ServedStore, volume: number): Promise<void> {
  await store.carryOut({
    order: volume,
    kind: "create",
    volume,
    uuid: random.bytes(16).toString("hex"),
    class: "original",
    generation: 0,
    recordMagic: random.bytes(8).toString("hex"),
    epoch: 1,
    members: [{ store: store.id, address }],
    createdMs: 1_790_000_000_000,
    ttlSeconds: 0,
  });
}

export const owner: BlobOwner = { catalog: "c".repeat(16), session: 7 };

export function metadataOf(data: Uint8Array, chunk = 0): BlobMetadata {
  const digest = sha256().update(data).digest("hex");
  const name = { bucket: "photos", key: "hay", version: "v1", chunk };
  return { ...name, type: "image/jpeg", sha256: digest };
}

/** A folder with a sealed volume of these blobs, and their fids. */
export async function makeSealedVolume(
  volume: number,
  blobs: readonly Buffer[],
): Promise<{ folder: string; fids: string[] }> {
  const client = makeClient();
  const served = await serveStore(makeFolder());
  await createVolume(served, volume);
  const fids: string[] = [];
  for (const data of blobs) {
    const to = { address: served.address, volume, owner, durability: "disk" as const };
    fids.push(await client.append({ ...to, data, metadata: metadataOf(data), requestId: "setup" }));
  }
  await served.store.carryOut({ order: 2, kind: "seal", volume });
  await served.stop();
  return { folder: served.folder, fids };
}

/** The same files once more, for another store. */
export function copyFolder(folder: string): string {
  const copy = makeFolder();
  const isShared = (file: string) => path.basename(file) !== "store-id";
  cpSync(folder, copy, { recursive: true, filter: isShared });
  return copy;
}

/** Accepts connections and then does what it is told with them: nothing, if that is not said. */
export async function serveSilence(
  onRequest: (socket: Socket) => void = () => undefined,
): Promise<{ address: string; requests: () => number; asked: (count: number) => Promise<void> }> {
  let count = 0;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", () => {
      count += 1;
      server.emit("asked");
      onRequest(socket);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: () => count,
    async asked(wanted) {
      while (count < wanted) await once(server, "asked");
    },
  };
}

/** An address where nobody listens. */
export async function deadAddress(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return `127.0.0.1:${port}`;
}

/** The directory's map, as a test wants it. */
export class TestMap {
  readonly directory: VolumeDirectory;
  /** How often it was asked for at once. */
  refreshes = 0;
  /** Told before the map is given, when it is asked for at once. */
  onRefresh: () => void = () => undefined;
  #map: VolumeMap = { version: "0", volumes: [], unmet: [] };
  #changed = Promise.withResolvers<void>();

  constructor(entries: readonly Partial<MapVolume>[]) {
    this.#map = mapOf("0", entries);
    const source = {
      map: async (after: string, waitMs: number, signal: AbortSignal): Promise<VolumeMap> => {
        if (waitMs === 0) {
          this.refreshes += 1;
          this.onRefresh();
        }
        while (this.#map.version === after && waitMs > 0) {
          const aborted = once(signal, "abort").then(() => {
            throw new Error("hung up");
          });
          if (signal.aborted) throw new Error("hung up");
          await Promise.race([this.#changed.promise, aborted]);
        }
        return this.#map;
      },
    };
    this.directory = new VolumeDirectory({ source, log });
    this.directory.start();
    cleanups.push(() => this.directory.close());
  }

  static async open(entries: readonly Partial<MapVolume>[]): Promise<TestMap> {
    const map = new TestMap(entries);
    if (!map.directory.isReady) await map.directory.change(5_000);
    return map;
  }

  give(entries: readonly Partial<MapVolume>[]): void {
    this.#map = mapOf(String(Number(this.#map.version) + 1), entries);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

function mapOf(version: string, entries: readonly Partial<MapVolume>[]): VolumeMap {
  const volumes = entries.map((entry): MapVolume => {
    const { addresses = [] } = entry;
    const rest = { isWritable: false, isFull: false, freeBytes: 1_000_000 };
    const place = { addresses, memberAddresses: addresses, placement };
    return { volume: 3, class: "original", ...rest, ...place, ...entry };
  });
  return { version, volumes, unmet: [] };
}

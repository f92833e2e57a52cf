/**
 * SeaweedFS's calls of a master, for clients that speak to one. They see volumes of class `native` alone,
 * never a tenant's.
 *
 *   /dir/assign      fids that nobody has; the PUTs go to the store at `url`
 *   /dir/lookup      which store has a volume
 *   /dir/status      stores and volumes as a topology of one data center and one rack
 *   /vol/status      the same, with what is known of each volume
 *   /vol/vacuum      orders compaction of what is over a threshold, and answers before it is done
 *   /cluster/status  who leads: this process
 *   /{fid}           308 to the store that has the volume, with path and query as they came
 *
 * Parameters stand in the query or in a form (application/x-www-form-urlencoded), for GET, POST and PUT
 * alike. A bad parameter is 406, as with SeaweedFS. What fids of one `count` have in common is told in
 * base/reserved-cookie.ts.
 */

import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { Failure, type FailureKind, toFailure } from "../base/failure.ts";
import { answerJson, readBody, requestIdHeader, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import { tokenHeader } from "../base/token.ts";
import { parseTtl, splitTtl, ttlUnitNumber } from "../base/ttl.ts";
import type { Directory } from "./directory.ts";
import type { Operations } from "./operations.ts";
import type { StoreStatus, VolumeStatus } from "./protocol.ts";
import { ttlBucketSeconds } from "./ttl-bucket.ts";

export interface NativeCallsOptions {
  directory: Directory;
  operations: Operations;
  access: NativeAccess;
  isOurs: (token: string | string[] | undefined) => boolean;
  log: Log;
  /** Bytes a second of a compaction that was asked for; 0 if as fast as can be. */
  rateBytes: number;
}

interface NativeAnswer {
  status: number;
  body: unknown;
  headers?: OutgoingHttpHeaders;
}

interface Parameters {
  get(name: string): string;
}

interface NativeCall {
  parameters: Parameters;
  request: IncomingMessage;
  url: URL;
  signal: AbortSignal;
}

const version = "Hayloft";
const formBytesMax = 65_536;
const assignCountMax = 10_000;
const garbageThresholdDefault = 0.3;

/** Where every store is: there are no racks yet, and clients expect one. */
const place = { dataCenter: "DefaultDataCenter", rack: "DefaultRack", disk: "hdd" } as const;

/** What one volume is taken for where SeaweedFS counts space in volumes. */
const volumeBytes = 32 * 2 ** 30;

/** A fid in one of SeaweedFS's forms: `3,01637037d6`, `3/01637037d6`, with `_1`, `.jpg` or `/name.jpg`. */
export const fidPath: RegExp =
  /^\/([0-9]{1,10})[,/][0-9a-fA-F]{9,24}(?:_[0-9]+)?(?:\.[^/]*|\/[^/]*)?$/;

/** Statuses that SeaweedFS has for what here are kinds of failure. */
const statusByKind: Partial<Record<FailureKind, number>> = {
  "bad-request": 406,
  full: 406,
  timeout: 406,
};

export class NativeCalls {
  readonly #options: NativeCallsOptions;
  readonly #calls: Record<string, (call: NativeCall) => Promise<NativeAnswer>>;

  constructor(options: NativeCallsOptions) {
    this.#options = options;
    this.#calls = {
      "/dir/assign": (call) => this.#assign(call),
      "/dir/lookup": (call) => this.#lookup(call),
      "/dir/status": async () => ({ status: 200, body: this.#topology() }),
      "/vol/status": async () => ({ status: 200, body: this.#volumes() }),
      "/vol/vacuum": (call) => this.#vacuum(call),
      "/cluster/status": async ({ request }) => ({ status: 200, body: this.#cluster(request) }),
    };
  }

  /** Whether the path is of one of these calls. */
  has(path: string): boolean {
    return Object.hasOwn(this.#calls, path) || fidPath.test(path);
  }

  /** Answers a call that `has` has said yes to; fails nowhere. */
  async answer(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    try {
      this.#admit(request);
      const call = this.#calls[url.pathname];
      const answer =
        call === undefined
          ? await this.#redirect(url)
          : await call({
              parameters: await readParameters(request, url),
              ...{ request, url, signal: gone.signal },
            });
      send(response, answer);
    } catch (error) {
      this.#answerFailure(request, response, error);
    }
  }

  #admit(request: IncomingMessage): void {
    const { access, isOurs } = this.#options;
    if (access === "off")
      throw new Failure("not-found", "Cannot find this call: it is switched off");
    if (access === "token" && !isOurs(request.headers[tokenHeader])) {
      throw new Failure("forbidden", "Cannot answer: the call does not carry the cluster's token");
    }
  }

  async #assign({ parameters, signal }: NativeCall): Promise<NativeAnswer> {
    const count = wholeNumber(parameters, "count", { min: 1, max: assignCountMax, otherwise: 1 });
    const dataBytes = wholeNumber(parameters, "dataSize", {
      min: 0,
      max: Number.MAX_SAFE_INTEGER,
      otherwise: 0,
    });
    const ttlSeconds = parseTtl(parameters.get("ttl"));
    if (ttlSeconds === undefined) {
      const text = parameters.get("ttl");
      throw new Failure(
        "bad-request",
        `Cannot read ttl "${text}": it is a number and m, h, d, w, M or y`,
      );
    }
    requireOneCopy(parameters.get("replication"));
    const dataCenter = parameters.get("dataCenter");
    if (dataCenter !== "" && dataCenter !== place.dataCenter) {
      const error = `Cannot assign a fid: no data center is called ${dataCenter}`;
      return { status: 400, body: { error } };
    }
    requirePlace("rack", parameters.get("rack"), place.rack);
    requirePlace("disk", parameters.get("disk"), place.disk);
    const address = parameters.get("dataNode") || undefined;
    const bucket = ttlBucketSeconds(ttlSeconds);
    const assignment = await this.#options.directory.assign(
      { count, dataBytes, ttlSeconds: bucket, address },
      signal,
    );
    const { fid, address: url } = assignment;
    return { status: 200, body: { fid, url, publicUrl: url, count } };
  }

  async #lookup({ parameters }: NativeCall): Promise<NativeAnswer> {
    const asked = parameters.get("volumeId") || parameters.get("fileId");
    const volumeId = asked.split(/[,/]/, 1)[0] ?? "";
    const names = { volumeOrFileId: asked, volumeId };
    const addresses = await this.#addressesOf(volumeId);
    if (addresses.length === 0) {
      return { status: 404, body: { ...names, error: `volume id ${volumeId} not found` } };
    }
    const locations = addresses.map((url) => ({ url, publicUrl: url }));
    return { status: 200, body: { ...names, locations } };
  }

  async #redirect(url: URL): Promise<NativeAnswer> {
    const volumeId = fidPath.exec(url.pathname)?.[1] ?? "";
    const [address] = await this.#addressesOf(volumeId);
    if (address === undefined) {
      throw new Failure("not-found", `Cannot find volume id ${volumeId}`);
    }
    const location = `http://${address}${url.pathname}${url.search}`;
    return { status: 308, body: { location }, headers: { location } };
  }

  /** Fails with `unavailable` while it is too early to say that no store has the volume. */
  async #addressesOf(volumeId: string): Promise<string[]> {
    const volume = /^[0-9]{1,10}$/.test(volumeId) ? Number(volumeId) : 0;
    const addresses = this.#stores()
      .filter(({ volumes }) => volumes.some((status) => status.volume === volume))
      .map(({ address }) => address);
    if (addresses.length === 0 && (await this.#options.directory.isWarmingUp())) {
      throw new Failure("unavailable", "Cannot tell yet: not every store has called", {
        retryAfterSeconds: 1,
      });
    }
    return addresses;
  }

  async #vacuum({ parameters }: NativeCall): Promise<NativeAnswer> {
    const text = parameters.get("garbageThreshold");
    const garbageRatioMin = text === "" ? garbageThresholdDefault : Number(text);
    if (!(garbageRatioMin >= 0 && garbageRatioMin <= 1)) {
      throw new Failure("bad-request", `Cannot read garbageThreshold "${text}": it is from 0 to 1`);
    }
    const { operations, rateBytes } = this.#options;
    await operations.compactAll(
      { garbageRatioMin, rateBytes, purge: false, dryRun: false },
      { only: (status) => status.class === "native" },
    );
    return { status: 200, body: this.#topology() };
  }

  #cluster(request: IncomingMessage): unknown {
    const { localAddress = "", localPort = 0 } = request.socket;
    const host = localAddress.includes(":") ? `[${localAddress}]` : localAddress;
    const ids = this.#stores().flatMap(({ volumes }) => volumes.map(({ volume }) => volume));
    const most = ids.length === 0 ? {} : { MaxVolumeId: Math.max(...ids) };
    return { IsLeader: true, Leader: `${host}:${localPort}`, ...most };
  }

  #topology(): unknown {
    const stores = this.#stores();
    const open = stores.flatMap(({ volumes }) => volumes.filter(({ isWritable }) => isWritable));
    const layouts = Map.groupBy(open, ({ ttlSeconds }) => ttlSeconds);
    const nodes = stores.map((store) => ({
      Url: store.address,
      PublicUrl: store.address,
      Volumes: store.volumes.length,
      EcShards: 0,
      Max: slotsOf(store).max,
      VolumeIds: store.volumes.map(({ volume }) => volume).join(" "),
    }));
    return {
      Topology: {
        ...capacityOf(stores),
        DataCenters: [{ Id: place.dataCenter, Racks: [{ Id: place.rack, DataNodes: nodes }] }],
        Layouts: [...layouts].map(([ttlSeconds, volumes]) => ({
          replication: "000",
          ttl: formatTtl(ttlSeconds),
          writables: volumes.map(({ volume }) => volume),
          collection: "",
          diskType: place.disk,
        })),
      },
      Version: version,
    };
  }

  #volumes(): unknown {
    const stores = this.#stores();
    const nodes = Object.fromEntries(
      stores.map(({ address, volumes }) => [address, volumes.map(volumeInfo)]),
    );
    const dataCenters = { [place.dataCenter]: { [place.rack]: nodes } };
    return {
      Version: version,
      Volumes: { ...capacityOf(stores), DataCenters: dataCenters },
    };
  }

  /** Stores that are not given up, with their native volumes. */
  #stores(): StoreStatus[] {
    return this.#options.directory
      .servedStores()
      .filter(({ state }) => state !== "lost")
      .map((store) => ({
        ...store,
        volumes: store.volumes
          .filter((status) => status.class === "native")
          .sort((left, right) => left.volume - right.volume),
      }));
  }

  #answerFailure(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    const failure = toFailure(error);
    const requestId = requestIdOf(request);
    const status = statusByKind[failure.kind] ?? failure.status;
    if (status >= 500 && failure.kind !== "unavailable" && failure.kind !== "busy") {
      const { kind, message, cause } = failure;
      this.#options.log.error({ requestId, err: cause ?? failure, kind }, message);
    }
    const headers: OutgoingHttpHeaders = { [requestIdHeader]: requestId };
    if (failure.retryAfterSeconds !== undefined) {
      headers["retry-after"] = String(failure.retryAfterSeconds);
    }
    send(response, { status, body: { error: failure.message }, headers });
  }
}

function send(response: ServerResponse, { status, body, headers = {} }: NativeAnswer): void {
  if (response.headersSent || response.destroyed) return;
  // Bytes of a body that nobody reads would be taken for the next request.
  const connection = response.req.complete ? {} : { connection: "close" };
  answerJson(response, status, body, {
    ...headers,
    ...connection,
    "x-content-type-options": "nosniff",
  });
}

async function readParameters(request: IncomingMessage, url: URL): Promise<Parameters> {
  const { method = "" } = request;
  if (!["GET", "HEAD", "POST", "PUT"].includes(method)) {
    throw new Failure("method-not-allowed", `Cannot ${method} here: it takes GET, POST and PUT`);
  }
  const body = await readBody(request, { limitBytes: formBytesMax });
  const type = request.headers["content-type"] ?? "";
  const isForm =
    type.split(";", 1)[0]?.trim().toLowerCase() === "application/x-www-form-urlencoded";
  const form = new URLSearchParams(isForm ? body.toString() : "");
  return { get: (name) => form.get(name) ?? url.searchParams.get(name) ?? "" };
}

function wholeNumber(
  parameters: Parameters,
  name: string,
  { min, max, otherwise }: { min: number; max: number; otherwise: number },
): number {
  const text = parameters.get(name);
  if (text === "") return otherwise;
  const value = Number(text);
  if (!/^[0-9]{1,16}$/.test(text) || value < min || value > max) {
    throw new Failure("bad-request", `Cannot read ${name} "${text}": it is from ${min} to ${max}`);
  }
  return value;
}

function requireOneCopy(replication: string): void {
  if (replication === "" || replication === "000") return;
  const why = /^[0-9]{3}$/.test(replication)
    ? "this version keeps one copy, which is 000"
    : "it is three digits";
  throw new Failure("bad-request", `Cannot use replication "${replication}": ${why}`);
}

function requirePlace(name: string, given: string, known: string): void {
  if (given === "" || given === known) return;
  throw new Failure("bad-request", `Cannot assign a fid: no ${name} is called ${given}`);
}

/** SeaweedFS counts space in volumes. */
function slotsOf({ volumes, freeBytes }: StoreStatus): { max: number; free: number } {
  const free = Math.floor(freeBytes / volumeBytes);
  return { max: volumes.length + free, free };
}

function capacityOf(stores: StoreStatus[]): { Max: number; Free: number } {
  const slots = stores.map(slotsOf);
  return {
    Max: slots.reduce((sum, { max }) => sum + max, 0),
    Free: slots.reduce((sum, { free }) => sum + free, 0),
  };
}

function formatTtl(ttlSeconds: number): string {
  const ttl = splitTtl(ttlSeconds);
  return ttl === undefined ? "" : `${ttl.count}${ttl.unit}`;
}

function volumeInfo(status: VolumeStatus): unknown {
  const ttl = splitTtl(status.ttlSeconds);
  return {
    Id: status.volume,
    Collection: "",
    DiskType: place.disk,
    ReplicaPlacement: {},
    Ttl:
      ttl === undefined
        ? { Count: 0, Unit: 0 }
        : { Count: ttl.count, Unit: ttlUnitNumber(ttl.unit) },
    Size: status.lengthBytes,
    DeletedByteCount: status.deadBytes,
    CompactRevision: status.generation,
    FileCount: status.needleCount,
    DeleteCount: status.deletedCount,
    Version: 3,
    ReadOnly: !status.isWritable,
  };
}

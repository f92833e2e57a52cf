/**
 * SeaweedFS's calls of a master, for clients that speak to one. They see volumes of class `native` alone,
 * never a tenant's.
 *
 *   /dir/assign      fids that nobody has; the PUTs go to the store at `url`
 *   /dir/lookup      which stores have a volume, the primary first
 *   /dir/status      stores and volumes as a topology of data centers and racks
 *   /vol/status      the same, with what is known of each volume
 *   /vol/grow        makes volumes ahead of demand
 *   /vol/vacuum      orders compaction of what is over a threshold, and answers before it is done
 *   /col/delete      400: there are no collections, so nothing is deleted
 *   /submit          307 to a gateway, which stores the file and answers
 *   /cluster/status  who leads: this process
 *   /{fid}           308 to the store that has the volume, with path and query as they came
 *
 * Parameters stand in the query or in a form (application/x-www-form-urlencoded), for GET, POST and PUT
 * alike. A bad parameter is 406, as with SeaweedFS. What fids of one `count` have in common is told in
 * base/reserved-cookie.ts.
 */

import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { CallVerifier } from "../base/call-verifier.ts";
import type { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, type FailureKind, toFailure } from "../base/failure.ts";
import {
  answerJson,
  drainBody,
  readBody,
  requestIdHeader,
  requestIdOf,
} from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import { systemRandom } from "../base/random.ts";
import { parseTtl } from "../base/ttl.ts";
import type { Directory } from "./directory.ts";
import type { Gateways } from "./gateways.ts";
import { dataCenterOf, diskType, rackOf, topologyOf, volumesOf } from "./native-topology.ts";
import type { Operations } from "./operations.ts";
import type { StoreStatus } from "./protocol.ts";
import { ttlBucketSeconds } from "./ttl-bucket.ts";

export interface NativeCallsOptions {
  directory: Directory;
  operations: Operations;
  access: NativeAccess;
  secret: ClusterSecret;
  verifier: CallVerifier;
  log: Log;
  /** Bytes a second of a compaction that was asked for; 0 if as fast as can be. */
  rateBytes: number;
  /** Where /submit leads. */
  gateways?: Gateways;
  /** `host:port` under which others reach this directory, where it is not the one they did. */
  address?: string;
}

/** Where native volumes are to be. */
interface NativePlace {
  ttlSeconds: number;
  /** Of the only store. */
  address: string | undefined;
  /** Ids of stores, where it matters. */
  within?: ReadonlySet<string>;
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

const formBytesMax = 65_536;
const assignCountMax = 10_000;
const growCountMax = 100;
const garbageThresholdDefault = 0.3;

/** A fid in one of SeaweedFS's forms: `3,01637037d6`, `3/01637037d6`, with `_1`, `.jpg` or `/name.jpg`. */
export const fidPath: RegExp =
  /^\/([0-9]{1,10})[,/][0-9a-fA-F]{9,24}(?:_[0-9]+)?(?:\.[^/]*|\/[^/]*)?$/;

export const submitPath = "/submit";

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
      "/dir/status": async () => ({ status: 200, body: topologyOf(this.#stores()) }),
      "/vol/status": async () => ({ status: 200, body: volumesOf(this.#stores()) }),
      "/vol/grow": (call) => this.#grow(call),
      "/col/delete": (call) => this.#deleteCollection(call),
      "/vol/vacuum": (call) => this.#vacuum(call),
      "/cluster/status": async ({ request }) => ({ status: 200, body: this.#cluster(request) }),
    };
  }

  /** Whether the path is of one of these calls. */
  has(path: string): boolean {
    return path === submitPath || Object.hasOwn(this.#calls, path) || fidPath.test(path);
  }

  /** Answers a call that `has` has said yes to; fails nowhere. */
  async answer(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    try {
      await admitNative(request, response, this.#options);
      if (url.pathname === submitPath) {
        await redirectToGateway(request, response, { gateways: this.#options.gateways, url });
        return;
      }
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

  async #assign({ parameters, signal }: NativeCall): Promise<NativeAnswer> {
    const count = wholeNumber(parameters, "count", { min: 1, max: assignCountMax, otherwise: 1 });
    const dataBytes = wholeNumber(parameters, "dataSize", {
      min: 0,
      max: Number.MAX_SAFE_INTEGER,
      otherwise: 0,
    });
    const place = this.#readPlace(parameters);
    if ("status" in place) return place;
    const assignment = await this.#options.directory.assign({ count, dataBytes, ...place }, signal);
    const { fid, address: url } = assignment;
    return { status: 200, body: { fid, url, publicUrl: url, count } };
  }

  async #grow({ parameters }: NativeCall): Promise<NativeAnswer> {
    if (parameters.get("count") === "") {
      throw new Failure("bad-request", "Cannot grow: count says how many volumes");
    }
    const count = wholeNumber(parameters, "count", { min: 1, max: growCountMax, otherwise: 1 });
    const place = this.#readPlace(parameters);
    if ("status" in place) return place;
    await this.#options.directory.growNative(count, place);
    return { status: 200, body: { count } };
  }

  /** A collection that is named with assign means nothing here: to say that its blobs are gone would be a lie. */
  async #deleteCollection({ parameters }: NativeCall): Promise<NativeAnswer> {
    const name = parameters.get("collection");
    const error = `Cannot delete collection "${name}": there are no collections here, blobs are deleted by fid or by TTL`;
    return { status: 400, body: { error } };
  }

  /** TTL, and where volumes are to be; or the answer that says what is wrong with it. */
  #readPlace(parameters: Parameters): NativePlace | NativeAnswer {
    const text = parameters.get("ttl");
    const ttlSeconds = parseTtl(text);
    if (ttlSeconds === undefined) {
      throw new Failure(
        "bad-request",
        `Cannot read ttl "${text}": it is a number and m, h, d, w, M or y`,
      );
    }
    requireOneCopy(parameters.get("replication"));
    const dataCenter = parameters.get("dataCenter");
    const inCenter = this.#stores().filter(
      (store) => dataCenter === "" || dataCenterOf(store) === dataCenter,
    );
    if (dataCenter !== "" && inCenter.length === 0) {
      const error = `Cannot assign a fid: no data center is called ${dataCenter}`;
      return { status: 400, body: { error } };
    }
    const rack = parameters.get("rack");
    const inRack = inCenter.filter((store) => rack === "" || rackOf(store) === rack);
    if (rack !== "" && inRack.length === 0) throw noSuch("rack", rack);
    const disk = parameters.get("disk");
    if (disk !== "" && disk !== diskType) throw noSuch("disk", disk);
    const isAnywhere = dataCenter === "" && rack === "";
    return {
      ttlSeconds: ttlBucketSeconds(ttlSeconds),
      address: parameters.get("dataNode") || undefined,
      ...(isAnywhere ? {} : { within: new Set(inRack.map(({ store }) => store)) }),
    };
  }

  async #lookup({ parameters }: NativeCall): Promise<NativeAnswer> {
    const asked = parameters.get("volumeId") || parameters.get("fileId");
    const volumeId = asked.split(/[,/]/, 1)[0] ?? "";
    const names = { volumeOrFileId: asked, volumeId };
    const stores = await this.#storesOf(volumeId);
    if (stores.length === 0) {
      return { status: 404, body: { ...names, error: `volume id ${volumeId} not found` } };
    }
    const locations = stores.map((store) => ({
      url: store.address,
      publicUrl: store.address,
      dataCenter: dataCenterOf(store),
    }));
    return { status: 200, body: { ...names, locations } };
  }

  async #redirect(url: URL): Promise<NativeAnswer> {
    const volumeId = fidPath.exec(url.pathname)?.[1] ?? "";
    const [store] = await this.#storesOf(volumeId);
    if (store === undefined) {
      throw new Failure("not-found", `Cannot find volume id ${volumeId}`);
    }
    const location = `http://${store.address}${url.pathname}${url.search}`;
    return { status: 308, body: { location }, headers: { location } };
  }

  /**
   * Those that answer for a volume first, and of these the primary. Fails with `unavailable` while it is too
   * early to say that no store has it.
   */
  async #storesOf(volumeId: string): Promise<StoreStatus[]> {
    const volume = /^[0-9]{1,10}$/.test(volumeId) ? Number(volumeId) : 0;
    const found = this.#stores().flatMap((store) => {
      const status = store.volumes.find((each) => each.volume === volume);
      if (status === undefined) return [];
      const isServing = store.state === "live" && status.isServing;
      return [{ store, rank: isServing ? (status.isWritable ? 0 : 1) : 2 }];
    });
    const stores = found.sort((left, right) => left.rank - right.rank).map(({ store }) => store);
    if (stores.length === 0 && (await this.#options.directory.isWarmingUp())) {
      throw new Failure("unavailable", "Cannot tell yet: not every store has called", {
        retryAfterSeconds: 1,
      });
    }
    return stores;
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
    return { status: 200, body: topologyOf(this.#stores()) };
  }

  #cluster(request: IncomingMessage): unknown {
    const { localAddress = "", localPort = 0 } = request.socket;
    const host = localAddress.includes(":") ? `[${localAddress}]` : localAddress;
    const { address = `${host}:${localPort}` } = this.#options;
    const ids = this.#stores().flatMap(({ volumes }) => volumes.map(({ volume }) => volume));
    const most = ids.length === 0 ? {} : { MaxVolumeId: Math.max(...ids) };
    return { IsLeader: true, Leader: address, ...most };
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
    ? "native volumes have one copy, which is 000; buckets can have more (hayloft bucket set … copies=2)"
    : "it is three digits";
  throw new Failure("bad-request", `Cannot use replication "${replication}": ${why}`);
}

function noSuch(what: "rack" | "disk", name: string): Failure {
  return new Failure("bad-request", `Cannot assign a fid: no ${what} is called ${name}`);
}

/** Sends a client that uploads a form to one of the gateways, which take bytes; a directory does not. */
export async function redirectToGateway(
  request: IncomingMessage,
  response: ServerResponse,
  { gateways, url }: { gateways: Gateways | undefined; url: URL },
): Promise<void> {
  if (request.method !== "POST") {
    throw new Failure("method-not-allowed", "Cannot submit: it takes POST");
  }
  const [address] = shuffled(gateways?.all() ?? []);
  if (address === undefined) {
    throw new Failure("unavailable", "Cannot submit: no gateway has called yet", {
      retryAfterSeconds: 1,
    });
  }
  // Clients that send a body before they read would see a broken connection instead of the answer.
  await drainBody(request);
  const location = `http://${address}${submitPath}${url.search}`;
  send(response, { status: 307, body: { location }, headers: { location } });
}

function shuffled(addresses: readonly string[]): string[] {
  return [...addresses].sort(() => systemRandom.fraction() - 0.5);
}

/** Who may make SeaweedFS's calls. */
export async function admitNative(
  request: IncomingMessage,
  response: ServerResponse,
  {
    access,
    secret,
    verifier,
  }: { access: NativeAccess; secret: ClusterSecret; verifier: CallVerifier },
): Promise<void> {
  if (access === "off") throw new Failure("not-found", "Cannot find this call: it is switched off");
  // A signature that does not hold is refused even where none is needed: whoever gave it meant it.
  if (verifier.isSigned(request)) await verifier.admit(request, response);
  else if (access === "token" && !secret.isNativeBearer(request.headers.authorization)) {
    throw new Failure(
      "forbidden",
      "Cannot answer: the call does not carry the token that `hayloft token` shows",
    );
  }
}

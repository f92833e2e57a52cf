/**
 * SeaweedFS's calls of a volume server, on volumes of class `native` alone: of a tenant's volume, as of one
 * that is not here, they know nothing.
 *
 *   PUT    /{fid}    store a blob at a fid that /dir/assign gave out (POST: a form, or the blob itself)
 *   GET    /{fid}    read it; HEAD, ranges, conditions, `dl`, `readDeleted`, `cm=false`, `response-*`
 *   DELETE /{fid}    delete it for ever
 *   GET    /status   the native volumes
 *   GET    /healthz  whether the process answers       /readyz  whether it is ready to be used
 *
 * native-path.ts has the forms of a fid in a URL. Blobs are written once: a PUT of the same bytes is answered
 * as the first one was, of others with 409. `width` and `height` mean nothing here: pictures are resized by
 * the gateway, whose pixels and processors are limited.
 */

import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { AnswerBatch } from "../../base/answer-batch.ts";
import { ByteBudget } from "../../base/byte-budget.ts";
import { Failure, toFailure } from "../../base/failure.ts";
import {
  answer,
  answerJson,
  readBody,
  requestIdHeader,
  requestIdOf,
} from "../../base/http-serve.ts";
import type { Log } from "../../base/log.ts";
import type { NativeAccess } from "../../base/native-access.ts";
import { reservedCookie } from "../../base/reserved-cookie.ts";
import type { StoreMetrics } from "../metrics.ts";
import type { Store } from "../store.ts";
import { encodeContent } from "../volume/codec.ts";
import {
  decodeNativeMetadata,
  encodeNativeMetadata,
  type NativeMetadata,
} from "../volume/native-metadata.ts";
import { codecs, dataBytesMax, metadataBytesMax } from "../volume/needle.ts";
import type { NeedleReader } from "../volume/needle-reader.ts";
import type { Volume } from "../volume/volume.ts";
import {
  type ChunkManifest,
  chunkPieces,
  type LocalChunk,
  manifestBytesMax,
  parseManifest,
} from "./chunk-manifest.ts";
import { anyType, blobHeaders, typeOfName } from "./native-headers.ts";
import { isNativePath, type NativePath, parseNativePath } from "./native-path.ts";
import { type ContentSource, planRead, type ReadPlan, sendPlan } from "./native-read.ts";
import { nativeStatus } from "./native-status.ts";
import { isForm, readUpload, type Upload } from "./native-upload.ts";

export interface NativeCallsOptions {
  store: Store;
  access: NativeAccess;
  /** Memory for bodies on their way in. */
  bodies: ByteBudget;
  log: Log;
  metrics: StoreMetrics;
  /** Called when a volume stopped taking appends for good. */
  onVolumeClosed: () => void;
  /** Why the store is not ready to be used, or undefined. */
  readiness: () => string | undefined;
}

interface Call {
  request: IncomingMessage;
  response: ServerResponse;
  method: string;
  path: NativePath;
  query: URLSearchParams;
}

/** Where a path leads, if it leads anywhere. */
interface Place {
  volume: Volume;
  ordinal: number;
  /** Of the first fid of its run: the one that the cookie was made for. */
  runOrdinal: number;
}

const methods = "GET, HEAD, PUT, POST, DELETE, OPTIONS";
const healthPaths = new Set(["/healthz", "/readyz"]);
const ordinalMax = 0xffff_ffff;

/** What a form may have besides the blob. */
const formOverheadBytes = 1_048_576;
/** Contents that were compressed and are in memory for their readers. */
const contentBytesMax = 256 * 1_048_576;
/** How long a body that nobody wants is still read, so that its sender gets to see the answer. */
const drainLimitMs = 5_000;

const assignAgain = "; assign another fid";

export class NativeCalls {
  readonly #options: NativeCallsOptions;
  readonly #answers = new AnswerBatch();
  readonly #contents = new ByteBudget(contentBytesMax);

  constructor(options: NativeCallsOptions) {
    this.#options = options;
  }

  /** Whether the request is one of these calls, and its sender may make it. */
  admits({ method, url = "/" }: IncomingMessage, { isTrusted }: { isTrusted: boolean }): boolean {
    const { access } = this.#options;
    const { pathname } = splitUrl(url);
    if (access === "off") return false;
    if (healthPaths.has(pathname)) return method === "GET" || method === "HEAD";
    if (access === "token" && !isTrusted) return false;
    const isStatus = pathname === "/status" && (method === "GET" || method === "HEAD");
    return isStatus || isNativePath(pathname) || method === "OPTIONS";
  }

  /** Answers a request that `admits` said yes to; fails nowhere. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      await this.#handle(request, response);
    } catch (error) {
      this.#answerFailure(request, response, error);
    }
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET" } = request;
    const { pathname, query } = splitUrl(request.url ?? "/");
    if (method === "OPTIONS") {
      answerOptions(request, response);
      return;
    }
    if (pathname === "/status") {
      answerJson(response, 200, nativeStatus(this.#options.store), plainHeaders);
      return;
    }
    if (healthPaths.has(pathname)) {
      this.#answerHealth(response, pathname);
      return;
    }
    allowOrigins(request, response);
    const path = parseNativePath(pathname);
    if (path === undefined) {
      throw new Failure("bad-request", `Cannot read ${pathname}: it names no blob`);
    }
    const call: Call = { request, response, method, path, query };
    if (method === "GET" || method === "HEAD") await this.#read(call);
    else if (method === "PUT" || method === "POST") await this.#write(call);
    else if (method === "DELETE") await this.#delete(call);
    else {
      response.setHeader("Allow", methods);
      throw new Failure("method-not-allowed", `Cannot ${method} a blob: it takes ${methods}`);
    }
  }

  /** Who asks whether the process lives gets a yes: a directory that is away is no reason to end it. */
  #answerHealth(response: ServerResponse, pathname: string): void {
    const reason = pathname === "/readyz" ? this.#options.readiness() : undefined;
    if (reason === undefined) answer(response, 200, "", plainHeaders);
    else answerJson(response, 503, { error: `Not ready: ${reason}` }, plainHeaders);
  }

  async #write(call: Call): Promise<void> {
    const startedMs = performance.now();
    const { request, response, method, query, path } = call;
    const { bodies, metrics, onVolumeClosed } = this.#options;
    const place = this.#find(path);
    // Before anything is read or allocated for it: fids can be made up at no cost.
    if (place === undefined || !(await isGivenOut(place, path.cookie))) throw notReserved(path);

    const { headers } = request;
    const isInForm = isForm(method, headers["content-type"]);
    const limitBytes = dataBytesMax + (isInForm ? formOverheadBytes : 0);
    const length = Number(headers["content-length"] ?? limitBytes);
    const held = [bodies.take(Math.min(length, limitBytes))];
    const hold = (giveBack: () => void) => held.push(giveBack);
    try {
      const body = await readBody(request, { limitBytes });
      const asked = { method, headers, query, lastSegment: path.lastSegment };
      const upload = await readUpload(asked, body, { bodies, hold });
      await put(place, path, upload);
      this.#answers.push(() => answerUpload(response, upload));
      metrics.appendSeconds.observe((performance.now() - startedMs) / 1_000);
    } catch (error) {
      if (place.volume.report().closedBecause !== undefined) onVolumeClosed();
      throw error;
    } finally {
      for (const giveBack of held) giveBack();
    }
  }

  async #read(call: Call): Promise<void> {
    const startedMs = performance.now();
    const { path, query } = call;
    const place = this.#find(path);
    const deletedToo = query.get("readDeleted") === "true";
    const needle = await place?.volume.find(place.ordinal, path.cookie, { deletedToo });
    if (needle === undefined) throw notFound(path);
    try {
      const metadata = decodeNativeMetadata(needle.metadata);
      if (metadata.manifest && query.get("cm") !== "false") {
        await this.#sendChunks(call, needle, metadata);
      } else {
        await this.#sendNeedle(call, needle, metadata);
      }
    } finally {
      needle.close();
    }
    this.#options.metrics.readSeconds.observe((performance.now() - startedMs) / 1_000);
  }

  async #sendNeedle(call: Call, needle: NeedleReader, metadata: NativeMetadata): Promise<void> {
    const { request, response, method, path, query } = call;
    const { head } = needle;
    const headers = blobHeaders(metadata, path, query);
    const isCoded = headers.some(([name]) => name.toLowerCase() === "content-encoding");
    const plan = planRead(
      { method, headers: request.headers },
      {
        contentLength: head.contentLength,
        zstdLength: head.codec === codecs.zstd && !isCoded ? head.dataLength : undefined,
        ...validatorsOf(needle, metadata),
        headers,
      },
    );
    if (answersBare(method, plan, response)) return;
    if (head.codec === codecs.none || plan.isStored) {
      await sendPlan(response, plan, needle, this.#answers);
      return;
    }
    const giveBack = this.#contents.take(head.contentLength);
    try {
      await sendPlan(response, plan, sourceOf(await needle.content()), this.#answers);
    } finally {
      giveBack();
    }
  }

  async #sendChunks(call: Call, needle: NeedleReader, metadata: NativeMetadata): Promise<void> {
    const { request, response, method, path, query } = call;
    const { manifest, chunks } = await this.#readManifest(needle);
    const named = { ...metadata, name: manifest.name ?? metadata.name, type: manifest.mime };
    const plan = planRead(
      { method, headers: request.headers },
      {
        contentLength: manifest.size,
        zstdLength: undefined,
        ...validatorsOf(needle, metadata),
        headers: blobHeaders(named, path, query),
      },
    );
    if (answersBare(method, plan, response)) return;
    const source: ContentSource = {
      whole: () => undefined,
      pieces: (start, end) => chunkPieces(chunks, { start, end }, this.#contents),
    };
    await sendPlan(response, plan, source, this.#answers);
  }

  async #readManifest(
    needle: NeedleReader,
  ): Promise<{ manifest: ChunkManifest; chunks: LocalChunk[] }> {
    const { contentLength } = needle.head;
    if (contentLength > manifestBytesMax) {
      throw new Failure("unsupported", `Cannot read the manifest: it has ${contentLength} bytes`);
    }
    const manifest = parseManifest(await needle.content());
    const chunks = manifest.chunks.map((chunk): LocalChunk => {
      const path = parseNativePath(`/${chunk.fid}`);
      const place = path && this.#find(path);
      if (path !== undefined && place !== undefined) {
        const { volume, ordinal } = place;
        return { ...chunk, volume, ordinal, cookie: path.cookie };
      }
      throw new Failure(
        "unsupported",
        `Cannot put the chunks together: ${chunk.fid} is not in this store; cm=false takes the manifest alone`,
      );
    });
    return { manifest, chunks };
  }

  async #delete({ response, path, query }: Call): Promise<void> {
    const place = this.#find(path);
    const needle = await place?.volume.find(place.ordinal, path.cookie);
    let size: number | undefined;
    try {
      const isManifest = needle && decodeNativeMetadata(needle.metadata).manifest === true;
      if (isManifest && query.get("cm") !== "false") {
        const { manifest, chunks } = await this.#readManifest(needle);
        // Chunks go before their manifest: cut short, the rest can still be found by it.
        for (const { volume, ordinal, cookie } of chunks) await volume.delete(ordinal, cookie);
        ({ size } = manifest);
      }
    } finally {
      needle?.close();
    }
    const deleted = await place?.volume.delete(place.ordinal, path.cookie);
    if (deleted === undefined) answerJson(response, 404, { size: 0 }, plainHeaders);
    else answerJson(response, 202, { size: size ?? deleted }, plainHeaders);
  }

  /** Where a path leads, which no blob need be at. */
  #find({ volume: id, key, runKey }: NativePath): Place | undefined {
    const volume = this.#options.store.volume(id);
    if (volume === undefined || volume.superblock.class !== "native") return undefined;
    if (volume.superblock.hasSparseKeys) {
      const ordinal = volume.ordinalOf(key);
      return ordinal === undefined ? undefined : { volume, ordinal, runOrdinal: ordinal };
    }
    if (key > ordinalMax) return undefined;
    return { volume, ordinal: Number(key), runOrdinal: Number(runKey) };
  }

  #answerFailure(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    const { log, metrics } = this.#options;
    const failure = toFailure(error);
    const { kind, message, cause, retryAfterSeconds } = failure;
    const isUpload = request.method === "PUT" || request.method === "POST";
    // Of a body 415 says what is meant; of what is stored it is us who can't.
    const status = kind === "unsupported" && !isUpload ? 501 : failure.status;
    const requestId = requestIdOf(request);
    if (kind === "corrupt") metrics.corruptReads.inc();
    // A volume that was sealed is no news; a disk that failed is.
    if (kind === "corrupt" || kind === "internal" || (status >= 500 && cause !== undefined)) {
      log.error({ requestId, err: cause ?? failure, kind }, message);
    }
    if (response.destroyed) return;
    if (response.headersSent) {
      // Too late for a status: a cut connection is the only honest end.
      response.destroy();
      return;
    }
    const headers: OutgoingHttpHeaders = { ...plainHeaders, [requestIdHeader]: requestId };
    if (retryAfterSeconds !== undefined) headers["retry-after"] = String(retryAfterSeconds);
    answerJson(response, status, { error: message }, headers);
    if (!request.complete) {
      const cut = setTimeout(() => request.destroy(), drainLimitMs);
      request.once("close", () => clearTimeout(cut));
      request.resume();
    }
  }
}

const plainHeaders: OutgoingHttpHeaders = { "x-content-type-options": "nosniff" };

function splitUrl(url: string): { pathname: string; query: URLSearchParams } {
  const mark = url.indexOf("?");
  return mark < 0
    ? { pathname: url, query: new URLSearchParams() }
    : { pathname: url.slice(0, mark), query: new URLSearchParams(url.slice(mark + 1)) };
}

/** Whether the fid was given out by the directory, or names a blob that is there. */
async function isGivenOut(
  { volume, ordinal, runOrdinal }: Place,
  cookie: number,
): Promise<boolean> {
  const { superblock } = volume;
  if (ordinal >= volume.report().needleCount) return false;
  if (
    !superblock.hasSparseKeys &&
    reservedCookie({ ...superblock, ordinal: runOrdinal }) === cookie
  ) {
    return true;
  }
  const needle = await volume.find(ordinal, cookie);
  needle?.close();
  return needle !== undefined;
}

async function put({ volume, ordinal }: Place, path: NativePath, upload: Upload): Promise<void> {
  const { content, metadata, ttlSeconds } = upload;
  const encodedMetadata = encodeNativeMetadata(metadata);
  if (encodedMetadata.length > metadataBytesMax) {
    throw new Failure("bad-request", "Cannot store the blob: its headers are too long");
  }
  const type = metadata.type ?? typeOfName(metadata.name) ?? anyType;
  const { codec, data } = await encodeContent(content, type);
  const blob = {
    data,
    codec,
    contentLength: content.length,
    metadata: encodedMetadata,
    owner: undefined,
    ttlSeconds: lifeIn(volume, ttlSeconds),
  };
  try {
    await volume.put({ ordinal, cookie: path.cookie }, blob, "disk");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.kind === "not-found") throw notReserved(path);
    if (error.kind !== "unavailable") throw error;
    // Sealed or failed since the fid was given out: another volume takes the next one.
    throw new Failure("unavailable", `${error.message}${assignAgain}`, {
      cause: error.cause,
      retryAfterSeconds: error.retryAfterSeconds ?? 1,
    });
  }
}

/** How long a blob lives that asked for `ttlSeconds`: in a volume with a bound never longer than that. */
function lifeIn({ superblock: { ttlSeconds: bound } }: Volume, ttlSeconds: number): number {
  if (bound === 0) return ttlSeconds;
  if (ttlSeconds > bound) {
    throw new Failure(
      "bad-request",
      `Cannot store the blob: it is to live ${ttlSeconds} s, and was assigned for ${bound} s`,
    );
  }
  return ttlSeconds === 0 ? bound : ttlSeconds;
}

function answerUpload(response: ServerResponse, { content, metadata, md5 }: Upload): void {
  const { name, type, etag } = metadata;
  const reply = { name, size: content.length, eTag: etag, mime: type, contentMd5: md5 };
  const headers: OutgoingHttpHeaders = { ...plainHeaders, etag: `"${etag}"` };
  if (md5 !== undefined) headers["content-md5"] = md5;
  answerJson(response, 201, reply, headers);
}

/** Answers what needs no data, and says whether it did. */
function answersBare(
  method: string,
  { status, headers }: ReadPlan,
  response: ServerResponse,
): boolean {
  if (status === 412 || status === 416) {
    const error =
      status === 412
        ? "Cannot read the blob: it is not in the state that the request wants it in"
        : "Cannot read that range: the blob is shorter";
    answerJson(response, status, { error }, { ...plainHeaders, ...Object.fromEntries(headers) });
    return true;
  }
  if (method !== "HEAD" && status !== 304) return false;
  response.writeHead(status, headers.flat()).end();
  return true;
}

function validatorsOf(
  { head }: NeedleReader,
  { etag, modified }: NativeMetadata,
): { etag: string; modifiedMs: number } {
  return {
    // What a native upload did not bring in has none of its own; but neither does it ever change.
    etag: etag ?? `${head.timeMs.toString(16)}-${head.contentLength.toString(16)}`,
    modifiedMs: modified === undefined ? head.timeMs : modified * 1_000,
  };
}

function sourceOf(content: Buffer): ContentSource {
  return {
    whole: () => content,
    async *pieces(start, end) {
      yield content.subarray(start, end);
    },
  };
}

/** Any page may read what it has the fid of: there are no cookies or credentials that it could borrow. */
function allowOrigins(request: IncomingMessage, response: ServerResponse): void {
  if (request.headers.origin === undefined) return;
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.setHeader("Access-Control-Expose-Headers", "*");
}

function answerOptions(request: IncomingMessage, response: ServerResponse): void {
  allowOrigins(request, response);
  answer(response, 200, "", {
    ...plainHeaders,
    allow: methods,
    "access-control-allow-methods": methods,
    "access-control-allow-headers": "*",
    "access-control-max-age": "86400",
  });
}

function notFound({ volume }: NativePath): Failure {
  return new Failure("not-found", `Cannot find that blob of volume ${volume}`);
}

function notReserved({ volume }: NativePath): Failure {
  return new Failure(
    "not-found",
    `Cannot store the blob: that fid of volume ${volume} was not assigned`,
  );
}

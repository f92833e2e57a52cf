/**
 * The store's calls between processes, all of them signed (base/call-signature.ts):
 *
 *   POST   /volumes/{id}/needles   store the body as a blob; answers with its fid once it is on the disk
 *   POST   /volumes/{id}/batch     store many blobs, all or nothing, in ordinals that follow each other
 *   GET    /{fid}                  the blob's data, verified; HEAD and a single Range too
 *   POST   /volumes/{id}/batches   take a batch of the volume's primary: replica-calls.ts
 *   POST   /needles/delete         delete blobs by fid
 *   GET    /volumes                the volumes
 *   GET    /volumes/{id}/file …    what other stores copy: copy-calls.ts
 *   GET    /volumes/{id}…          what operators look at: operator-calls.ts
 *
 * Everything else is for native-calls.ts, which has its own rules of who may call.
 *
 * On node:http alone, and the plain GET of a fid not even on that (lean-server.ts): this is the path of
 * every photo.
 */

import type {
  IncomingHttpHeaders,
  IncomingMessage,
  RequestListener,
  Server,
  ServerResponse,
} from "node:http";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { AnswerBatch } from "../base/answer-batch.ts";
import { ByteBudget } from "../base/byte-budget.ts";
import { CallVerifier } from "../base/call-verifier.ts";
import type { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { formatFid, parseFid } from "../base/fid.ts";
import { parseRange } from "../base/http-range.ts";
import { answerFailure, answerJson, readBody, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import { answerCopying } from "./copy-calls.ts";
import { deleteFids } from "./deletes.ts";
import { readLean } from "./lean-read.ts";
import { LeanServer } from "./lean-server.ts";
import type { StoreMetrics } from "./metrics.ts";
import { NativeCalls } from "./native/native-calls.ts";
import { answerOperator } from "./operator-calls.ts";
import { type BatchReply, durabilityHeader, metadataHeader, ownerHeader } from "./protocol.ts";
import { readHeaders } from "./read-headers.ts";
import { answerReplica } from "./replica-calls.ts";
import type { Store } from "./store.ts";
import { encodeContent } from "./volume/codec.ts";
import { codecs, dataBytesMax, type Owner } from "./volume/needle.ts";
import type { NeedleReader } from "./volume/needle-reader.ts";
import type { Blob, Durability, Volume } from "./volume/volume.ts";

const deleteSchema = z.object({ fids: z.array(z.string()).max(10_000) });
const deleteBytesMax = 1_048_576;
const noMetadata = Buffer.alloc(0);
const answers = new AnswerBatch();
const bodies = new ByteBudget(256 * 1_048_576);
/** Of its own: slow strangers must not take the room of our own processes. */
const nativeBodies = new ByteBudget(256 * 1_048_576);

export interface StoreServerOptions {
  store: Store;
  secret: ClusterSecret;
  log: Log;
  metrics: StoreMetrics;
  /** Called when a volume stopped taking appends for good. */
  onVolumeClosed: () => void;
  /** Who may make native calls; nobody if it is not said. */
  native?: NativeAccess | undefined;
  /** Why the store is not ready to be used, or undefined. */
  readiness?: (() => string | undefined) | undefined;
}

export function makeStoreServer(options: StoreServerOptions): Server {
  const { secret, log, metrics, native: access = "off", readiness = () => undefined } = options;
  const verifier = new CallVerifier(secret);
  const native = new NativeCalls({ ...options, access, bodies: nativeBodies, readiness });
  const countCorrupt = (error: unknown) => {
    if (error instanceof Failure && error.kind === "corrupt") metrics.corruptReads.inc();
  };
  const answerAny = async (request: IncomingMessage, response: ServerResponse) => {
    const isSigned = verifier.isSigned(request);
    // A signature that does not hold is refused even where none is needed: whoever gave it meant it.
    if (isSigned) await verifier.admit(request, response);
    const isTrusted = isSigned || secret.isNativeBearer(request.headers.authorization);
    if (!(isSigned && isInternal(request)) && native.admits(request, { isTrusted })) {
      await native.answer(request, response);
      return;
    }
    if (!isSigned) await verifier.admit(request, response);
    await handle(options, request, response);
  };
  const answerByHttp: RequestListener = (request, response) => {
    answerAny(request, response).catch((error: unknown) => {
      countCorrupt(error);
      answerFailure(response, error, { log, requestId: requestIdOf(request) });
    });
  };
  const server = new LeanServer({
    admits: (pass) => verifier.admitsRead(pass),
    find: (fid) => readLean(options, fid),
    handle: answerByHttp,
    onCut: (error) => {
      countCorrupt(error);
      log.error({ err: error }, "Cannot finish an answer");
    },
  });
  server.keepAliveTimeout = 15_000;
  server.requestTimeout = 0; // readBody has its own, by stall and not by length
  return server;
}

/** Signed, a read by nothing but a fid is of any class, and answered as our own processes want it. */
function isInternal({ method, url = "/" }: IncomingMessage): boolean {
  return (method === "GET" || method === "HEAD") && parseFid(url.slice(1)) !== undefined;
}

async function handle(
  options: StoreServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { method, url = "/" } = request;
  if ((method === "GET" || method === "HEAD") && url.includes(",")) {
    await readNeedle(options, request, response);
    return;
  }
  const append = /^\/volumes\/([0-9]+)\/(needles|batch)$/.exec(url);
  if (append !== null && method === "POST") {
    const store = append[2] === "batch" ? appendBatch : appendNeedle;
    await store(options, Number(append[1]), request, response);
  } else if (method === "POST" && url === "/needles/delete") {
    await deleteNeedles(options, request, response);
  } else if (method === "GET" && url === "/volumes") {
    const { store } = options;
    answerJson(response, 200, { store: store.id, ...store.space(), volumes: store.reports() });
  } else if (await answerReplica(options.store, request, response)) {
    return;
  } else if (await answerCopying(options.store, request, response)) {
    return;
  } else if (!(await answerOperator(options.store, request, response))) {
    throw new Failure("not-found", `Cannot find ${method} ${url}`);
  }
}

async function appendNeedle(
  options: StoreServerOptions,
  id: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { headers } = request;
  await append(options, id, request, async (volume, body) => {
    const metadata = headers[metadataHeader];
    const fid = await volume.append(
      await blobOf({
        data: body,
        metadata: typeof metadata === "string" ? Buffer.from(metadata, "base64") : noMetadata,
        owner: ownerOf(headers),
      }),
      durabilityOf(headers),
    );
    answers.push(() => answerJson(response, 201, { fid: formatFid(fid) }));
  });
}

/** The body: for each blob the lengths of metadata and data (u32 each, little-endian), and then those. */
async function appendBatch(
  options: StoreServerOptions,
  id: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { headers } = request;
  await append(options, id, request, async (volume, body) => {
    const owner = ownerOf(headers);
    const parts = splitBatch(body);
    const blobs = await Promise.all(parts.map((part) => blobOf({ ...part, owner })));
    const fids = await volume.appendAll(blobs, durabilityOf(headers));
    const reply: BatchReply = { fids: fids.map(formatFid) };
    answers.push(() => answerJson(response, 201, reply));
  });
}

async function append(
  { store, metrics, onVolumeClosed }: StoreServerOptions,
  id: number,
  request: IncomingMessage,
  write: (volume: Volume, body: Buffer) => Promise<void>,
): Promise<void> {
  const startedMs = performance.now();
  const volume = store.volume(id);
  if (volume === undefined)
    throw new Failure("not-found", `Cannot append: there is no volume ${id}`);
  const giveBack = bodies.take(Number(request.headers["content-length"] ?? dataBytesMax));
  try {
    await write(volume, await readBody(request, { limitBytes: dataBytesMax }));
    metrics.appendSeconds.observe((performance.now() - startedMs) / 1_000);
  } catch (error) {
    if (volume.report().closedBecause !== undefined) onVolumeClosed();
    throw error;
  } finally {
    giveBack();
  }
}

/** A blob of the catalog as it is stored: smaller where its type promises that. */
async function blobOf({
  data,
  metadata,
  owner,
}: {
  data: Buffer;
  metadata: Buffer;
  owner: Owner | undefined;
}): Promise<Blob> {
  const { codec, data: stored } = await encodeContent(data, typeOf(metadata));
  return { data: stored, codec, contentLength: data.length, metadata, owner, ttlSeconds: 0 };
}

function typeOf(metadata: Buffer): string {
  if (metadata.length === 0) return ""; // that nothing is no JSON would cost a sixth of the append
  try {
    const { type } = JSON.parse(metadata.toString()) as { type?: unknown };
    return typeof type === "string" ? type : "";
  } catch {
    return "";
  }
}

function ownerOf(headers: IncomingHttpHeaders): Owner | undefined {
  const owner = headers[ownerHeader];
  return typeof owner === "string" ? parseOwner(owner) : undefined;
}

function durabilityOf(headers: IncomingHttpHeaders): Durability {
  return headers[durabilityHeader] === "memory" ? "memory" : "disk";
}

function splitBatch(body: Buffer): { metadata: Buffer; data: Buffer }[] {
  const parts: { metadata: Buffer; data: Buffer }[] = [];
  const lengthBytes = 8;
  for (let at = 0; at < body.length; ) {
    const lengths = body.subarray(at, at + lengthBytes);
    const start = at + lengthBytes;
    const middle = start + (lengths.length < lengthBytes ? 0 : lengths.readUInt32LE(0));
    const end = middle + (lengths.length < lengthBytes ? 0 : lengths.readUInt32LE(4));
    if (lengths.length < lengthBytes || end > body.length) {
      throw new Failure("bad-request", "Cannot store the batch: it ends within a blob");
    }
    parts.push({ metadata: body.subarray(start, middle), data: body.subarray(middle, end) });
    at = end;
  }
  return parts;
}

async function readNeedle(
  { store, metrics }: StoreServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const startedMs = performance.now();
  const fid = parseFid((request.url ?? "").slice(1));
  if (fid === undefined)
    throw new Failure("bad-request", `Cannot read ${request.url}: it is no fid`);
  const needle = await store.volume(fid.volume)?.find(fid.ordinal, fid.cookie);
  if (needle === undefined) throw new Failure("not-found", `Cannot find blob ${formatFid(fid)}`);

  try {
    await answerNeedle(needle, request, response);
  } finally {
    needle.close();
  }
  metrics.readSeconds.observe((performance.now() - startedMs) / 1_000);
}

async function answerNeedle(
  needle: NeedleReader,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { contentLength, timeMs } = needle.head;
  const range = parseRange(request.headers.range, contentLength);
  if (range === "unsatisfiable") {
    response.setHeader("Content-Range", `bytes */${contentLength}`);
    throw new Failure("range-not-satisfiable", `Cannot read that range of ${contentLength} bytes`);
  }
  const { start, end } = range ?? { start: 0, end: contentLength };
  const headers = readHeaders({ timeMs, length: end - start });
  if (range !== undefined)
    headers.push("Content-Range", `bytes ${start}-${end - 1}/${contentLength}`);
  await sendData(
    needle,
    { start, end, status: range === undefined ? 200 : 206, headers },
    response,
  );
}

async function sendData(
  needle: NeedleReader,
  answer: { start: number; end: number; status: number; headers: string[] },
  response: ServerResponse,
): Promise<void> {
  const { start, end, status, headers } = answer;
  if (response.req.method === "HEAD") {
    response.writeHead(status, headers).end();
    return;
  }
  const whole = needle.head.codec === codecs.none ? needle.whole() : await needle.content();
  if (whole !== undefined) {
    // The needle's memory is used again afterwards: until then the socket may still be reading from it.
    const closed = new Promise<void>((resolve) => {
      if (response.closed) resolve();
      else response.once("close", resolve);
    });
    answers.push(() => response.writeHead(status, headers).end(whole.subarray(start, end)));
    await closed;
    return;
  }
  // The head goes out with the first piece, so that damage in it still gets an honest status.
  const pieces = needle.pieces(start, end);
  const first = await pieces.next();
  response.writeHead(status, headers);
  if (first.done !== true) response.write(first.value);
  try {
    await pipeline(pieces, response);
  } catch (error) {
    if (response.destroyed && !(error instanceof Failure)) return; // the reader went away
    throw error;
  }
}

async function deleteNeedles(
  { store }: StoreServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const body = await readBody(request, { limitBytes: deleteBytesMax });
  let fids: string[];
  try {
    ({ fids } = deleteSchema.parse(JSON.parse(body.toString())));
  } catch (error) {
    throw new Failure("bad-request", `Cannot read the request: ${messageOf(error)}`);
  }
  answerJson(response, 200, await deleteFids(store, fids));
}

function parseOwner(text: string): Owner {
  const match = /^([0-9a-f]{16}):([0-9]{1,10})$/.exec(text);
  if (match === null) throw new Failure("bad-request", `Cannot read the owner "${text}"`);
  return { catalog: match[1] ?? "", session: Number(match[2]) };
}

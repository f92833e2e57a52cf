/**
 * The store's calls, all between processes and all with the cluster's token:
 *
 *   POST   /volumes/{id}/needles   store the body as a blob; answers with its fid once it is on the disk
 *   GET    /{fid}                  the blob's data, verified; HEAD and a single Range too
 *   POST   /needles/delete         delete blobs by fid
 *   GET    /status                 the volumes
 *
 * On node:http alone: this is the path of every photo.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { AnswerBatch } from "../base/answer-batch.ts";
import { ByteBudget } from "../base/byte-budget.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { formatFid, parseFid } from "../base/fid.ts";
import { parseRange } from "../base/http-range.ts";
import { answerFailure, answerJson, readBody, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import { tokenCheck, tokenHeader } from "../base/token.ts";
import type { StoreMetrics } from "./metrics.ts";
import { dataBytesMax, type Owner } from "./needle.ts";
import type { NeedleReader } from "./needle-reader.ts";
import { type DeleteReply, metadataHeader, ownerHeader } from "./protocol.ts";
import type { Store } from "./store.ts";

const deleteSchema = z.object({ fids: z.array(z.string()).max(10_000) });
const deleteBytesMax = 1_048_576;
const noMetadata = Buffer.alloc(0);
const answers = new AnswerBatch();
const bodies = new ByteBudget(256 * 1_048_576);

export interface StoreServerOptions {
  store: Store;
  token: string;
  log: Log;
  metrics: StoreMetrics;
  /** Called when a volume stopped taking appends for good. */
  onVolumeClosed: () => void;
}

export function makeStoreServer(options: StoreServerOptions): Server {
  const { token, log, metrics } = options;
  const isOurs = tokenCheck(token);
  const server = createServer((request, response) => {
    const handled = isOurs(request.headers[tokenHeader])
      ? handle(options, request, response)
      : Promise.reject(
          new Failure("forbidden", "Cannot answer: the call does not carry the cluster's token"),
        );
    handled.catch((error: unknown) => {
      if (error instanceof Failure && error.kind === "corrupt") metrics.corruptReads.inc();
      answerFailure(response, error, { log, requestId: requestIdOf(request) });
    });
  });
  server.keepAliveTimeout = 15_000;
  server.requestTimeout = 0; // readBody has its own, by stall and not by length
  return server;
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
  const append = /^\/volumes\/([0-9]+)\/needles$/.exec(url);
  if (append !== null && method === "POST") {
    await appendNeedle(options, Number(append[1]), request, response);
  } else if (method === "POST" && url === "/needles/delete") {
    await deleteNeedles(options, request, response);
  } else if (method === "GET" && url === "/status") {
    const { store } = options;
    answerJson(response, 200, { store: store.id, ...store.space(), volumes: store.reports() });
  } else {
    throw new Failure("not-found", `Cannot find ${method} ${url}`);
  }
}

async function appendNeedle(
  { store, metrics, onVolumeClosed }: StoreServerOptions,
  id: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const startedMs = performance.now();
  const volume = store.volume(id);
  if (volume === undefined)
    throw new Failure("not-found", `Cannot append: there is no volume ${id}`);
  const metadata = request.headers[metadataHeader];
  const owner = request.headers[ownerHeader];
  const giveBack = bodies.take(Number(request.headers["content-length"] ?? dataBytesMax));
  try {
    const data = await readBody(request, { limitBytes: dataBytesMax });
    const fid = await volume.append({
      data,
      metadata: typeof metadata === "string" ? Buffer.from(metadata, "base64") : noMetadata,
      owner: typeof owner === "string" ? parseOwner(owner) : undefined,
      ttlSeconds: 0,
    });
    metrics.appendSeconds.observe((performance.now() - startedMs) / 1_000);
    answers.push(() => answerJson(response, 201, { fid: formatFid(fid) }));
  } catch (error) {
    if (volume.report().closedBecause !== undefined) onVolumeClosed();
    throw error;
  } finally {
    giveBack();
  }
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

  const { dataLength, timeMs } = needle.head;
  const headers = [
    "Content-Type",
    "application/octet-stream",
    "Last-Modified",
    new Date(timeMs).toUTCString(),
    "Accept-Ranges",
    "bytes",
  ];
  const range = parseRange(request.headers.range, dataLength);
  if (range === "unsatisfiable") {
    response.setHeader("Content-Range", `bytes */${dataLength}`);
    throw new Failure("range-not-satisfiable", `Cannot read that range of ${dataLength} bytes`);
  }
  const { start, end } = range ?? { start: 0, end: dataLength };
  if (range !== undefined) headers.push("Content-Range", `bytes ${start}-${end - 1}/${dataLength}`);
  headers.push("Content-Length", String(end - start));
  await sendData(
    needle,
    { start, end, status: range === undefined ? 200 : 206, headers },
    response,
  );
  metrics.readSeconds.observe((performance.now() - startedMs) / 1_000);
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
  const whole = needle.whole();
  if (whole !== undefined) {
    // Not before: until then the socket may still be reading from the bytes.
    response.once("close", needle.release);
    answers.push(() => response.writeHead(status, headers).end(whole.subarray(start, end)));
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
  const outcomes = await Promise.all(
    fids.map(async (text) => {
      const fid = parseFid(text);
      const volume = fid === undefined ? undefined : store.volume(fid.volume);
      if (fid === undefined || volume === undefined) return "unknown";
      try {
        return (await volume.delete(fid.ordinal, fid.cookie)) ? "deleted" : "absent";
      } catch (error) {
        // Nothing that can't be read can be shown to belong to this fid: left for the scrub.
        if (error instanceof Failure && error.kind === "corrupt") return "corrupt";
        throw error;
      }
    }),
  );
  const reply: DeleteReply = {
    outcomes: Object.fromEntries(fids.map((fid, at) => [fid, outcomes[at] ?? "unknown"])),
  };
  answerJson(response, 200, reply);
}

function parseOwner(text: string): Owner {
  const match = /^([0-9a-f]{16}):([0-9]{1,10})$/.exec(text);
  if (match === null) throw new Failure("bad-request", `Cannot read the owner "${text}"`);
  return { catalog: match[1] ?? "", session: Number(match[2]) };
}

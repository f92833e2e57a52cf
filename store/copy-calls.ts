/**
 * What other stores ask of this one to copy its volumes, with the cluster's token like all of server.ts:
 *
 *   GET /volumes/{id}/file?generation=G    bytes of a sealed volume's file, a Range of them or all
 *   GET /volumes/{id}/leaves?generation=G  the leaves of its digest, 32 bytes a MiB; their root in a header
 *   GET /volumes/{id}/deletes              ordinals (u32, little-endian), ascending; their digest in a header
 *
 * Invariants:
 * - What goes out is not verified here, because it is where it arrives: each MiB against its leaf.
 * - The generation is held while it is read, memory is bounded, and who takes nothing for long is let go.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { Failure, systemErrorCode } from "../base/failure.ts";
import { parseRange } from "../base/http-range.ts";
import { answer } from "../base/http-serve.ts";
import { deletesDigestHeader, digestHeader, ordinalBytes } from "./copy-source.ts";
import type { Store } from "./store.ts";
import type { Generation } from "./volume/generation.ts";
import type { OrdinalSet } from "./volume/ordinal-set.ts";
import type { Volume } from "./volume/volume.ts";

const callPattern = /^\/volumes\/([0-9]{1,10})\/(file|leaves|deletes)$/;
const bytesType = { "content-type": "application/octet-stream" } as const;

const pieceBytes = 262_144;
const streamsMax = 16;
const stalledMsMax = 30_000;
let streamCount = 0;
/** What a reader who hangs up leaves behind. */
const goneCodes = new Set(["ERR_STREAM_PREMATURE_CLOSE", "ECONNRESET", "EPIPE"]);

/** Answers a request that is one of these calls; returns whether it is. */
export async function answerCopying(
  store: Store,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  const [path = "", query = ""] = (request.url ?? "/").split("?", 2);
  const match = callPattern.exec(path);
  if (match === null || request.method !== "GET") return false;
  const volume = store.volume(Number(match[1]));
  if (volume === undefined) throw new Failure("not-found", `Cannot find volume ${match[1]}`);
  switch (match[2]) {
    case "file":
      await sendFile(volume, generationIn(query), request, response);
      break;
    case "leaves": {
      const { leaves, root } = await volume.leaves(generationIn(query));
      answer(response, 200, leaves, { ...bytesType, [digestHeader]: root });
      break;
    }
    default:
      await sendDeletes(volume.deleted(), response);
  }
  return true;
}

function generationIn(query: string): number {
  const text = new URLSearchParams(query).get("generation") ?? "";
  if (/^[0-9]{1,9}$/.test(text)) return Number(text);
  throw new Failure("bad-request", `Cannot read the query "${query}": it names no generation`);
}

async function sendFile(
  volume: Volume,
  wanted: number,
  { headers }: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  await volume.read(async (generation, end) => {
    volume.requireSealed(wanted);
    const range = parseRange(headers.range, end);
    if (range === "unsatisfiable") {
      response.setHeader("content-range", `bytes */${end}`);
      throw new Failure("range-not-satisfiable", `Cannot read that range of ${end} bytes`);
    }
    const part = range ?? { start: 0, end };
    await send(response, range === undefined ? 200 : 206, piecesOf(generation, part), {
      ...bytesType,
      "content-length": part.end - part.start,
      ...(range === undefined
        ? {}
        : { "content-range": `bytes ${part.start}-${part.end - 1}/${end}` }),
    });
  });
}

async function* piecesOf(
  { file }: Generation,
  { start, end }: { start: number; end: number },
): AsyncGenerator<Buffer> {
  for (let at = start; at < end; at += pieceBytes) {
    const piece = Buffer.allocUnsafeSlow(Math.min(pieceBytes, end - at));
    const count = await file.read(piece, at);
    if (count < piece.length) {
      throw new Failure("corrupt", `Cannot read volume at ${at + count}: its file ends there`);
    }
    yield piece;
  }
}

async function sendDeletes(deleted: OrdinalSet, response: ServerResponse): Promise<void> {
  await send(response, 200, ordinalsOf(deleted), {
    ...bytesType,
    "content-length": deleted.size * ordinalBytes,
    [deletesDigestHeader]: deleted.digest,
  });
}

async function* ordinalsOf(deleted: OrdinalSet): AsyncGenerator<Buffer> {
  let piece = Buffer.allocUnsafeSlow(pieceBytes);
  let filled = 0;
  for (const ordinal of deleted) {
    filled = piece.writeUInt32LE(ordinal, filled);
    if (filled < piece.length) continue;
    yield piece;
    piece = Buffer.allocUnsafeSlow(pieceBytes);
    filled = 0;
  }
  yield piece.subarray(0, filled);
}

async function send(
  response: ServerResponse,
  status: number,
  pieces: AsyncGenerator<Buffer>,
  headers: Record<string, string | number>,
): Promise<void> {
  if (streamCount >= streamsMax) {
    throw new Failure("busy", `Cannot answer now: ${streamsMax} such calls run already`, {
      retryAfterSeconds: 1,
    });
  }
  streamCount += 1;
  response.setTimeout(stalledMsMax, () => response.destroy());
  response.writeHead(status, headers);
  try {
    // A few pieces ahead at most: each is a quarter of a MiB.
    await pipeline(Readable.from(pieces, { highWaterMark: 1 }), response);
  } catch (error) {
    if (!goneCodes.has(systemErrorCode(error) ?? "")) throw error;
  } finally {
    streamCount -= 1;
  }
}

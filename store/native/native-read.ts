/**
 * How a read of a native blob is answered: decided from headers and facts alone, then sent.
 *
 * A blob that is stored as zstd has two representations, itself and that: each with an ETag of its own, and
 * ranges only of the first.
 */

import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import { pipeline } from "node:stream/promises";
import { wantsCoding } from "../../base/accept-encoding.ts";
import type { AnswerBatch } from "../../base/answer-batch.ts";
import { Failure } from "../../base/failure.ts";
import { allowsRange, decideRead } from "../../base/http-conditions.ts";
import { type ByteRange, parseRanges } from "../../base/http-range.ts";
import { newRequestId } from "../../base/http-serve.ts";
import type { Headers } from "./native-headers.ts";

export interface ReadRequest {
  method: string;
  headers: IncomingHttpHeaders;
}

/** What is known of a blob before its data is read. */
export interface BlobFacts {
  contentLength: number;
  /** Bytes as stored as zstd, if it is and may be sent like that. */
  zstdLength: number | undefined;
  /** Without quotes. */
  etag: string;
  modifiedMs: number;
  /** What else the answer says of the blob: see `blobHeaders`. */
  headers: Headers;
}

export interface ReadPlan {
  status: 200 | 206 | 304 | 412 | 416;
  headers: Headers;
  /** Whether the ranges are of the data as stored, and not of the content. */
  isStored: boolean;
  /** What the body is made of, in this order. */
  segments: (ByteRange | Buffer)[];
}

/** Where content comes from. */
export interface ContentSource {
  /** All of it, if it is in memory. */
  whole(): Buffer | undefined;
  pieces(start: number, end: number): AsyncGenerator<Buffer>;
}

/** A reader that takes nothing for so long is cut off: it holds memory. */
const stallMs = 120_000;

export function planRead({ method, headers }: ReadRequest, blob: BlobFacts): ReadPlan {
  const { contentLength, zstdLength, modifiedMs } = blob;
  const plain = { etag: blob.etag, modifiedMs };
  // Of HEAD, Range means nothing (RFC 9110, 14.2).
  const ranges =
    method === "GET" && allowsRange(headers, plain)
      ? parseRanges(headers.range, contentLength)
      : undefined;
  const isStored =
    zstdLength !== undefined &&
    ranges === undefined &&
    headers["if-match"] === undefined && // it names what an upload was answered with
    wantsCoding(headers["accept-encoding"] as string | undefined, "zstd");
  const etag = isStored ? `${blob.etag}-zstd` : blob.etag;
  const common: Headers = [
    ["ETag", `"${etag}"`],
    ["Last-Modified", new Date(modifiedMs).toUTCString()],
    ["Accept-Ranges", "bytes"],
    ...(zstdLength === undefined ? [] : ([["Vary", "Accept-Encoding"]] satisfies Headers)),
    ...blob.headers,
  ];
  const bare = { isStored, segments: [] };
  const decision = decideRead(headers, { etag, modifiedMs });
  if (decision === "failed") return { status: 412, headers: [], ...bare };
  if (decision === "not-modified") {
    return { status: 304, headers: common.filter(([name]) => !describesBody(name)), ...bare };
  }
  if (ranges === "unsatisfiable") {
    return { status: 416, headers: [["Content-Range", `bytes */${contentLength}`]], ...bare };
  }
  if (ranges !== undefined && ranges.length > 1) {
    return { isStored, ...planRanges(ranges, contentLength, common) };
  }
  const whole = { start: 0, end: isStored ? zstdLength : contentLength };
  const [range] = ranges ?? [];
  const { start, end } = range ?? whole;
  return {
    status: range === undefined ? 200 : 206,
    headers: [
      ...common,
      ...(isStored ? ([["Content-Encoding", "zstd"]] satisfies Headers) : []),
      ...(range === undefined
        ? []
        : ([["Content-Range", formatRange(range, contentLength)]] satisfies Headers)),
      ["Content-Length", String(end - start)],
    ],
    isStored,
    segments: [{ start, end }],
  };
}

function describesBody(name: string): boolean {
  return /^(?:content-(?!security-policy$)|accept-ranges$)/i.test(name);
}

/** Several ranges go as the parts of one body (RFC 9110, 14.6). */
function planRanges(
  ranges: ByteRange[],
  contentLength: number,
  common: Headers,
): Pick<ReadPlan, "status" | "headers" | "segments"> {
  const boundary = newRequestId();
  const isType = ([name]: Headers[number]) => name.toLowerCase() === "content-type";
  const [, type = ""] = common.find(isType) ?? [];
  const segments: ReadPlan["segments"] = [];
  for (const range of ranges) {
    const lines = [
      `--${boundary}`,
      `Content-Type: ${type}`,
      `Content-Range: ${formatRange(range, contentLength)}`,
    ];
    const before = segments.length === 0 ? "" : "\r\n";
    segments.push(Buffer.from(`${before}${lines.join("\r\n")}\r\n\r\n`, "latin1"), range);
  }
  segments.push(Buffer.from(`\r\n--${boundary}--\r\n`));
  const length = segments.reduce((sum, segment) => sum + lengthOf(segment), 0);
  return {
    status: 206,
    headers: [
      ...common.filter((header) => !isType(header)),
      ["Content-Type", `multipart/byteranges; boundary=${boundary}`],
      ["Content-Length", String(length)],
    ],
    segments,
  };
}

function lengthOf(segment: ByteRange | Buffer): number {
  return Buffer.isBuffer(segment) ? segment.length : segment.end - segment.start;
}

function formatRange({ start, end }: ByteRange, length: number): string {
  return `bytes ${start}-${end - 1}/${length}`;
}

/** Sends what was planned; returns when the answer is out, or its reader gone. */
export async function sendPlan(
  response: ServerResponse,
  { status, headers, segments }: ReadPlan,
  source: ContentSource,
  answers: AnswerBatch,
): Promise<void> {
  response.setTimeout(stallMs, () => response.destroy());
  const whole = source.whole();
  if (whole !== undefined) {
    const parts = segments.map((segment) =>
      Buffer.isBuffer(segment) ? segment : whole.subarray(segment.start, segment.end),
    );
    const [first] = parts;
    const body = parts.length === 1 ? first : Buffer.concat(parts);
    // The memory of the blob is used again afterwards: until then the socket may still be reading from it.
    const closed = new Promise<void>((resolve) => {
      if (response.closed) resolve();
      else response.once("close", resolve);
    });
    answers.push(() => response.writeHead(status, headers.flat()).end(body));
    await closed;
    return;
  }
  // The head goes out with the first piece, so that damage in it still gets an honest status.
  const pieces = piecesOf(segments, source);
  const first = await pieces.next();
  response.writeHead(status, headers.flat());
  if (first.done !== true) response.write(first.value);
  try {
    await pipeline(pieces, response);
  } catch (error) {
    if (response.destroyed && !(error instanceof Failure)) return; // the reader went away
    throw error;
  }
}

async function* piecesOf(
  segments: ReadPlan["segments"],
  source: ContentSource,
): AsyncGenerator<Buffer> {
  let head: Buffer | undefined;
  for (const segment of segments) {
    if (Buffer.isBuffer(segment)) {
      head = head === undefined ? segment : Buffer.concat([head, segment]);
      continue;
    }
    for await (const piece of source.pieces(segment.start, segment.end)) {
      // Not before the first piece of its range is there, and verified.
      if (head !== undefined) yield head;
      head = undefined;
      yield piece;
    }
  }
  if (head !== undefined) yield head;
}

/**
 * What the body of a native PUT or POST brings: SeaweedFS's rules, as functions of the request.
 *
 * A body is a form for POST alone, with a Content-Type that says so or none; of its parts the first counts,
 * unless that has no file name and a later one has. Everything else is the blob itself.
 */

import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { ByteBudget } from "../../base/byte-budget.ts";
import { Failure, messageOf, systemErrorCode } from "../../base/failure.ts";
import { decodeHeaderText } from "../../base/header-text.ts";
import { parseTtl } from "../../base/ttl.ts";
import { etagOf, type NativeMetadata } from "../volume/native-metadata.ts";
import { dataBytesMax } from "../volume/needle.ts";
import { type FormPart, parameterOf, splitForm } from "./multipart-form.ts";
import { keptName, keptType, readPairs } from "./native-headers.ts";

export interface UploadRequest {
  method: string;
  headers: IncomingHttpHeaders;
  query: URLSearchParams;
  /** What the blob is called if nothing else names it. */
  lastSegment: string;
}

export interface Upload {
  content: Buffer;
  metadata: NativeMetadata;
  /** What was asked for; 0 if nothing was. */
  ttlSeconds: number;
  /** As it was given, and it is right. */
  md5: string | undefined;
}

/** The blob as it came, and what was said of it. */
interface Envelope {
  data: Buffer;
  name: string | undefined;
  type: string | undefined;
  encoding: string;
  md5: string | undefined;
  parameters: Parameters;
}

type Parameters = (name: string) => string | undefined;

/** The year 9999 ends here, and with it what HTTP dates can say. */
const modifiedMax = 253_402_300_799;

const inflate = promisify(gunzip);

/** Whether the body is a form. */
export function isForm(method: string, contentType: string | undefined): boolean {
  return method === "POST" && (contentType === undefined || /form-data/i.test(contentType));
}

/** Reads what was uploaded. What gzip comes to in memory is taken from `bodies`; `hold` gives it back. */
export async function readUpload(
  request: UploadRequest,
  body: Buffer,
  { bodies, hold }: { bodies: ByteBudget; hold: (giveBack: () => void) => void },
): Promise<Upload> {
  const { method, headers } = request;
  const envelope = isForm(method, headers["content-type"])
    ? openForm(request, body)
    : openRaw(request, body);
  const { data, encoding, md5, parameters } = envelope;
  let content = data;
  if (/^(?:x-)?gzip$/i.test(encoding)) {
    hold(bodies.take(inflatedLength(data)));
    content = await decodeGzip(data);
  } else if (!/^(?:identity)?$/i.test(encoding)) {
    throw new Failure("unsupported", `Cannot store the blob: its coding "${encoding}" is not gzip`);
  }
  if (content.length > dataBytesMax) throw tooLarge();
  if (md5 !== undefined && createHash("md5").update(content).digest("base64") !== md5) {
    throw new Failure("bad-request", "Cannot store the blob: it is not what its Content-MD5 says");
  }
  const isManifest = isTrue(parameters("cm"));
  const name = keptName(envelope.name);
  return {
    content,
    metadata: {
      name,
      type: isManifest ? undefined : keptType(envelope.type, name),
      modified: readModified(parameters("ts")),
      pairs: readPairs(headers),
      etag: etagOf(content),
      ...(isManifest ? { manifest: true } : {}),
    },
    ttlSeconds: readTtl(parameters("ttl")),
    md5,
  };
}

function openRaw({ headers, query, lastSegment }: UploadRequest, body: Buffer): Envelope {
  const disposition = headers["content-disposition"];
  const text = disposition === undefined ? "" : decodeHeaderText(disposition);
  return {
    data: body,
    name: parameterOf(text, "filename") || parameterOf(text, "name") || lastSegment,
    type: headers["content-type"],
    encoding: headers["content-encoding"]?.trim() ?? "",
    md5: headerOf(headers, "content-md5"),
    parameters: (name) => query.get(name) ?? undefined,
  };
}

function openForm({ headers, query, lastSegment }: UploadRequest, body: Buffer): Envelope {
  const parts = splitForm(body, headers["content-type"]);
  const part = parts.find((each) => fileNameOf(each) !== undefined) ?? parts[0];
  if (part === undefined) throw new Failure("bad-request", "Cannot read the form: it has no part");
  const field = (name: string) =>
    parts.find((each) => each !== part && parameterOf(dispositionOf(each), "name") === name)
      ?.content;
  return {
    data: part.content,
    name: fileNameOf(part) ?? lastSegment,
    type: part.headers.get("content-type"),
    encoding: part.headers.get("content-encoding") ?? "",
    md5: part.headers.get("content-md5") ?? headerOf(headers, "content-md5"),
    parameters: (name) => query.get(name) ?? field(name)?.toString(),
  };
}

function dispositionOf({ headers }: FormPart): string {
  return headers.get("content-disposition") ?? "";
}

function fileNameOf(part: FormPart): string | undefined {
  return parameterOf(dispositionOf(part), "filename") || undefined;
}

function headerOf(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return typeof value === "string" ? value.trim() : undefined;
}

/** What the end of a gzip stream says that its content has: modulo 2^32, and it may lie. */
function inflatedLength(data: Buffer): number {
  const trailerBytes = 4;
  if (data.length < trailerBytes) return 0;
  return Math.min(data.readUInt32LE(data.length - trailerBytes), dataBytesMax);
}

/** No more is inflated than the stream says it has, so that a lie costs no memory. */
async function decodeGzip(data: Buffer): Promise<Buffer> {
  const limitBytes = inflatedLength(data);
  try {
    return await inflate(data, { maxOutputLength: Math.max(limitBytes, 1) });
  } catch (error) {
    if (systemErrorCode(error) === "ERR_BUFFER_TOO_LARGE" && limitBytes === dataBytesMax) {
      throw tooLarge();
    }
    throw new Failure(
      "bad-request",
      `Cannot store the blob: its gzip is bad: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

function tooLarge(): Failure {
  return new Failure("too-large", `Cannot store the blob: it is over ${dataBytesMax} bytes`);
}

function readModified(text: string | undefined): number | undefined {
  if (text === undefined || text === "" || text === "0") return undefined;
  const seconds = Number(text);
  if (!/^[0-9]{1,12}$/.test(text) || seconds > modifiedMax) {
    throw new Failure(
      "bad-request",
      `Cannot store the blob: ts is "${text}", no seconds since 1970`,
    );
  }
  return seconds;
}

function readTtl(text: string | undefined): number {
  const seconds = parseTtl(text ?? "");
  if (seconds !== undefined) return seconds;
  throw new Failure(
    "bad-request",
    `Cannot store the blob: ttl is "${text}", and is a number and one of m, h, d, w, M and y`,
  );
}

/** As Go reads a truth. */
function isTrue(text: string | undefined): boolean {
  return /^(?:1|t|true)$/i.test(text ?? "");
}

/** The headers that are kept with an object and returned with it. */

import type { IncomingMessage } from "node:http";
import { Failure } from "../base/failure.ts";
import { decodeHeaderText, encodeHeaderText } from "../base/header-text.ts";
import type { ObjectVersion } from "../catalog/model.ts";

export interface UserHeaders {
  contentType: string | undefined;
  cacheControl: string | undefined;
  contentDisposition: string | undefined;
  /** Names without `x-amz-meta-`, lower case. */
  meta: Record<string, string>;
}

const metaPrefix = "x-amz-meta-";
/** S3's limit on names and values together. */
const metaBytesMax = 2_048;
const headerBytesMax = 1_024;

/** What of a request's headers goes with the object. */
export function readUserHeaders({ headers }: IncomingMessage): UserHeaders {
  const meta: Record<string, string> = {};
  let metaBytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(metaPrefix) || value === undefined) continue;
    const text = decodeHeaderText(Array.isArray(value) ? value.join(", ") : value);
    meta[name.slice(metaPrefix.length)] = text;
    metaBytes += Buffer.byteLength(name) - metaPrefix.length + Buffer.byteLength(text);
  }
  if (metaBytes > metaBytesMax) {
    throw new Failure(
      "bad-request",
      `Cannot store the object: its metadata is over ${metaBytesMax} bytes`,
      {
        code: "MetadataTooLarge",
      },
    );
  }
  return {
    contentType: readHeader(headers, "content-type"),
    cacheControl: readHeader(headers, "cache-control"),
    contentDisposition: readHeader(headers, "content-disposition"),
    meta,
  };
}

function readHeader(headers: IncomingMessage["headers"], name: string): string | undefined {
  const value = headers[name];
  if (typeof value !== "string" || value === "") return undefined;
  if (value.length > headerBytesMax) {
    throw new Failure(
      "bad-request",
      `Cannot store the object: its ${name} is over ${headerBytesMax} bytes`,
    );
  }
  return decodeHeaderText(value);
}

/** The headers of a version, for an answer of any status that has its body or could have. */
export function versionHeaders(version: ObjectVersion, isVersioned: boolean): [string, string][] {
  const headers: [string, string][] = [
    ["ETag", `"${version.etag}"`],
    ["Last-Modified", new Date(version.modifiedMs).toUTCString()],
    ["Accept-Ranges", "bytes"],
    ["X-Content-Type-Options", "nosniff"],
  ];
  if (version.cacheControl !== undefined) {
    headers.push(["Cache-Control", encodeHeaderText(version.cacheControl)]);
  }
  if (version.contentDisposition !== undefined) {
    headers.push(["Content-Disposition", encodeHeaderText(version.contentDisposition)]);
  }
  for (const [name, value] of Object.entries(version.meta)) {
    headers.push([`${metaPrefix}${name}`, encodeHeaderText(value)]);
  }
  if (isVersioned) headers.push(["x-amz-version-id", version.versionId]);
  return headers;
}

/** Types that a browser would run: they are shown, but may run nothing. */
export function isActiveType(contentType: string): boolean {
  return /html|xml|svg|javascript/i.test(contentType);
}

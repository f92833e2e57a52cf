/**
 * What headers say of a native blob: on an upload those that go into its metadata, on a read those that
 * come out of it.
 *
 * Invariant: nothing that an uploader chose can break an answer's framing, speak for the server, or make a
 * browser run the blob with this origin's rights. It is seen to on reads, since imported blobs bring
 * headers that nobody looked at before.
 */

import type { IncomingHttpHeaders } from "node:http";
import path from "node:path";
import { contentType } from "mime-types";
import { decodeHeaderText, encodeHeaderText } from "../../base/header-text.ts";
import type { NativeMetadata } from "../volume/native-metadata.ts";
import type { NativePath } from "./native-path.ts";

export type Headers = [name: string, value: string][];

export const anyType = "application/octet-stream";

/** SeaweedFS keeps names and types up to so many bytes, and drops longer ones. */
const nameBytesMax = 255;

const pairPrefix = "seaweed-";

/** What an uploader may choose: how caches and readers treat the blob, and names of its own under `x-`. */
const answeredNames = new Set([
  "cache-control",
  "cdn-cache-control",
  "content-language",
  "expires",
  "surrogate-control",
  "surrogate-key",
]);

/** Under `x-`, what proxies or browsers obey, and what is ours or S3's to say. */
const reservedNames =
  /^x-(?:accel|amz|content|file-store|forwarded|frame|hayloft|lighttpd|litespeed|permitted|real-ip|request-id|reproxy|sendfile|ua-compatible|webkit|xss)(?:-|$)/;

function isAnswered(name: string, value: string): boolean {
  const isOwn = /^x-[\w.-]+$/.test(name) && !reservedNames.test(name);
  return (isOwn || answeredNames.has(name)) && isHeaderText(value);
}

/** Whether text can be a header's value: without line ends and other control characters. */
function isHeaderText(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return !/[\u0000-\u0008\u000a-\u001f\u007f]/.test(text);
}

/** The headers `Seaweed-*` of an upload that are kept, in lower case without that prefix. */
export function readPairs(headers: IncomingHttpHeaders): Record<string, string> | undefined {
  const pairs = Object.entries(headers)
    .filter(([name]) => name.startsWith(pairPrefix))
    .map(
      ([name, value]) => [name.slice(pairPrefix.length), decodeHeaderText(String(value))] as const,
    )
    .filter(([name, value]) => isAnswered(name, value));
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs);
}

/** A file's name without the folders before it, or undefined if there is none to keep. */
export function keptName(name: string | undefined): string | undefined {
  const bare = name
    ?.replace(/^.*[/\\]/s, "")
    .replace(/\p{Cc}/gu, "")
    .toWellFormed();
  if (bare === undefined || bare === "" || bare === "." || bare === "..") return undefined;
  return Buffer.byteLength(bare) <= nameBytesMax ? bare : undefined;
}

/** A media type that says more than the name does, or undefined. */
export function keptType(type: string | undefined, name: string | undefined): string | undefined {
  const text = type?.trim();
  if (text === undefined || !isMediaType(text) || Buffer.byteLength(text) > nameBytesMax) {
    return undefined;
  }
  return text === anyType || text === typeOfName(name) ? undefined : text;
}

/** The media type that a name's extension stands for. */
export function typeOfName(name: string | undefined): string | undefined {
  const extension = path.posix.extname(name ?? "");
  return extension === "" ? undefined : contentType(extension) || undefined;
}

function isMediaType(text: string): boolean {
  return /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(?:\s*;[\t\x20-\x7e]*)?$/.test(text);
}

/** The parameters of a read that take the place of what was stored. */
const overrides = [
  "Cache-Control",
  "Content-Disposition",
  "Content-Encoding",
  "Content-Language",
  "Content-Type",
  "Expires",
] as const;

/** The headers of an answer that has the blob, or could have: for GET and HEAD, whole or in part. */
export function blobHeaders(
  { name: storedName, type, pairs = {}, manifest }: NativeMetadata,
  { fileName, extension }: Pick<NativePath, "fileName" | "extension">,
  query: URLSearchParams,
): Headers {
  const headers = new Map<string, [string, string]>();
  const set = (name: string, value: string) => headers.set(name.toLowerCase(), [name, value]);
  for (const [name, value] of Object.entries(pairs)) {
    if (isAnswered(name.toLowerCase(), value)) set(name, encodeHeaderText(value));
  }
  const name = keptName(fileName ?? storedName);
  const isStored = type !== undefined && isMediaType(type) && !type.startsWith(anyType);
  const byName = typeOfName(fileName) ?? typeOfName(storedName) ?? typeOfName(`x${extension}`);
  set("Content-Type", isStored ? type : (byName ?? anyType));
  if (name !== undefined) {
    const isDownload = /^(?:1|t|true)$/i.test(query.get("dl") ?? "");
    set("Content-Disposition", formatDisposition(isDownload ? "attachment" : "inline", name));
  }
  if (manifest === true) set("X-File-Store", "chunked");
  for (const header of overrides) {
    const value = query.get(`response-${header.toLowerCase()}`);
    const isSound = header === "Content-Type" ? isMediaType : isHeaderText;
    if (value && isSound(value)) set(header, encodeHeaderText(value));
  }
  set("X-Content-Type-Options", "nosniff");
  const [, sentType = anyType] = headers.get("content-type") ?? [];
  // What a browser would run may show itself, and do no more.
  if (/html|xml|svg|javascript|multipart|mhtml|rfc822/i.test(sentType)) {
    set("Content-Security-Policy", "sandbox");
  }
  return [...headers.values()];
}

/** `Content-Disposition` (RFC 6266), with names of any characters in a form that each reader understands. */
export function formatDisposition(kind: "inline" | "attachment", name: string): string {
  const plain = name.replace(/[^\x20-\x7e]|["\\%]/gu, "_");
  const ascii = `${kind}; filename="${plain}"`;
  if (plain === name) return ascii;
  const encoded = encodeURIComponent(name).replace(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `${ascii}; filename*=UTF-8''${encoded}`;
}

/**
 * A multipart form (RFC 7578) that lies whole in memory, taken apart without copying it.
 *
 * busboy is for bodies that stream, and does not tell a part's own headers, which native uploads use.
 */

import { Failure } from "../../base/failure.ts";

export interface FormPart {
  /** By name in lower case, as UTF-8. */
  headers: Map<string, string>;
  /** A view on the form's bytes. */
  content: Buffer;
}

const partsMax = 1_000;
const headerBytesMax = 16_384;
const lineEnd = Buffer.from("\r\n");
const headerEnd = Buffer.from("\r\n\r\n");

/** The parts of `body`; fails with `bad-request` if it is no form, or not all of one. */
export function splitForm(body: Buffer, contentType: string | undefined): FormPart[] {
  const boundary = parameterOf(contentType ?? "", "boundary") ?? "";
  if (boundary === "" || boundary.length > 70) throw malformed("its type names no boundary");
  const delimiter = Buffer.from(`\r\n--${boundary}`, "latin1");
  const parts: FormPart[] = [];
  // The first delimiter may stand at the very start, without the line end before it.
  const isAtStart = body.subarray(0, delimiter.length - 2).equals(delimiter.subarray(2));
  let next = isAtStart
    ? delimiterAt(body, -lineEnd.length, delimiter)
    : findDelimiter(body, 0, delimiter);
  while (next !== undefined && !next.isLast) {
    if (parts.length === partsMax) throw malformed(`it has over ${partsMax} parts`);
    const { headers, contentStart } = readHeaders(body, next.end);
    const end = findDelimiter(body, contentStart - lineEnd.length, delimiter);
    if (end === undefined) break;
    parts.push({
      headers,
      content: body.subarray(contentStart, Math.max(end.start, contentStart)),
    });
    next = end;
  }
  if (next?.isLast !== true) throw malformed("it ends before its last boundary");
  if (parts.length === 0) throw malformed("it has no part");
  return parts;
}

/** The value of a parameter of a header's value: `name="a"`, or `name*=UTF-8''a`, which goes before. */
export function parameterOf(value: string, name: string): string | undefined {
  let plain: string | undefined;
  for (const [, found = "", isExtended, quoted, token] of value.matchAll(
    /;\s*([\w!#$%&'+.^`|~-]+?)(\*)?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]*))/g,
  )) {
    if (found.toLowerCase() !== name) continue;
    // Browsers leave backslashes as they are, and write a quote as %22: only what is escaped is taken back.
    const text = quoted?.replace(/\\(["\\])/g, "$1") ?? token ?? "";
    if (isExtended === undefined) plain ??= text;
    else {
      const decoded = decodeExtended(text);
      if (decoded !== undefined) return decoded;
    }
  }
  return plain;
}

function decodeExtended(text: string): string | undefined {
  const match = /^utf-8'[^']*'(.*)$/i.exec(text);
  if (match === null) return undefined;
  try {
    return decodeURIComponent(match[1] ?? "");
  } catch {
    return undefined;
  }
}

interface Delimiter {
  /** Of the line end before it. */
  start: number;
  /** After the line end that follows it. */
  end: number;
  isLast: boolean;
}

function findDelimiter(body: Buffer, from: number, delimiter: Buffer): Delimiter | undefined {
  for (let at = body.indexOf(delimiter, from); at >= 0; at = body.indexOf(delimiter, at + 1)) {
    const found = delimiterAt(body, at, delimiter);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The delimiter at `start`, or undefined if what follows makes it a part of the content. */
function delimiterAt(body: Buffer, start: number, delimiter: Buffer): Delimiter | undefined {
  let at = start + delimiter.length;
  if (body.subarray(at, at + 2).toString("latin1") === "--") {
    return { start, end: at + 2, isLast: true };
  }
  while (body[at] === 0x20 || body[at] === 0x09) at += 1;
  const isLine = body.subarray(at, at + lineEnd.length).equals(lineEnd);
  return isLine ? { start, end: at + lineEnd.length, isLast: false } : undefined;
}

function readHeaders(
  body: Buffer,
  start: number,
): { headers: FormPart["headers"]; contentStart: number } {
  const headers = new Map<string, string>();
  if (body.subarray(start, start + lineEnd.length).equals(lineEnd)) {
    return { headers, contentStart: start + lineEnd.length };
  }
  const end = body.indexOf(headerEnd, start);
  if (end < 0 || end - start > headerBytesMax) throw malformed("a part's header has no end");
  for (const line of body.toString("utf8", start, end).split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) throw malformed("a part's header has a line without a name");
    headers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim());
  }
  return { headers, contentStart: end + headerEnd.length };
}

function malformed(why: string): Failure {
  return new Failure("bad-request", `Cannot read the form: ${why}`);
}

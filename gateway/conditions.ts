/** Conditional requests (RFC 9110, section 13), as pure functions of headers and an object's state. */

import type { PutConditions } from "../catalog/model.ts";

export interface Validators {
  /** Without quotes. */
  etag: string;
  modifiedMs: number;
}

export interface ConditionHeaders {
  "if-match"?: string | undefined;
  "if-none-match"?: string | undefined;
  "if-modified-since"?: string | undefined;
  "if-unmodified-since"?: string | undefined;
  "if-range"?: string | undefined;
}

/** ETags of a header without quotes and `W/`, "*", or undefined when the header is not there. */
export function parseEtags(header: string | undefined): string[] | "*" | undefined {
  if (header === undefined) return undefined;
  if (header.trim() === "*") return "*";
  return header
    .split(",")
    .map((part) =>
      part
        .trim()
        .replace(/^W\//, "")
        .replace(/^"(.*)"$/, "$1"),
    )
    .filter((etag) => etag !== "");
}

/** What a read's conditions make of it: answer as asked, 304, or 412. */
export function decideRead(
  headers: ConditionHeaders,
  { etag, modifiedMs }: Validators,
): "send" | "not-modified" | "failed" {
  const ifMatch = parseEtags(headers["if-match"]);
  const ifNoneMatch = parseEtags(headers["if-none-match"]);
  const names = (etags: string[] | "*") => etags === "*" || etags.includes(etag);
  if (ifMatch !== undefined) {
    if (!names(ifMatch)) return "failed";
  } else {
    const since = parseDate(headers["if-unmodified-since"]);
    if (since !== undefined && wholeSeconds(modifiedMs) > since) return "failed";
  }
  if (ifNoneMatch !== undefined) return names(ifNoneMatch) ? "not-modified" : "send";
  const since = parseDate(headers["if-modified-since"]);
  return since !== undefined && wholeSeconds(modifiedMs) <= since ? "not-modified" : "send";
}

/** Whether a Range may be answered as a range: If-Range names this very state, or is not there. */
export function allowsRange(headers: ConditionHeaders, { etag, modifiedMs }: Validators): boolean {
  const condition = headers["if-range"];
  if (condition === undefined) return true;
  if (condition.startsWith('"')) return condition === `"${etag}"`;
  return parseDate(condition) === wholeSeconds(modifiedMs);
}

export function readPutConditions(headers: ConditionHeaders): PutConditions {
  return {
    ifMatch: parseEtags(headers["if-match"]),
    ifNoneMatch: parseEtags(headers["if-none-match"]),
  };
}

/** Milliseconds since 1970 of an HTTP date, or undefined for anything else. */
function parseDate(text: string | undefined): number | undefined {
  const ms = text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}

/** HTTP dates have no fractions of a second. */
function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1_000) * 1_000;
}

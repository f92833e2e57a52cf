/** Conditional requests (RFC 9110, section 13), as pure functions of headers and a representation's state. */

export interface Validators {
  /** Without quotes; always a strong one. */
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

/** One of a list: quoted as it has to be, or bare as some clients send it. */
const etagPattern = /(W\/)?(?:"([^"]*)"|([^\s,"]+))/g;

/**
 * ETags of a header without quotes and `W/`, "*", or undefined when the header is not there. With `strong`
 * weak ones are left out: they are equal to none.
 */
export function parseEtags(
  header: string | undefined,
  { strong = false }: { strong?: boolean } = {},
): string[] | "*" | undefined {
  if (header === undefined) return undefined;
  if (header.trim() === "*") return "*";
  return [...header.matchAll(etagPattern)]
    .filter(([, weak]) => !(strong && weak !== undefined))
    .map(([, , quoted, bare]) => quoted ?? bare ?? "")
    .filter((etag) => etag !== "");
}

/** What a read's conditions make of it: answer as asked, 304, or 412. */
export function decideRead(
  headers: ConditionHeaders,
  { etag, modifiedMs }: Validators,
): "send" | "not-modified" | "failed" {
  const ifMatch = parseEtags(headers["if-match"], { strong: true });
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

/** Milliseconds since 1970 of an HTTP date, or undefined for anything else. */
function parseDate(text: string | undefined): number | undefined {
  const ms = text === undefined ? Number.NaN : Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}

/** HTTP dates have no fractions of a second. */
function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1_000) * 1_000;
}

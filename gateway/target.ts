/**
 * What a request's path names: a bucket, or an object in it. The path is taken as it was sent: nothing
 * is normalised, so `..`, `//` and the like are parts of keys and of nothing else.
 */

import { Failure } from "../base/failure.ts";

export interface Target {
  bucket: string;
  /** Undefined when the path ends with the bucket. */
  key: string | undefined;
}

/** Path and query of a request target, which may come as an absolute URL (RFC 9112, 3.2.2). */
export function splitUrl(url: string): { path: string; query: string } {
  const local = /^https?:\/\/[^/?]*(.*)$/i.exec(url)?.[1] ?? url;
  const mark = local.indexOf("?");
  const path = mark < 0 ? local : local.slice(0, mark);
  return { path: path === "" ? "/" : path, query: mark < 0 ? "" : local.slice(mark + 1) };
}

/** The bucket and key in a path. Fails with `bad-request` on what is not percent-encoded UTF-8. */
export function readTarget(path: string): Target {
  const slash = path.indexOf("/", 1);
  const bucket = decode(slash < 0 ? path.slice(1) : path.slice(1, slash));
  const key = slash < 0 ? "" : decode(path.slice(slash + 1));
  return { bucket, key: key === "" ? undefined : key };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Failure("bad-request", "Cannot read the path: it is not percent-encoded UTF-8", {
      code: "InvalidURI",
    });
  }
}

/** The path that names an object, for a URL. */
export function formatTarget({ bucket, key }: { bucket: string; key: string }): string {
  const parts = key.split("/").map((part) => {
    // Clients drop these segments from a URL unless they are encoded.
    return part === "." || part === ".." ? part.replaceAll(".", "%2E") : encodeURIComponent(part);
  });
  return `/${bucket}/${parts.join("/")}`;
}

const reservedNames = new Set([
  "metrics",
  "livez",
  "readyz",
  "render",
  "cdn-cgi",
  "submit",
  "dir",
  "vol",
  "col",
  "cluster",
]);

/** Why a new bucket can't have this name (S3's rules, and names that Hayloft keeps), or undefined. */
export function bucketNameFault(name: string): string | undefined {
  if (name.startsWith("_") || reservedNames.has(name)) return "the name is reserved";
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(name)) {
    return "a name has 3 to 63 lower-case letters, digits, dots and hyphens, and begins and ends with a letter or digit";
  }
  if (name.includes("..")) return "a name has no two dots side by side";
  if (/^[0-9]+(\.[0-9]+){3}$/.test(name)) return "a name is not an IP address";
  return undefined;
}

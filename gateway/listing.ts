/** Listings as they are asked for and answered: S3's ListObjectsV2, in XML or JSON. */

import { Failure } from "../base/failure.ts";
import type { ListPage } from "../catalog/reads.ts";
import { formatXml } from "./xml.ts";

export interface ListRequest {
  prefix: string;
  delimiter: string;
  startAfter: string;
  maxKeys: number;
  continuationToken: string | undefined;
  encodesUrls: boolean;
}

const maxKeysMax = 1_000;
const tokenVersion = "1";

export function readListRequest(query: URLSearchParams): ListRequest {
  const token = query.get("continuation-token") ?? undefined;
  const encoding = query.get("encoding-type") ?? "";
  if (encoding !== "" && encoding !== "url") throw invalid("encoding-type is url or nothing");
  return {
    prefix: query.get("prefix") ?? "",
    delimiter: query.get("delimiter") ?? "",
    startAfter: token === undefined ? (query.get("start-after") ?? "") : decodeToken(token),
    maxKeys: readMaxKeys(query.get("max-keys")),
    continuationToken: token,
    encodesUrls: encoding === "url",
  };
}

function readMaxKeys(text: string | null): number {
  if (text === null || text === "") return maxKeysMax;
  if (!/^[0-9]{1,9}$/.test(text)) throw invalid("max-keys is a whole number from 0 on");
  return Math.min(Number(text), maxKeysMax);
}

export function encodeToken(position: string): string {
  return Buffer.from(`${tokenVersion}${position}`).toString("base64url");
}

function decodeToken(token: string): string {
  const text = Buffer.from(token, "base64url").toString("utf8");
  // Only what this function's counterpart wrote: everything else is read as something it does not say.
  if (!text.startsWith(tokenVersion) || encodeToken(text.slice(1)) !== token) {
    throw invalid("the continuation token is not one that a listing gave");
  }
  return text.slice(1);
}

function invalid(why: string): Failure {
  return new Failure("bad-request", `Cannot list: ${why}`, { code: "InvalidArgument" });
}

export function formatListJson(bucket: string, { prefix }: ListRequest, page: ListPage): string {
  const body = {
    bucket,
    prefix,
    objects: page.objects.map(({ key, size, etag, modifiedMs, contentType, image }) => ({
      key,
      size,
      etag,
      lastModified: new Date(modifiedMs).toISOString(),
      type: contentType,
      ...(image === undefined ? {} : { width: image.width, height: image.height }),
    })),
    prefixes: page.prefixes,
    isTruncated: page.isTruncated,
    ...(page.next === undefined ? {} : { nextContinuationToken: encodeToken(page.next) }),
  };
  return `${JSON.stringify(body)}\n`;
}

export function formatListXml(bucket: string, request: ListRequest, page: ListPage): string {
  const text = (value: string) =>
    request.encodesUrls ? encodeURIComponent(value).replaceAll("%2F", "/") : value;
  return formatXml("ListBucketResult", {
    Name: bucket,
    Prefix: text(request.prefix),
    Delimiter: request.delimiter === "" ? undefined : text(request.delimiter),
    StartAfter:
      request.continuationToken === undefined && request.startAfter !== ""
        ? text(request.startAfter)
        : undefined,
    ContinuationToken: request.continuationToken,
    NextContinuationToken: page.next === undefined ? undefined : encodeToken(page.next),
    EncodingType: request.encodesUrls ? "url" : undefined,
    KeyCount: page.objects.length + page.prefixes.length,
    MaxKeys: request.maxKeys,
    IsTruncated: page.isTruncated,
    Contents: page.objects.map(({ key, size, etag, modifiedMs }) => ({
      Key: text(key),
      LastModified: new Date(modifiedMs).toISOString(),
      ETag: `"${etag}"`,
      Size: size,
      StorageClass: "STANDARD",
    })),
    CommonPrefixes: page.prefixes.map((prefix) => ({ Prefix: text(prefix) })),
  });
}

/**
 * Objects: what PUT, GET, HEAD and DELETE of `/{bucket}/{key}` mean.
 *
 * Invariants:
 * - The catalog is asked on every request; only what never changes (a fid's bytes) comes from the cache.
 * - An upload is durable in the stores (unless its bucket chose less: durability.ts), then committed in
 *   the catalog, then answered.
 * - A missing blob that the catalog names is never answered as 404.
 */

import type { Readable } from "node:stream";
import type { Context } from "koa";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { allowsRange, decideRead, type Validators } from "../base/http-conditions.ts";
import { type ByteRange, parseRange } from "../base/http-range.ts";
import type { Random } from "../base/random.ts";
import { SingleFlight } from "../cache/fill.ts";
import type { BlobCache } from "../cache/lru.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { ChunkRef, ObjectVersion } from "../catalog/model.ts";
import { newVersionId } from "../catalog/version-id.ts";
import { answerEmpty } from "./answers.ts";
import { requireRead } from "./auth.ts";
import type { Blobs } from "./blobs.ts";
import { bucketPlacement } from "./bucket-placement.ts";
import { noBucket } from "./buckets.ts";
import { readPutConditions } from "./conditions.ts";
import { chooseDurability } from "./durability.ts";
import { isActiveType, readUserHeaders, versionHeaders } from "./object-headers.ts";
import type { ObjectRequest, ReadRequest } from "./object-request.ts";
import { PartsStream } from "./parts-stream.ts";
import type { Pictures } from "./pictures.ts";
import { readParts, type Uploader } from "./upload.ts";

export interface ObjectsOptions {
  catalog: Catalog;
  blobs: Blobs;
  cache: BlobCache<Buffer>;
  uploader: Uploader;
  pictures: Pictures;
  clock: Clock;
  random: Random;
}

/** Blobs up to this size are read whole and kept in the cache; larger ones are streamed. */
const wholeBytesMax = 1_048_576;

/** A request that is allowed, and the version that it is for. */
interface FoundObject {
  request: ObjectRequest;
  version: ObjectVersion;
}

export class Objects {
  readonly #options: ObjectsOptions;
  readonly #fills = new SingleFlight<Buffer>();

  constructor(options: ObjectsOptions) {
    this.#options = options;
  }

  async put(context: Context, { bucket, key, requestId }: ObjectRequest): Promise<void> {
    const { uploader, clock, random } = this.#options;
    const { headers } = context.req;
    const userHeaders = readUserHeaders(context.req);
    const durability = chooseDurability(headers, bucket.settings.durability);
    const declared = headers["content-length"];
    const versionId = newVersionId(random, clock);
    const stored = await uploader.store({
      parts: readParts(context.req),
      declaredBytes: declared === undefined ? undefined : Number(declared),
      bytesMax: bucket.settings.maxObjectBytes,
      durability,
      placement: bucketPlacement(bucket.settings),
      bucket: bucket.name,
      key,
      version: versionId,
      contentType: userHeaders.contentType,
      md5: readMd5(headers["content-md5"]),
      requestId,
    });
    const version = { ...userHeaders, ...stored, bucket: bucket.name, key, versionId };
    const committed = await uploader.commit(version, readPutConditions(headers));
    context.status = 200;
    context.set("ETag", `"${stored.etag}"`);
    if (committed.versionId !== "null") context.set("x-amz-version-id", committed.versionId);
    answerEmpty(context);
  }

  async get(context: Context, request: ReadRequest): Promise<void> {
    const found = await this.#find(context, request);
    try {
      await this.#answer(context, found);
    } catch (error) {
      if (!(error instanceof Failure) || error.kind !== "not-found") throw error;
      // A store does not have what the catalog named. If the object was replaced or deleted meanwhile
      // that is the answer; else it is our loss to tell, and no 404.
      const now = await this.#find(context, request);
      if (now.version.chunks[0]?.fid === found.version.chunks[0]?.fid) {
        throw new Failure("corrupt", "Cannot read the object: a part of it is missing", {
          cause: error,
        });
      }
      await this.#answer(context, now);
    }
  }

  async delete(context: Context, { bucket, key, query }: ObjectRequest): Promise<void> {
    const versionId = query.get("versionId") ?? undefined;
    const result = await this.#options.catalog.deleteObject({
      bucket: bucket.name,
      key,
      versionId,
    });
    if (result.versionId !== undefined) context.set("x-amz-version-id", result.versionId);
    if (result.isDeleteMarker) context.set("x-amz-delete-marker", "true");
    context.status = 204;
  }

  async #find(context: Context, request: ReadRequest): Promise<FoundObject> {
    const { bucketName, principal, ...rest } = request;
    const { key, query } = rest;
    const versionId = query.get("versionId") ?? undefined;
    const found = await this.#options.catalog.find({ bucket: bucketName, key, versionId });
    if (found === undefined) throw noBucket(bucketName);
    const { bucket, version } = found;
    requireRead(principal, bucket);
    if (version === undefined) {
      throw new Failure("not-found", "Cannot find the object: the bucket has no such key", {
        code: versionId === undefined ? "NoSuchKey" : "NoSuchVersion",
      });
    }
    if (version.isDeleteMarker) {
      context.set("x-amz-delete-marker", "true");
      context.set("x-amz-version-id", version.versionId);
      throw versionId === undefined
        ? new Failure("not-found", "Cannot find the object: it was deleted", { code: "NoSuchKey" })
        : new Failure("method-not-allowed", "Cannot read that version: it is a delete marker");
    }
    return { request: { ...rest, bucket }, version };
  }

  async #answer(context: Context, { request, version }: FoundObject): Promise<void> {
    const { pictures } = this.#options;
    const plan = await pictures.plan(request, version, context.get("accept"));
    if (plan === undefined) await this.#answerOriginal(context, request, version);
    else await pictures.answer(context, request, version, plan);
  }

  async #answerOriginal(
    context: Context,
    { bucket, requestId }: ObjectRequest,
    version: ObjectVersion,
  ): Promise<void> {
    const { headers, method } = context.req;
    const validators: Validators = { etag: version.etag, modifiedMs: version.modifiedMs };
    for (const [name, value] of versionHeaders(version, bucket.settings.versioning !== "off")) {
      context.set(name, value);
    }
    const decision = decideRead(headers, validators);
    if (decision === "failed")
      throw new Failure("precondition-failed", "Cannot answer: the object is another by now");
    if (decision === "not-modified") {
      context.status = 304;
      return;
    }
    const range = allowsRange(headers, validators)
      ? parseRange(headers.range, version.size)
      : undefined;
    if (range === "unsatisfiable") {
      context.set("Content-Range", `bytes */${version.size}`);
      throw new Failure(
        "range-not-satisfiable",
        `Cannot read that range: the object has ${version.size} bytes`,
      );
    }
    const { start, end } = range ?? { start: 0, end: version.size };
    context.status = range === undefined ? 200 : 206;
    if (range !== undefined)
      context.set("Content-Range", `bytes ${start}-${end - 1}/${version.size}`);
    context.set("Content-Type", version.contentType);
    if (isActiveType(version.contentType)) context.set("Content-Security-Policy", "sandbox");
    if (method !== "HEAD") {
      const body = await this.#body(version, { start, end }, requestId);
      if (context.res.destroyed && !Buffer.isBuffer(body)) {
        body.destroy(); // the reader went away while the first part was read
        return;
      }
      context.body = body;
      // Koa sets a type of its own for a body: the stored one is the truth.
      context.set("Content-Type", version.contentType);
    }
    context.length = end - start;
  }

  async #body(
    version: ObjectVersion,
    range: ByteRange,
    requestId: string,
  ): Promise<Buffer | Readable> {
    const [only] = version.chunks;
    if (range.start === range.end) return Buffer.alloc(0);
    if (version.chunks.length === 1 && only !== undefined && only.length <= wholeBytesMax) {
      const data = await this.#whole(only, requestId);
      return range.end - range.start === data.length ? data : data.subarray(range.start, range.end);
    }
    // The first part is awaited here, so that a failure to begin still gets a status of its own.
    const parts = this.#options.blobs.streamChunks(version.chunks, range, requestId);
    const first = await parts.next();
    return new PartsStream(first, parts);
  }

  async #whole(chunk: ChunkRef, requestId: string): Promise<Buffer> {
    const { cache, blobs } = this.#options;
    const { fid } = chunk;
    const cached = cache.get(fid);
    if (cached !== undefined) return cached;
    return await this.#fills.run(fid, async () => {
      const data = await blobs.read(chunk, requestId);
      cache.set(fid, data);
      return data;
    });
  }
}

/** The MD5 that a Content-MD5 header announces, 32 hex digits. */
function readMd5(header: string | string[] | undefined): string | undefined {
  if (header === undefined) return undefined;
  const digest = Buffer.from(String(header), "base64");
  if (digest.length === 16) return digest.toString("hex");
  throw new Failure("bad-request", "Cannot store the object: Content-MD5 is no MD5 in base64", {
    code: "InvalidDigest",
  });
}

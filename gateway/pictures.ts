/**
 * Pictures: a transform of an object, rendered once however many ask, and kept in the cache.
 *
 * Invariants:
 * - A variant's key, and so its ETag, is known before it is rendered: 304 and HEAD decode nothing.
 * - The plan is made, and refused if need be, from facts alone, before any byte is decoded.
 */

import type { Context } from "koa";
import { Failure } from "../base/failure.ts";
import { decideRead } from "../base/http-conditions.ts";
import { SingleFlight } from "../cache/fill.ts";
import type { BlobCache } from "../cache/lru.ts";
import type { BucketSettings, ImageFacts, ObjectVersion } from "../catalog/model.ts";
import type { Blobs } from "./blobs.ts";
import type { Images, RenderSource } from "./images/images.ts";
import {
  ladder,
  planTransform,
  type RenderPlan,
  readTransform,
  variantKey,
} from "./images/transform.ts";
import { versionHeaders } from "./object-headers.ts";
import type { ObjectRequest } from "./object-request.ts";

/** The largest original that is decoded; what has fewer pixels than allowed is hardly ever over it. */
const sourceBytesMax = 64 * 1_048_576;

export class Pictures {
  readonly #blobs: Blobs;
  readonly #images: Images;
  readonly #cache: BlobCache<Buffer>;
  readonly #renders = new SingleFlight<Buffer>();

  constructor({
    blobs,
    images,
    cache,
  }: { blobs: Blobs; images: Images; cache: BlobCache<Buffer> }) {
    this.#blobs = blobs;
    this.#images = images;
    this.#cache = cache;
  }

  /** What to render, or undefined when the request asks for no transform. */
  async plan(
    { bucket, query, requestId }: ObjectRequest,
    version: ObjectVersion,
    accept: string,
  ): Promise<RenderPlan | undefined> {
    const transform = readTransform(query);
    if (transform === undefined) return undefined;
    const facts = version.image ?? (await this.#readFacts(version, requestId));
    const policy = bucket.settings.images;
    const plan = planTransform(transform, facts, {
      policy,
      accept: accept === "" ? undefined : accept,
    });
    if (version.size > sourceBytesMax) {
      throw new Failure("too-large", `Cannot resize: the original is over ${sourceBytesMax} bytes`);
    }
    return plan;
  }

  /** The usual transforms of an object whose pictures are in memory: every step of the ladder in every format. */
  inMemory({ image, chunks }: ObjectVersion, policy: BucketSettings["images"]): string[] {
    if (image === undefined || policy === "off") return [];
    const fids = chunks.map(({ fid }) => fid);
    const { revision } = this.#images;
    const found = new Map<string, string>();
    for (const width of ladder) {
      for (const format of ["jpeg", "webp", "avif", "png"] as const) {
        const query = `w=${width}&f=${format}`;
        try {
          const transform = readTransform(new URLSearchParams(query));
          if (transform === undefined) continue;
          const plan = planTransform(transform, image, { policy, accept: undefined });
          const key = variantKey({ fids, plan, revision });
          // Wider steps than the original is are all the same picture.
          if (this.#cache.has(key) && !found.has(key)) found.set(key, query);
        } catch (error) {
          if (!(error instanceof Failure)) throw error; // such as one that is too large for AVIF
        }
      }
    }
    return [...found.values()];
  }

  async answer(
    context: Context,
    { bucket, requestId }: ObjectRequest,
    version: ObjectVersion,
    plan: RenderPlan,
  ): Promise<void> {
    const fids = version.chunks.map(({ fid }) => fid);
    const key = variantKey({ fids, plan, revision: this.#images.revision });
    const validators = { etag: key, modifiedMs: version.modifiedMs };
    const { contentDisposition: _, ...described } = version;
    const isVersioned = bucket.settings.versioning !== "off";
    for (const [name, value] of versionHeaders({ ...described, etag: key }, isVersioned)) {
      if (name !== "Accept-Ranges") context.set(name, value);
    }
    if (plan.varyAccept) context.set("Vary", "Accept");
    const decision = decideRead(context.req.headers, validators);
    if (decision === "failed") {
      throw new Failure("precondition-failed", "Cannot answer: the picture is another by now");
    }
    if (decision === "not-modified") {
      context.status = 304;
      return;
    }
    context.status = 200;
    context.set("Content-Type", plan.contentType);
    const cached = this.#cache.get(key);
    if (context.req.method === "HEAD") {
      if (cached !== undefined) context.length = cached.length;
      return;
    }
    const gone = new AbortController();
    context.res.once("close", () => gone.abort());
    context.body = cached ?? (await this.#render(key, version, plan, requestId, gone.signal));
    context.set("Content-Type", plan.contentType);
  }

  async #render(
    key: string,
    version: ObjectVersion,
    plan: RenderPlan,
    requestId: string,
    gone: AbortSignal,
  ): Promise<Buffer> {
    return await this.#renders.run(
      key,
      async (signal) => {
        const source = this.#source(version, requestId, signal);
        const { bytes } = await this.#images.render({ source, plan, signal, requestId });
        this.#cache.set(key, bytes);
        return bytes;
      },
      gone,
    );
  }

  /** Pulled part by part, so that no buffer is made for each picture: collecting those costs more than copying. */
  #source({ chunks }: ObjectVersion, requestId: string, signal: AbortSignal): RenderSource {
    const [only] = chunks;
    const cached = chunks.length === 1 && only !== undefined && this.#cache.get(only.fid);
    if (cached) return cached;
    return (onPart) => this.#blobs.pull(chunks, onPart, { requestId, signal });
  }

  /** Facts of what was uploaded while they could not be read. */
  async #readFacts({ chunks }: ObjectVersion, requestId: string): Promise<ImageFacts | undefined> {
    const [first] = chunks;
    if (first === undefined) return undefined;
    return await this.#images.facts(await this.#blobs.read(first, requestId));
  }
}

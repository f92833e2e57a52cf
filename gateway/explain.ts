/**
 * Where an object is: its version, its chunks, each copy of each chunk as its store sees it now, and what of
 * it is in this gateway's memory. For operators who ask why a photo is slow, or gone.
 *
 * Invariant: what can't be found out is said in its place; only a missing bucket or key fails the whole.
 */

import { Failure, messageOf } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import type { BlobCache } from "../cache/lru.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { ChunkRef, ImageFacts } from "../catalog/model.ts";
import type { CopyDetails, DirectoryClient, VolumeDetails } from "../directory/client.ts";
import type { NeedleFacts, StoreClient } from "../store/client.ts";
import { noBucket } from "./buckets.ts";
import type { ReadRequest } from "./object-request.ts";
import type { Pictures } from "./pictures.ts";

interface CopyExplanation extends CopyDetails {
  /** What its store says; absent if it did not answer. */
  facts?: NeedleFacts;
  /** Why not. */
  problem?: string;
}

interface ChunkExplanation extends ChunkRef {
  /** Whether its bytes are in the memory of the gateway that was asked. */
  isInMemory: boolean;
  /** Absent if the directory did not tell. */
  volume?: Omit<VolumeDetails, "copies">;
  copies: CopyExplanation[];
  problem?: string;
}

export interface Explanation {
  bucket: string;
  key: string;
  versionId: string;
  isLatest: boolean;
  isDeleteMarker: boolean;
  size: number;
  etag: string;
  contentType: string;
  modifiedMs: number;
  image?: ImageFacts;
  chunkCount: number;
  /** The first of them. */
  chunks: ChunkExplanation[];
  /** Queries of pictures that are in the memory of the gateway that was asked. */
  variantsInMemory: string[];
}

interface ExplainerOptions {
  catalog: Catalog;
  directory: Pick<DirectoryClient, "volume">;
  stores: Pick<StoreClient, "needle">;
  cache: Pick<BlobCache<Buffer>, "has">;
  pictures: Pick<Pictures, "inMemory">;
}

/** Each is read in full at every copy: 128 MiB of an object at most. */
const chunksMax = 16;

export class Explainer {
  readonly #options: ExplainerOptions;

  constructor(options: ExplainerOptions) {
    this.#options = options;
  }

  async explain({ bucketName, key, query, requestId }: ReadRequest): Promise<Explanation> {
    const { catalog, pictures } = this.#options;
    const versionId = query.get("versionId") ?? undefined;
    const found = await catalog.find({ bucket: bucketName, key, versionId });
    if (found === undefined) throw noBucket(bucketName);
    const { bucket, version } = found;
    if (version === undefined) {
      throw new Failure("not-found", "Cannot find the object: the bucket has no such key", {
        code: versionId === undefined ? "NoSuchKey" : "NoSuchVersion",
      });
    }
    const { isLatest, isDeleteMarker, size, etag, contentType, modifiedMs, image } = version;
    const volumes = new Map<number, Promise<VolumeDetails>>();
    const chunks: ChunkExplanation[] = [];
    for (const chunk of version.chunks.slice(0, chunksMax)) {
      chunks.push(await this.#explainChunk(chunk, volumes, requestId));
    }
    return {
      ...{ bucket: bucketName, key, versionId: version.versionId, isLatest, isDeleteMarker },
      ...{ size, etag, contentType, modifiedMs, ...(image === undefined ? {} : { image }) },
      chunkCount: version.chunks.length,
      chunks,
      variantsInMemory: pictures.inMemory(version, bucket.settings.images),
    };
  }

  async #explainChunk(
    chunk: ChunkRef,
    volumes: Map<number, Promise<VolumeDetails>>,
    requestId: string,
  ): Promise<ChunkExplanation> {
    const { directory, cache } = this.#options;
    const { fid } = chunk;
    const id = parseFid(fid)?.volume ?? 0;
    const isInMemory = cache.has(fid);
    const asked = volumes.get(id) ?? directory.volume(id, requestId);
    volumes.set(id, asked);
    try {
      const { copies, ...volume } = await asked;
      const explained = copies.map((copy) => this.#explainCopy(copy, fid, requestId));
      return { ...chunk, isInMemory, volume, copies: await Promise.all(explained) };
    } catch (error) {
      return { ...chunk, isInMemory, copies: [], problem: messageOf(error) };
    }
  }

  async #explainCopy(copy: CopyDetails, fid: string, requestId: string): Promise<CopyExplanation> {
    const { stores } = this.#options;
    try {
      const facts = await stores.needle(copy.address, fid, { verifies: true, requestId });
      return { ...copy, facts };
    } catch (error) {
      return { ...copy, problem: messageOf(error) };
    }
  }
}

/** What the store and its callers agree on beyond the paths of server.ts. */

/** The needle's metadata: base64 of JSON (`BlobMetadata`). */
export const metadataHeader = "x-hayloft-metadata";
/** The blob's owner: catalog id and writer session, `<16 hex>:<number>`. */
export const ownerHeader = "x-hayloft-owner";

/** `memory` where a bucket chose it: the answer does not wait for the disk. */
export const durabilityHeader = "x-hayloft-durability";

/** What a needle says of itself, so that volumes alone can tell whose their bytes are. */
export interface BlobMetadata {
  bucket: string;
  key: string;
  version: string;
  /** Number of the chunk in its object: 0, 1, … */
  chunk: number;
  /** Media type of the object. */
  type: string;
  /** SHA-256 of this chunk's bytes, hex. */
  sha256: string;
}

/** What became of each fid: `absent` was deleted before or never there, `unknown` is not of this store. */
export interface DeleteReply {
  outcomes: Record<string, "deleted" | "absent" | "unknown" | "corrupt">;
}

/** Fids of a batch, in its order. */
export interface BatchReply {
  fids: string[];
}

/** What the catalog keeps, as plain data, and the rules that need nothing but the data. */

import { Failure } from "../base/failure.ts";
import type { Spread } from "../directory/client.ts";
import type { Durability } from "../store/client.ts";

export interface ChunkRef {
  /** The blob's fid, as text. */
  fid: string;
  /** Bytes of the object in this chunk. */
  length: number;
}

export interface ImageFacts {
  /** Width and height are those stored, before `orientation` is applied. */
  width: number;
  height: number;
  /** EXIF's, 1 … 8. */
  orientation: number;
  format: "jpeg" | "png" | "webp" | "avif" | "gif" | "heic" | "svg" | "tiff";
  pages: number;
  hasAlpha: boolean;
}

export interface ObjectVersion {
  bucket: string;
  key: string;
  /** `null`, as text, for what was put while versioning was off or suspended. */
  versionId: string;
  isDeleteMarker: boolean;
  isLatest: boolean;
  size: number;
  /** 32 hex digits, without quotes; empty for a delete marker. */
  etag: string;
  contentType: string;
  cacheControl?: string;
  contentDisposition?: string;
  meta: Record<string, string>;
  image?: ImageFacts;
  chunks: ChunkRef[];
  modifiedMs: number;
}

/** What a caller knows of a version before it is in the catalog. */
export interface NewVersion {
  bucket: string;
  key: string;
  /** A fresh one from `newVersionId`; it becomes `null` where versioning is not on. */
  versionId: string;
  size: number;
  etag: string;
  contentType: string;
  cacheControl?: string | undefined;
  contentDisposition?: string | undefined;
  meta: Record<string, string>;
  image?: ImageFacts | undefined;
  chunks: ChunkRef[];
}

/** What a PUT demands of the live object that it would replace. ETags are without quotes. */
export interface PutConditions {
  ifMatch?: string[] | "*" | undefined;
  ifNoneMatch?: string[] | "*" | undefined;
}

export interface DeleteResult {
  deleted: "nothing" | "version" | "marker-created" | "marker-removed";
  /** Of the marker created or the version removed; absent where versioning is off and none was named. */
  versionId?: string;
  /** What was created or removed is a delete marker. */
  isDeleteMarker: boolean;
}

export type Versioning = "off" | "on" | "suspended";

export interface BucketSettings {
  publicRead: boolean;
  versioning: Versioning;
  images: "ladder" | "open" | "off";
  maxObjectBytes: number;
  /** Of uploaded bytes. With `memory` a machine's crash may take the last second's, though not their names. */
  durability: Durability;
  /** On how many stores a blob of it is kept. */
  copies: number;
  /** What no two of them may share. */
  spread: Spread;
  /** With how many an upload is taken while there can't be as many as `copies`. */
  minCopies: number;
}

export interface Bucket {
  name: string;
  createdMs: number;
  settings: Readonly<BucketSettings>;
}

export const defaultSettings: BucketSettings = {
  publicRead: false,
  versioning: "off",
  images: "ladder",
  maxObjectBytes: 5 * 2 ** 30,
  durability: "disk",
  copies: 1,
  spread: "machine",
  minCopies: 1,
};

/**
 * The settings after a change. Versioning that was ever on can't be off again, only suspended. Who takes
 * uploads only with all copies does so with another number of them too.
 */
export function patchSettings(
  settings: Readonly<BucketSettings>,
  patch: Partial<BucketSettings>,
): BucketSettings {
  const patched = { ...settings, ...patch };
  if (settings.versioning !== "off" && patched.versioning === "off") {
    patched.versioning = "suspended";
  }
  if (patch.minCopies === undefined) {
    const wantsAll = settings.minCopies === settings.copies;
    patched.minCopies = wantsAll ? patched.copies : Math.min(settings.minCopies, patched.copies);
  } else if (patch.minCopies > patched.copies) {
    throw new Failure(
      "bad-request",
      `Cannot change the settings: minCopies is ${patch.minCopies}, more than the ${patched.copies} copies that there are to be`,
      { code: "InvalidArgument" },
    );
  }
  return patched;
}

const keyBytesMax = 1_024;

/** The bytes that a key is compared by. */
export function encodeKey(key: string): Buffer {
  const bytes = encodeText(key);
  if (bytes.length === 0) {
    throw new Failure("bad-request", "Cannot use the key: it is empty", {
      code: "InvalidArgument",
    });
  }
  if (bytes.length > keyBytesMax) {
    throw new Failure(
      "bad-request",
      `Cannot use the key: it has ${bytes.length} bytes and may have ${keyBytesMax}`,
      { code: "KeyTooLongError" },
    );
  }
  return bytes;
}

/** UTF-8, or a refusal where it would have to replace half a character and so mix up two keys. */
export function encodeText(text: string): Buffer {
  if (!text.isWellFormed()) {
    throw new Failure("bad-request", "Cannot use the key: it is not valid Unicode", {
      code: "InvalidURI",
    });
  }
  return Buffer.from(text, "utf8");
}

export function decodeText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8");
}

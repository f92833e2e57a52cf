/**
 * What a native blob's needle says of itself: JSON, with nothing in it that a default says too.
 */

import { hash } from "node:crypto";
import { z } from "zod";

export interface NativeMetadata {
  /** File name, for Content-Disposition. */
  name?: string | undefined;
  /** Media type. */
  type?: string | undefined;
  /** Seconds since 1970, where the client gave another time than that of the append. */
  modified?: number | undefined;
  /** Headers that were given with the prefix `Seaweed-`, which they are answered without. */
  pairs?: Record<string, string> | undefined;
  /** The first 16 hex digits of the content's SHA-256. */
  etag?: string | undefined;
  /** Set when the blob is a SeaweedFS chunk manifest. */
  manifest?: true | undefined;
  /** The key in the fid, hex, in volumes with sparse keys. */
  key?: string | undefined;
}

const schema: z.ZodType<NativeMetadata> = z.object({
  name: z.string().optional(),
  type: z.string().optional(),
  modified: z.number().optional(),
  pairs: z.record(z.string(), z.string()).optional(),
  etag: z.string().optional(),
  manifest: z.literal(true).optional(),
  key: z
    .string()
    .regex(/^[0-9a-f]{1,16}$/)
    .optional(),
});

const none = Buffer.from("{}");

export function encodeNativeMetadata(metadata: NativeMetadata): Buffer {
  const json = JSON.stringify(metadata);
  return json === "{}" ? none : Buffer.from(json);
}

/** Metadata of a needle; that of a needle that is not a native blob reads as if there was none. */
export function decodeNativeMetadata(bytes: Buffer): NativeMetadata {
  if (bytes.length <= none.length) return {};
  try {
    return schema.parse(JSON.parse(bytes.toString("utf8")));
  } catch {
    return {};
  }
}

/** The entity tag of a native blob, without quotes. */
export function etagOf(content: Buffer): string {
  return hash("sha256", content, "hex").slice(0, 16);
}

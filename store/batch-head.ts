/** What goes with the bytes of a batch from a primary to its replicas: one header, base64url of JSON. */

import { z } from "zod";
import { Failure } from "../base/failure.ts";
import { dataBytesMax } from "./volume/needle.ts";
import type { BatchHead } from "./volume/volume.ts";

export const batchHeader = "x-hayloft-batch";

/** A batch is one call's blobs at most, with their heads and metadata. */
export const batchBytesMax: number = 2 * dataBytesMax;

const count = z.int().nonnegative();
const digest = z
  .string()
  .regex(/^[0-9a-f]{16}$/)
  .transform((hex) => Buffer.from(hex, "hex"));

const headSchema: z.ZodType<BatchHead> = z.object({
  uuid: z.string().regex(/^[0-9a-f]{32}$/),
  generation: count,
  epoch: count,
  offset: count,
  previousDigest: digest,
  digest,
  nextOrdinal: count,
  durability: z.enum(["disk", "memory"]),
});

export function encodeBatchHead({
  uuid,
  generation,
  epoch,
  offset,
  previousDigest,
  digest: own,
  nextOrdinal,
  durability,
}: BatchHead): string {
  const head = {
    ...{ uuid, generation, epoch, offset, nextOrdinal, durability },
    previousDigest: previousDigest.toString("hex"),
    digest: own.toString("hex"),
  };
  return Buffer.from(JSON.stringify(head)).toString("base64url");
}

export function parseBatchHead(text: unknown): BatchHead {
  try {
    return headSchema.parse(JSON.parse(Buffer.from(String(text), "base64url").toString()));
  } catch (error) {
    throw new Failure("bad-request", "Cannot take the batch: its header can't be read", {
      cause: error,
    });
  }
}

/**
 * A SeaweedFS volume taken over: its blobs become needles of a volume that is born sealed, in the order of
 * their keys, and fids with those keys and cookies go on working.
 *
 * Invariant: the source is only read. A blob that does not verify there is left out and told.
 */

import type { Order, VolumeClass } from "../../directory/client.ts";
import { encodeContent } from "../volume/codec.ts";
import { KeyIndex } from "../volume/key-index.ts";
import { encodeNativeMetadata, etagOf, type NativeMetadata } from "../volume/native-metadata.ts";
import { metadataBytesMax } from "../volume/needle.ts";
import { type Blob, Volume } from "../volume/volume.ts";
import type { VolumeEnvironment } from "../volume/volume-environment.ts";
import { openSeaweedVolume, type SeaweedNeedle } from "./seaweed-volume.ts";

/** What the directory orders, without the number that it goes by. */
export type ImportOrder = Omit<Extract<Order, { kind: "import" }>, "kind" | "order">;

export interface ImportResult {
  volume: Volume;
  blobs: number;
  bytes: number;
  /** What could not be taken over: key, place and reason. */
  damaged: { key: string; offset: number; why: string }[];
  warnings: readonly string[];
}

// Each batch is synced once.
const batchBytes = 8 * 1_048_576;
const batchCount = 1_024;

/** Imports a `.dat` and `.idx` pair into the environment's folder. */
export async function importSeaweedVolume(
  environment: VolumeEnvironment,
  order: ImportOrder,
  progress?: (doneBlobs: number, totalBlobs: number) => void,
): Promise<ImportResult> {
  const source = await openSeaweedVolume(environment.files, order);
  try {
    const volume = await Volume.create(
      environment,
      {
        volume: order.volume,
        uuid: Buffer.from(order.uuid, "hex"),
        generation: 0,
        class: "native" satisfies VolumeClass,
        recordMagic: Buffer.from(order.recordMagic, "hex"),
        createdMs: order.createdMs,
        firstFree: 0,
        ttlSeconds: 0,
        hasSparseKeys: true,
      },
      { members: order.members, limitBytes: Number.POSITIVE_INFINITY },
    );
    try {
      await volume.beginEpoch(order.epoch);
      const result = await copyBlobs();
      await volume.seal(result.keys);
      await volume.settled();
      const { blobs, bytes, damaged } = result;
      return { volume, blobs, bytes, damaged, warnings: source.warnings };
    } catch (error) {
      // Half a volume must not be served as one. The first failure is the one to tell.
      await volume.drop().catch(() => undefined);
      throw error;
    }

    async function copyBlobs(): Promise<
      Pick<ImportResult, "blobs" | "bytes" | "damaged"> & { keys: KeyIndex }
    > {
      const keys = new BigUint64Array(source.keys.length);
      const damaged: ImportResult["damaged"] = [];
      const nowMs = environment.clock.nowMs();
      let blobs = 0;
      let bytes = 0;
      let done = 0;
      let batch: Blob[] = [];
      let waiting = 0;
      const store = async () => {
        await volume.appendAll(batch);
        batch = [];
        waiting = 0;
        progress?.(done, source.keys.length);
      };
      for await (const found of source.needles()) {
        done += 1;
        if ("damage" in found) {
          const { key, offset, damage } = found;
          damaged.push({ key: key.toString(16), offset, why: damage });
          continue;
        }
        const blob = await blobOf(found, nowMs);
        if (blob === undefined) continue;
        if (waiting + blob.data.length > batchBytes || batch.length >= batchCount) await store();
        keys[blobs] = found.key;
        blobs += 1;
        bytes += found.data.length;
        batch.push(blob);
        waiting += blob.data.length;
      }
      await store();
      return { blobs, bytes, damaged, keys: KeyIndex.build(keys.subarray(0, blobs)) };
    }
  } finally {
    await source.close();
  }
}

/** The blob to store, or undefined if it has expired. */
async function blobOf(needle: SeaweedNeedle, nowMs: number): Promise<Blob | undefined> {
  const { key, cookie, data, name, mime, pairs, isChunkManifest, lastModifiedSeconds } = needle;
  let { ttlSeconds } = needle;
  const writtenMs = needle.timeMs ?? (lastModifiedSeconds ?? 0) * 1_000;
  if (ttlSeconds > 0 && writtenMs > 0) {
    // It counts from its append, and this is another one.
    ttlSeconds = Math.floor((writtenMs - nowMs) / 1_000) + ttlSeconds;
    if (ttlSeconds <= 0) return undefined;
  }
  const { codec, data: stored } = await encodeContent(data, mime ?? "");
  const modified = lastModifiedSeconds ?? Math.floor(writtenMs / 1_000);
  const facts: NativeMetadata = {
    name,
    type: mime,
    ...(modified > 0 ? { modified } : {}),
    ...(isChunkManifest ? { manifest: true } : {}),
    etag: etagOf(data),
    key: key.toString(16),
  };
  const whole = encodeNativeMetadata({ ...facts, pairs });
  return {
    data: stored,
    codec,
    contentLength: data.length,
    // SeaweedFS's headers may fill its 64 KiB to the last byte; the blob is worth more than they are.
    metadata: whole.length <= metadataBytesMax ? whole : encodeNativeMetadata(facts),
    owner: undefined,
    ttlSeconds,
    cookie,
  };
}

/** What a store shows of itself under `/metrics`. */

import { Counter, Gauge, Histogram, latencyBuckets, type Registry } from "../base/metrics.ts";
import type { Store } from "./store.ts";

export interface StoreMetrics {
  appendSeconds: Histogram;
  readSeconds: Histogram;
  corruptReads: Counter;
}

export function makeStoreMetrics(store: Store, registry: Registry): StoreMetrics {
  const registers = [registry];
  const byVolume = (name: string, help: string, measure: (id: number) => number) => {
    new Gauge({
      name,
      help,
      labelNames: ["volume"],
      registers,
      collect() {
        this.reset();
        for (const { superblock } of store.volumes()) {
          this.set({ volume: superblock.volume }, measure(superblock.volume));
        }
      },
    });
  };
  const reportOf = (id: number) => store.volume(id)?.report();
  byVolume(
    "hayloft_store_volume_bytes",
    "Length of a volume file.",
    (id) => reportOf(id)?.lengthBytes ?? 0,
  );
  byVolume(
    "hayloft_store_volume_needles",
    "Needles in a volume.",
    (id) => reportOf(id)?.needleCount ?? 0,
  );
  byVolume(
    "hayloft_store_volume_deleted",
    "Deleted needles in a volume.",
    (id) => reportOf(id)?.deletedCount ?? 0,
  );
  byVolume(
    "hayloft_store_volume_damaged_bytes",
    "Bytes below the tail that do not verify.",
    (id) => reportOf(id)?.damagedBytes ?? 0,
  );
  byVolume(
    "hayloft_store_volume_dead_bytes",
    "Bytes of deleted needles that compaction would free.",
    (id) => reportOf(id)?.deadBytes ?? 0,
  );
  byVolume(
    "hayloft_store_volume_queue_bytes",
    "Bytes that wait to be written.",
    (id) => store.volume(id)?.queueBytes ?? 0,
  );
  for (const [name, help, key] of [
    ["hayloft_store_syncs_total", "Syncs of volume files.", "syncs"],
    ["hayloft_store_appends_total", "Needles made durable.", "appends"],
  ] as const) {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(store.volumes().reduce((sum, { counts }) => sum + counts[key], 0));
      },
    });
  }
  for (const [name, help, measure] of [
    [
      "hayloft_store_index_bytes",
      "Memory for finding needles: indexes, deletes and keys.",
      () => store.volumes().reduce((sum, { indexBytes }) => sum + indexBytes, 0),
    ],
    [
      "hayloft_store_trash_bytes",
      "Bytes of old generations, replaced copies and removed volumes that are kept for a while.",
      () => store.trashBytes,
    ],
    [
      "hayloft_store_oldest_unverified_seconds",
      "Since when the volume that was verified longest ago has not been.",
      () => store.oldestUnverifiedSeconds(),
    ],
  ] as const) {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(measure());
      },
    });
  }
  new Gauge({
    name: "hayloft_store_free_bytes",
    help: "Bytes of the disk that appends may still take.",
    registers,
    collect() {
      this.set(store.space().freeBytes);
    },
  });
  return {
    appendSeconds: new Histogram({
      name: "hayloft_store_append_seconds",
      help: "From the request to the synced needle.",
      buckets: latencyBuckets,
      registers,
    }),
    readSeconds: new Histogram({
      name: "hayloft_store_read_seconds",
      help: "From the request to the verified answer.",
      buckets: latencyBuckets,
      registers,
    }),
    corruptReads: new Counter({
      name: "hayloft_store_corrupt_reads_total",
      help: "Reads that found bytes that do not verify.",
      registers,
    }),
  };
}

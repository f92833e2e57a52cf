/** A store's status in SeaweedFS's words, of volumes of class `native` alone. */

import { splitTtl, ttlUnitNumber } from "../../base/ttl.ts";
import type { VolumeStatus } from "../../directory/client.ts";
import type { Store } from "../store.ts";

/** The version of SeaweedFS's volume files that clients are told: the newest that they know. */
const volumeVersion = 3;

export function nativeStatus(store: Store): unknown {
  const { freeBytes, totalBytes } = store.space();
  const used = Math.max(totalBytes - freeBytes, 0);
  const percent = (bytes: number) => (totalBytes === 0 ? 0 : (bytes / totalBytes) * 100);
  return {
    Version: "Hayloft",
    DiskStatuses: [
      {
        dir: store.id, // where its folder lies is nobody's business
        all: totalBytes,
        used,
        free: freeBytes,
        percent_free: percent(freeBytes),
        percent_used: percent(used),
        disk_type: "hdd",
      },
    ],
    Volumes: store
      .reports()
      .filter((report) => report.class === "native")
      .map(volumeInfo),
  };
}

function volumeInfo(report: VolumeStatus): unknown {
  const ttl = splitTtl(report.ttlSeconds);
  const lastMs =
    report.expiresMs > 0 ? report.expiresMs - report.ttlSeconds * 1_000 : report.createdMs;
  return {
    Id: report.volume,
    Collection: "",
    DiskType: "hdd",
    RemoteStorageName: "",
    ReplicaPlacement: { node: 0, rack: 0, dc: 0 },
    Ttl: { Count: ttl?.count ?? 0, Unit: ttl === undefined ? 0 : ttlUnitNumber(ttl.unit) },
    Size: report.lengthBytes,
    DeletedByteCount: report.deadBytes,
    ModifiedAtSecond: Math.floor(lastMs / 1_000),
    DiskId: 0,
    CompactRevision: report.generation,
    FileCount: report.needleCount,
    DeleteCount: report.deletedCount,
    Version: volumeVersion,
    ReadOnly: !report.isWritable,
  };
}

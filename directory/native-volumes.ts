/** Volumes of class `native` as the assigner sees them: those that fids may be assigned of. */

import type { NativeVolume } from "./assigner.ts";
import type { Ledger } from "./ledger.ts";
import type { Presence } from "./presences.ts";
import { openMsOf } from "./ttl-bucket.ts";

/** How long before a volume with a TTL is sealed it is assigned no more: the PUTs have to come first. */
const lastAssignMs = 60_000;

/** Those of one store. Of an adopted one the secret is not on record. */
export function nativeVolumesOf(ledger: Ledger, presence: Presence): NativeVolume[] {
  const found: NativeVolume[] = [];
  for (const volume of ledger.volumesOf(presence.store)) {
    const record = ledger.volumes.get(volume);
    if (record?.class !== "native" || record.state !== "open" || record.recordMagic === "")
      continue;
    const status = presence.volumes.get(volume);
    if (status?.state !== "open" || status.closedBecause !== undefined) continue;
    if (presence.refused.has(volume) || record.replicas[0]?.store !== presence.store) continue;
    const { ttlSeconds } = record;
    const until = status.createdMs + openMsOf(ttlSeconds) - lastAssignMs;
    found.push({
      volume,
      uuid: Buffer.from(record.uuid, "hex"),
      recordMagic: Buffer.from(record.recordMagic, "hex"),
      ttlSeconds,
      isWritable: status.isWritable,
      assignableUntilMs: ttlSeconds === 0 ? Number.POSITIVE_INFINITY : until,
    });
  }
  return found;
}

/**
 * Stores and native volumes as SeaweedFS shows them: data centers, racks in them, and nodes in those. Pure
 * functions, over stores whose `volumes` are the native ones.
 */

import { splitTtl, ttlUnitNumber } from "../base/ttl.ts";
import type { StoreStatus, VolumeStatus } from "./protocol.ts";

const version = "Hayloft";
export const diskType = "hdd";

/** What one volume is taken for where SeaweedFS counts space in volumes. */
const volumeBytes = 32 * 2 ** 30;

type Placed = Pick<StoreStatus, "dataCentre" | "rack">;

/** Where nobody has said where a store stands, clients read what SeaweedFS says then. */
export function dataCenterOf({ dataCentre }: Placed): string {
  return dataCentre === "data-centre" ? "DefaultDataCenter" : dataCentre;
}

export function rackOf({ rack }: Placed): string {
  return rack === "rack" ? "DefaultRack" : rack;
}

/** The body of /dir/status. */
export function topologyOf(stores: readonly StoreStatus[]): unknown {
  const open = new Map<number, VolumeStatus>();
  for (const status of stores.flatMap(({ volumes }) => volumes)) {
    if (status.isWritable) open.set(status.volume, status);
  }
  const layouts = Map.groupBy(open.values(), ({ ttlSeconds }) => ttlSeconds);
  const dataCenters = [...Map.groupBy(stores, dataCenterOf)].map(([Id, inIt]) => ({
    Id,
    Racks: [...Map.groupBy(inIt, rackOf)].map(([Id, inRack]) => ({
      Id,
      DataNodes: inRack.map(nodeOf),
    })),
  }));
  return {
    Topology: {
      ...capacityOf(stores),
      DataCenters: dataCenters,
      Layouts: [...layouts].map(([ttlSeconds, volumes]) => ({
        replication: "000",
        ttl: formatTtl(ttlSeconds),
        writables: volumes.map(({ volume }) => volume),
        collection: "",
        diskType,
      })),
    },
    Version: version,
  };
}

/** The body of /vol/status. */
export function volumesOf(stores: readonly StoreStatus[]): unknown {
  const dataCenters: Record<string, Record<string, Record<string, unknown[]>>> = {};
  for (const store of stores) {
    dataCenters[dataCenterOf(store)] ??= {};
    const racks = dataCenters[dataCenterOf(store)] ?? {};
    racks[rackOf(store)] ??= {};
    const nodes = racks[rackOf(store)] ?? {};
    nodes[store.address] = store.volumes.map(volumeInfo);
  }
  return { Version: version, Volumes: { ...capacityOf(stores), DataCenters: dataCenters } };
}

function nodeOf(store: StoreStatus): unknown {
  return {
    Url: store.address,
    PublicUrl: store.address,
    Volumes: store.volumes.length,
    EcShards: 0,
    Max: slotsOf(store).max,
    VolumeIds: store.volumes.map(({ volume }) => volume).join(" "),
  };
}

/** SeaweedFS counts space in volumes. */
function slotsOf({ volumes, freeBytes }: StoreStatus): { max: number; free: number } {
  const free = Math.floor(freeBytes / volumeBytes);
  return { max: volumes.length + free, free };
}

function capacityOf(stores: readonly StoreStatus[]): { Max: number; Free: number } {
  const slots = stores.map(slotsOf);
  return {
    Max: slots.reduce((sum, { max }) => sum + max, 0),
    Free: slots.reduce((sum, { free }) => sum + free, 0),
  };
}

function formatTtl(ttlSeconds: number): string {
  const ttl = splitTtl(ttlSeconds);
  return ttl === undefined ? "" : `${ttl.count}${ttl.unit}`;
}

function volumeInfo(status: VolumeStatus): unknown {
  const ttl = splitTtl(status.ttlSeconds);
  return {
    Id: status.volume,
    Collection: "",
    DiskType: diskType,
    ReplicaPlacement: {},
    Ttl:
      ttl === undefined
        ? { Count: 0, Unit: 0 }
        : { Count: ttl.count, Unit: ttlUnitNumber(ttl.unit) },
    Size: status.lengthBytes,
    DeletedByteCount: status.deadBytes,
    CompactRevision: status.generation,
    FileCount: status.needleCount,
    DeleteCount: status.deletedCount,
    Version: 3,
    ReadOnly: !status.isWritable,
  };
}

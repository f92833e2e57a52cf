/** What the directory shows of itself to people: stores, volumes over all their copies, what is short. */

import type { Copying } from "./copying.ts";
import type { Keeper } from "./keeper.ts";
import type { Ledger } from "./ledger.ts";
import { conditionOf, healthOf } from "./plan-life.ts";
import type { Presence, Presences } from "./presences.ts";
import type {
  DirectoryStatus,
  Shortfall,
  StoreStatus,
  VolumeDetails,
  VolumeSummary,
} from "./protocol.ts";
import { membersOf, placementOf, type VolumeRecord } from "./records.ts";

interface StatusView {
  ledger: Ledger;
  presences: Presences;
  keeper: Keeper;
  copying: Copying;
}

const shortShown = 500;

export function directoryStatus(view: StatusView): DirectoryStatus {
  const volumes: VolumeSummary[] = [];
  for (const record of view.ledger.volumes.values()) {
    if (record.state !== "dropped") volumes.push(volumeSummary(view, record));
  }
  return {
    stores: [...view.presences.values()].map((presence) => storeStatus(view, presence)),
    volumes: volumes.sort((left, right) => left.volume - right.volume),
    shortfall: shortfallOf(view),
    unmet: view.keeper.unmet,
  };
}

/** Undefined for a volume that never was, or is gone. */
export function volumeDetails(view: StatusView, volume: number): VolumeDetails | undefined {
  const record = view.ledger.volumes.get(volume);
  if (record === undefined || record.state === "dropped") return undefined;
  const { replicas, ...summary } = volumeSummary(view, record);
  const copies = replicas.map((replica) => {
    const presence = view.presences.get(replica.store);
    const { address = "", machine = "", rack = "", dataCentre = "" } = presence ?? {};
    return {
      ...replica,
      address,
      machine,
      rack,
      dataCentre,
      storeState: presence?.state ?? "lost",
    };
  });
  return { ...summary, copies };
}

function storeStatus({ ledger, copying }: StatusView, presence: Presence): StoreStatus {
  const { store, address, machine, rack, dataCentre, state, freeBytes, totalBytes } = presence;
  let memberCount = 0;
  for (const volume of ledger.volumesOf(store)) {
    const record = ledger.volumes.get(volume);
    if (record !== undefined && membersOf(record).some((replica) => replica.store === store)) {
      memberCount += 1;
    }
  }
  return {
    ...{ store, address, machine, rack, dataCentre, freeBytes, totalBytes, memberCount },
    // One that has not called since the directory's start is only hoped for.
    state: presence.run === "" && state === "live" ? "suspect" : state,
    isDraining: ledger.stores.get(store)?.isDraining === true,
    memberBytes: copying.memberBytes(ledger, store),
    volumes: [...presence.volumes.values()],
  };
}

function volumeSummary({ ledger, keeper }: StatusView, record: VolumeRecord): VolumeSummary {
  const { volume, state, placement, epoch, generation } = record;
  const copies = keeper.copiesOf(record, (store) => ledger.stores.get(store)?.isDraining === true);
  const lengths = copies.map(({ report }) => report?.lengthBytes ?? 0);
  const isOver = state === "sealed";
  return {
    ...{ volume, class: record.class, state, placement, epoch, generation },
    lengthBytes: record.sealedLength ?? Math.max(0, ...lengths),
    replicas: copies.map((copy) => ({
      store: copy.replica.store,
      role: copy.replica.state,
      condition: isOver ? conditionOf(record, copy) : copy.state,
    })),
    missingCount: isOver ? healthOf({ record, copies }).missingCount : missingMembers(record),
  };
}

/** Of a volume that is written with fewer copies than are wanted. */
function missingMembers(record: VolumeRecord): number {
  const isAlive = record.state === "open" || record.state === "sealing";
  return isAlive ? Math.max(placementOf(record).copies - membersOf(record).length, 0) : 0;
}

export function shortfallOf(view: StatusView): Shortfall {
  const volumes: VolumeSummary[] = [];
  let volumeCount = 0;
  let copyBytes = 0;
  for (const volume of view.keeper.short) {
    const record = view.ledger.volumes.get(volume);
    if (record === undefined) continue;
    volumeCount += 1;
    const copies = view.keeper.copiesOf(record, () => false);
    copyBytes += healthOf({ record, copies }).missingCount * (record.sealedLength ?? 0);
    if (volumes.length < shortShown) volumes.push(volumeSummary(view, record));
  }
  const presentCount = ({ replicas }: VolumeSummary) =>
    replicas.filter(({ condition }) => condition === "whole").length;
  volumes.sort((left, right) => presentCount(left) - presentCount(right));
  return { volumeCount, copyBytes, unavailableCount: unavailableCount(view), volumes };
}

function unavailableCount({ ledger, presences }: StatusView): number {
  let count = 0;
  const silent = [...presences.values()].filter(({ state }) => state !== "live");
  const volumes = new Set(silent.flatMap(({ store }) => [...ledger.volumesOf(store)]));
  for (const volume of volumes) {
    const record = ledger.volumes.get(volume);
    if (record === undefined || record.state === "dropped") continue;
    const isSomewhere = membersOf(record).some(
      ({ store }) => presences.get(store)?.state === "live",
    );
    if (!isSomewhere) count += 1;
  }
  return count;
}

/** What the directory has on record: rows, as values that are never changed but replaced. */

import { onePlacement, type Placement, parsePlacement, placementText } from "./placement.ts";
import type { Order, OrderKind, VolumeClass } from "./protocol.ts";

/**
 * `creating`: not every member has it yet, nobody was ever told to write to it. `sealing`: its members are
 * being fenced. `dropped`: it is gone; its id is used for ever all the same.
 */
export type VolumeState =
  | "importing"
  | "creating"
  | "open"
  | "sealing"
  | "sealed"
  | "dropping"
  | "dropped";

/**
 * `member`: counts, and gets deletes. `moving`: a member that goes once there is another in its place.
 * `joining`: it is being copied to. `surplus`: what is there does not count, and may be needed yet.
 * `leaving`: told to delete its copy, so it is taken for gone.
 */
export type ReplicaState = "member" | "moving" | "joining" | "surplus" | "leaving";

export interface ReplicaRecord {
  readonly store: string;
  readonly state: ReplicaState;
  /** While the volume is open: the run of the store that its epoch was given to. */
  readonly run: string;
}

export interface VolumeRecord {
  readonly volume: number;
  readonly uuid: string;
  readonly class: VolumeClass;
  readonly generation: number;
  /** Empty of a volume that was adopted. */
  readonly recordMagic: string;
  /** While it is sealing, the one that its members are fenced with. */
  readonly epoch: number;
  readonly state: VolumeState;
  /** `placementText` of placement.ts. */
  readonly placement: string;
  readonly ttlSeconds: number;
  /** Its open life ends here: it is not reopened, should all members be equal. */
  readonly isFinal: boolean;
  /** Of a sealed volume: where its open life ended, as long as it was not compacted since. */
  readonly sealedLength: number | null;
  readonly sealedDigest: string | null;
  /** The primary first. */
  readonly replicas: readonly ReplicaRecord[];
}

export interface StoreRecord {
  readonly store: string;
  readonly address: string;
  /** The run of its process that was last heard of. */
  readonly run: string;
  readonly machine: string;
  readonly rack: string;
  readonly dataCentre: string;
  /** Its copies are being moved away, at an operator's wish. */
  readonly isDraining: boolean;
  readonly joinedMs: number;
}

/** An order that has not ended. */
export interface OrderRecord {
  readonly number: number;
  readonly store: string;
  readonly volume: number;
  readonly kind: OrderKind;
  readonly order: Order;
}

export const onePlacementText: string = placementText(onePlacement);

const placements = new Map<string, Placement>();

/** The placement of a volume; read once for each text. */
export function placementOf({ placement }: Pick<VolumeRecord, "placement">): Placement {
  let parsed = placements.get(placement);
  if (parsed === undefined) {
    parsed = parsePlacement(placement);
    placements.set(placement, parsed);
  }
  return parsed;
}

/** Those that count: they have all that was acknowledged, or are to get it. */
export function membersOf({ replicas }: Pick<VolumeRecord, "replicas">): ReplicaRecord[] {
  return replicas.filter(({ state }) => state === "member" || state === "moving");
}

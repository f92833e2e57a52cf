/**
 * What stores, gateways, operators and the directory say to each other, and the checks at the edge.
 *
 * A heartbeat tells what a store has and how its orders went; its reply brings new orders. It is a long
 * poll: the directory may hold the reply while it has nothing new to say. A map tells gateways which store
 * has which volume, and which volumes take appends.
 */

import { z } from "zod";

export type VolumeClass = "original" | "native" | "variant" | "journal";

/** A store that has a copy of a volume. */
export interface Member {
  /** 16 hex digits. */
  store: string;
  /** `host:port`. */
  address: string;
}

/** A volume as its store sees it. */
export interface VolumeStatus {
  volume: number;
  class: string;
  /** 32 hex digits. */
  uuid: string;
  generation: number;
  /** The highest that this copy has obeyed, by writing under it or by being fenced. */
  epoch: number;
  state: "open" | "sealed";
  /** Whether this copy takes appends from gateways: it is the primary's, under an epoch of this run. */
  isWritable: boolean;
  /**
   * Whether this copy answers reads. One of several answers only once the directory has told this run of the
   * store that the copy is whole.
   */
  isServing: boolean;
  /** Ids of the stores with a copy, the primary first, as this one was told last. */
  members: string[];
  /** Why the running store will never again append to it, if so. */
  closedBecause?: string | undefined;
  /**
   * Whether that is over under a new epoch: it closed because of a replica, or was fenced, and nothing is
   * wrong with this copy or its disk.
   */
  canReopen?: boolean | undefined;
  /** Of an open volume its valid length; at a primary under its epoch all of that was acknowledged. */
  lengthBytes: number;
  /** Digest of the last batch, 16 hex digits: with the length it tells copies of an open life apart. */
  lastDigest: string;
  /** Merkle root of a sealed volume's file, where it is known: 64 hex digits. */
  digest?: string | undefined;
  dataBytes: number;
  needleCount: number;
  deletedCount: number;
  /** Tells sets of deleted ordinals apart, whatever their order: 16 hex digits. */
  deletesDigest: string;
  damagedBytes: number;
  /** Bytes of deleted needles, each counted whole. */
  deadBytes: number;
  /** Needles in it live at most so long; 0 if for ever. */
  ttlSeconds: number;
  /** When the last needle of a volume with a TTL expires; 0 if not known, or never. */
  expiresMs: number;
  /** When every byte was last verified; 0 if never. */
  scrubbedMs: number;
  createdMs: number;
  /** Old generations that are kept for a while. */
  trashBytes: number;
  /** Its ordinals are not 0, 1, 2, …: it was imported. */
  hasSparseKeys: boolean;
  /** What runs on it now. */
  operation?: VolumeOperation | undefined;
}

interface VolumeOperation {
  kind: "compact" | "verify" | "import" | "copy" | "fill";
  doneBytes: number;
  totalBytes: number;
}

/** Ordinals of a native volume that a store has set aside for the directory to give out. */
export interface Grant {
  volume: number;
  first: number;
  count: number;
  /** The run of the directory that asked. */
  boot: string;
}

export interface FailedOrder {
  order: number;
  reason: string;
}

export interface Heartbeat {
  /** The store's id for ever: 16 hex digits, kept in its folder. */
  store: string;
  /** Random for each run of the process: a new one makes the directory give out new epochs. */
  run: string;
  /** `host:port` under which gateways reach the store. */
  address: string;
  /** Where it stands. Shards of one machine are one failure domain. */
  machine: string;
  rack: string;
  dataCentre: string;
  freeBytes: number;
  totalBytes: number;
  /** All of them, or, where `isWhole` is false, those that changed since the last heartbeat that was answered. */
  volumes: VolumeStatus[];
  isWhole: boolean;
  /** Counts the heartbeats of this run: one that was overtaken by a later one brings no news. */
  beat?: number | undefined;
  /** Volumes that are gone since then; none where `isWhole`. */
  gone: number[];
  /** Ids of volumes that are there and can't be opened. */
  unreadable: number[];
  /** Numbers of orders carried out since the last heartbeat that was answered. */
  done: number[];
  /** Orders that can't be carried out, now or later, since then: the directory forgets them. */
  failed: FailedOrder[];
  /** Repeated until another for the same volume takes the place. */
  grants: Grant[];
  /** How long the reply may be held while there is nothing new for the store. */
  waitMs?: number | undefined;
}

/**
 * What a store is to do. The same order may come again: it is carried out once. All come with every reply
 * until the store says that they are done or failed, and those that take long (`isLongOrder` of plan.ts)
 * run in its background meanwhile. One that comes no more, though it has not ended, is withdrawn.
 */
export type Order =
  | {
      order: number;
      kind: "create";
      volume: number;
      /** 32 hex digits. */
      uuid: string;
      class: VolumeClass;
      generation: number;
      /** 16 hex digits; never shown outside the cluster. */
      recordMagic: string;
      epoch: number;
      /** The stores that get a copy, the primary first. */
      members: Member[];
      createdMs: number;
      /** Its needles live at most so long; 0 if for ever. */
      ttlSeconds: number;
    }
  /** From now on the members, the primary first, write under this epoch; this run of the store answers reads. */
  | { order: number; kind: "begin-epoch"; volume: number; epoch: number; members: Member[] }
  /** Takes no batch of an older epoch any more, and none of this one: what is there is what counts. */
  | { order: number; kind: "fence"; volume: number; epoch: number }
  /**
   * Ends the open life. With `at` it ends exactly there: what is beyond is set aside, what is short is
   * filled from `at.from`, then this run of the store answers reads. Without, where there is one copy, at its
   * tail. `order`s with `at` take as long as the filling does.
   */
  | { order: number; kind: "seal"; volume: number; at?: SealPoint | undefined }
  /** Makes a copy of a sealed volume from others; in the background. Deletes of the sources are merged. */
  | {
      order: number;
      kind: "copy";
      volume: number;
      uuid: string;
      generation: number;
      epoch: number;
      lengthBytes: number;
      /** Merkle root, where it is known. */
      digest?: string | undefined;
      /** All with a copy, this store among them. */
      members: Member[];
      /** To copy from, the best first. */
      from: Member[];
      /** Per second; 0 if as fast as can be. */
      rateBytes: number;
    }
  /** Takes in what the others have deleted; then this run of the store answers reads. Of a sealed volume. */
  | {
      order: number;
      kind: "rejoin";
      volume: number;
      generation: number;
      lengthBytes: number;
      members: Member[];
      /** Those whose deletes are to be merged; all that can be reached have to answer. */
      from: Member[];
    }
  /** Moves this store's copy to the trash: others have enough. */
  | { order: number; kind: "delete-copy"; volume: number; uuid: string }
  | {
      order: number;
      kind: "compact";
      volume: number;
      /** The one to be made: the present one and 1. */
      generation: number;
      /** Needles with a TTL that ended before are left out. */
      ttlCutoffMs: number;
      /** Per second; 0 if as fast as can be. */
      rateBytes: number;
      /** Removes the old generation at once, instead of keeping it for a while. */
      purge: boolean;
    }
  | {
      order: number;
      kind: "verify";
      volume: number;
      /** Per second; 0 if as fast as can be. */
      rateBytes: number;
    }
  /** Removes a volume of which all needles have expired. */
  | { order: number; kind: "drop"; volume: number; uuid: string }
  | {
      order: number;
      kind: "import";
      volume: number;
      uuid: string;
      recordMagic: string;
      createdMs: number;
      epoch: number;
      members: string[];
      /** Paths of SeaweedFS's files on the store's machine. */
      dat: string;
      idx: string;
    };

export type OrderKind = Order["kind"];

/** Where the open life of a volume with several copies ended. */
export interface SealPoint {
  epoch: number;
  lengthBytes: number;
  /** Digest of the last batch before it, 16 hex digits. */
  lastDigest: string;
  members: Member[];
  /** Those that have all of it. */
  from: Member[];
}

export interface HeartbeatReply {
  /** All that are not done, new or not. */
  orders: Order[];
  /** This run of the directory: 12 hex digits. */
  boot: string;
  /** Ranges of ordinals that the directory wants, one for a volume. */
  reserve: { volume: number; count: number }[];
  /** The next heartbeat has to bring all volumes: this directory does not know them. */
  wantsWhole: boolean;
}

/** A volume as gateways see it. */
export interface MapVolume {
  volume: number;
  class: VolumeClass;
  /** How its copies are placed: `placementText` of placement.ts. */
  placement: string;
  isWritable: boolean;
  /** `host:port` of each store that has a copy and may be read from, the primary first. */
  addresses: string[];
  /** Of each store that has a copy: a delete has to reach all of them. */
  memberAddresses: string[];
  /** Whether it is not writable for want of space. */
  isFull: boolean;
  /** Free space of the fullest copy's disk: the weight of the choice. */
  freeBytes: number;
}

export interface VolumeMap {
  /** Changes with the content; opaque. */
  version: string;
  volumes: MapVolume[];
  /** What gateways want and can't be had. */
  unmet: UnmetWant[];
  /** From the database alone: where volumes are, but not which take appends. */
  isOnRecord?: true | undefined;
}

/** Volumes of a class and placement that can't be made. */
export interface UnmetWant {
  /** `wantText` of wants.ts. */
  want: string;
  reason: string;
}

export interface StoreStatus {
  store: string;
  address: string;
  machine: string;
  rack: string;
  dataCentre: string;
  state: "live" | "suspect" | "lost";
  /** Its copies are being moved away. */
  isDraining: boolean;
  freeBytes: number;
  totalBytes: number;
  /** Copies that count for their volumes, and their bytes: a store that is drained is empty at 0. */
  memberCount: number;
  memberBytes: number;
  volumes: VolumeStatus[];
}

/** A copy as the directory sees it. */
interface ReplicaStatus {
  store: string;
  /** What it is for its volume: `ReplicaState` of records.ts. */
  role: string;
  /** What it is worth: `CopyCondition` of plan-life.ts; of an open volume whether its store answers. */
  condition: string;
}

/** A volume over all its copies. */
export interface VolumeSummary {
  volume: number;
  class: string;
  state: string;
  placement: string;
  epoch: number;
  generation: number;
  lengthBytes: number;
  /** The primary first. */
  replicas: ReplicaStatus[];
  /** Copies that are to be made. */
  missingCount: number;
}

/** A copy with the store that has it. */
export interface CopyDetails extends ReplicaStatus {
  address: string;
  machine: string;
  rack: string;
  dataCentre: string;
  storeState: StoreStatus["state"];
}

/** One volume, with the stores of its copies. */
export interface VolumeDetails extends Omit<VolumeSummary, "replicas"> {
  /** The primary first. */
  copies: CopyDetails[];
}

export interface Shortfall {
  /** Volumes with fewer copies than are wanted, and the bytes that have to be copied for them. */
  volumeCount: number;
  copyBytes: number;
  /** Those of which no copy can be read now. */
  unavailableCount: number;
  /** Those that are short, the most endangered first; not more than a few hundred. */
  volumes: VolumeSummary[];
}

export interface DirectoryStatus {
  stores: StoreStatus[];
  volumes: VolumeSummary[];
  shortfall: Shortfall;
  /** What gateways want and can't be had. */
  unmet: UnmetWant[];
}

/** Who leads, of several directories or the only one. */
export interface LeaderStatus {
  /** Whether it is the one that was asked. */
  isLeader: boolean;
  /** `host:port`, if known. */
  leader?: string | undefined;
  /** The number of its lease, where there are several. */
  lease?: number | undefined;
}

/** Where an order stands. What ended long ago, or before the directory's last start, is not known. */
export interface OrderStatus {
  order: number;
  kind: OrderKind;
  volume: number;
  state: "pending" | "done" | "failed";
  /** Why it failed. */
  reason?: string | undefined;
  /** How far it is. */
  operation?: VolumeOperation | undefined;
}

/** What an operator's call has ordered. */
export interface OrdersAnswer {
  orders: number[];
}

/** One volume that is worth rewriting. */
export interface CompactionStep {
  volume: number;
  store: string;
  /** `drain` if next to nothing in it lives. */
  strategy: "drain" | "garbage";
  copyBytes: number;
  freedBytes: number;
}

export interface CompactAllAnswer extends OrdersAnswer {
  steps: CompactionStep[];
}

const count = z.number().int().nonnegative();
const hex = (digits: number) => z.string().regex(new RegExp(`^[0-9a-f]{${digits}}$`));
const place = z.string().min(1).max(100);
const volumeId = z.number().int().min(1).max(0xffff_ffff);

export const heartbeatSchema: z.ZodType<Heartbeat> = z.object({
  store: hex(16),
  run: hex(16),
  address: z.string().min(3).max(300),
  machine: place,
  rack: place,
  dataCentre: place,
  freeBytes: count,
  totalBytes: count,
  isWhole: z.boolean(),
  beat: count.optional(),
  gone: z.array(volumeId),
  volumes: z.array(
    z.object({
      volume: volumeId,
      class: z.string(),
      uuid: hex(32),
      generation: count,
      epoch: count,
      state: z.enum(["open", "sealed"]),
      isWritable: z.boolean(),
      isServing: z.boolean(),
      members: z.array(hex(16)),
      closedBecause: z.string().optional(),
      canReopen: z.boolean().optional(),
      lengthBytes: count,
      lastDigest: hex(16),
      digest: hex(64).optional(),
      dataBytes: count,
      needleCount: count,
      deletedCount: count,
      deletesDigest: hex(16),
      damagedBytes: count,
      deadBytes: count,
      ttlSeconds: count,
      expiresMs: count,
      scrubbedMs: count,
      createdMs: count,
      trashBytes: count,
      hasSparseKeys: z.boolean(),
      operation: z
        .object({
          kind: z.enum(["compact", "verify", "import", "copy", "fill"]),
          doneBytes: count,
          totalBytes: count,
        })
        .optional(),
    }),
  ),
  unreadable: z.array(count),
  done: z.array(count),
  failed: z.array(z.object({ order: count, reason: z.string().max(10_000) })),
  grants: z.array(
    z.object({
      volume: volumeId,
      first: z.number().int().min(0).max(0xffff_ffff),
      count: z.number().int().min(1).max(0xffff_ffff),
      boot: z.string().max(100),
    }),
  ),
  waitMs: count.optional(),
});

// What operators ask for.

const ratio = z.number().min(0).max(1);
const rateBytes = count.default(0);
const purge = z.boolean().default(false);

export interface CompactVolumeRequest {
  rateBytes: number;
  purge: boolean;
  /** Does nothing where a smaller share is dead. */
  garbageRatioMin?: number | undefined;
}
export const compactVolumeSchema: z.ZodType<CompactVolumeRequest> = z.object({
  rateBytes,
  purge,
  garbageRatioMin: ratio.optional(),
});

export interface CompactAllRequest {
  garbageRatioMin: number;
  rateBytes: number;
  purge: boolean;
  /** Tells what would be done, and does nothing. */
  dryRun: boolean;
}
export const compactAllSchema: z.ZodType<CompactAllRequest> = z.object({
  garbageRatioMin: ratio.default(0.3),
  rateBytes,
  purge,
  dryRun: z.boolean().default(false),
});

export interface MoveVolumeRequest {
  /** Ids or addresses of the store that has a copy, and of the one that is to have it. */
  from: string;
  to: string;
}
export const moveVolumeSchema: z.ZodType<MoveVolumeRequest> = z.object({
  from: z.string().min(1).max(300),
  to: z.string().min(1).max(300),
});

export interface DrainStoreRequest {
  /** Takes it back. */
  undo: boolean;
}
export const drainStoreSchema: z.ZodType<DrainStoreRequest> = z.object({
  undo: z.boolean().default(false),
});

export interface VerifyVolumeRequest {
  rateBytes: number;
}
export const verifyVolumeSchema: z.ZodType<VerifyVolumeRequest> = z.object({ rateBytes });

export interface ImportVolumeRequest {
  /** The id that the volume had, and keeps. */
  volume: number;
  /** Paths on the store's machine. */
  dat: string;
  idx: string;
  /** The store's id or address; not needed if there is but one. */
  store?: string | undefined;
}
export const importVolumeSchema: z.ZodType<ImportVolumeRequest> = z.object({
  volume: volumeId,
  dat: z.string().min(1).max(4_096),
  idx: z.string().min(1).max(4_096),
  store: z.string().max(300).optional(),
});

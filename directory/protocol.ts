/**
 * What stores, gateways, operators and the directory say to each other, and the checks at the edge.
 *
 * A heartbeat tells what a store has and how its orders went; its reply brings new orders. It is a long
 * poll: the directory may hold the reply while it has nothing new to say. A map tells gateways which store
 * has which volume, and which volumes take appends.
 */

import { z } from "zod";

export type VolumeClass = "original" | "native" | "variant" | "journal";

/** A volume as its store sees it. */
export interface VolumeStatus {
  volume: number;
  class: string;
  /** 32 hex digits. */
  uuid: string;
  generation: number;
  epoch: number;
  state: "open" | "sealed";
  isWritable: boolean;
  /** Why the running store will never again append to it, if so. */
  closedBecause?: string | undefined;
  lengthBytes: number;
  dataBytes: number;
  needleCount: number;
  deletedCount: number;
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
  kind: "compact" | "verify" | "import";
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
  freeBytes: number;
  totalBytes: number;
  volumes: VolumeStatus[];
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
 * What a store is to do. The same order may come again: it is carried out once. Those that take long
 * (compact, verify, import) come with every reply until the store says that they are done or failed.
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
      /** Ids of the stores that get a copy, the primary first. */
      members: string[];
      createdMs: number;
      /** Its needles live at most so long; 0 if for ever. */
      ttlSeconds: number;
    }
  | { order: number; kind: "begin-epoch"; volume: number; epoch: number }
  | { order: number; kind: "seal"; volume: number }
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

export interface HeartbeatReply {
  /** All that are not done, new or not. */
  orders: Order[];
  /** This run of the directory: 12 hex digits. */
  boot: string;
  /** Ranges of ordinals that the directory wants, one for a volume. */
  reserve: { volume: number; count: number }[];
}

/** A volume as gateways see it. */
export interface MapVolume {
  volume: number;
  class: VolumeClass;
  isWritable: boolean;
  /** `host:port` of each store that has a copy. */
  addresses: string[];
  /** Whether it is not writable for want of space. */
  isFull: boolean;
  /** Free space of the fullest copy's disk: the weight of the choice. */
  freeBytes: number;
}

export interface VolumeMap {
  /** Changes with the content; opaque. */
  version: string;
  volumes: MapVolume[];
  /** From the database alone: where volumes are, but not which take appends. */
  isOnRecord?: true | undefined;
}

export interface StoreStatus {
  store: string;
  address: string;
  state: "live" | "suspect" | "lost";
  freeBytes: number;
  totalBytes: number;
  volumes: VolumeStatus[];
}

export interface DirectoryStatus {
  stores: StoreStatus[];
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
const volumeId = z.number().int().min(1).max(0xffff_ffff);

export const heartbeatSchema: z.ZodType<Heartbeat> = z.object({
  store: hex(16),
  run: hex(16),
  address: z.string().min(3).max(300),
  freeBytes: count,
  totalBytes: count,
  volumes: z.array(
    z.object({
      volume: volumeId,
      class: z.string(),
      uuid: hex(32),
      generation: count,
      epoch: count,
      state: z.enum(["open", "sealed"]),
      isWritable: z.boolean(),
      closedBecause: z.string().optional(),
      lengthBytes: count,
      dataBytes: count,
      needleCount: count,
      deletedCount: count,
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
          kind: z.enum(["compact", "verify", "import"]),
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

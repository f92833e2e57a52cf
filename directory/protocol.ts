/**
 * What stores, gateways and the directory say to each other, and the checks at the edge.
 *
 * A heartbeat tells what a store has and which orders it has carried out; its reply brings new orders. A
 * map tells gateways which store has which volume, and which volumes take appends.
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
}

/** What a store is to do. The same order may come again: it is carried out once. */
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
    }
  | { order: number; kind: "begin-epoch"; volume: number; epoch: number }
  | { order: number; kind: "seal"; volume: number };

export interface HeartbeatReply {
  orders: Order[];
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

const count = z.number().int().nonnegative();
const hex = (digits: number) => z.string().regex(new RegExp(`^[0-9a-f]{${digits}}$`));

export const heartbeatSchema: z.ZodType<Heartbeat> = z.object({
  store: hex(16),
  run: hex(16),
  address: z.string().min(3).max(300),
  freeBytes: count,
  totalBytes: count,
  volumes: z.array(
    z.object({
      volume: z.number().int().min(1).max(0xffff_ffff),
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
    }),
  ),
  unreadable: z.array(count),
  done: z.array(count),
});

/**
 * A store: the volumes of one folder, and the orders of the directory carried out on them.
 *
 * Invariants:
 * - One process uses a folder at a time (the lock is the kernel's).
 * - Orders may come twice and are carried out once; each is durable before it is reported done.
 */

import path from "node:path";
import type { Clock } from "../base/clock.ts";
import { Failure, messageOf } from "../base/failure.ts";
import type { FileSystem } from "../base/files.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Order, VolumeStatus } from "../directory/client.ts";
import { Volume, type VolumeEnvironment } from "./volume.ts";
import { listVolumes } from "./volume-files.ts";

export interface StoreOptions {
  files: FileSystem;
  clock: Clock;
  random: Random;
  log: Log;
  folder: string;
  /** A volume is full at this length. */
  volumeBytes: number;
  /** Appends stop while the disk has less than this free; deletes and reads go on. */
  reserveBytes: number;
}

export class Store {
  /** The store's id for ever, 16 hex digits. */
  readonly id: string;
  readonly #options: StoreOptions;
  readonly #lock: FolderLock;
  readonly #volumes = new Map<number, Volume>();
  readonly #unreadable: number[] = [];
  #space = { freeBytes: 0, totalBytes: 0 };

  private constructor(id: string, options: StoreOptions, lock: FolderLock) {
    this.id = id;
    this.#options = options;
    this.#lock = lock;
  }

  /** Opens a folder, making it if need be, and recovers every volume in it. */
  static async open(options: StoreOptions): Promise<Store> {
    const { files, folder, log, random, clock } = options;
    const lock = lockFolder(folder, "store");
    try {
      const store = new Store(await readOrMakeId(files, folder, random), options, lock);
      await store.measureSpace();
      for (const volume of await listVolumes(files, folder)) {
        const startedMs = clock.monotonicMs();
        try {
          store.#volumes.set(
            volume,
            await Volume.open(store.#environment(), volume, options.volumeBytes),
          );
          const { lengthBytes, needleCount, damagedBytes } = store.#report(volume);
          const tookMs = Math.round(clock.monotonicMs() - startedMs);
          log.info({ volume, lengthBytes, needleCount, tookMs }, "volume opened");
          if (damagedBytes > 0)
            log.error({ volume, damagedBytes }, "volume is damaged below its tail");
        } catch (error) {
          // One volume that can't be opened must not take the others with it.
          log.error({ volume, err: error }, "volume can't be opened");
          store.#unreadable.push(volume);
        }
      }
      return store;
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  volume(id: number): Volume | undefined {
    return this.#volumes.get(id);
  }

  /** All volumes, by id. */
  volumes(): Volume[] {
    return [...this.#volumes.values()];
  }

  reports(): VolumeStatus[] {
    return this.volumes().map((volume) => volume.report());
  }

  /** Ids of volumes that are here and could not be opened. */
  get unreadable(): readonly number[] {
    return this.#unreadable;
  }

  /** What the disk has left for appends, the reserve not counted. */
  space(): { freeBytes: number; totalBytes: number } {
    const { freeBytes, totalBytes } = this.#space;
    return { freeBytes: Math.max(freeBytes - this.#options.reserveBytes, 0), totalBytes };
  }

  /** Asks the disk how much is free; between two calls the last answer stands. */
  async measureSpace(): Promise<void> {
    this.#space = await this.#options.files.space(this.#options.folder);
  }

  /** Carries out an order; returns when its effect is durable. */
  async carryOut(order: Order): Promise<void> {
    const volume = this.#volumes.get(order.volume);
    switch (order.kind) {
      case "create":
        await this.#create(order, volume);
        break;
      case "begin-epoch":
        await volume?.beginEpoch(order.epoch);
        break;
      case "seal":
        await volume?.seal();
        break;
    }
  }

  async close(): Promise<void> {
    for (const volume of this.#volumes.values()) await volume.close();
    this.#lock.release();
  }

  async #create(order: Order & { kind: "create" }, existing: Volume | undefined): Promise<void> {
    if (existing !== undefined) {
      if (existing.report().uuid === order.uuid) return;
      throw new Failure(
        "conflict",
        `Cannot create volume ${order.volume}: another volume has that id here`,
      );
    }
    const volume = await Volume.create(
      this.#environment(),
      {
        volume: order.volume,
        uuid: Buffer.from(order.uuid, "hex"),
        generation: order.generation,
        class: order.class,
        recordMagic: Buffer.from(order.recordMagic, "hex"),
        createdMs: order.createdMs,
        firstFree: 0,
      },
      { members: order.members, limitBytes: this.#options.volumeBytes },
    );
    await volume.beginEpoch(order.epoch);
    this.#volumes.set(order.volume, volume);
    this.#options.log.info({ volume: order.volume, class: order.class }, "volume created");
  }

  #report(volume: number): VolumeStatus {
    const found = this.#volumes.get(volume);
    if (found === undefined) throw new Failure("not-found", `Cannot find volume ${volume}`);
    return found.report();
  }

  #environment(): VolumeEnvironment {
    const { files, clock, random, folder } = this.#options;
    const full = new Failure("full", "Cannot store the blob: the disk is full up to its reserve");
    return {
      files,
      clock,
      random,
      folder,
      refusal: () => (this.space().freeBytes > 0 ? undefined : full),
      spend: (bytes) => {
        this.#space.freeBytes -= bytes;
      },
    };
  }
}

async function readOrMakeId(files: FileSystem, folder: string, random: Random): Promise<string> {
  const file = path.join(folder, "store-id");
  const found = (await files.readWhole(file))?.toString("utf8").trim();
  if (found === undefined) {
    const id = random.bytes(8).toString("hex");
    await files.replace(file, Buffer.from(`${id}\n`));
    return id;
  }
  if (!/^[0-9a-f]{16}$/.test(found)) {
    throw new Failure("corrupt", `Cannot use ${file}: it does not hold a store's id`);
  }
  return found;
}

/** A sentence for the log when an order can't be carried out. */
export function describeOrderFailure(order: Order, error: unknown): string {
  return `Cannot carry out order ${order.order} (${order.kind} volume ${order.volume}): ${messageOf(error)}`;
}

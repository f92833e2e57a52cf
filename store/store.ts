/**
 * A store: the volumes of one folder, and the orders of the directory carried out on them.
 *
 * Invariants:
 * - One process uses a folder at a time (the lock is the kernel's).
 * - Orders may come twice and are carried out once; each is durable before it is reported done.
 */

import path from "node:path";
import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import type { FileSystem } from "../base/files.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import type { Order, VolumeStatus } from "../directory/client.ts";
import { Copies } from "./copies.ts";
import { type Peers, replicateTo } from "./peers.ts";
import { sealVolumeAt } from "./sealing.ts";
import type { ScrubFinding } from "./volume/scrub.ts";
import { reservedCountMax, Volume, type VolumePart } from "./volume/volume.ts";
import type { VolumeEnvironment } from "./volume/volume-environment.ts";
import { listVolumes } from "./volume/volume-files.ts";

/** The rest is only counted: a disk that rots has thousands. */
const loggedFindingsMax = 100;

/** What a compaction or a copy leaves of the disk for delete logs and descriptors. */
const spareBytes = 67_108_864;
/** Long enough for a busy disk's sync, short enough that the writer gets its answer from another volume. */
const replicaTimeoutMsDefault = 4_000;

export interface StoreOptions {
  files: FileSystem;
  clock: Clock;
  random: Random;
  /** The process's own where none is given. */
  runtime?: Runtime | undefined;
  /** Keeps other processes out of the folder; the kernel does where none is given. */
  lock?: ((folder: string) => FolderLock) | undefined;
  /** The other stores; without them no volume can have more than one copy. */
  peers?: Peers | undefined;
  /** A replica that does not answer within this time is lost. */
  replicaTimeoutMs?: number | undefined;
  /** Told when a volume stopped taking appends: the directory has to hear of it. */
  onVolumeClosed?: (() => void) | undefined;
  log: Log;
  folder: string;
  /** A volume is full at this length. */
  volumeBytes: number;
  /** Appends stop while the disk has less than this free; deletes and reads go on. */
  reserveBytes: number;
  /** How long the file of an old generation is kept after a compaction. */
  trashMs: number;
  /** New needles after which an open volume's index gets a checkpoint, where not the usual number. */
  checkpointNeedles?: number | undefined;
}

export class Store {
  /** The store's id for ever, 16 hex digits. */
  readonly id: string;
  readonly #options: StoreOptions;
  readonly #lock: FolderLock;
  readonly #volumes = new Map<number, Volume>();
  readonly #unreadable: number[] = [];
  readonly #copies: Copies;
  #space = { freeBytes: 0, totalBytes: 0 };

  private constructor(id: string, options: StoreOptions, lock: FolderLock) {
    this.id = id;
    this.#options = options;
    this.#lock = lock;
    this.#copies = new Copies(
      {
        id,
        log: options.log,
        volumes: this.#volumes,
        unreadable: this.#unreadable,
        environment: () => this.#environment(),
        open: (volume) => this.#open(volume),
        requireSpace: (what, bytes) => this.#requireSpace(what, bytes),
        onWhole: (volume) => volume.serve(),
      },
      options.peers,
    );
  }

  /** Opens a folder, making it if need be, and recovers every volume in it. */
  static async open(options: StoreOptions): Promise<Store> {
    const { files, folder, log, random, clock } = options;
    const lock = (options.lock ?? ((each) => lockFolder(each, "store")))(folder);
    try {
      const store = new Store(await readOrMakeId(files, folder, random), options, lock);
      await store.measureSpace();
      // After a kill a name may be there that a power cut would still take back.
      await files.syncFolder(folder);
      for (const volume of await listVolumes(files, folder)) {
        const startedMs = clock.monotonicMs();
        try {
          store.#volumes.set(volume, await store.#open(volume));
          const { lengthBytes, needleCount, damagedBytes } = store.#find(volume).report();
          const tookMs = Math.round(clock.monotonicMs() - startedMs);
          log.info({ volume, lengthBytes, needleCount, tookMs }, "volume opened");
          if (damagedBytes > 0)
            log.error({ volume, damagedBytes }, "volume is damaged below its tail");
        } catch (error) {
          if (error instanceof Failure && error.kind === "not-found") {
            const isTrashed = await store.#copies.isTrashed(volume);
            // What was left of one that was dropped is removed now.
            log.info({ volume }, isTrashed ? "volume is in the trash" : "volume was dropped");
            continue;
          }
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
    return [...this.volumes().map((volume) => volume.report()), ...this.#copies.reports()];
  }

  /** Bytes that are kept for a while and count for nothing. */
  get trashBytes(): number {
    const bytes = this.volumes().reduce((sum, volume) => sum + volume.report().trashBytes, 0);
    return bytes + this.#copies.trashBytes;
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
        await volume?.beginEpoch(order.epoch, this.#placeIn(order));
        break;
      case "fence":
        await volume?.fence(order.epoch);
        break;
      case "seal":
        await this.#seal(order, volume);
        break;
      case "compact":
        await this.#compact(order);
        break;
      case "verify":
        await this.verify(order.volume, order.rateBytes);
        break;
      case "drop":
        await this.#drop(order, volume);
        break;
      case "import":
        await this.#import(order, volume);
        break;
      case "copy":
        await this.#copies.copy(order);
        break;
      case "rejoin":
        await this.#copies.rejoin(order);
        break;
      case "delete-copy":
        await this.#copies.deleteCopy(order);
        break;
    }
  }

  /** Reserves ordinals of a volume, for the directory to give out. */
  async reserve(id: number, count: number): Promise<{ first: number; count: number }> {
    const wanted = Math.min(count, reservedCountMax);
    return { first: await this.#find(id).reserve(wanted), count: wanted };
  }

  /** Verifies every byte of a volume, and logs what is damaged. */
  async verify(id: number, rateBytes: number): Promise<ScrubFinding[]> {
    const { log } = this.#options;
    const findings = await this.#find(id).scrub({ rateBytes });
    for (const finding of findings.slice(0, loggedFindingsMax)) {
      log.error({ volume: id, ...finding }, "a volume is damaged");
    }
    log.info({ volume: id, findings: findings.length }, "volume verified");
    return findings;
  }

  /** How long ago the volume that is next in turn was verified, or made. */
  oldestUnverifiedSeconds(): number {
    const nowMs = this.#options.clock.nowMs();
    const oldestMs = Math.min(nowMs, ...this.volumes().map(({ scrubbedMs }) => scrubbedMs));
    return (nowMs - oldestMs) / 1_000;
  }

  /** Removes what was kept of old generations: all of it while the disk is full up to its reserve. */
  async emptyTrash(): Promise<void> {
    const { clock, trashMs } = this.#options;
    await this.measureSpace();
    const isShort = this.space().freeBytes === 0;
    const beforeMs = isShort ? Number.POSITIVE_INFINITY : clock.nowMs() - trashMs;
    for (const volume of this.#volumes.values()) await volume.emptyTrash(beforeMs);
    await this.#copies.emptyTrash(beforeMs);
    if (isShort) await this.measureSpace();
  }

  async close(): Promise<void> {
    await this.#copies.close();
    for (const volume of this.#volumes.values()) await volume.close();
    this.#lock.release();
  }

  async #compact(order: Order & { kind: "compact" }): Promise<void> {
    const { log, clock } = this.#options;
    const startedMs = clock.monotonicMs();
    const { volume, generation } = order;
    const { lengthBytes, deadBytes } = this.#find(volume).report();
    await this.#requireSpace(`compact volume ${volume}`, lengthBytes - deadBytes);
    const { copiedBytes, freedBytes } = await this.#find(volume).compact(order);
    const tookMs = Math.round(clock.monotonicMs() - startedMs);
    log.info({ volume, generation, copiedBytes, freedBytes, tookMs }, "volume compacted");
  }

  async #open(volume: number): Promise<Volume> {
    return await Volume.open(this.#environment(), volume, this.#options.volumeBytes);
  }

  /** Fails if the disk has no room for so much, which is going to take the place of something. */
  async #requireSpace(what: string, bytes: number): Promise<void> {
    await this.measureSpace();
    const neededBytes = bytes + spareBytes;
    if (this.#space.freeBytes >= neededBytes) return;
    throw new Failure(
      "full",
      `Cannot ${what}: it takes ${neededBytes} bytes until it frees any, and the disk has ${this.#space.freeBytes}`,
    );
  }

  async #seal({ at }: Order & { kind: "seal" }, volume: Volume | undefined): Promise<void> {
    if (volume === undefined) return;
    if (at === undefined) {
      await volume.seal();
      return;
    }
    const { log, runtime = systemRuntime } = this.#options;
    await sealVolumeAt(volume, at, { peers: this.#peers(), runtime, log, store: this.id });
    const { lengthBytes, epoch } = at;
    log.info({ volume: volume.superblock.volume, lengthBytes, epoch }, "volume sealed");
  }

  /** What this store is among the members of a volume. */
  #placeIn({ volume, members }: Order & { kind: "create" | "begin-epoch" }): {
    members: string[];
    part: VolumePart;
  } {
    const ids = members.map(({ store }) => store);
    const place = ids.indexOf(this.id);
    if (place < 0) {
      throw new Failure(
        "conflict",
        `Cannot take part in volume ${volume}: ${this.id} is no member`,
      );
    }
    if (place > 0) return { members: ids, part: { kind: "replica" } };
    const addresses = members.slice(1).map(({ address }) => address);
    if (addresses.length === 0) return { members: ids, part: { kind: "primary" } };
    const { runtime = systemRuntime, replicaTimeoutMs: timeoutMs = replicaTimeoutMsDefault } =
      this.#options;
    const peers = this.#peers();
    const replicate = replicateTo({ peers, runtime, timeoutMs, volume, addresses });
    return { members: ids, part: { kind: "primary", replicate } };
  }

  #peers(): Peers {
    const { peers } = this.#options;
    if (peers === undefined) {
      throw new Failure("unsupported", "Cannot have several copies: this store reaches no other");
    }
    return peers;
  }

  async #drop(order: Order & { kind: "drop" }, volume: Volume | undefined): Promise<void> {
    if (volume === undefined) {
      await this.#copies.drop(order.volume, order.uuid);
      return;
    }
    const { uuid } = volume.report();
    if (uuid !== order.uuid) {
      throw new Failure("conflict", `Cannot drop volume ${order.volume}: its uuid is ${uuid}`);
    }
    // Gone from the list only afterwards: a drop that fails comes again.
    await volume.drop();
    this.#volumes.delete(order.volume);
    this.#options.log.info({ volume: order.volume }, "volume dropped");
  }

  async #import(order: Order & { kind: "import" }, existing: Volume | undefined): Promise<void> {
    if (existing !== undefined) {
      const { uuid, state } = existing.report();
      if (uuid !== order.uuid) {
        throw new Failure("conflict", `Cannot import volume ${order.volume}: another is here`);
      }
      if (state === "sealed") return; // done before
      // Cut short by the end of the process: begun anew, since what it has is easily made again.
      this.#volumes.delete(order.volume);
      await existing.drop();
    }
    const { importSeaweedVolume } = await import("./seaweed/import.ts");
    const { volume, ...result } = await importSeaweedVolume(this.#environment(), order);
    this.#volumes.set(order.volume, volume);
    this.#options.log.info({ volume: order.volume, ...result }, "volume imported");
  }

  async #create(order: Order & { kind: "create" }, existing: Volume | undefined): Promise<void> {
    const place = this.#placeIn(order);
    if (existing !== undefined) {
      const { uuid, epoch } = existing.report();
      if (uuid === order.uuid) {
        // What a crash or a failure left between the two steps.
        if (epoch < order.epoch) await existing.beginEpoch(order.epoch, place);
        return;
      }
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
        ttlSeconds: order.ttlSeconds,
        hasSparseKeys: false,
      },
      { members: place.members, limitBytes: this.#options.volumeBytes },
    );
    this.#volumes.set(order.volume, volume);
    await volume.beginEpoch(order.epoch, place);
    this.#options.log.info({ volume: order.volume, class: order.class }, "volume created");
  }

  #find(id: number): Volume {
    const found = this.#volumes.get(id);
    if (found === undefined) throw new Failure("not-found", `Cannot find volume ${id}`);
    return found;
  }

  #environment(): VolumeEnvironment {
    const { files, clock, random, runtime, folder, log } = this.#options;
    const full = new Failure("full", "Cannot store the blob: the disk is full up to its reserve");
    return {
      files,
      clock,
      random,
      runtime,
      folder,
      onClosed: () => this.#options.onVolumeClosed?.(),
      refusal: () => (this.space().freeBytes > 0 ? undefined : full),
      spend: (bytes) => {
        this.#space.freeBytes -= bytes;
      },
      checkpointNeedles: this.#options.checkpointNeedles,
      note: (message, details) => log.warn(details, message),
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

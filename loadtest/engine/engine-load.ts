/**
 * The work that an engine is at when the power goes: appends, reservations, deletes, seals, compactions,
 * checkpoints, scrubs and drops on the volumes of one folder, mixed by a seed.
 *
 * Invariants:
 * - What can't be taken back is told before it begins, and every outcome once the engine has answered.
 * - What a blob holds follows from its id, and the id stands in its metadata: whoever reads a blob can say
 *   whether anybody ever sent it.
 */

import { createHash } from "node:crypto";
import type { Clock } from "../../base/clock.ts";
import { Failure, messageOf } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { type Runtime, systemRuntime } from "../../base/runtime.ts";
import { type Blob, type Durability, Volume } from "../../store/volume/volume.ts";
import type { VolumeEnvironment } from "../../store/volume/volume-environment.ts";
import { contentOf } from "../content.ts";

/** What takes a while, and may be under way when the power goes. */
export type Work =
  | { kind: "create"; volume: number; class: EngineClass }
  | { kind: "seal"; volume: number }
  | { kind: "compact"; volume: number; generation: number }
  | { kind: "drop"; volume: number }
  | { kind: "delete"; volume: number; ordinal: number }
  | { kind: "scrub"; volume: number }
  | { kind: "checkpoint"; volume: number }
  | { kind: "close"; volume: number };

export type EngineClass = "original" | "native";

export interface StoredBlob {
  id: number;
  volume: number;
  ordinal: number;
  cookie: number;
}

/** What an engine tells of itself, in the order in which it happens. */
export type EngineRecord =
  | { type: "opened" }
  | { type: "begun"; work: Work }
  | { type: "done"; work: Work }
  | { type: "stored"; durability: Durability; blobs: StoredBlob[] }
  | { type: "reserved"; volume: number; first: number; count: number }
  /** As it may happen: the volume was full, was being sealed, or another operation ran on it. */
  | { type: "refused"; text: string }
  /** Something failed that nobody waited for: a store's process would have ended, the power on or off. */
  | { type: "crashed"; text: string }
  /** What must not happen. */
  | { type: "violation"; text: string };

export interface EngineTask {
  folder: string;
  /** Of what is done. */
  seed: number;
  /** Of what blobs hold. */
  contentSeed: number;
  firstId: number;
  /** Volumes that are there. */
  volumes: number[];
  /** Volumes whose making was cut short: they are made again first. */
  unmade: { volume: number; class: EngineClass }[];
  nextVolume: number;
  /** What there is to read and to delete. */
  blobs: StoredBlob[];
}

/** Where a volume is full; most are sealed before. */
const limitBytes = 6 * 1_048_576;
/** So many volumes, and the oldest sealed one may be dropped. */
const volumesMax = 10;

const sizes = [
  { share: 0.04, min: 0, max: 0 },
  { share: 0.63, min: 1, max: 2_000 },
  { share: 0.24, min: 2_000, max: 16_384 },
  { share: 0.085, min: 16_385, max: 100_000 },
  { share: 0.005, min: 300_000, max: 1_200_000 },
];

/** How often each is drawn, in thousandths. */
const mix = {
  append: 330,
  batch: 110,
  memory: 130,
  reserve: 40,
  put: 90,
  delete: 160,
  read: 70,
  seal: 15,
  compact: 35,
  scrub: 10,
  trash: 6,
  drop: 4,
} as const;
type Operation = keyof typeof mix;

export interface EngineLoadOptions {
  task: EngineTask;
  files: FileSystem;
  clock: Clock;
  runtime?: Runtime | undefined;
  tell: (record: EngineRecord) => void;
}

export class EngineLoad {
  readonly #task: EngineTask;
  readonly #environment: VolumeEnvironment;
  readonly #tell: (record: EngineRecord) => void;
  readonly #random: Random;
  readonly #runtime: Runtime;
  readonly #volumes = new Map<number, Volume>();
  /** Volumes that something is about to end. */
  readonly #closing = new Set<number>();
  /** How many are at a volume that do not show as its operation. */
  readonly #users = new Map<number, number>();
  readonly #making = new Map<EngineClass, Promise<Volume>>();
  #blobs: StoredBlob[];
  #reserved: { volume: number; ordinal: number; cookie: number }[] = [];
  #nextId: number;
  #nextVolume: number;

  constructor({ task, files, clock, runtime = systemRuntime, tell }: EngineLoadOptions) {
    this.#runtime = runtime;
    this.#task = task;
    this.#tell = tell;
    this.#random = seededRandom(task.seed);
    this.#blobs = [...task.blobs];
    this.#nextId = task.firstId;
    this.#nextVolume = task.nextVolume;
    this.#environment = engineEnvironment({
      files: tellingCheckpoints(files, tell),
      clock,
      runtime,
      folder: task.folder,
      seed: task.seed + 1,
      checkpointNeedles: 2 + (this.#random.u32() % 60),
    });
  }

  /** Works until the process or the disk ends. */
  async run(): Promise<never> {
    // Some lives have a stop in good order in them, and go on after it.
    if (this.#random.fraction() < 0.15) {
      await this.#open();
      await this.#work(this.#random.u32() % 60);
      await this.#close();
    }
    await this.#open();
    this.#tell({ type: "opened" });
    await this.#work(Number.POSITIVE_INFINITY);
    throw new Error("the work has no end");
  }

  async #open(): Promise<void> {
    const { volumes, unmade } = this.#task;
    const isAgain = this.#volumes.size > 0;
    for (const id of isAgain ? [...this.#volumes.keys()] : volumes) {
      const volume = await openEngineVolume(this.#environment, id);
      this.#volumes.set(id, volume);
      const { state, epoch } = volume.report();
      if (state === "open") await volume.beginEpoch(epoch + 1);
    }
    if (!isAgain) for (const each of unmade) await this.#create(each.volume, each.class);
    await Promise.all([this.#writable("original"), this.#writable("native")]);
  }

  async #close(): Promise<void> {
    for (const [id, volume] of this.#volumes) {
      const work: Work = { kind: "close", volume: id };
      this.#tell({ type: "begun", work });
      await volume.close();
      this.#tell({ type: "done", work });
    }
    this.#reserved = [];
    this.#closing.clear();
    this.#making.clear();
  }

  async #work(operations: number): Promise<void> {
    const clients = 1 + (this.#random.u32() % 7);
    let left = operations;
    const work = async (random: Random) => {
      while (left > 0) {
        left -= 1;
        await this.#try(random);
      }
    };
    const seeds = Array.from({ length: clients }, () => this.#random.u32());
    await Promise.all(seeds.map((seed) => work(seededRandom(seed))));
  }

  async #try(random: Random): Promise<void> {
    const operation = pick(random);
    try {
      await this.#operate(operation, random);
    } catch (error) {
      const isOrdinary =
        error instanceof Failure && (error.kind === "unavailable" || error.kind === "busy");
      const text = `${operation}: ${messageOf(error)}`;
      this.#tell({ type: isOrdinary ? "refused" : "violation", text });
      await this.#runtime.giveWay();
    }
  }

  async #operate(operation: Operation, random: Random): Promise<void> {
    switch (operation) {
      case "append":
        return await this.#append(random, 1, "disk");
      case "batch":
        return await this.#append(random, 2 + (random.u32() % 8), "disk");
      case "memory":
        return await this.#append(random, 1 + (random.u32() % 3), "memory");
      case "reserve":
        return await this.#reserve(random);
      case "put":
        return await this.#put(random);
      case "delete":
        return await this.#delete(random);
      case "read":
        return await this.#read(random);
      case "seal":
        return await this.#seal(random.fraction() < 0.7 ? "original" : "native");
      case "compact":
        return await this.#compact(random);
      case "scrub":
        return await this.#scrub(random);
      case "trash":
        return await this.#emptyTrash();
      case "drop":
        return await this.#drop();
    }
  }

  async #append(random: Random, count: number, durability: Durability): Promise<void> {
    const volume = await this.#writable(random.fraction() < 0.75 ? "original" : "native");
    const ids = Array.from({ length: count }, () => this.#nextId++);
    const blobs = ids.map((id) => this.#blobOf(id));
    const fids = await this.#orSeal(volume, () => volume.appendAll(blobs, durability));
    this.#keep(
      durability,
      fids.map((fid, at) => ({ id: ids[at] ?? -1, ...fid })),
    );
  }

  async #reserve(random: Random): Promise<void> {
    const volume = await this.#writable("native");
    const count = 1 + (random.u32() % 12);
    const first = await this.#orSeal(volume, () => volume.reserve(count));
    const { volume: id } = volume.superblock;
    this.#tell({ type: "reserved", volume: id, first, count });
    for (let ordinal = first; ordinal < first + count; ordinal++) {
      this.#reserved.push({ volume: id, ordinal, cookie: random.u32() });
    }
  }

  async #put(random: Random): Promise<void> {
    const place = takeAny(this.#reserved, random);
    const volume = this.#volumes.get(place?.volume ?? -1);
    if (place === undefined || volume === undefined || volume.report().state !== "open") return;
    const id = this.#nextId++;
    const durability = random.fraction() < 0.8 ? "disk" : "memory";
    await this.#orSeal(volume, () => volume.put(place, this.#blobOf(id), durability));
    this.#keep(durability, [{ id, ...place }]);
    // Whoever lost the answer sends it again, and gets the same one.
    if (random.fraction() < 0.1) await volume.put(place, this.#blobOf(id), "disk");
  }

  async #delete(random: Random): Promise<void> {
    const blob = takeAny(this.#blobs, random);
    const volume = this.#usable(blob?.volume);
    if (blob === undefined || volume === undefined) return;
    const work: Work = { kind: "delete", volume: blob.volume, ordinal: blob.ordinal };
    this.#tell({ type: "begun", work });
    const length = await this.#use(volume, () => volume.delete(blob.ordinal, blob.cookie));
    if (length === undefined) {
      this.#tell({
        type: "violation",
        text: `lost: ${describeBlob(blob)} was not there to delete`,
      });
    }
    this.#tell({ type: "done", work });
  }

  async #read(random: Random): Promise<void> {
    const blob = this.#blobs[random.u32() % Math.max(this.#blobs.length, 1)];
    const volume = this.#usable(blob?.volume);
    if (blob === undefined || volume === undefined) return;
    const { contentSeed } = this.#task;
    const found = await this.#use(volume, () => readBlob(volume, blob, contentSeed));
    const isDeletedMeanwhile = found === undefined && volume.isDeleted(blob.ordinal);
    if (found === blob.id || isDeletedMeanwhile) return;
    this.#tell({ type: "violation", text: `${describeBlob(blob)} reads as ${found ?? "nothing"}` });
  }

  async #seal(volumeClass: EngineClass): Promise<void> {
    await this.#sealVolume(await this.#writable(volumeClass));
  }

  async #sealVolume(volume: Volume): Promise<void> {
    const { volume: id } = volume.superblock;
    const work: Work = { kind: "seal", volume: id };
    this.#tell({ type: "begun", work });
    await volume.seal();
    this.#tell({ type: "done", work });
  }

  async #compact(random: Random): Promise<void> {
    const volume = this.#anySealed(random);
    if (volume === undefined) return;
    const { volume: id, generation } = volume.superblock;
    const work: Work = { kind: "compact", volume: id, generation: generation + 1 };
    const purge = random.fraction() < 0.6;
    this.#tell({ type: "begun", work });
    await volume.compact({ generation: generation + 1, ttlCutoffMs: 0, rateBytes: 0, purge });
    this.#tell({ type: "done", work });
  }

  async #scrub(random: Random): Promise<void> {
    const ids = [...this.#volumes.keys()].filter((id) => this.#isIdle(id));
    const id = ids[random.u32() % Math.max(ids.length, 1)];
    if (id === undefined) return;
    const work: Work = { kind: "scrub", volume: id };
    this.#tell({ type: "begun", work });
    const findings = await this.#volumes.get(id)?.scrub({ rateBytes: 0 });
    this.#tell({ type: "done", work });
    for (const { offset, why } of findings ?? []) {
      this.#tell({ type: "violation", text: `volume ${id} is damaged at ${offset}: ${why}` });
    }
  }

  async #emptyTrash(): Promise<void> {
    for (const id of [...this.#volumes.keys()]) {
      const volume = this.#usable(id);
      if (volume === undefined) continue;
      await this.#use(volume, () => volume.emptyTrash(Number.POSITIVE_INFINITY));
    }
  }

  async #drop(): Promise<void> {
    if (this.#volumes.size < volumesMax) return;
    const id = [...this.#volumes.keys()].find(
      (each) => this.#isIdle(each) && this.#volumes.get(each)?.report().state === "sealed",
    );
    const volume = this.#usable(id);
    if (id === undefined || volume === undefined) return;
    this.#closing.add(id);
    this.#blobs = this.#blobs.filter((blob) => blob.volume !== id);
    while ((this.#users.get(id) ?? 0) > 0) await this.#runtime.giveWay();
    const work: Work = { kind: "drop", volume: id };
    this.#tell({ type: "begun", work });
    await volume.drop();
    this.#tell({ type: "done", work });
    this.#volumes.delete(id);
  }

  /** Done by the volume; one that says that it is full, or failed, is sealed as the directory would. */
  async #orSeal<Result>(volume: Volume, append: () => Promise<Result>): Promise<Result> {
    try {
      return await append();
    } catch (error) {
      const { closedBecause, state } = volume.report();
      if (closedBecause?.endsWith("it is full") && state === "open") await this.#sealVolume(volume);
      throw error;
    }
  }

  /** The volume of a class that takes appends, which is made if there is none. */
  async #writable(volumeClass: EngineClass): Promise<Volume> {
    const open = [...this.#volumes.values()].find(
      (volume) => volume.superblock.class === volumeClass && volume.report().state === "open",
    );
    if (open !== undefined) return open;
    let making = this.#making.get(volumeClass);
    if (making === undefined) {
      making = this.#create(this.#nextVolume++, volumeClass);
      this.#making.set(volumeClass, making);
    }
    try {
      return await making;
    } finally {
      this.#making.delete(volumeClass);
    }
  }

  async #create(id: number, volumeClass: EngineClass): Promise<Volume> {
    const work: Work = { kind: "create", volume: id, class: volumeClass };
    this.#tell({ type: "begun", work });
    const identity = createHash("sha256").update(`${this.#task.contentSeed}:${id}`).digest();
    const volume = await Volume.create(
      this.#environment,
      {
        volume: id,
        uuid: identity.subarray(0, 16),
        generation: 0,
        class: volumeClass,
        recordMagic: identity.subarray(16, 24),
        createdMs: 1_790_000_000_000,
        firstFree: 0,
        ttlSeconds: 0,
        hasSparseKeys: false,
      },
      { members: ["a".repeat(16)], limitBytes },
    );
    await volume.beginEpoch(1);
    this.#volumes.set(id, volume);
    this.#tell({ type: "done", work });
    return volume;
  }

  async #use<Result>(volume: Volume, use: () => Promise<Result>): Promise<Result> {
    const { volume: id } = volume.superblock;
    this.#users.set(id, (this.#users.get(id) ?? 0) + 1);
    try {
      return await use();
    } finally {
      this.#users.set(id, (this.#users.get(id) ?? 0) - 1);
    }
  }

  #keep(durability: Durability, blobs: StoredBlob[]): void {
    this.#tell({ type: "stored", durability, blobs });
    this.#blobs.push(...blobs);
  }

  #blobOf(id: number): Blob {
    return {
      data: blobContent(this.#task.contentSeed, id),
      metadata: Buffer.from(JSON.stringify({ id })),
      owner: undefined,
      ttlSeconds: 0,
    };
  }

  #usable(id: number | undefined): Volume | undefined {
    return id === undefined || this.#closing.has(id) ? undefined : this.#volumes.get(id);
  }

  #isIdle(id: number): boolean {
    return this.#usable(id)?.operation === undefined && !this.#closing.has(id);
  }

  #anySealed(random: Random): Volume | undefined {
    const sealed = [...this.#volumes].filter(
      ([id, volume]) => this.#isIdle(id) && volume.report().state === "sealed",
    );
    return sealed[random.u32() % Math.max(sealed.length, 1)]?.[1];
  }
}

export function engineEnvironment({
  files,
  clock,
  runtime,
  folder,
  seed,
  checkpointNeedles,
}: {
  files: FileSystem;
  clock: Clock;
  runtime?: Runtime | undefined;
  folder: string;
  seed: number;
  checkpointNeedles?: number;
}): VolumeEnvironment {
  return {
    files,
    clock,
    runtime,
    random: seededRandom(seed),
    folder,
    refusal: () => undefined,
    spend: () => undefined,
    checkpointNeedles,
  };
}

export async function openEngineVolume(
  environment: VolumeEnvironment,
  volume: number,
): Promise<Volume> {
  return await Volume.open(environment, volume, limitBytes);
}

/** Random bytes that all blobs are cut out of: to make as many anew would take longer than to store them. */
const pool = contentOf({ seed: 0, id: 0 }, 4 * 1_048_576);

/** What blob `id` holds, made again from its id: the id, as far as there is room, and a stretch of its own. */
function blobContent(contentSeed: number, id: number): Buffer {
  const random = seededRandom(contentSeed ^ Math.imul(id, 0x9e37_79b1));
  let left = random.fraction();
  const { min, max } = sizes.find(({ share }) => {
    left -= share;
    return left < 0;
  }) ?? { min: 1, max: 1 };
  const length = min + Math.floor(random.fraction() * (max - min + 1));
  const start = Math.floor(random.fraction() * (pool.length - length));
  const content = Buffer.from(pool.subarray(start, start + length));
  if (length >= 4) content.writeUInt32LE(id, 0);
  return content;
}

/** The id of the blob that is read there, or undefined if there is none; fails if nobody ever sent it. */
export async function readBlob(
  volume: Volume,
  { ordinal, cookie }: { ordinal: number; cookie: number },
  contentSeed: number,
): Promise<number | undefined> {
  const needle = await volume.find(ordinal, cookie);
  if (needle === undefined) return undefined;
  try {
    const { id } = JSON.parse(needle.metadata.toString()) as { id: number };
    const content = await needle.content();
    if (!content.equals(blobContent(contentSeed, id))) {
      throw new Failure("corrupt", `${content.length} bytes that are not blob ${id}'s`);
    }
    return id;
  } finally {
    needle.close();
  }
}

export function describeBlob({ id, volume, ordinal }: StoredBlob): string {
  return `blob ${id}, needle ${ordinal} of volume ${volume}`;
}

/** Tells of checkpoints, which the engine writes when it sees fit. */
function tellingCheckpoints(files: FileSystem, tell: (record: EngineRecord) => void): FileSystem {
  return {
    open: (file, mode) => files.open(file, mode),
    readWhole: (file) => files.readWhole(file),
    rename: (names) => files.rename(names),
    list: (folder) => files.list(folder),
    remove: (file) => files.remove(file),
    syncFolder: (folder) => files.syncFolder(folder),
    space: (folder) => files.space(folder),
    async replace(file, content, permissions) {
      const volume = /([0-9]+)\.g[0-9]+\.index$/.exec(file)?.[1];
      if (volume === undefined) return await files.replace(file, content, permissions);
      const work: Work = { kind: "checkpoint", volume: Number(volume) };
      tell({ type: "begun", work });
      await files.replace(file, content, permissions);
      tell({ type: "done", work });
    },
  };
}

function pick(random: Random): Operation {
  let left = random.fraction() * 1_000;
  for (const [operation, share] of Object.entries(mix)) {
    left -= share;
    if (left < 0) return operation as Operation;
  }
  return "append";
}

function takeAny<Each>(list: Each[], random: Random): Each | undefined {
  const at = random.u32() % Math.max(list.length, 1);
  const taken = list[at];
  const last = list.pop();
  if (last !== undefined && at < list.length) list[at] = last;
  return taken;
}

/**
 * A store's folder that no process runs on, for the command line: the same engine, by hand.
 *
 * Invariants:
 * - The folder's lock is held from `open` to `close`: no store can start on it meanwhile.
 * - Looking (list, facts, records, export, plans) changes nothing on the disk, whatever a start of the store
 *   would recover, finish or remove.
 * - A volume of which another store has a copy is not changed here: copies change together or not at all.
 */

import { existsSync } from "node:fs";
import path from "node:path";
import type { Readable } from "node:stream";
import type { Clock } from "../base/clock.ts";
import { systemClock } from "../base/clock.ts";
import { Failure, messageOf, systemErrorCode } from "../base/failure.ts";
import { diskFiles, type FileSystem } from "../base/files.ts";
import { type FolderLock, lockFolder } from "../base/lock.ts";
import { type Random, systemRandom } from "../base/random.ts";
import { formatBytes } from "../base/units.ts";
import { type ImportResult, importSeaweedVolume } from "./seaweed/import.ts";
import { openSeaweedVolume } from "./seaweed/seaweed-volume.ts";
import { unchangingFiles } from "./unchanging-files.ts";
import { type Descriptor, decodeDescriptor, writeDescriptor } from "./volume/descriptor.ts";
import { Volume } from "./volume/volume.ts";
import type { VolumeEnvironment } from "./volume/volume-environment.ts";
import { descriptorFile, listVolumes, parseGenerationFile } from "./volume/volume-files.ts";
import { exportVolume } from "./volume-export.ts";
import {
  type DamageFacts,
  factsOf,
  listRecords,
  nameDamage,
  type RecordFacts,
  type RecordSelection,
  type VolumeFacts,
} from "./volume-facts.ts";

/** Told now and then how far something is, in bytes or in blobs. */
export type Progress = (done: number, total: number) => void;

/** One that is no volume that could be looked at: it can't be opened, is in the trash, or is half a copy. */
export interface UnreadableVolume {
  volume: number;
  state: "unreadable" | "trashed" | "copying";
  reason: string;
}

/** What a compaction is about to do. */
export interface CompactionPlan {
  volume: number;
  state: "open" | "sealed";
  copyBytes: number;
  freedBytes: number;
}

export interface CompactionOutcome {
  volume: number;
  /** The one that was made. */
  generation: number;
  copiedBytes: number;
  freedBytes: number;
}

export interface CompactionTerms {
  /** Bytes a second, 0 for no limit. */
  rateBytes: number;
  purge: boolean;
  /** Whether an open volume may be sealed for it. */
  seal: boolean;
}

export interface ImportSource {
  dat: string;
  idx: string;
  volume: number;
}

export type ImportOutcome = Omit<ImportResult, "volume"> & { volume: number };

const progressMs = 100;

export class OfflineStore {
  /** The store's id for ever. */
  readonly id: string;
  readonly #folder: string;
  readonly #lock: FolderLock;
  readonly #clock: Clock = systemClock;
  readonly #random: Random = systemRandom;
  readonly #files: FileSystem = diskFiles;
  readonly #note: (text: string) => void;

  private constructor(folder: string, id: string, lock: FolderLock, note: (text: string) => void) {
    this.#folder = folder;
    this.id = id;
    this.#lock = lock;
    this.#note = note;
  }

  /** Takes the folder. `note` is told what a person may want to know of what is done to it. */
  static async open(
    folder: string,
    note: (text: string) => void = () => undefined,
  ): Promise<OfflineStore> {
    const whole = path.resolve(folder);
    const id = (await diskFiles.readWhole(path.join(whole, "store-id")))?.toString().trim();
    if (id === undefined) {
      // The folder of `hayloft up` has the store's in it.
      const inner = path.join(whole, "store");
      const hint = existsSync(path.join(inner, "store-id")) ? `; did you mean ${inner}?` : "";
      throw new Failure(
        "not-found",
        `Cannot use ${whole}: it is not a store's folder, there is no store-id in it${hint}`,
      );
    }
    return new OfflineStore(whole, id, takeLock(whole), note);
  }

  close(): void {
    this.#lock.release();
  }

  async ids(): Promise<number[]> {
    const ids = await listVolumes(this.#files, this.#folder);
    return ids.sort((left, right) => left - right);
  }

  /** Every volume, by id; one that can't be looked at with the reason. */
  async list(): Promise<(VolumeFacts | UnreadableVolume)[]> {
    const listed: (VolumeFacts | UnreadableVolume)[] = [];
    const ids = await this.ids();
    for (const id of ids) {
      try {
        listed.push(await this.facts(id));
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        const reason = error.message;
        if (error.kind !== "not-found") listed.push({ volume: id, state: "unreadable", reason });
        else if (await this.#isTrashed(id)) listed.push({ volume: id, state: "trashed", reason });
        // and one that was dropped is none any more
      }
    }
    const halves = (await this.#files.list(this.#folder)).flatMap((name) => {
      const parsed = parseGenerationFile(name);
      const isNew = parsed !== undefined && !ids.includes(parsed.volume);
      return isNew && parsed.kind === "copying" ? [parsed.volume] : [];
    });
    for (const volume of halves) {
      const reason = "a copy of it is being made, and goes on when the store runs";
      listed.push({ volume, state: "copying", reason });
    }
    return listed.sort((left, right) => left.volume - right.volume);
  }

  async facts(id: number): Promise<VolumeFacts> {
    return await this.#look(id, factsOf);
  }

  async *records(
    id: number,
    selection: Omit<RecordSelection, "nowMs">,
  ): AsyncGenerator<RecordFacts[]> {
    const volume = await this.#open(id, unchangingFiles(this.#files));
    try {
      yield* listRecords(volume, { ...selection, nowMs: this.#clock.nowMs() });
    } finally {
      await volume.close();
    }
  }

  /** The volume as a tar archive; the caller reads it to its end, or destroys it. */
  async export(id: number): Promise<Readable> {
    const volume = await this.#open(id, unchangingFiles(this.#files));
    const archive = exportVolume(volume, this.#clock.nowMs());
    archive.once("close", () => {
      volume.close().catch((error: unknown) => this.#note(messageOf(error)));
    });
    return archive;
  }

  /** Reads every byte; returns what does not verify. The disk has a note of it, or of when all was well. */
  async verify(id: number, rateBytes: number, progress: Progress): Promise<DamageFacts[]> {
    const own = descriptorFile(this.#folder, id);
    let note: Parameters<FileSystem["replace"]>[1] | undefined;
    const files: FileSystem = {
      ...unchangingFiles(this.#files),
      async replace(file, content) {
        if (file === own) note = content;
      },
    };
    const volume = await this.#open(id, files);
    try {
      const findings = await watch(volume, progress, () => volume.scrub({ rateBytes }));
      if (findings.length === 0 && note !== undefined) await this.#files.replace(own, note);
      else await this.#noteDamage(id, volume.report().damagedBytes);
      return await nameDamage(volume, findings);
    } finally {
      await volume.close();
    }
  }

  /** Ends the open life of a volume; returns whether it had not ended before. */
  async seal(id: number): Promise<boolean> {
    const { state } = await this.#requireOwn(id, "seal");
    if (state !== "open") return false;
    const volume = await this.#open(id, this.#files);
    try {
      await volume.seal();
      await volume.settled();
      return true;
    } finally {
      await volume.close();
    }
  }

  /**
   * What compacting would copy and free: the volumes that are named, or all sealed ones of which a share of
   * `garbageRatioMin` is dead.
   */
  async planCompaction(
    ids: readonly number[] | undefined,
    garbageRatioMin: number,
  ): Promise<CompactionPlan[]> {
    if (ids === undefined) {
      return (await this.list()).flatMap((volume) =>
        isReadable(volume) && isWorthCompacting(volume, garbageRatioMin) ? [planOf(volume)] : [],
      );
    }
    const plans: CompactionPlan[] = [];
    for (const id of ids) {
      await this.#requireOwn(id, "compact");
      plans.push(planOf(await this.facts(id)));
    }
    return plans;
  }

  /** Rewrites a volume without what is dead in it. */
  async compact(
    id: number,
    { rateBytes, purge, seal }: CompactionTerms,
    progress: Progress,
  ): Promise<CompactionOutcome> {
    const { state, generation } = await this.#requireOwn(id, "compact");
    if (state === "open" && !seal) {
      throw new Failure("conflict", `Cannot compact volume ${id}: it is open; seal it first`);
    }
    const { lengthBytes, deadBytes } = await this.facts(id);
    await this.#requireSpace(`compact volume ${id}`, lengthBytes - deadBytes);
    const volume = await this.#open(id, this.#files);
    try {
      await volume.seal();
      await volume.settled();
      const ttlCutoffMs = Math.floor(this.#clock.nowMs());
      const order = { generation: generation + 1, ttlCutoffMs, rateBytes, purge };
      const result = await watch(volume, progress, () => volume.compact(order));
      return { volume: id, generation: order.generation, ...result };
    } finally {
      await volume.close();
    }
  }

  /** Fails if an import could not begin. */
  async requireImportable({ dat, volume }: ImportSource): Promise<void> {
    const descriptor = await this.#readDescriptor(volume);
    if (descriptor !== undefined && !(await this.#isCutShort(volume, descriptor))) {
      throw new Failure(
        "conflict",
        `Cannot import ${dat} as volume ${volume}: ${this.#folder} has a volume of that id`,
      );
    }
    const lengthBytes = await this.#lengthOf(dat);
    await this.#requireSpace(`import ${dat}`, lengthBytes);
  }

  /** Takes over a volume of SeaweedFS. */
  async import(source: ImportSource, progress: Progress): Promise<ImportOutcome> {
    await this.requireImportable(source);
    const { volume: id } = source;
    const descriptor = await this.#readDescriptor(id);
    if (descriptor !== undefined) {
      this.#note(`volume ${id} is left of an import that was cut short, and begun anew`);
      await (await this.#open(id, this.#files)).drop();
    }
    try {
      const { volume, ...result } = await importSeaweedVolume(
        this.#environment(this.#files),
        {
          ...source,
          uuid: this.#random.bytes(16).toString("hex"),
          recordMagic: this.#random.bytes(8).toString("hex"),
          createdMs: Math.floor(this.#clock.nowMs()),
          epoch: 1,
          members: [this.id],
        },
        progress,
      );
      await volume.close();
      return { volume: id, ...result };
    } catch (error) {
      await this.#removeCutShort(id);
      throw error;
    }
  }

  async #removeCutShort(id: number): Promise<void> {
    const descriptor = await this.#readDescriptor(id);
    if (descriptor !== undefined && (await this.#isCutShort(id, descriptor))) {
      await (await this.#open(id, this.#files)).drop();
    }
  }

  /** Whether a volume is what an import left that did not come to its end: only then it is open. */
  async #isCutShort(id: number, { state }: Descriptor): Promise<boolean> {
    if (state !== "open") return false;
    return await this.#look(id, async (volume) => volume.superblock.hasSparseKeys);
  }

  async #isTrashed(id: number): Promise<boolean> {
    return (await this.#readDescriptor(id))?.state === "trashed";
  }

  /** So that the store knows of it when it starts. */
  async #noteDamage(id: number, damagedBytes: number): Promise<void> {
    const descriptor = await this.#readDescriptor(id);
    if (descriptor === undefined || damagedBytes === 0) return;
    const file = descriptorFile(this.#folder, id);
    await writeDescriptor(this.#files, file, { ...descriptor, damagedBytes });
  }

  async #look<Result>(
    id: number,
    use: (volume: Volume, descriptor: Descriptor | undefined) => Promise<Result>,
  ): Promise<Result> {
    const volume = await this.#open(id, unchangingFiles(this.#files));
    try {
      return await use(volume, await this.#readDescriptor(id));
    } finally {
      await volume.close();
    }
  }

  async #open(id: number, files: FileSystem): Promise<Volume> {
    if ((await this.#readDescriptor(id)) === undefined) throw this.#unknown(id);
    try {
      return await Volume.open(this.#environment(files), id, Number.POSITIVE_INFINITY);
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
      throw new Failure("corrupt", `Cannot open volume ${id}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  #environment(files: FileSystem): VolumeEnvironment {
    const isLooking = files !== this.#files;
    return {
      files,
      clock: this.#clock,
      random: this.#random,
      folder: this.#folder,
      isOffline: true,
      refusal: () => undefined,
      spend: () => undefined,
      // What is only looked at tells of repairs that are not made.
      note: (message, details) => {
        if (!isLooking) this.#note(`${message} (${describe(details)})`);
      },
    };
  }

  async #requireOwn(id: number, what: string): Promise<Descriptor> {
    const descriptor = await this.#readDescriptor(id);
    const { state } = descriptor ?? { state: "dropped" };
    if (descriptor === undefined || state === "dropped") throw this.#unknown(id);
    if (state === "trashed") {
      throw new Failure("conflict", `Cannot ${what} volume ${id}: it is in the trash`);
    }
    const others = descriptor.members.filter((member) => member !== this.id);
    if (others.length > 0) {
      throw new Failure(
        "conflict",
        `Cannot ${what} volume ${id} by hand: other stores have copies of it (${others.join(", ")}), and copies change together`,
      );
    }
    return descriptor;
  }

  async #readDescriptor(id: number): Promise<Descriptor | undefined> {
    const file = descriptorFile(this.#folder, id);
    const bytes = await this.#files.readWhole(file);
    return bytes === undefined ? undefined : decodeDescriptor(bytes, file);
  }

  async #requireSpace(what: string, bytes: number): Promise<void> {
    const { freeBytes } = await this.#files.space(this.#folder);
    if (bytes <= freeBytes) return;
    const needs = `that takes ${formatBytes(bytes)}`;
    throw new Failure(
      "full",
      `Cannot ${what}: ${needs}, and the disk has ${formatBytes(freeBytes)} free`,
    );
  }

  async #lengthOf(dat: string): Promise<number> {
    try {
      const file = await this.#files.open(dat, "read");
      try {
        return await file.sizeBytes();
      } finally {
        await file.close();
      }
    } catch (error) {
      const why = systemErrorCode(error) === "ENOENT" ? "there is no such file" : messageOf(error);
      throw new Failure("not-found", `Cannot read ${dat}: ${why}`, { cause: error });
    }
  }

  #unknown(id: number): Failure {
    return new Failure("not-found", `Cannot find volume ${id} in ${this.#folder}`);
  }
}

/** Whether a volume could be looked at. */
function isReadable(volume: VolumeFacts | UnreadableVolume): volume is VolumeFacts {
  return volume.state === "open" || volume.state === "sealed";
}

function takeLock(folder: string): FolderLock {
  try {
    return lockFolder(folder, "store");
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== "conflict") throw error;
    const instead = "stop it, or leave out --folder to have it done while it runs";
    throw new Failure("conflict", `Cannot use ${folder}: a store runs on it; ${instead}`, {
      cause: error,
    });
  }
}

/** The directory's own rule, for whoever names no volume. */
function isWorthCompacting(volume: VolumeFacts, garbageRatioMin: number): boolean {
  const { state, deadBytes, lengthBytes, ttlSeconds, hasSparseKeys, descriptor } = volume;
  // What has a TTL goes as a whole before long.
  const isGoingAnyway = volume.class === "native" && ttlSeconds > 0;
  const isOwn = (descriptor?.members.length ?? 0) <= 1;
  const isGarbage = deadBytes > 0 && deadBytes >= garbageRatioMin * lengthBytes;
  return state === "sealed" && isGarbage && isOwn && !hasSparseKeys && !isGoingAnyway;
}

function planOf({ volume, state, lengthBytes, deadBytes }: VolumeFacts): CompactionPlan {
  const copyBytes = Math.max(lengthBytes - deadBytes, 0);
  return { volume, state, copyBytes, freedBytes: deadBytes };
}

/** What an import of a SeaweedFS volume would bring; every blob of it is read and verified. */
export async function surveySeaweedVolume(
  { dat, idx }: Omit<ImportSource, "volume">,
  progress: Progress,
): Promise<Omit<ImportOutcome, "volume">> {
  const source = await openSeaweedVolume(diskFiles, { dat, idx });
  try {
    const total = source.keys.length;
    const found = { blobs: 0, bytes: 0, damaged: [] as ImportOutcome["damaged"] };
    let done = 0;
    for await (const needle of source.needles()) {
      progress(++done, total);
      if ("damage" in needle) {
        const { key, offset, damage } = needle;
        found.damaged.push({ key: key.toString(16), offset, why: damage });
      } else {
        found.blobs += 1;
        found.bytes += needle.data.length;
      }
    }
    return { ...found, warnings: source.warnings };
  } finally {
    await source.close();
  }
}

/** What the index of a SeaweedFS volume promises; its blobs are not looked at. */
export async function peekSeaweedVolume({
  dat,
  idx,
}: Omit<ImportSource, "volume">): Promise<{ blobs: number; warnings: readonly string[] }> {
  const source = await openSeaweedVolume(diskFiles, { dat, idx });
  await source.close();
  return { blobs: source.keys.length, warnings: source.warnings };
}

async function watch<Result>(
  volume: Volume,
  progress: Progress,
  work: () => Promise<Result>,
): Promise<Result> {
  const timer = setInterval(() => {
    const { operation } = volume;
    if (operation !== undefined) progress(operation.doneBytes, operation.totalBytes);
  }, progressMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

function describe(details: Record<string, unknown>): string {
  return Object.entries(details)
    .map(([name, value]) => `${name} ${String(value)}`)
    .join(", ");
}

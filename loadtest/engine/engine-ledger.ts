/**
 * What an engine has promised, by what it told before the power went, and whether it kept it.
 *
 * Invariants:
 * - An answer counts if it came before the cut. One that came later is taken for an outcome nobody knows.
 * - What a look has shown is settled: it must show again after the next cut, because the engine has told it.
 */

import assert from "node:assert/strict";
import { Failure, messageOf } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import type { Random } from "../../base/random.ts";
import { scan } from "../../store/volume/scrub.ts";
import type { Volume } from "../../store/volume/volume.ts";
import type { VolumeEnvironment } from "../../store/volume/volume-environment.ts";
import { listVolumes } from "../../store/volume/volume-files.ts";
import {
  describeBlob,
  type EngineClass,
  type EngineRecord,
  openEngineVolume,
  readBlob,
  type StoredBlob,
  type Work,
} from "./engine-load.ts";

export interface EngineViolation {
  kind: "lost" | "ghost" | "torn" | "unreadable" | "wrong";
  text: string;
}

interface KeptBlob extends StoredBlob {
  /** Whether it must be there: acknowledged as on the disk, or seen after a cut. */
  isCertain: boolean;
  /** Whether a delete was begun that nobody answered. */
  maybeDeleted: boolean;
}

interface KeptVolume {
  class: EngineClass;
  /** Whether its making was acknowledged, and whether it was there at the last look. */
  isMade: boolean;
  isSeen: boolean;
  /** Whether it was sealed: by an answer, perhaps, or not. */
  seal: "no" | "maybe" | "yes";
  maybeDropped: boolean;
  generation: { min: number; max: number };
  /** By ordinal. */
  blobs: Map<number, KeptBlob>;
  deleted: Map<number, StoredBlob>;
  /** No ordinal below is given out again. */
  reservedEnd: number;
  /** Whether anything but deletes happened to it since it was last read whole. */
  isTouched: boolean;
}

export interface EngineCount {
  /** Blobs acknowledged as on the disk, and as in memory. */
  disk: number;
  memory: number;
  lostMemory: number;
  deletes: number;
  refused: number;
  /** Answers that came after the cut, and count for nothing. */
  late: number;
  blobsRead: number;
  done: Record<Work["kind"], number>;
  /** Begun and not done when the power went. */
  underWay: Record<Work["kind"], number>;
}

export class EngineLedger {
  readonly #volumes = new Map<number, KeptVolume>();
  readonly #dropped = new Set<number>();
  readonly #underWay = new Map<string, Work>();
  readonly count: EngineCount;
  readonly contentSeed: number;
  readonly refusals: Map<string, number>;
  violations: EngineViolation[] = [];
  #nextVolume = 1;

  constructor(contentSeed: number, count: EngineCount, refusals: Map<string, number>) {
    this.contentSeed = contentSeed;
    this.count = count;
    this.refusals = refusals;
  }

  /** What the next life of the engine has to know. */
  get volumes(): number[] {
    return [...this.#volumes].flatMap(([id, { isMade, isSeen }]) => (isMade || isSeen ? [id] : []));
  }

  get unmade(): { volume: number; class: EngineClass }[] {
    return [...this.#volumes].flatMap(([volume, kept]) =>
      kept.isMade || kept.isSeen ? [] : [{ volume, class: kept.class }],
    );
  }

  get nextVolume(): number {
    return this.#nextVolume;
  }

  get blobs(): StoredBlob[] {
    return [...this.#volumes.values()].flatMap(({ blobs }) =>
      [...blobs.values()].map(({ id, volume, ordinal, cookie }) => ({
        id,
        volume,
        ordinal,
        cookie,
      })),
    );
  }

  /** Takes in what the engine told. `isLate`: the power may have gone before. */
  take(record: EngineRecord, isLate: boolean): void {
    if (record.type === "begun") {
      this.#begin(record.work);
      // The engine goes on for a moment without power: what it begins then says nothing of the cut.
      if (!isLate) this.#underWay.set(keyOf(record.work), record.work);
      return;
    }
    if (record.type === "crashed") {
      this.#violate("wrong", `the engine's process would have ended: ${record.text}`);
      return;
    }
    if (isLate) {
      if (record.type !== "refused") this.count.late += 1;
      return;
    }
    switch (record.type) {
      case "done":
        this.#end(record.work);
        return;
      case "stored":
        for (const blob of record.blobs) this.#store(blob, record.durability === "disk");
        this.count[record.durability] += record.blobs.length;
        return;
      case "reserved": {
        const kept = this.#find(record.volume);
        if (record.first < kept.reservedEnd || kept.blobs.has(record.first)) {
          this.#violate("wrong", `ordinal ${record.first} of volume ${record.volume} twice`);
        }
        kept.reservedEnd = record.first + record.count;
        kept.isTouched = true;
        return;
      }
      case "refused":
        this.count.refused += 1;
        this.#countRefusal(record.text.replaceAll(/[0-9]+/g, "N"));
        return;
      case "violation":
        this.#violate("wrong", record.text);
        return;
      case "opened":
        // With an epoch of its own, a volume is used: it has to stay, even if its making was cut short.
        for (const kept of this.#volumes.values()) kept.isMade ||= kept.isSeen;
        return;
    }
  }

  #countRefusal(text: string): void {
    this.refusals.set(text, (this.refusals.get(text) ?? 0) + 1);
  }

  #begin(work: Work): void {
    if (work.kind === "create") {
      this.#nextVolume = Math.max(this.#nextVolume, work.volume + 1);
      if (!this.#volumes.has(work.volume)) this.#volumes.set(work.volume, emptyVolume(work.class));
      return;
    }
    const kept = this.#find(work.volume);
    switch (work.kind) {
      case "seal":
        if (kept.seal === "no") kept.seal = "maybe";
        kept.isTouched = true;
        return;
      case "compact":
        kept.generation.max = work.generation;
        kept.isTouched = true;
        return;
      case "drop":
        kept.maybeDropped = true;
        return;
      case "delete": {
        const blob = kept.blobs.get(work.ordinal);
        if (blob !== undefined) blob.maybeDeleted = true;
        return;
      }
      default:
        return;
    }
  }

  #end(work: Work): void {
    this.#underWay.delete(keyOf(work));
    this.count.done[work.kind] += 1;
    const kept = this.#find(work.volume);
    switch (work.kind) {
      case "create":
        kept.isMade = true;
        return;
      case "seal":
        kept.seal = "yes";
        return;
      case "compact":
        kept.generation.min = work.generation;
        return;
      case "drop":
        this.#volumes.delete(work.volume);
        this.#dropped.add(work.volume);
        return;
      case "delete": {
        this.count.deletes += 1;
        const blob = kept.blobs.get(work.ordinal);
        if (blob === undefined) return;
        kept.blobs.delete(work.ordinal);
        kept.deleted.set(work.ordinal, blob);
        return;
      }
      default:
        return;
    }
  }

  #store(blob: StoredBlob, isCertain: boolean): void {
    const kept = this.#find(blob.volume);
    const other = kept.blobs.get(blob.ordinal) ?? kept.deleted.get(blob.ordinal);
    if (other !== undefined && other.id !== blob.id) {
      this.#violate("wrong", `${describeBlob(blob)} has the place of blob ${other.id}`);
    }
    kept.blobs.set(blob.ordinal, { ...blob, isCertain, maybeDeleted: false });
    kept.isTouched = true;
  }

  /**
   * Looks at what there is after the power came back. `isThorough` reads every blob, otherwise those of
   * volumes that were worked on and some of the others.
   */
  async verify(
    environment: VolumeEnvironment,
    { random, isThorough }: { random: Random; isThorough: boolean },
  ): Promise<EngineViolation[]> {
    for (const { kind } of this.#underWay.values()) this.count.underWay[kind] += 1;
    this.#underWay.clear();
    const { files, folder } = environment;
    const there = new Set(await listVolumes(files, folder));
    for (const id of new Set([...there, ...this.#volumes.keys()])) {
      const kept = this.#volumes.get(id);
      if (kept === undefined) {
        const what = this.#dropped.has(id) ? "which was dropped" : "which nobody made";
        this.#violate("ghost", `there is a volume ${id}, ${what}`);
        continue;
      }
      await this.#verifyVolume(environment, { id, kept, isThorough, random });
    }
    await this.#verifyNames(files, folder);
    return this.violations.splice(0);
  }

  async #verifyVolume(
    environment: VolumeEnvironment,
    {
      id,
      kept,
      isThorough,
      random,
    }: { id: number; kept: KeptVolume; isThorough: boolean; random: Random },
  ): Promise<void> {
    let volume: Volume;
    try {
      volume = await openEngineVolume(environment, id);
    } catch (error) {
      const isGone = error instanceof Failure && error.kind === "not-found";
      if (!isGone) {
        this.#violate("unreadable", `volume ${id} can't be opened: ${messageOf(error)}`);
      } else if (kept.maybeDropped) {
        this.#volumes.delete(id);
        this.#dropped.add(id);
      } else if (kept.isMade) {
        this.#violate("lost", `volume ${id} is gone: ${messageOf(error)}`);
      }
      kept.isSeen = false;
      return;
    }
    try {
      this.#settleVolume(volume, id, kept);
      const isWhole = isThorough || kept.isTouched || random.fraction() < 0.2;
      await this.#verifyBlobs(volume, kept, isWhole ? 1 : 0.1, random);
      if (isWhole) await this.#verifyRecords(volume, id, kept);
      if (isThorough || random.fraction() < 0.05) {
        for (const { offset, why } of await volume.scrub({ rateBytes: 0 })) {
          this.#violate("torn", `volume ${id} is damaged at ${offset}: ${why}`);
        }
      }
      kept.isTouched = false;
    } finally {
      await volume.close();
    }
  }

  /** Holds a volume's state against what it was told to be, and takes it from there. */
  #settleVolume(volume: Volume, id: number, kept: KeptVolume): void {
    const report = volume.report();
    const { state, generation, damagedBytes, closedBecause, needleCount } = report;
    const is = `volume ${id} is ${state} in generation ${generation}`;
    if (damagedBytes > 0) this.#violate("torn", `${is}, ${damagedBytes} bytes of it damaged`);
    if (closedBecause !== undefined) this.#violate("torn", `${is}, closed: ${closedBecause}`);
    if (kept.seal === "yes" && state !== "sealed") this.#violate("wrong", `${is}: it was sealed`);
    if (kept.seal === "no" && state !== "open") this.#violate("wrong", `${is}: nobody sealed it`);
    const { min, max } = kept.generation;
    if (generation < min || generation > max) {
      this.#violate("wrong", `${is}, not in one of ${min} to ${max}`);
    }
    const certain = [...kept.blobs.values()].filter(({ isCertain }) => isCertain);
    const end = Math.max(kept.reservedEnd, ...certain.map(({ ordinal }) => ordinal + 1));
    if (needleCount < end) this.#violate("lost", `${is}, with ${needleCount} ordinals of ${end}`);
    kept.isSeen = true;
    kept.maybeDropped = false;
    kept.seal = state === "sealed" ? "yes" : "no";
    kept.generation = { min: generation, max: generation };
  }

  async #verifyBlobs(
    volume: Volume,
    kept: KeptVolume,
    share: number,
    random: Random,
  ): Promise<void> {
    for (const [ordinal, blob] of [...kept.blobs]) {
      const { isCertain, maybeDeleted } = blob;
      const isSettled = isCertain && !maybeDeleted;
      if (isSettled && share < 1 && random.fraction() >= share) continue;
      const found = await this.#read(volume, blob);
      if (found === "unreadable") continue;
      if (found !== undefined) {
        if (found !== blob.id) this.#violate("torn", `${describeBlob(blob)} reads as ${found}`);
        settleBlob(kept, blob);
        continue;
      }
      kept.blobs.delete(ordinal);
      if (volume.isDeleted(ordinal) && maybeDeleted) {
        kept.deleted.set(ordinal, blob);
      } else if (isCertain) {
        this.#violate("lost", describeBlob(blob));
      } else {
        this.count.lostMemory += 1;
      }
    }
    for (const blob of kept.deleted.values()) {
      const found = await volume.find(blob.ordinal, blob.cookie);
      found?.close();
      if (found !== undefined) this.#violate("ghost", `${describeBlob(blob)} was deleted`);
    }
  }

  /** Everything in the file, promised or not: it verifies, and what can be read was sent. */
  async #verifyRecords(volume: Volume, id: number, kept: KeptVolume): Promise<void> {
    await volume.read(async (generation, end) => {
      for await (const slice of scan(generation, end)) {
        for (const found of slice) {
          const problem = found.kind === "damage" ? found.why : found.problem;
          if (problem !== undefined) {
            this.#violate("torn", `volume ${id} is damaged at ${found.offset}: ${problem}`);
          }
          if (found.kind === "damage" || found.record.head.isReservation) continue;
          const { ordinal, cookie } = found.record.head;
          const blob = kept.blobs.get(ordinal) ?? kept.deleted.get(ordinal);
          if (blob !== undefined) {
            if (blob.cookie !== cookie)
              this.#violate("wrong", `${describeBlob(blob)} is there twice`);
            continue;
          }
          // Nobody was told of it: it may be there, and from now on it is.
          const place = { id: -1, volume: id, ordinal, cookie };
          const sent = await this.#read(volume, place);
          if (typeof sent === "number") settleBlob(kept, { ...place, id: sent });
          else if (sent === undefined && !volume.isDeleted(ordinal)) {
            this.#violate("torn", `needle ${ordinal} of volume ${id} is there and can't be found`);
          }
        }
      }
    });
  }

  async #read(volume: Volume, blob: StoredBlob): Promise<number | undefined | "unreadable"> {
    this.count.blobsRead += 1;
    try {
      return await readBlob(volume, blob, this.contentSeed);
    } catch (error) {
      this.#violate("torn", `${describeBlob(blob)}: ${messageOf(error)}`);
      return "unreadable";
    }
  }

  /** No file is there that belongs to nobody. */
  async #verifyNames(files: FileSystem, folder: string): Promise<void> {
    const known =
      /^([1-9][0-9]*)\.(json|deleted|g[0-9]+\.(volume|index|aside\.[0-9]+\.[0-9]+))(\.new)?$/;
    for (const name of await files.list(folder)) {
      const volume = known.exec(name)?.[1];
      if (volume === undefined || !this.#volumes.has(Number(volume))) {
        this.#violate("wrong", `there is a file ${name}, which belongs to no volume`);
      }
    }
  }

  #find(id: number): KeptVolume {
    const kept = this.#volumes.get(id);
    assert(kept !== undefined, `volume ${id} was begun before anything was done to it`);
    return kept;
  }

  #violate(kind: EngineViolation["kind"], text: string): void {
    this.violations.push({ kind, text });
  }
}

function emptyVolume(volumeClass: EngineClass): KeptVolume {
  return {
    class: volumeClass,
    isMade: false,
    isSeen: false,
    seal: "no",
    maybeDropped: false,
    generation: { min: 0, max: 0 },
    blobs: new Map(),
    deleted: new Map(),
    reservedEnd: 0,
    isTouched: true,
  };
}

/** It was seen: it stays. */
function settleBlob(kept: KeptVolume, { id, volume, ordinal, cookie }: StoredBlob): void {
  kept.blobs.set(ordinal, { id, volume, ordinal, cookie, isCertain: true, maybeDeleted: false });
}

function keyOf(work: Work): string {
  return `${work.kind} ${work.volume} ${work.kind === "delete" ? work.ordinal : ""}`;
}

export function emptyCount(): EngineCount {
  const kinds = (): Record<Work["kind"], number> => ({
    create: 0,
    seal: 0,
    compact: 0,
    drop: 0,
    delete: 0,
    scrub: 0,
    checkpoint: 0,
    close: 0,
  });
  return {
    disk: 0,
    memory: 0,
    lostMemory: 0,
    deletes: 0,
    refused: 0,
    late: 0,
    blobsRead: 0,
    done: kinds(),
    underWay: kinds(),
  };
}

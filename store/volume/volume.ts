/**
 * One volume: an append-only data file, an index of where each needle in it lies, and the delete log.
 *
 * Invariants:
 * - Bytes before `tail` never change. There is one writer at a time (volume-writer.ts); readers take no
 *   lock, and never wait for sealing, checkpoints or compaction.
 * - It takes appends only under an epoch that the directory gave to this run of the process, and never
 *   again after a write or a sync failed (open-life.ts).
 * - One of several copies answers no reads before this run of the process was told that it is whole.
 * - Epochs, fencing and sealing come one after the other, and the descriptor is what decides: what it says
 *   after a crash holds, and what was not done by then is done when the volume is opened.
 * - The descriptor decides which generation counts: another generation's files are leftovers or trash.
 */

import assert from "node:assert/strict";
import { Failure, type FailureKind, messageOf } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { pause, systemRuntime } from "../../base/runtime.ts";
import type { VolumeStatus } from "../../directory/client.ts";
import type { BatchHead, Durability } from "./batch.ts";
import { type Checkpoint, encodeCheckpoint, readLeaves } from "./checkpoint.ts";
import { compactInto } from "./compaction.ts";
import { finishSwitch, switchedDescriptor, unusedAsideMs } from "./copy-switch.ts";
import { DeleteLog } from "./delete-log.ts";
import { type Descriptor, writeDescriptor } from "./descriptor.ts";
import { Generation } from "./generation.ts";
import type { FinishedCopy } from "./incoming-copy.ts";
import type { KeyIndex } from "./key-index.ts";
import {
  dataBytesMax,
  decodeHead,
  headLength,
  metadataBytesMax,
  type NeedleHead,
} from "./needle.ts";
import { NeedleReader } from "./needle-reader.ts";
import { OffsetIndex } from "./offset-index.ts";
import { OpenLife, type VolumePart } from "./open-life.ts";
import type { OrdinalSet } from "./ordinal-set.ts";
import { ReadBuffers } from "./read-buffers.ts";
import type { VolumeTail } from "./recovery.ts";
import type { ReadCopy } from "./replica-writer.ts";
import { type ScrubFinding, type ScrubOptions, scrubVolume } from "./scrub.ts";
import { SealedIndex } from "./sealed-index.ts";
import { encodeSuperblock, type Superblock } from "./superblock.ts";
import { rootOfLeaves } from "./volume-digest.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import {
  checkpointFile,
  deleteLogFile,
  descriptorFile,
  listGenerationFiles,
  refuseToReplace,
  volumeFile,
} from "./volume-files.ts";
import {
  cutExcess,
  findNeedles,
  measureTrash,
  type OpenedFiles,
  openVolumeFiles,
  removeVolume,
} from "./volume-opening.ts";
import type { Blob, ReservedPlace, VolumeWriter } from "./volume-writer.ts";
import { Warmth } from "./warmth.ts";

export type { BatchHead, Durability } from "./batch.ts";
export type { VolumePart } from "./open-life.ts";
export type { Blob, ReservedPlace } from "./volume-writer.ts";

/** Where the open life of a volume with several copies ended. */
export interface SealedAt {
  epoch: number;
  lengthBytes: number;
  /** Digest of the last batch before it, 16 hex digits. */
  lastDigest: string;
  /** Ids of the stores that have a copy, the primary first. */
  members: string[];
}

export interface CompactionOrder {
  /** The generation to make: one more than the volume has. */
  generation: number;
  /** Needles with a TTL that ended before this moment are dropped. */
  ttlCutoffMs: number;
  /** Bytes a second to read, 0 for no limit. */
  rateBytes: number;
  /** Whether the old generation is removed at once, not kept in the trash for a while. */
  purge: boolean;
}

export interface CompactionResult {
  copiedBytes: number;
  freedBytes: number;
}

/** What runs on a volume besides reads and appends: one at a time. */
export interface Operation {
  kind: "compact" | "verify" | "import" | "fill" | "copy";
  doneBytes: number;
  totalBytes: number;
}

/** A needle up to this size is read whole in one go; the head of a larger one takes this much. */
const wholeReadBytesMax = 1_048_576;
const headReadBytes = 65_536;
/** Up to here copying from the page cache takes less time than handing the read to a thread. */
const warmReadBytesMax = 65_536;

// A checkpoint costs about as much as the index has bytes: worth it once a good part of it is new.
const checkpointAfter = { needles: 131_072, share: 1 / 4, bytes: 1_073_741_824 };
/** At a stop in good order; what is less is read again faster than written. */
const checkpointAtClose = { needles: 4_096, bytes: 67_108_864 };

export class Volume {
  readonly #environment: VolumeEnvironment;
  readonly #deletes: DeleteLog;
  readonly #warmth: Warmth;
  readonly #buffers = new ReadBuffers();
  #keys: KeyIndex | undefined;
  #generation: Generation;
  #descriptor: Descriptor;
  /** While the volume is open. */
  #life: OpenLife | undefined;
  #end: VolumeTail;
  #damagedBytes: number;
  /** Whether a read came upon damage that no scrub has looked into yet. */
  #isSuspect = false;
  /** Whether the checkpoint has the leaves of the volume's digest. */
  #hasLeaves: boolean;
  #deadBytes = 0;
  /** Whether reads are answered: of several copies, only of one that is known to be whole. */
  #isServing: boolean;
  /** Epochs, fences and seals, one after the other. */
  #turns: Promise<unknown> = Promise.resolve();
  #closed: Failure | undefined;
  #operation: Operation | undefined;
  #operating: Promise<unknown> = Promise.resolve();
  #describing: Promise<void> = Promise.resolve();
  /** Whether the descriptor on disk is the one in memory: after a failed change it may be either. */
  #isDescribed = true;
  #trashBytes = 0;
  /** Where the last checkpoint ends, in bytes and in ordinals. */
  #checkpointed: { tail: number; count: number };
  /** Sealing's afterwork and checkpoints, one after the other. */
  #background: Promise<void> = Promise.resolve();
  #isCheckpointing = false;
  readonly #stopping = new AbortController();
  #hasStopped = false;
  /** Puts of reserved ordinals that are on their way. */
  readonly #arriving = new Map<number, Promise<unknown>>();
  readonly #lastCounts = { syncs: 0, appends: 0 };

  private constructor(
    environment: VolumeEnvironment,
    parts: Omit<OpenedFiles, "isDamaged" | "trashBytes"> & { limitBytes: number },
  ) {
    this.#environment = environment;
    this.#warmth = new Warmth(environment.clock);
    this.#generation = parts.generation;
    this.#descriptor = parts.descriptor;
    this.#deletes = parts.deletes;
    this.#keys = parts.keys;
    this.#end = parts.end;
    this.#damagedBytes = parts.damagedBytes;
    this.#hasLeaves = parts.hasLeaves;
    this.#checkpointed = parts.checkpointed;
    this.#isServing = parts.descriptor.members.length <= 1 || environment.isOffline === true;
    const { index } = parts.generation;
    if (parts.descriptor.state === "open" && index instanceof OffsetIndex) {
      this.#life = new OpenLife({
        environment,
        generation: parts.generation,
        index,
        tail: parts.end,
        limitBytes: parts.limitBytes,
        epoch: () => this.#descriptor.epoch,
        onAppend: (ordinal) => this.#warmth.touch(ordinal),
        onBatch: () => this.#considerCheckpoint(),
      });
    }
    this.#deadBytes = this.#measureDead();
  }

  /** Makes an empty volume on disk. Done again after a crash it goes on where it was. */
  static async create(
    environment: VolumeEnvironment,
    superblock: Superblock,
    { members, limitBytes }: { members: string[]; limitBytes: number },
  ): Promise<Volume> {
    const { files, folder } = environment;
    const { volume, uuid, generation } = superblock;
    await refuseToReplace(files, folder, superblock);
    await files.replace(volumeFile(folder, superblock), encodeSuperblock(superblock));
    await DeleteLog.create(files, deleteLogFile(folder, volume), superblock);
    // The descriptor comes last: a volume is there when it has one.
    await writeDescriptor(files, descriptorFile(folder, volume), {
      format: 1,
      volume,
      uuid: uuid.toString("hex"),
      generation,
      epoch: 0,
      members,
      state: "open",
    });
    return await Volume.open(environment, volume, limitBytes);
  }

  /**
   * Opens a volume and recovers it: afterwards all that was acknowledged is readable. Fails with
   * `not-found` if there is none, or only what was left of one that was dropped; with `corrupt` if it
   * can't be read.
   */
  static async open(
    environment: VolumeEnvironment,
    volume: number,
    limitBytes: number,
  ): Promise<Volume> {
    const { isDamaged, trashBytes, ...parts } = await openVolumeFiles(environment, volume);
    const opened = new Volume(environment, { ...parts, limitBytes });
    opened.#trashBytes = trashBytes;
    if (isDamaged) {
      opened.#close(
        new Failure(
          "unavailable",
          `Cannot append to volume ${volume}: it is damaged below its tail`,
        ),
      );
    }
    if (parts.descriptor.state === "sealed") opened.#shrinkLater();
    return opened;
  }

  get superblock(): Superblock {
    return this.#generation.superblock;
  }

  /** What runs on the volume now, besides reads and appends. */
  get operation(): Operation | undefined {
    return this.#operation;
  }

  /** What the volume was last told about itself, as it lies beside it. */
  get descriptor(): Readonly<Descriptor> {
    return this.#descriptor;
  }

  /** When every byte was last verified, or when there was none yet. */
  get scrubbedMs(): number {
    return this.#descriptor.scrubbedMs ?? this.superblock.createdMs;
  }

  /** Whether a read came upon damage since the last scrub: the next one should not wait. */
  get isSuspect(): boolean {
    return this.#isSuspect;
  }

  /** Bytes that wait to be written. */
  get queueBytes(): number {
    return this.#life?.queueBytes ?? 0;
  }

  get counts(): { syncs: number; appends: number } {
    return this.#life?.counts ?? this.#lastCounts;
  }

  /** Bytes in memory for finding needles: index, deletes and keys. */
  get indexBytes(): number {
    const keyBytes = this.#keys?.memoryBytes ?? 0;
    return this.#generation.index.memoryBytes + this.#deletes.deleted.memoryBytes + keyBytes;
  }

  report(): VolumeStatus {
    const { volume, uuid, generation, createdMs, ttlSeconds, hasSparseKeys } = this.superblock;
    const end = this.#tail();
    return {
      volume,
      class: this.superblock.class,
      uuid: uuid.toString("hex"),
      generation,
      epoch: this.#descriptor.epoch,
      state: this.#descriptor.state === "open" ? "open" : "sealed",
      isWritable: this.#life !== undefined && this.#appendRefusal() === undefined,
      isServing: this.#isServing,
      members: this.#descriptor.members,
      closedBecause: this.#closed?.message ?? this.#life?.closedBecause,
      canReopen: this.#closed === undefined && this.#life?.canReopen === true ? true : undefined,
      lengthBytes: end.tail,
      lastDigest: end.lastDigest.toString("hex"),
      digest: this.#descriptor.sealedDigest,
      dataBytes: end.dataBytes,
      needleCount: this.#generation.index.count,
      deletedCount: this.#deletes.deleted.size,
      deletesDigest: this.#deletes.deleted.digest,
      damagedBytes: this.#damagedBytes,
      deadBytes: this.#deadBytes,
      ttlSeconds,
      expiresMs: ttlSeconds === 0 ? 0 : end.lastTimeMs + ttlSeconds * 1_000,
      scrubbedMs: this.#descriptor.scrubbedMs ?? 0,
      createdMs,
      trashBytes: this.#trashBytes,
      hasSparseKeys,
      operation: this.#operation,
    };
  }

  /** Stores a blob; returns its fid once it is as durable as asked. */
  async append(blob: Blob, durability: Durability = "disk"): Promise<Fid> {
    const [fid] = await this.appendAll([blob], durability);
    assert(fid !== undefined, "each blob gets a fid");
    return fid;
  }

  /** Stores blobs in ordinals that follow each other, all or nothing. */
  async appendAll(blobs: readonly Blob[], durability: Durability = "disk"): Promise<Fid[]> {
    if (blobs.length === 0) return [];
    return await this.#open().append(blobs, durability);
  }

  /** Reserves ordinals that follow each other; returns the first. They are given out by the caller. */
  async reserve(count: number): Promise<number> {
    assert(count > 0 && count <= reservedCountMax);
    return await this.#open().reserve(count);
  }

  /**
   * Stores a blob at an ordinal that was reserved. Once: the same bytes again change nothing, others fail
   * with `conflict`; an ordinal that was never reserved fails with `not-found`. That the cookie is the
   * reserved one is for the caller to check.
   */
  async put(place: ReservedPlace, blob: Blob, durability: Durability = "disk"): Promise<Fid> {
    const { volume } = this.superblock;
    const { ordinal, cookie } = place;
    const fid = { volume, ordinal, cookie };
    // Whoever comes while the first is on its way sees what became of that one.
    for (;;) {
      const other = this.#arriving.get(ordinal);
      if (other === undefined) break;
      await other.catch(() => undefined);
    }
    const { index } = this.#generation;
    if (ordinal >= index.count) {
      throw new Failure(
        "not-found",
        `Cannot store blob ${ordinal} of volume ${volume}: it is not reserved`,
      );
    }
    if (index.get(ordinal) !== undefined) {
      if (await this.#holds(place, blob)) return fid;
      throw new Failure(
        "conflict",
        `Cannot store blob ${ordinal} of volume ${volume}: it was stored before, and blobs are written once`,
      );
    }
    const writing = this.#open().append([blob], durability, place);
    this.#arriving.set(ordinal, writing);
    try {
      await writing;
    } finally {
      this.#arriving.delete(ordinal);
    }
    return fid;
  }

  /** The ordinal of a key of a volume with sparse keys. */
  ordinalOf(key: bigint): number | undefined {
    const ordinal = this.#keys?.find(key) ?? -1;
    return ordinal < 0 ? undefined : ordinal;
  }

  /** The key of an ordinal: itself, unless the volume has sparse keys. */
  keyOf(ordinal: number): bigint {
    return this.#keys?.get(ordinal) ?? BigInt(ordinal);
  }

  /**
   * Obeys a new epoch from now on: waits for the batch in flight, then makes epoch and members durable. An
   * epoch that is not newer than one obeyed before is refused. What nobody acknowledged of the epoch before
   * is set aside.
   */
  async beginEpoch(
    epoch: number,
    { members, part = { kind: "primary" } }: { members?: string[]; part?: VolumePart } = {},
  ): Promise<void> {
    await this.#inTurn(async () => {
      const { volume, epoch: obeyed } = this.#descriptor;
      const life = this.#life;
      if (life?.hasPart === true && epoch === obeyed) return; // the same order again
      if (epoch <= obeyed) {
        throw new Failure(
          "conflict",
          `Cannot begin epoch ${epoch} of volume ${volume}: it has obeyed epoch ${obeyed}`,
        );
      }
      await life?.halt();
      if (life?.hasExcess === true && !life.hasFailed) await this.#dropExcess(life);
      await this.#describe({
        epoch,
        closedLength: undefined,
        ...(members === undefined ? {} : { members }),
      });
      if (life === undefined) return;
      life.begin(part);
      this.#isServing = true;
    });
  }

  /**
   * Takes nothing more under an older epoch: waits for the batch in flight as far as this disk goes, and
   * makes the epoch durable. What is reported afterwards is what the directory decides by.
   */
  async fence(epoch: number): Promise<void> {
    await this.#inTurn(async () => {
      const { volume, epoch: obeyed, state } = this.#descriptor;
      if (state !== "open") return; // what a sealed volume has is decided
      if (epoch < obeyed) {
        throw new Failure(
          "conflict",
          `Cannot fence volume ${volume} with epoch ${epoch}: it has obeyed epoch ${obeyed}`,
        );
      }
      await this.#life?.halt();
      if (epoch > obeyed || !this.#isDescribed) await this.#describe({ epoch });
    });
  }

  /** Takes a batch of the primary, as a replica; returns once it is as durable as it says. */
  async takeBatch(bytes: Buffer, head: BatchHead): Promise<void> {
    if (this.#life === undefined) {
      const { volume } = this.superblock;
      throw new Failure("conflict", `Cannot take a batch of volume ${volume}: it is sealed`);
    }
    await this.#life.take(bytes, head);
  }

  /** Ends the open life: at its tail, which is what was acknowledged. `keys` is for sparse keys. */
  async seal(keys?: KeyIndex): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#descriptor.state !== "open") return;
      this.#keys = keys ?? this.#keys;
      await this.#life?.halt();
      const end = this.#tail();
      this.#end = end; // before anyone sees that it is sealed, and compacts up to there
      await this.#describe({ state: "sealed", sealedLength: end.tail, closedLength: undefined });
      this.#endLife();
    });
  }

  /**
   * Ends the open life where the directory decided that it ended: what is beyond is set aside. Fails with
   * `precondition-failed` where this copy is shorter (`fill` comes first), with `corrupt` where it has
   * another batch there; then nothing has changed. Does not make it answer reads: `serve` does.
   */
  async sealAt(at: SealedAt): Promise<void> {
    await this.#inTurn(async () => await this.#sealAt(at));
  }

  /**
   * Takes from another copy what this one is short of, up to where its open life ended. Fails with `corrupt`
   * if that copy does not go on from this one; what it took until then it keeps.
   */
  async fill(
    { epoch, lengthBytes, lastDigest }: Omit<SealedAt, "members">,
    read: ReadCopy,
  ): Promise<void> {
    await this.#inTurn(async () => {
      const life = this.#life;
      const { volume, epoch: obeyed } = this.#descriptor;
      if (life === undefined || epoch < obeyed) {
        const why = life === undefined ? "it is sealed" : `it has obeyed epoch ${obeyed}`;
        throw new Failure("conflict", `Cannot fill volume ${volume}: ${why}`);
      }
      await this.#operate("fill", async (operation) => {
        operation.totalBytes = lengthBytes;
        await life.halt();
        if (life.hasExcess) await this.#dropExcess(life);
        await life.fill({
          lengthBytes,
          lastDigest: Buffer.from(lastDigest, "hex"),
          read: async (offset, length) => {
            this.#stopping.signal.throwIfAborted();
            return await read(offset, length);
          },
          progress: (doneBytes) => Object.assign(operation, { doneBytes }),
        });
      });
    });
  }

  /** From now on it answers reads: it is whole, and what others have deleted is merged. */
  serve(): void {
    this.#isServing = true;
  }

  /**
   * The needle, with its head verified, or undefined if there is none for that ordinal and cookie. Fails with
   * `unavailable` while it is not known whether this copy is whole.
   */
  find(
    ordinal: number,
    cookie: number,
    { deletedToo = false }: { deletedToo?: boolean } = {},
  ): NeedleReader | undefined | Promise<NeedleReader | undefined> {
    if (!this.#isServing) {
      throw new Failure(
        "unavailable",
        `Cannot read volume ${this.#descriptor.volume} yet: it is not known whether this copy is whole`,
        { retryAfterSeconds: 1 },
      );
    }
    return this.#find(ordinal, cookie, deletedToo);
  }

  /** The same, whether or not reads are answered. */
  #find(
    ordinal: number,
    cookie: number,
    deletedToo: boolean,
  ): NeedleReader | undefined | Promise<NeedleReader | undefined> {
    const generation = this.#generation;
    const offset = generation.index.get(ordinal);
    if (offset === undefined) return undefined;
    if (!deletedToo && this.#deletes.deleted.has(ordinal)) return undefined;
    // The length is not kept in memory: the next needle's offset bounds it.
    const bound = (generation.index.bound(ordinal) ?? this.#tail().tail) - offset;
    const bytes = this.#buffers.take(bound <= wholeReadBytesMax ? bound : headReadBytes);
    const count = this.#readWarm(generation, { ordinal, offset, bytes });
    const wanted = { generation, ordinal, cookie, offset, bytes };
    if (count !== undefined) {
      const read = bytes.subarray(0, count);
      const head = decodeHead(read, offset, generation.superblock, generation.seeds);
      if (head !== undefined) return this.#reader(wanted, head, read);
    }
    return this.#findAfterReading(wanted);
  }

  /**
   * Deletes a needle for ever. Returns its length before the codec, or undefined if it was not there. A copy
   * that answers no reads yet takes deletes too: they are a set that only grows.
   */
  async delete(ordinal: number, cookie: number): Promise<number | undefined> {
    const { volume } = this.#descriptor;
    if (!this.#isServing && this.#generation.index.get(ordinal) === undefined) {
      // It may be filled with it later, and must not come back to life then.
      throw new Failure(
        "unavailable",
        `Cannot delete blob ${ordinal} of volume ${volume} yet: this copy may be short of it`,
        { retryAfterSeconds: 1 },
      );
    }
    const needle = await this.#find(ordinal, cookie, false);
    if (needle === undefined) return undefined;
    const { contentLength, length, offset } = needle.head;
    needle.close();
    // A delete on the disk of a needle that never got there would look like a lost needle.
    await this.#life?.sync(offset);
    if (this.#generation.index.get(ordinal) === undefined) return undefined;
    const isNew = await this.#deletes.add(ordinal, this.#environment.clock.nowMs());
    if (isNew) this.#deadBytes += length;
    return contentLength;
  }

  /** Takes in what other copies of a sealed volume have deleted; returns how many were new. */
  async mergeDeletes(ordinals: Iterable<number>): Promise<number> {
    const { volume, state } = this.#descriptor;
    if (state !== "sealed") {
      // It might name needles that this copy does not have, which looks like a loss.
      throw new Failure("conflict", `Cannot merge deletes of volume ${volume}: it is not sealed`);
    }
    const added = await this.#deletes.merge(ordinals, this.#environment.clock.nowMs());
    if (added > 0) this.#deadBytes = this.#measureDead();
    return added;
  }

  /** What is deleted now; it does not change when more is. */
  deleted(): OrdinalSet {
    return this.#deletes.deleted.copy();
  }

  isDeleted(ordinal: number): boolean {
    return this.#deletes.deleted.has(ordinal);
  }

  /** Holds on to the current generation while `use` reads from it. */
  async read<Result>(
    use: (generation: Generation, end: number) => Promise<Result>,
  ): Promise<Result> {
    const generation = this.#generation;
    generation.retain();
    try {
      return await use(generation, this.#tail().tail);
    } finally {
      generation.release();
    }
  }

  /**
   * Rewrites a sealed volume as its next generation, without what was deleted. Reads and deletes go on.
   * Fails with `corrupt` on a record that can't be verified, and leaves all as it was.
   */
  async compact(order: CompactionOrder): Promise<CompactionResult> {
    const source = this.#generation;
    const { volume, generation } = source.superblock;
    const refuse = (why: string) =>
      new Failure("conflict", `Cannot compact volume ${volume}: ${why}`);
    if (order.generation === generation) return { copiedBytes: 0, freedBytes: 0 }; // done before
    if (order.generation !== generation + 1) throw refuse(`it is in generation ${generation}`);
    if (this.#descriptor.state !== "sealed") throw refuse("it is not sealed");
    if (this.#damagedBytes > 0) {
      // What can't be read now may be readable elsewhere, or by somebody's patience: not after this.
      throw new Failure("corrupt", `Cannot compact volume ${volume}: it is damaged`);
    }
    return await this.#operate("compact", async (operation) => {
      await this.#background; // the sealed index, which is being made
      return await this.#compactTo(source, order, operation);
    });
  }

  /** Reads and verifies every byte; returns what does not verify. */
  async scrub(options: Pick<ScrubOptions, "rateBytes">): Promise<ScrubFinding[]> {
    return await this.#operate("verify", async (operation) => {
      await this.#life?.settle().catch(() => undefined);
      // As it is now: sealed while it is read, it would be given the digest of a shorter volume.
      const wasSealed = this.#descriptor.state === "sealed";
      const found = await this.read((generation, end) =>
        scrubVolume({
          ...options,
          generation,
          end,
          isDeleted: (ordinal) => this.isDeleted(ordinal),
          signal: this.#stopping.signal,
          clock: this.#environment.clock,
          runtime: this.#environment.runtime,
          progress: (doneBytes, totalBytes) => Object.assign(operation, { doneBytes, totalBytes }),
        }),
      );
      const { sealedDigest } = this.#descriptor;
      const { findings, digest, leaves } = found;
      if (findings.length === 0 && wasSealed && (sealedDigest ?? digest) !== digest) {
        // Bytes that no checksum covers, between needles; or a needle that somebody has made anew.
        const why = "the digest of the volume is another than the one written down";
        findings.push({ offset: 0, length: this.#tail().tail, why });
      }
      const foundBytes = findings.reduce((sum, { length }) => sum + length, 0);
      const damagedBytes = foundBytes + this.#deletes.damagedBytes;
      const isWell = wasSealed && findings.length === 0;
      await this.#describe({
        scrubbedMs: Math.floor(this.#environment.clock.nowMs()),
        damagedBytes: damagedBytes === 0 ? undefined : damagedBytes,
        ...(isWell ? { sealedDigest: digest } : {}),
      });
      this.#damagedBytes = damagedBytes;
      this.#isSuspect = false;
      if (isWell && damagedBytes === 0) {
        this.#keepLeavesLater(leaves);
        await this.#background;
      }
      return findings;
    });
  }

  /** Fails with `conflict` if the volume is not sealed in this generation. */
  requireSealed(wanted: number): void {
    const { volume, generation } = this.superblock;
    const isSealed = this.#descriptor.state === "sealed";
    if (isSealed && generation === wanted) return;
    const why = isSealed ? `it is in generation ${generation}` : "it is not sealed";
    throw new Failure("conflict", `Cannot copy volume ${volume} in generation ${wanted}: ${why}`);
  }

  /**
   * The leaves of a sealed volume's digest, and their root. Where they are not kept the volume is verified to
   * make them: fails with `busy` while that takes its time, with `corrupt` if it is damaged.
   */
  async leaves(generation: number): Promise<{ leaves: Buffer; root: string }> {
    this.requireSealed(generation);
    const { runtime = systemRuntime } = this.#environment;
    const { volume } = this.superblock;
    const kept = await this.#keptLeaves();
    if (kept !== undefined) return kept;
    this.#hasLeaves = false;
    if (this.#damagedBytes > 0) {
      throw new Failure("corrupt", `Cannot give the leaves of volume ${volume}: it is damaged`);
    }
    const busy = new Failure("busy", `Cannot give the leaves of volume ${volume} yet`, {
      retryAfterSeconds: 1,
    });
    if (this.#operation !== undefined) throw busy;
    const scrubbing = this.scrub({ rateBytes: leavesRateBytes });
    scrubbing.catch((error: unknown) => {
      this.#environment.note?.("a volume was not verified", { volume, reason: messageOf(error) });
    });
    await Promise.race([scrubbing, pause(runtime, leavesWaitMs)]);
    const made = await this.#keptLeaves();
    if (made === undefined) throw busy;
    return made;
  }

  /**
   * Puts a copy that is all there in the place of what is here, which is set aside. What is deleted here stays
   * deleted. Reads that run go on.
   */
  async replaceBy(
    copy: FinishedCopy,
    terms: { members: string[]; epoch: number; deleted: OrdinalSet },
  ): Promise<void> {
    await this.#inTurn(async () => await this.#replaceBy(copy, terms));
  }

  async #replaceBy(
    { superblock, file, index, keys, end, digest }: FinishedCopy,
    { members, epoch, deleted }: { members: string[]; epoch: number; deleted: OrdinalSet },
  ): Promise<void> {
    const { files, folder, clock } = this.#environment;
    const source = this.#generation;
    const { volume } = source.superblock;
    try {
      await this.#life?.halt();
      await this.#background; // the sealed index, which is being made, and its checkpoint
      const nowMs = clock.nowMs();
      await this.#deletes.merge(deleted, nowMs);
      const sinceMs = await unusedAsideMs(files, folder, { volume, nowMs });
      const { generation } = superblock;
      const terms = { members, epoch, generation, lengthBytes: end.tail, digest, nowMs };
      await this.#describe((before) => switchedDescriptor(before, terms, sinceMs));
    } catch (error) {
      await file.close();
      throw error; // a start finds the one or the other; until then it is the one that was here
    }
    if (this.#life !== undefined) Object.assign(this.#lastCounts, this.#life.counts);
    this.#life = undefined;
    // What ended the open life, or was found damaged, is not here any more.
    if (!this.#stopping.signal.aborted) this.#closed = undefined;
    this.#generation = new Generation(superblock, file, index);
    this.#keys = keys;
    this.#end = end;
    this.#checkpointed = { tail: end.tail, count: index.count };
    this.#hasLeaves = false; // or perhaps it has: it is looked at when somebody asks
    this.#damagedBytes = this.#deletes.damagedBytes;
    this.#isSuspect = false;
    this.#deadBytes = this.#measureDead();
    source.release();
    await this.finishSwitch();
  }

  /** Does what is left to do of a switch that failed halfway. */
  async finishSwitch(): Promise<void> {
    const { files, folder } = this.#environment;
    if (this.#descriptor.switching === undefined) return;
    // Within a change of the descriptor, so that no other one comes between.
    await this.#describe({}, async (descriptor) => await finishSwitch(files, folder, descriptor));
    this.#trashBytes = await measureTrash(files, folder, this.#descriptor);
  }

  /** Runs a copy that is to take the place of this one, as this volume's operation. */
  async operateCopy(
    run: (operation: Operation, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    await this.#operate("copy", async (operation) => {
      // A switch that failed may have reached the disk: what is about to be written must not be named by it.
      if (!this.#isDescribed) await this.#describe({});
      await run(operation, this.#stopping.signal);
    });
  }

  /** Other stores have heard of it: what the directory says of the copies of a sealed volume. */
  async learn({ members, epoch }: { members: string[]; epoch: number }): Promise<void> {
    const before = this.#descriptor;
    if (epoch <= before.epoch && members.join() === before.members.join()) return;
    await this.#describe({ members, epoch: Math.max(epoch, before.epoch) });
  }

  /** Removes what was kept of generations that were replaced before `beforeMs`. */
  async emptyTrash(beforeMs: number): Promise<void> {
    const { files, folder } = this.#environment;
    const { trash = [], volume } = this.#descriptor;
    const isOld = ({ sinceMs }: { sinceMs: number }) => sinceMs < beforeMs;
    const old = trash.filter(isOld);
    if (old.length > 0) {
      // First from the descriptor: a start removes what it does not name.
      await this.#describe((before) => ({ trash: before.trash?.filter((each) => !isOld(each)) }));
      for (const { generation } of old) {
        await files.remove(volumeFile(folder, { volume, generation }));
      }
      this.#trashBytes = await measureTrash(files, folder, this.#descriptor);
    }
    let isAnyGone = false;
    for (const { kind, asideMs, file } of await listGenerationFiles(files, folder, volume)) {
      if (kind !== "aside" || asideMs >= beforeMs) continue;
      await files.remove(file);
      isAnyGone = true;
    }
    if (isAnyGone) this.#trashBytes = await measureTrash(files, folder, this.#descriptor);
  }

  /** Ends its service and keeps its files: `removeTrashed` of copies.ts removes them when it is time. */
  async trash(): Promise<void> {
    const { volume } = this.#descriptor;
    await this.#retire({
      failure: new Failure("not-found", `Cannot use volume ${volume}: it was moved to the trash`),
      descriptor: { state: "trashed", trashedMs: Math.floor(this.#environment.clock.nowMs()) },
    });
  }

  /** Removes the volume with all its files; done again after a crash it goes on where it was. */
  async drop(): Promise<void> {
    const { files, folder } = this.#environment;
    const { volume } = this.#descriptor;
    await this.#retire({
      failure: new Failure("not-found", `Cannot use volume ${volume}: it was dropped`),
      descriptor: { state: "dropped" },
    });
    await removeVolume(files, folder, this.#descriptor.volume);
  }

  async #retire({
    failure,
    descriptor,
  }: {
    failure: Failure;
    descriptor: Partial<Descriptor>;
  }): Promise<void> {
    this.#stopping.abort(failure);
    this.#close(failure);
    await this.#life?.halt();
    await this.#operating;
    await this.#describe(descriptor);
    await this.#stop();
  }

  /** Waits for the afterwork of sealing and for checkpoints. */
  async settled(): Promise<void> {
    await this.#background;
  }

  /** Waits for what is being written, and closes the files. */
  async close(): Promise<void> {
    const life = this.#life;
    const isSound =
      life?.hasPart === true &&
      this.report().closedBecause === undefined &&
      this.#environment.refusal() === undefined;
    this.#close(
      new Failure("unavailable", "Cannot append: the store is stopping", { retryAfterSeconds: 1 }),
    );
    this.#stopping.abort(new Failure("unavailable", "Cannot go on: the store is stopping"));
    await life?.settle();
    if (isSound && life?.hasFailed !== true) {
      const { tail } = this.#tail();
      const count = this.#generation.index.count - this.#checkpointed.count;
      const bytes = tail - this.#checkpointed.tail;
      const { checkpointNeedles = checkpointAtClose.needles } = this.#environment;
      if (count >= checkpointNeedles || bytes >= checkpointAtClose.bytes) {
        await this.#checkpoint();
      }
      await this.#describe({ closedLength: tail });
    }
    await this.#stop();
  }

  async #stop(): Promise<void> {
    await this.#turns;
    await this.#operating;
    await this.#background;
    // A drop that failed halfway comes again, and a descriptor that was closed may be another file's by now.
    if (this.#hasStopped) return;
    this.#hasStopped = true;
    await this.#deletes.close();
    await this.#generation.close();
  }

  #tail(): VolumeTail {
    return this.#life?.tail ?? this.#end;
  }

  #open(): VolumeWriter {
    if (this.#life !== undefined && this.#closed === undefined) return this.#life.writer;
    const { volume } = this.superblock;
    throw (
      this.#closed ?? new Failure("unavailable", `Cannot append to volume ${volume}: it is sealed`)
    );
  }

  #close(failure: Failure): void {
    this.#closed ??= failure;
    this.#life?.end(failure);
  }

  #appendRefusal(): Failure | undefined {
    return this.#closed ?? this.#life?.appendRefusal;
  }

  #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const turn = this.#turns.then(work);
    this.#turns = turn.catch(() => undefined);
    return turn;
  }

  async #sealAt({ epoch, lengthBytes, lastDigest, members }: SealedAt): Promise<void> {
    const { volume, state, generation, epoch: obeyed } = this.#descriptor;
    const refuse = (kind: FailureKind, why: string) =>
      new Failure(kind, `Cannot seal volume ${volume} at ${lengthBytes}: ${why}`);
    const isAt = (end: VolumeTail) =>
      end.tail === lengthBytes && end.lastDigest.toString("hex") === lastDigest;
    if (state !== "open") {
      // A generation made since then says no more where the open life ended.
      if (generation > 0 || isAt(this.#end)) return;
      throw refuse("conflict", `it is sealed at ${this.#end.tail}, or in another batch`);
    }
    if (epoch < obeyed) throw refuse("conflict", `it has obeyed epoch ${obeyed}`);
    await this.#life?.halt();
    const { tail } = this.#tail();
    if (tail < lengthBytes)
      throw refuse("precondition-failed", `it has no more than ${tail} bytes`);
    const shorter = tail > lengthBytes ? await this.#findUpTo(lengthBytes) : undefined;
    const end = shorter?.end ?? this.#tail();
    if (!isAt(end)) throw refuse("corrupt", "it has another batch there");

    const { file } = this.#generation;
    const target = { file, descriptor: this.#descriptor, from: lengthBytes };
    const excess = await cutExcess(this.#environment, target);
    this.#end = end;
    await this.#describe({
      state: "sealed",
      sealedLength: lengthBytes,
      closedLength: undefined,
      epoch,
      members,
    });
    if (shorter !== undefined) {
      this.#generation.index = shorter.index;
      this.#keys = shorter.keys;
      const damagedBytes = shorter.damage.reduce((sum, { length }) => sum + length, 0);
      this.#damagedBytes = damagedBytes + this.#deletes.damagedBytes;
    }
    this.#endLife();
    if (shorter !== undefined) this.#deadBytes = this.#measureDead();
    // The descriptor has decided: what is beyond counts no more, cut off or not.
    await excess.cut().catch((error: unknown) => {
      const reason = messageOf(error);
      this.#environment.note?.("what is beyond a volume's end could not be cut off", {
        volume,
        reason,
      });
    });
  }

  /** What lies in the file up to `lengthBytes`, found as it would be in a volume that was sealed there. */
  async #findUpTo(lengthBytes: number): Promise<Awaited<ReturnType<typeof findNeedles>>> {
    const { file, superblock } = this.#generation;
    const descriptor = { ...this.#descriptor, sealedLength: lengthBytes };
    return await findNeedles(this.#environment, { file, descriptor, superblock });
  }

  /** Sets aside what is in the file beyond its tail, and was never acknowledged. */
  async #dropExcess(life: OpenLife): Promise<void> {
    const { file } = this.#generation;
    const target = { file, descriptor: this.#descriptor, from: life.tail.tail };
    const excess = await cutExcess(this.#environment, target);
    await excess.cut();
    life.noteCut();
  }

  /** After the descriptor says that it is sealed. */
  #endLife(): void {
    if (this.#life !== undefined) Object.assign(this.#lastCounts, this.#life.counts);
    this.#life = undefined;
    this.#shrinkLater();
  }

  /** Whether the needle at `place` is `blob`, byte for byte. */
  async #holds({ ordinal, cookie }: ReservedPlace, { data, codec = 0 }: Blob): Promise<boolean> {
    const needle = await this.find(ordinal, cookie);
    if (needle === undefined) return false;
    try {
      const { dataLength, codec: storedCodec } = needle.head;
      if (dataLength !== data.length || storedCodec !== codec) return false;
      const stored = needle.whole();
      if (stored !== undefined) return stored.equals(data);
      let at = 0;
      for await (const piece of needle.pieces(0, dataLength)) {
        if (!piece.equals(data.subarray(at, at + piece.length))) return false;
        at += piece.length;
      }
      return true;
    } finally {
      needle.close();
    }
  }

  #isExpired({ timeMs, ttlSeconds }: NeedleHead): boolean {
    return ttlSeconds > 0 && this.#environment.clock.nowMs() > timeMs + ttlSeconds * 1_000;
  }

  /** What it read if the needle is likely in the page cache and small; undefined if it has to wait. */
  #readWarm(
    { file }: Generation,
    { ordinal, offset, bytes }: { ordinal: number; offset: number; bytes: Buffer },
  ): number | undefined {
    if (bytes.length > warmReadBytesMax) return undefined;
    const { clock } = this.#environment;
    if (!this.#warmth.isWarm(ordinal)) {
      this.#warmth.touch(ordinal);
      return undefined;
    }
    const startedMs = clock.monotonicMs();
    const count = file.readNow(bytes, offset);
    this.#warmth.learn(clock.monotonicMs() - startedMs);
    return count;
  }

  async #findAfterReading(wanted: WantedNeedle): Promise<NeedleReader | undefined> {
    const { generation, ordinal, offset, bytes } = wanted;
    const { file, superblock, seeds } = generation;
    generation.retain();
    try {
      let read = bytes.subarray(0, await file.read(bytes, offset));
      let head = decodeHead(read, offset, superblock, seeds);
      if (head === undefined) {
        // A head longer than the first read is rare, and looks like damage until it is read whole.
        const longest = headLength({ metadataLength: metadataBytesMax, dataLength: dataBytesMax });
        read = Buffer.allocUnsafe(longest);
        read = read.subarray(0, await file.read(read, offset));
        head = decodeHead(read, offset, superblock, seeds);
      }
      if (head === undefined) {
        const bound = generation.index.bound(ordinal) ?? this.#tail().tail;
        this.#suspect(generation, { ordinal, length: bound - offset });
        throw new Failure(
          "corrupt",
          `Cannot read needle ${ordinal} of volume ${superblock.volume} at ${offset}: its header does not verify`,
        );
      }
      return this.#reader(wanted, head, read);
    } finally {
      generation.release();
    }
  }

  #reader(
    { generation, ordinal, cookie, bytes }: WantedNeedle,
    head: NeedleHead,
    headBytes: Buffer,
  ): NeedleReader | undefined {
    assert.equal(head.ordinal, ordinal, "the index points at the needle it was given");
    const giveBack = () => this.#buffers.giveBack(bytes);
    if (head.cookie !== cookie || this.#isExpired(head)) {
      giveBack();
      return undefined;
    }
    const onCorrupt = (damaged: NeedleHead) => this.#suspect(generation, damaged);
    return new NeedleReader({ head, bytes: headBytes, generation, giveBack, onCorrupt });
  }

  /** A read came upon damage: it is told until a scrub says otherwise, by a later run too. */
  #suspect(generation: Generation, { ordinal, length }: { ordinal: number; length: number }): void {
    // One that is known to be damaged has been looked at whole, or will be.
    if (generation !== this.#generation || this.#damagedBytes > 0) return;
    this.#damagedBytes = length;
    this.#isSuspect = true;
    const { volume } = this.superblock;
    this.#environment.note?.("a read came upon damage", { volume, ordinal, length });
    this.#inBackground(async () => {
      await this.#describe(() => ({ damagedBytes: this.#damagedBytes || undefined }));
    });
  }

  /** Changes the descriptor on disk, one change after the other. */
  #describe(
    change: Partial<Descriptor> | ((before: Descriptor) => Partial<Descriptor>),
    write?: (descriptor: Descriptor) => Promise<Descriptor>,
  ): Promise<void> {
    const { files, folder } = this.#environment;
    const turn = this.#describing.then(async () => {
      const before = this.#descriptor;
      const descriptor = {
        ...before,
        deleteRecords: this.#deletes.recordCount,
        ...(typeof change === "function" ? change(before) : change),
      };
      this.#isDescribed = false;
      const file = descriptorFile(folder, descriptor.volume);
      const written = await (write?.(descriptor) ?? writeDescriptor(files, file, descriptor));
      this.#isDescribed = true;
      this.#descriptor = written ?? descriptor;
    });
    this.#describing = turn.catch(() => undefined);
    return turn;
  }

  async #operate<Result>(
    kind: Operation["kind"],
    run: (operation: Operation) => Promise<Result>,
  ): Promise<Result> {
    const { volume } = this.superblock;
    if (this.#operation !== undefined) {
      const other = this.#operation.kind;
      throw new Failure("busy", `Cannot ${kind} volume ${volume} now: it runs ${other}`);
    }
    const operation = { kind, doneBytes: 0, totalBytes: this.#tail().tail };
    this.#operation = operation;
    const running = run(operation);
    this.#operating = running.catch(() => undefined);
    try {
      return await running;
    } finally {
      this.#operation = undefined;
    }
  }

  async #compactTo(
    source: Generation,
    { generation, ttlCutoffMs, rateBytes, purge }: CompactionOrder,
    operation: Operation,
  ): Promise<CompactionResult> {
    const { files, folder, clock } = this.#environment;
    const { volume } = source.superblock;
    const superblock = { ...source.superblock, generation, firstFree: source.index.count };
    const name = volumeFile(folder, superblock);
    const before = this.#end;
    // What is about to be removed must not be what the disk takes for the current generation.
    if (!this.#isDescribed) await this.#describe({});
    await files.remove(name);
    const file = await files.open(name, "create");
    let made: Awaited<ReturnType<typeof compactInto>>;
    try {
      made = await compactInto({
        source,
        sourceEnd: before.tail,
        epoch: this.#descriptor.epoch,
        target: file,
        superblock,
        deleted: this.#deletes.deleted.copy(),
        ttlCutoffMs,
        rateBytes,
        signal: this.#stopping.signal,
        clock,
        runtime: this.#environment.runtime,
        progress: (doneBytes) => Object.assign(operation, { doneBytes }),
      });
      await file.syncData();
      await files.syncFolder(folder);
    } catch (error) {
      await file.close();
      await files.remove(name).catch(() => undefined); // or at the next start
      throw error;
    }
    const target = new Generation(superblock, file, made.index);
    const { end, leaves } = made;
    const checkpoint = { ...end, index: made.index, keys: this.#keys, leaves };
    const hasLeaves = await this.#writeCheckpoint(target, checkpoint);
    const sinceMs = Math.floor(clock.nowMs());
    const replaced = source.superblock.generation;
    try {
      // This is the switch: before it a crash leaves the old generation, after it the new one.
      await this.#describe(({ trash = [] }) => ({
        generation,
        sealedLength: end.tail,
        sealedDigest: made.digest,
        scrubbedMs: sinceMs,
        trash: purge ? trash : [...trash, { generation: replaced, sinceMs }],
      }));
    } catch (error) {
      await target.close();
      throw error; // which of the two a start will find is open: both are whole, and both are left
    }
    this.#generation = target;
    this.#end = end;
    this.#checkpointed = { tail: end.tail, count: made.index.count };
    this.#hasLeaves = hasLeaves;
    this.#deadBytes = this.#measureDead();
    source.release();
    await files.remove(checkpointFile(folder, { volume, generation: replaced }));
    if (purge) await files.remove(volumeFile(folder, { volume, generation: replaced }));
    this.#trashBytes = await measureTrash(files, folder, this.#descriptor);
    return { copiedBytes: made.copiedBytes, freedBytes: before.tail - end.tail };
  }

  /** Bytes of needles that are deleted and still in the file. */
  #measureDead(): number {
    const { index, superblock } = this.#generation;
    const { deleted } = this.#deletes;
    const end = this.#end.tail;
    // Out of order the next ordinal's offset says nothing: there all offsets are sorted once.
    const isDisordered = superblock.class === "native" && index instanceof OffsetIndex;
    const bounds = isDisordered && deleted.size > 0 ? index.sortedBounds(end) : undefined;
    let bytes = 0;
    for (const ordinal of deleted) {
      const offset = index.get(ordinal);
      if (offset === undefined) continue;
      const bound = bounds === undefined ? index.bound(ordinal) : bounds(offset);
      bytes += (bound ?? end) - offset;
    }
    return bytes;
  }

  /** Makes the small index of a sealed volume, and its checkpoint. */
  #shrinkLater(): void {
    this.#inBackground(async () => {
      const generation = this.#generation;
      const { index } = generation;
      if (!(index instanceof OffsetIndex)) return;
      const sealed = await SealedIndex.build({
        count: index.count,
        get: (ordinal) => index.get(ordinal),
        endOffset: this.#end.tail,
      });
      // With most needles out of their order the array is the smaller one, until compaction.
      const small = sealed.memoryBytes < index.memoryBytes ? sealed : index;
      generation.index = small;
      // A volume with damage is read anew at each start, so that the damage is told again.
      if (this.#damagedBytes > 0) return;
      await this.#writeCheckpoint(generation, { ...this.#end, index: small, keys: this.#keys });
    });
  }

  /** Puts the leaves of the volume's digest into its checkpoint, for whoever copies it. */
  #keepLeavesLater(leaves: Buffer): void {
    const generation = this.#generation;
    const { tail } = this.#end;
    this.#inBackground(async () => {
      const isChanged = this.#generation !== generation || this.#end.tail !== tail;
      if (isChanged || this.#hasLeaves || this.#damagedBytes > 0) return;
      const { index } = generation;
      if (!(index instanceof OffsetIndex || index instanceof SealedIndex)) return;
      const checkpoint = { ...this.#end, index, keys: this.#keys, leaves };
      this.#hasLeaves = await this.#writeCheckpoint(generation, checkpoint);
    });
  }

  async #keptLeaves(): Promise<{ leaves: Buffer; root: string } | undefined> {
    const { files, folder } = this.#environment;
    const { sealedDigest } = this.#descriptor;
    if (sealedDigest === undefined) return undefined;
    try {
      const leaves = await readLeaves(
        files,
        checkpointFile(folder, this.superblock),
        this.superblock,
      );
      if (leaves === undefined || rootOfLeaves(leaves) !== sealedDigest) return undefined;
      return { leaves, root: sealedDigest };
    } catch (error) {
      if (error instanceof Failure && error.kind === "corrupt") return undefined;
      throw error;
    }
  }

  #considerCheckpoint(): void {
    const life = this.#life;
    if (life === undefined || this.#isCheckpointing || !life.isSynced) return;
    const count = life.index.count - this.#checkpointed.count;
    const bytes = life.tail.tail - this.#checkpointed.tail;
    const { share } = checkpointAfter;
    const needles = this.#environment.checkpointNeedles ?? checkpointAfter.needles;
    const isDue =
      bytes >= checkpointAfter.bytes ||
      count >= Math.max(needles, this.#checkpointed.count * share);
    if (!isDue) return;
    this.#isCheckpointing = true;
    this.#inBackground(async () => {
      await this.#checkpoint();
      this.#isCheckpointing = false;
    });
  }

  /** Writes a checkpoint of the open volume as it is now, if all of it is synced. */
  async #checkpoint(): Promise<void> {
    const life = this.#life;
    if (life === undefined || !life.isSynced || life.hasFailed) return;
    if (this.#damagedBytes > 0) return;
    await this.#writeCheckpoint(this.#generation, { ...life.tail, index: life.index });
  }

  /** A failure is noted and no more: the volume itself has all that a checkpoint has. Returns whether it is written. */
  async #writeCheckpoint(generation: Generation, checkpoint: Checkpoint): Promise<boolean> {
    const { files, folder, note } = this.#environment;
    const { superblock } = generation;
    const count = checkpoint.index.count;
    try {
      const isFinal = superblock.class !== "native";
      const parts = await encodeCheckpoint(superblock, checkpoint, isFinal);
      await files.replace(checkpointFile(folder, superblock), parts);
      this.#checkpointed = { tail: checkpoint.tail, count };
      return true;
    } catch (error) {
      note?.("a checkpoint could not be written", {
        volume: superblock.volume,
        reason: messageOf(error),
      });
      return false;
    }
  }

  #inBackground(work: () => Promise<void>): void {
    this.#background = this.#background.then(work).catch((error: unknown) => {
      const { volume } = this.superblock;
      this.#environment.note?.("work on a volume failed", { volume, reason: messageOf(error) });
    });
  }
}

/** For leaves that somebody waits for, and how long to let them wait for an answer. */
const leavesRateBytes = 67_108_864;
const leavesWaitMs = 2_000;

/** More at once would only take memory for what may never be written. */
export const reservedCountMax = 65_536;

interface WantedNeedle {
  generation: Generation;
  ordinal: number;
  cookie: number;
  offset: number;
  /** What the first read goes into. */
  bytes: Buffer;
}

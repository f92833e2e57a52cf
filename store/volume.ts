/**
 * One volume: an append-only data file, an index of where each needle in it lies, and the delete log.
 *
 * Invariants:
 * - An ordinal enters the index only once its bytes are durable: no reader sees what a crash could undo.
 * - Bytes before `tail` never change. There is one writer at a time; readers take no lock.
 * - It takes appends only under an epoch that the directory gave to this run of the process, and never
 *   again after a write or a sync failed.
 */

import assert from "node:assert/strict";
import type { Clock } from "../base/clock.ts";
import { Failure, systemErrorCode } from "../base/failure.ts";
import type { Fid } from "../base/fid.ts";
import type { FileHandle, FileSystem } from "../base/files.ts";
import type { Random } from "../base/random.ts";
import type { VolumeStatus } from "../directory/client.ts";
import { DeleteLog, recordBytes as deleteRecordBytes } from "./delete-log.ts";
import { type Descriptor, decodeDescriptor, writeDescriptor } from "./descriptor.ts";
import {
  batchDigest,
  ChecksumSeeds,
  dataBytesMax,
  decodeHead,
  encodeNeedle,
  headLength,
  metadataBytesMax,
  type NeedleHead,
  type NeedleSource,
  unitBytes,
} from "./needle.ts";
import { NeedleReader } from "./needle-reader.ts";
import type { OffsetIndex } from "./offset-index.ts";
import { ReadBuffers } from "./read-buffers.ts";
import { recoverVolume, settleTail } from "./recovery.ts";
import {
  decodeSuperblock,
  encodeSuperblock,
  type Superblock,
  superblockBytes,
} from "./superblock.ts";
import { deleteLogFile, descriptorFile, refuseToReplace, volumeFile } from "./volume-files.ts";
import { Warmth } from "./warmth.ts";

export interface VolumeEnvironment {
  files: FileSystem;
  clock: Clock;
  random: Random;
  folder: string;
  /** Why nothing may be appended now (no space), or undefined. Asked before each batch. */
  refusal: () => Failure | undefined;
  /** Told of each batch, so that space is known between two looks at the disk. */
  spend: (bytes: number) => void;
}

export interface Blob {
  data: Buffer;
  metadata: Buffer;
  owner: NeedleSource["owner"];
  ttlSeconds: number;
}

interface PendingAppend extends Blob {
  resolve: (fid: Fid) => void;
  reject: (failure: Failure) => void;
}

/** A batch as it goes to the disk. */
interface FramedBatch {
  buffers: Buffer[];
  needles: { ordinal: number; cookie: number; offset: number }[];
  digest: Buffer;
  /** Bytes of all buffers. */
  length: number;
}

// A batch is what one sync makes durable. Enough company to share the sync, small enough that the first
// of it does not wait long for the last.
const batchBytesMax = 16 * 1_048_576;
const batchCountMax = 512;
const queueBytesMax = 64 * 1_048_576;
const queueCountMax = 8_192;
/** Under this, needles are copied into one buffer: cheaper than many small pieces of a writev. */
const copyBytesMax = 1_048_576;
/** A needle up to this size is read whole in one go; the head of a larger one takes this much. */
const wholeReadBytesMax = 1_048_576;
const headReadBytes = 65_536;
/** Up to here copying from the page cache takes less time than handing the read to a thread. */
const warmReadBytesMax = 65_536;

/** Where the largest volume ends: offsets are u32 in units of 8 bytes. */
const volumeBytesMax: number = 0xffff_ffff * unitBytes;

export class Volume {
  readonly superblock: Superblock;
  readonly #environment: VolumeEnvironment;
  readonly #file: FileHandle;
  readonly #deletes: DeleteLog;
  readonly #seeds: ChecksumSeeds;
  readonly #index: OffsetIndex;
  readonly #limitBytes: number;
  readonly #damagedBytes: number;
  readonly #warmth: Warmth;
  readonly #buffers = new ReadBuffers();
  #descriptor: Descriptor;
  #tail: number;
  #lastDigest: Buffer;
  #dataBytes: number;
  /** Whether the directory gave the current epoch to this run. */
  #hasEpoch = false;
  #closed: Failure | undefined;
  #pending: PendingAppend[] = [];
  #pendingBytes = 0;
  #writing: Promise<void> | undefined;
  /** Syncs and needles since the start: their ratio tells how well batching works. */
  readonly counts: { syncs: number; appends: number } = { syncs: 0, appends: 0 };

  private constructor(
    environment: VolumeEnvironment,
    parts: {
      superblock: Superblock;
      descriptor: Descriptor;
      file: FileHandle;
      deletes: DeleteLog;
      seeds: ChecksumSeeds;
      index: OffsetIndex;
      tail: number;
      lastDigest: Buffer;
      dataBytes: number;
      damagedBytes: number;
      limitBytes: number;
    },
  ) {
    this.#environment = environment;
    this.#warmth = new Warmth(environment.clock);
    this.superblock = parts.superblock;
    this.#descriptor = parts.descriptor;
    this.#file = parts.file;
    this.#deletes = parts.deletes;
    this.#seeds = parts.seeds;
    this.#index = parts.index;
    this.#tail = parts.tail;
    this.#lastDigest = parts.lastDigest;
    this.#dataBytes = parts.dataBytes;
    this.#damagedBytes = parts.damagedBytes;
    this.#limitBytes = Math.min(parts.limitBytes, volumeBytesMax);
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

  /** Opens a volume and recovers it: afterwards all that was acknowledged is readable. */
  static async open(
    environment: VolumeEnvironment,
    volume: number,
    limitBytes: number,
  ): Promise<Volume> {
    const { files, folder } = environment;
    const descriptorName = descriptorFile(folder, volume);
    const descriptorBytes = await files.readWhole(descriptorName);
    if (descriptorBytes === undefined) {
      throw new Failure("not-found", `Cannot open volume ${volume}: it has no descriptor`);
    }
    const descriptor = decodeDescriptor(descriptorBytes, descriptorName);
    const name = volumeFile(folder, descriptor);
    const file = await files.open(name, "write");
    const start = Buffer.alloc(superblockBytes);
    await file.read(start, 0);
    const superblock = decodeSuperblock(start, name);
    if (superblock.volume !== volume || superblock.uuid.toString("hex") !== descriptor.uuid) {
      throw new Failure(
        "corrupt",
        `Cannot open volume ${volume}: ${name} belongs to another volume`,
      );
    }
    const seeds = new ChecksumSeeds(superblock);
    const deletes = await DeleteLog.open(files, deleteLogFile(folder, volume), superblock);
    const sizeBytes = descriptor.sealedLength ?? (await file.sizeBytes());
    const recovered = await recoverVolume({
      file,
      sizeBytes,
      acknowledgedBytes: descriptor.sealedLength ?? descriptor.closedLength ?? 0,
      firstFree: superblock.firstFree,
      identity: superblock,
      seeds,
    });
    recovered.index.skipTo(superblock.firstFree);
    // Only what was acknowledged can have been deleted: a lost tail shows here if nowhere else.
    const isShort = deletes.highest >= recovered.index.count;
    const isDamaged = isShort || recovered.damage.length > 0;
    if (descriptor.state === "open" && !isDamaged) await settleTail(file, recovered, sizeBytes);
    const opened = new Volume(environment, {
      superblock,
      descriptor: { ...descriptor, epoch: Math.max(descriptor.epoch, recovered.epoch) },
      file,
      deletes,
      seeds,
      index: recovered.index,
      tail: recovered.tail,
      lastDigest: recovered.lastDigest,
      dataBytes: recovered.dataBytes,
      damagedBytes:
        recovered.damage.reduce((sum, { length }) => sum + length, 0) +
        deletes.damagedCount * deleteRecordBytes,
      limitBytes,
    });
    if (isDamaged) {
      opened.#closed = new Failure(
        "unavailable",
        `Cannot append to volume ${volume}: it is damaged below its tail`,
      );
    }
    return opened;
  }

  report(): VolumeStatus {
    const { volume, uuid, generation } = this.superblock;
    return {
      volume,
      class: this.superblock.class,
      uuid: uuid.toString("hex"),
      generation,
      epoch: this.#descriptor.epoch,
      state: this.#descriptor.state,
      isWritable: this.#refusal() === undefined,
      closedBecause: this.#closed?.message,
      lengthBytes: this.#tail,
      dataBytes: this.#dataBytes,
      needleCount: this.#index.count,
      deletedCount: this.#deletes.deleted.size,
      damagedBytes: this.#damagedBytes,
    };
  }

  /** Bytes that wait to be written. */
  get queueBytes(): number {
    return this.#pendingBytes;
  }

  /** Stores a blob; returns its fid once it is on the disk. */
  append(blob: Blob): Promise<Fid> {
    const refusal = this.#refusal() ?? this.#overload(blob);
    if (refusal !== undefined) return Promise.reject(refusal);
    return new Promise((resolve, reject) => {
      this.#pending.push({ ...blob, resolve, reject });
      this.#pendingBytes += blob.data.length;
      this.#writing ??= this.#write();
    });
  }

  /**
   * Obeys a new epoch from now on: waits for the batch in flight, then makes the epoch durable. An epoch
   * that is not newer than one obeyed before is refused.
   */
  async beginEpoch(epoch: number): Promise<void> {
    if (this.#hasEpoch && epoch === this.#descriptor.epoch) return; // the same order again
    if (epoch <= this.#descriptor.epoch) {
      throw new Failure(
        "conflict",
        `Cannot begin epoch ${epoch} of volume ${this.superblock.volume}: it has obeyed epoch ${this.#descriptor.epoch}`,
      );
    }
    this.#hasEpoch = false;
    await this.#writing;
    await this.#describe({ ...this.#descriptor, epoch, closedLength: undefined });
    this.#hasEpoch = true;
  }

  /** Ends the open life: at its tail, which is what was acknowledged. */
  async seal(): Promise<void> {
    if (this.#descriptor.state === "sealed") return;
    this.#hasEpoch = false;
    await this.#writing;
    await this.#describe({
      ...this.#descriptor,
      state: "sealed",
      sealedLength: this.#tail,
      closedLength: undefined,
    });
  }

  /** The needle, with its head verified, or undefined if there is none for that ordinal and cookie. */
  async find(ordinal: number, cookie: number): Promise<NeedleReader | undefined> {
    const offset = this.#index.get(ordinal);
    if (offset === undefined || this.#deletes.deleted.has(ordinal)) return undefined;
    // The length is not kept in memory: the next needle's offset bounds it.
    const bound = (this.#index.next(ordinal) ?? this.#tail) - offset;
    const bytes = this.#buffers.take(bound <= wholeReadBytesMax ? bound : headReadBytes);
    const count = await this.#readBytes(ordinal, bytes, offset);
    const { head, headBytes } = await this.#readHead(ordinal, offset, bytes.subarray(0, count));
    if (head.cookie !== cookie || this.#isExpired(head)) return undefined;
    const release = () => this.#buffers.giveBack(bytes);
    return new NeedleReader({
      head,
      bytes: headBytes,
      file: this.#file,
      seeds: this.#seeds,
      release,
    });
  }

  /** Deletes a needle for ever. Returns whether it was there; the same again is no error. */
  async delete(ordinal: number, cookie: number): Promise<boolean> {
    const needle = await this.find(ordinal, cookie);
    if (needle === undefined) return false;
    await this.#deletes.add(ordinal, this.#environment.clock.nowMs());
    return true;
  }

  /** Waits for what is being written, and closes the files. */
  async close(): Promise<void> {
    const isSound = this.#closed === undefined && this.#hasEpoch;
    this.#closed ??= new Failure("unavailable", "Cannot append: the store is stopping", {
      retryAfterSeconds: 1,
    });
    await this.#writing;
    if (isSound) await this.#describe({ ...this.#descriptor, closedLength: this.#tail });
    await this.#deletes.close();
    await this.#file.close();
  }

  #readBytes(ordinal: number, target: Buffer, offset: number): number | Promise<number> {
    if (target.length > warmReadBytesMax) return this.#file.read(target, offset);
    const { clock } = this.#environment;
    if (!this.#warmth.isWarm(ordinal)) {
      this.#warmth.touch(ordinal);
      return this.#file.read(target, offset);
    }
    const startedMs = clock.monotonicMs();
    const count = this.#file.readNow(target, offset);
    this.#warmth.learn(clock.monotonicMs() - startedMs);
    return count;
  }

  #refusal(): Failure | undefined {
    const { volume } = this.superblock;
    if (this.#closed !== undefined) return this.#closed;
    if (this.#descriptor.state === "sealed") {
      return new Failure("unavailable", `Cannot append to volume ${volume}: it is sealed`);
    }
    if (!this.#hasEpoch) {
      return new Failure(
        "unavailable",
        `Cannot append to volume ${volume}: it waits for an epoch of its own`,
        { retryAfterSeconds: 1 },
      );
    }
    return this.#environment.refusal();
  }

  #overload({ data, metadata }: Blob): Failure | undefined {
    if (data.length > dataBytesMax || metadata.length > metadataBytesMax) {
      return new Failure("too-large", `Cannot store the blob: it is over ${dataBytesMax} bytes`);
    }
    const isFirst = this.#pending.length === 0;
    const isOver = this.#pendingBytes + data.length > queueBytesMax;
    if (this.#pending.length >= queueCountMax || (isOver && !isFirst)) {
      return new Failure("busy", "Cannot store the blob now: too many wait for the disk", {
        retryAfterSeconds: 1,
      });
    }
    return undefined;
  }

  #isExpired({ timeMs, ttlSeconds }: NeedleHead): boolean {
    return ttlSeconds > 0 && this.#environment.clock.nowMs() > timeMs + ttlSeconds * 1_000;
  }

  async #describe(descriptor: Descriptor): Promise<void> {
    const { files, folder } = this.#environment;
    await writeDescriptor(files, descriptorFile(folder, this.superblock.volume), descriptor);
    this.#descriptor = descriptor;
  }

  async #readHead(
    ordinal: number,
    offset: number,
    bytes: Buffer,
  ): Promise<{ head: NeedleHead; headBytes: Buffer }> {
    const { superblock } = this;
    let headBytes = bytes;
    let head = decodeHead(headBytes, offset, superblock, this.#seeds);
    if (head === undefined) {
      // A head longer than the first read is rare, and looks like damage until it is read whole.
      const longest = headLength({ metadataLength: metadataBytesMax, dataLength: dataBytesMax });
      headBytes = Buffer.allocUnsafe(longest);
      headBytes = headBytes.subarray(0, await this.#file.read(headBytes, offset));
      head = decodeHead(headBytes, offset, superblock, this.#seeds);
    }
    if (head === undefined) {
      throw new Failure(
        "corrupt",
        `Cannot read needle ${ordinal} of volume ${superblock.volume} at ${offset}: its header does not verify`,
      );
    }
    assert.equal(head.ordinal, ordinal, "the index points at the needle it was given");
    return { head, headBytes };
  }

  /** The one writer: runs while something waits. */
  async #write(): Promise<void> {
    while (this.#pending.length > 0) {
      const refusal = this.#refusal();
      if (refusal !== undefined) {
        this.#rejectAll(this.#takeAll(), refusal);
        break;
      }
      const batch = this.#takeBatch();
      const framed = this.#frame(batch);
      if (this.#tail + framed.length > this.#limitBytes) {
        this.#closed = new Failure(
          "unavailable",
          `Cannot append to volume ${this.superblock.volume}: it is full`,
        );
        this.#rejectAll([...batch, ...this.#takeAll()], this.#closed);
        break;
      }
      try {
        await this.#file.write(framed.buffers, this.#tail);
        await this.#file.syncData();
      } catch (error) {
        // Nobody knows what the disk has after this, and the page cache is no witness.
        this.#closed = this.#appendFailure(error);
        this.#rejectAll([...batch, ...this.#takeAll()], this.#closed);
        break;
      }
      this.#acknowledge(batch, framed);
    }
    this.#writing = undefined;
  }

  #frame(batch: PendingAppend[]): FramedBatch {
    const { clock, random } = this.#environment;
    const timeMs = clock.nowMs();
    const framed: FramedBatch = { buffers: [], needles: [], digest: this.#lastDigest, length: 0 };
    const digests: { headerCrc: number; payloadDigest: Buffer }[] = [];
    for (const [position, { data, metadata, owner, ttlSeconds }] of batch.entries()) {
      const cookie = random.u32();
      const place = {
        offset: this.#tail + framed.length,
        ordinal: this.#index.count + position,
        epoch: this.#descriptor.epoch,
        batchPosition: position,
        batchCount: batch.length,
        watermark: this.#tail,
        previousDigest: this.#lastDigest,
      };
      const source = { cookie, metadata, data, owner, ttlSeconds, timeMs };
      const needle = encodeNeedle(source, place, this.superblock, this.#seeds);
      framed.buffers.push(needle.head, data, needle.tail);
      framed.needles.push({ ordinal: place.ordinal, cookie, offset: place.offset });
      framed.length += needle.head.length + data.length + needle.tail.length;
      digests.push(needle);
    }
    framed.digest = batchDigest(digests);
    if (framed.length <= copyBytesMax) framed.buffers = [Buffer.concat(framed.buffers)];
    return framed;
  }

  #acknowledge(batch: PendingAppend[], { needles, digest, length }: FramedBatch): void {
    const { volume } = this.superblock;
    this.#environment.spend(length);
    this.#tail += length;
    this.#lastDigest = digest;
    this.counts.syncs += 1;
    this.counts.appends += batch.length;
    for (const [position, { data, resolve }] of batch.entries()) {
      const needle = needles[position];
      assert(needle !== undefined, "each blob of a batch was framed");
      const { ordinal, cookie, offset } = needle;
      this.#index.set(ordinal, offset);
      this.#warmth.touch(ordinal);
      this.#dataBytes += data.length;
      resolve({ volume, ordinal, cookie });
    }
  }

  #appendFailure(error: unknown): Failure {
    const code = systemErrorCode(error);
    const isFull = code === "ENOSPC" || code === "EDQUOT";
    return new Failure(
      isFull ? "full" : "unavailable",
      `Cannot append to volume ${this.superblock.volume}: ${isFull ? "the disk is full" : "the disk failed"}`,
      { cause: error },
    );
  }

  #takeBatch(): PendingAppend[] {
    let bytes = 0;
    let count = 0;
    for (const { data } of this.#pending) {
      if (count > 0 && (count >= batchCountMax || bytes + data.length > batchBytesMax)) break;
      bytes += data.length;
      count += 1;
    }
    this.#pendingBytes -= bytes;
    return this.#pending.splice(0, count);
  }

  #takeAll(): PendingAppend[] {
    this.#pendingBytes = 0;
    return this.#pending.splice(0);
  }

  #rejectAll(appends: PendingAppend[], failure: Failure): void {
    for (const { reject } of appends) reject(failure);
  }
}

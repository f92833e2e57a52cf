/**
 * The one writer of an open volume, at its primary: frames what waits into batches, writes and syncs them,
 * and has the replicas do the same at the same time.
 *
 * Invariants:
 * - Whoever comes while one sync runs is in the next batch; nobody waits for a timer.
 * - What one call brings is one part of one batch: all of it is stored or nothing, in ordinals that follow
 *   each other.
 * - With durability `disk` an ordinal enters the index only once its bytes are synced, here and at every
 *   replica: no reader sees what a crash could undo. With `memory`, a bucket's named choice, it does once
 *   they are written, and a sync follows.
 * - After a failed write or sync nothing is taken any more: the page cache is no witness. After a replica
 *   failed, or did not answer, nothing is taken until another epoch begins: what that batch left on which
 *   disk is then known, and decided.
 */

import assert from "node:assert/strict";
import { Failure, messageOf } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { type Batch, type Durability, ordinalsMax, volumeBytesMax } from "./batch.ts";
import type { Generation } from "./generation.ts";
import {
  batchDigest,
  type Codec,
  codecs,
  dataBytesMax,
  encodeNeedle,
  metadataBytesMax,
  type NeedleSource,
} from "./needle.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import type { AdmittedRecord, VolumeLog } from "./volume-log.ts";

/**
 * Has every replica write a batch, and sync it if it is to be durable on disk; fails, and says which one
 * has not, unless all have.
 */
export type Replicate = (batch: Batch) => Promise<void>;

/** A blob on its way into a volume. */
export interface Blob {
  /** As stored. */
  data: Buffer;
  metadata: Buffer;
  owner: NeedleSource["owner"];
  ttlSeconds: number;
  codec?: Codec | undefined;
  /** Bytes before the codec; those of `data` if there is none. */
  contentLength?: number | undefined;
  /** Where it brings one along from another store; else a random one is given out. */
  cookie?: number | undefined;
}

/** An ordinal that was reserved, and the cookie that goes with it. */
export interface ReservedPlace {
  ordinal: number;
  cookie: number;
}

interface PendingRecord extends Omit<NeedleSource, "cookie" | "timeMs"> {
  cookie: number | undefined;
  reserved: ReservedPlace | undefined;
}

/** What one call wants written. */
interface PendingWrite {
  records: PendingRecord[];
  bytes: number;
  durability: Durability;
  resolve: (fids: Fid[]) => void;
  reject: (failure: Failure) => void;
}

/** A batch as it goes to the disk. */
interface FramedBatch {
  buffers: Buffer[];
  records: (AdmittedRecord & { cookie: number })[];
  epoch: number;
  digest: Buffer;
  /** Bytes of all buffers. */
  length: number;
  timeMs: number;
  /** The first ordinal after it. */
  nextOrdinal: number;
}

// A batch is what one sync makes durable. Enough company to share the sync, small enough that the first
// of it does not wait long for the last.
const batchBytesMax = 16 * 1_048_576;
const batchCountMax = 512;
/** Of one call, which is never parted. */
export const callCountMax = 16_384;
const queueBytesMax = 64 * 1_048_576;
const queueCountMax = 8_192;
/** Under this, needles are copied into one buffer: cheaper than many small pieces of a writev. */
const copyBytesMax = 2 * 1_048_576;

export interface VolumeWriterOptions {
  environment: VolumeEnvironment;
  generation: Generation;
  log: VolumeLog;
  limitBytes: number;
  /** The epoch to write under. */
  epoch: () => number;
  /** Why nothing may be appended now, or undefined. Asked before each batch. */
  refusal: () => Failure | undefined;
}

export class VolumeWriter {
  readonly #options: VolumeWriterOptions;
  readonly #log: VolumeLog;
  readonly #limitBytes: number;
  #replicate: Replicate | undefined;
  /** Why nothing is taken until another epoch begins. */
  #interruption: Failure | undefined;
  /** Ends the wait for replicas. */
  #halted = Promise.withResolvers<Failure>();
  #pending: PendingWrite[] = [];
  #pendingBytes = 0;
  #pendingCount = 0;
  #writing: Promise<void> | undefined;

  constructor(options: VolumeWriterOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#limitBytes = Math.min(options.limitBytes, volumeBytesMax);
  }

  /** Why nothing is taken any more: for good, or until another epoch begins. */
  get failure(): Failure | undefined {
    return this.#log.failure ?? this.#interruption;
  }

  /** Bytes that wait to be written. */
  get queueBytes(): number {
    return this.#pendingBytes;
  }

  /** Goes on under another epoch, with these replicas. Nothing is being written meanwhile. */
  begin(replicate: Replicate | undefined): void {
    assert(this.#writing === undefined, "a new epoch begins between two batches");
    this.#replicate = replicate;
    this.#interruption = undefined;
    this.#halted = Promise.withResolvers<Failure>();
  }

  /**
   * Stores blobs in ordinals that follow each other, all or nothing; returns their fids once they are as
   * durable as asked. With `reserved`, one blob at an ordinal that was reserved before.
   */
  append(
    blobs: readonly Blob[],
    durability: Durability,
    reserved?: ReservedPlace | undefined,
  ): Promise<Fid[]> {
    const refusal = this.#refusal() ?? this.#overload(blobs);
    if (refusal !== undefined) return Promise.reject(refusal);
    assert(reserved === undefined || blobs.length === 1);
    const records = blobs.map(
      (blob): PendingRecord => ({
        cookie: reserved?.cookie ?? blob.cookie,
        metadata: blob.metadata,
        data: blob.data,
        codec: blob.codec ?? codecs.none,
        contentLength: blob.contentLength ?? blob.data.length,
        isReservation: false,
        owner: blob.owner,
        ttlSeconds: blob.ttlSeconds,
        reserved,
      }),
    );
    return this.#enqueue(records, durability);
  }

  /** Reserves `count` ordinals that follow each other; returns the first once that is on the disk. */
  async reserve(count: number): Promise<number> {
    const refusal = this.#refusal();
    if (refusal !== undefined) throw refusal;
    const [fid] = await this.#enqueue([reservationOf(count)], "disk");
    assert(fid !== undefined);
    return fid.ordinal;
  }

  /** Waits until nothing is being written, and all that was is synced. */
  async settle(): Promise<void> {
    await this.#writing;
    await this.#log.settle();
  }

  /**
   * The same where the epoch is over: of the batch in flight only this disk's part is waited for. Replicas
   * that have not answered by then may have it or not, and it is not acknowledged.
   */
  async halt(): Promise<void> {
    this.#halted.resolve(this.#unavailable("its epoch is over"));
    await this.settle();
  }

  #enqueue(records: PendingRecord[], durability: Durability): Promise<Fid[]> {
    const bytes = records.reduce(
      (sum, { data, metadata }) => sum + data.length + metadata.length,
      0,
    );
    return new Promise((resolve, reject) => {
      this.#pending.push({ records, bytes, durability, resolve, reject });
      this.#pendingBytes += bytes;
      this.#pendingCount += records.length;
      this.#writing ??= this.#write();
    });
  }

  #refusal(): Failure | undefined {
    return this.failure ?? this.#options.refusal();
  }

  #overload(blobs: readonly Blob[]): Failure | undefined {
    let bytes = 0;
    for (const { data, metadata } of blobs) {
      if (data.length > dataBytesMax || metadata.length > metadataBytesMax) {
        return new Failure("too-large", `Cannot store the blob: it is over ${dataBytesMax} bytes`);
      }
      bytes += data.length;
    }
    if (blobs.length > callCountMax || (blobs.length > 1 && bytes > dataBytesMax)) {
      return new Failure(
        "too-large",
        `Cannot store ${blobs.length} blobs at once: ${callCountMax} of together ${dataBytesMax} bytes are the limit`,
      );
    }
    const isFirst = this.#pending.length === 0;
    const isOver =
      this.#pendingBytes + bytes > queueBytesMax || this.#pendingCount >= queueCountMax;
    if (!isOver || isFirst) return undefined;
    return new Failure("busy", "Cannot store the blob now: too many wait for the disk", {
      retryAfterSeconds: 1,
    });
  }

  /** Runs while something waits. */
  async #write(): Promise<void> {
    while (this.#pending.length > 0) {
      const refusal = this.#refusal();
      if (refusal !== undefined) {
        rejectAll(this.#takeAll(), refusal);
        break;
      }
      const batch = this.#takeBatch();
      const framed = this.#frame(batch);
      const end = this.#log.tail.tail + framed.length;
      if (end > this.#limitBytes || framed.nextOrdinal > ordinalsMax) {
        // In good order: what was stored before stays, once it is synced.
        const full = this.#unavailable("it is full");
        this.#log.end(full);
        rejectAll([...batch, ...this.#takeAll()], full);
        break;
      }
      const needsSync = batch.some(({ durability }) => durability === "disk");
      const failure = await this.#store(framed, needsSync);
      if (failure !== undefined) {
        rejectAll([...batch, ...this.#takeAll()], failure);
        break;
      }
      this.#acknowledge(batch, framed, needsSync);
    }
    this.#writing = undefined;
  }

  /** Has a batch written by all copies at once; returns why it may not be acknowledged, if so. */
  async #store(framed: FramedBatch, needsSync: boolean): Promise<Failure | undefined> {
    const log = this.#log;
    const replicated = this.#replicate?.(this.#batchOf(framed, needsSync)).then(
      () => undefined,
      (error: unknown) => this.#unavailable(messageOf(error)),
    );
    try {
      await log.write(framed.buffers, framed.length, needsSync);
    } catch (error) {
      return error as Failure;
    }
    if (replicated === undefined) return undefined;
    // A replica that does not answer must not keep the epoch from ending: this disk's part is done.
    const failure = await Promise.race([replicated, this.#halted.promise]);
    if (failure !== undefined) {
      this.#interruption ??= failure;
      this.#options.environment.onClosed?.();
    }
    const { epoch } = this.#options;
    const isOver = epoch() !== framed.epoch;
    return log.failure ?? failure ?? (isOver ? this.#unavailable("its epoch is over") : undefined);
  }

  #batchOf(framed: FramedBatch, needsSync: boolean): Batch {
    const { superblock } = this.#options.generation;
    const { tail, lastDigest } = this.#log.tail;
    const { buffers, epoch, digest, nextOrdinal, length } = framed;
    return {
      uuid: superblock.uuid.toString("hex"),
      generation: superblock.generation,
      epoch,
      offset: tail,
      previousDigest: lastDigest,
      digest,
      nextOrdinal,
      durability: needsSync ? "disk" : "memory",
      buffers,
      lengthBytes: length,
    };
  }

  #frame(batch: readonly PendingWrite[]): FramedBatch {
    const { environment, generation } = this.#options;
    const { clock, random } = environment;
    const { tail, lastDigest } = this.#log.tail;
    const epoch = this.#options.epoch();
    const watermark = this.#log.syncedTail;
    const records = batch.flatMap((write) => write.records);
    const timeMs = clock.nowMs();
    const framed: FramedBatch = {
      buffers: [],
      records: [],
      epoch,
      digest: lastDigest,
      length: 0,
      timeMs,
      nextOrdinal: this.#log.index.count,
    };
    const digests: { headerCrc: number; payloadDigest: Buffer }[] = [];
    for (const [position, record] of records.entries()) {
      const { reserved, isReservation, contentLength } = record;
      const ordinal = reserved?.ordinal ?? framed.nextOrdinal;
      if (reserved === undefined) framed.nextOrdinal += isReservation ? contentLength : 1;
      const cookie = record.cookie ?? random.u32();
      const place = {
        offset: tail + framed.length,
        ordinal,
        epoch,
        batchPosition: position,
        batchCount: records.length,
        watermark,
        previousDigest: lastDigest,
      };
      const { superblock, seeds } = generation;
      const needle = encodeNeedle({ ...record, cookie, timeMs }, place, superblock, seeds);
      framed.buffers.push(needle.head, record.data, needle.tail);
      framed.records.push({
        ordinal,
        cookie,
        offset: place.offset,
        dataLength: record.data.length,
        reservedCount: isReservation ? contentLength : 0,
      });
      framed.length += needle.head.length + record.data.length + needle.tail.length;
      digests.push(needle);
    }
    framed.digest = batchDigest(digests);
    if (framed.length <= copyBytesMax) framed.buffers = [Buffer.concat(framed.buffers)];
    return framed;
  }

  #acknowledge(batch: readonly PendingWrite[], framed: FramedBatch, isSynced: boolean): void {
    const { volume } = this.#options.generation.superblock;
    const { records, epoch, digest, timeMs, length } = framed;
    const tail = this.#log.tail.tail + length;
    this.#log.admit({
      records,
      tail: { tail, lastDigest: digest, epoch, lastTimeMs: timeMs },
      isSynced,
    });
    let from = 0;
    for (const { records: wanted, resolve } of batch) {
      const part = records.slice(from, from + wanted.length);
      from += wanted.length;
      resolve(part.map(({ ordinal, cookie }) => ({ volume, ordinal, cookie })));
    }
  }

  #unavailable(why: string): Failure {
    const { volume } = this.#options.generation.superblock;
    return new Failure("unavailable", `Cannot append to volume ${volume}: ${why}`);
  }

  #takeBatch(): PendingWrite[] {
    let bytes = 0;
    let count = 0;
    let taken = 0;
    for (const write of this.#pending) {
      const isOver =
        count + write.records.length > batchCountMax || bytes + write.bytes > batchBytesMax;
      if (taken > 0 && isOver) break;
      bytes += write.bytes;
      count += write.records.length;
      taken += 1;
    }
    this.#pendingBytes -= bytes;
    this.#pendingCount -= count;
    return this.#pending.splice(0, taken);
  }

  #takeAll(): PendingWrite[] {
    this.#pendingBytes = 0;
    this.#pendingCount = 0;
    return this.#pending.splice(0);
  }
}

function rejectAll(writes: readonly PendingWrite[], failure: Failure): void {
  for (const { reject } of writes) reject(failure);
}

function reservationOf(count: number): PendingRecord {
  return {
    cookie: 0,
    metadata: Buffer.alloc(0),
    data: Buffer.alloc(0),
    codec: codecs.none,
    contentLength: count,
    isReservation: true,
    owner: undefined,
    ttlSeconds: 0,
    reserved: undefined,
  };
}

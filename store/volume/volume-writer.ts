/**
 * The one writer of an open volume: frames what waits into batches, writes and syncs them.
 *
 * Invariants:
 * - Whoever comes while one sync runs is in the next batch; nobody waits for a timer.
 * - What one call brings is one part of one batch: all of it is stored or nothing, in ordinals that follow
 *   each other.
 * - With durability `disk` an ordinal enters the index only once its bytes are synced: no reader sees what
 *   a crash could undo. With `memory`, a bucket's named choice, it does once they are written, and a sync
 *   follows within `memorySyncMs`.
 * - After a failed write or sync nothing is taken any more: the page cache is no witness.
 */

import assert from "node:assert/strict";
import { Failure, systemErrorCode } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { systemRuntime } from "../../base/runtime.ts";
import type { Generation } from "./generation.ts";
import {
  batchDigest,
  type Codec,
  codecs,
  dataBytesMax,
  encodeNeedle,
  metadataBytesMax,
  type NeedleSource,
  unitBytes,
} from "./needle.ts";
import type { OffsetIndex } from "./offset-index.ts";
import type { VolumeTail } from "./recovery.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";

export type Durability = "disk" | "memory";

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
  records: { record: PendingRecord; ordinal: number; cookie: number; offset: number }[];
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
/** How long what was stored with durability `memory` may wait for its sync. */
const memorySyncMs = 1_000;

/** Where the largest volume ends: offsets are u32 in units of 8 bytes. */
const volumeBytesMax: number = 0xffff_ffff * unitBytes;
const ordinalsMax = 0xffff_fff0;

export interface VolumeWriterOptions {
  environment: VolumeEnvironment;
  generation: Generation;
  index: OffsetIndex;
  tail: VolumeTail;
  limitBytes: number;
  /** The epoch to write under. */
  epoch: () => number;
  /** Why nothing may be appended now, or undefined. Asked before each batch. */
  refusal: () => Failure | undefined;
  /** Told of each needle that can be read from now on. */
  onAppend: (ordinal: number) => void;
  /** Told after each batch. */
  onBatch: () => void;
}

export class VolumeWriter {
  readonly #options: VolumeWriterOptions;
  readonly #limitBytes: number;
  readonly index: OffsetIndex;
  #tail: VolumeTail;
  /** What the disk surely has: where that ends, and ordinals given out in it. */
  #synced: { tail: VolumeTail; count: number };
  #hasFailed = false;
  #failure: Failure | undefined;
  #pending: PendingWrite[] = [];
  #pendingBytes = 0;
  #pendingCount = 0;
  #writing: Promise<void> | undefined;
  #syncing: Promise<void> | undefined;
  #cancelSync: (() => void) | undefined;
  /** Syncs and needles since the start: their ratio tells how well batching works. */
  readonly counts: { syncs: number; appends: number } = { syncs: 0, appends: 0 };

  constructor(options: VolumeWriterOptions) {
    this.#options = options;
    this.index = options.index;
    this.#tail = options.tail;
    this.#synced = { tail: options.tail, count: options.index.count };
    this.#limitBytes = Math.min(options.limitBytes, volumeBytesMax);
  }

  get tail(): VolumeTail {
    return this.#tail;
  }

  /** Whether all that can be read is on the disk. */
  get isSynced(): boolean {
    return this.#synced.tail.tail === this.#tail.tail;
  }

  /** Whether the disk failed under it. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Why nothing is taken any more, for good. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Bytes that wait to be written. */
  get queueBytes(): number {
    return this.#pendingBytes;
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

  /** Returns once the needle at `offset` is on the disk; if it does not get there it can't be read any more. */
  async sync(offset: number): Promise<void> {
    const isThere = () => this.isSynced || offset < this.#synced.tail.tail;
    while (!isThere()) {
      await this.#syncing;
      if (!isThere()) await this.#sync();
    }
  }

  /** Waits until nothing is being written, and all that was is synced. */
  async settle(): Promise<void> {
    await this.#writing;
    this.#cancelSync?.();
    this.#cancelSync = undefined;
    await this.#syncing;
    // A volume that is full has failed in good order: what it took still gets its sync.
    if (!this.isSynced) await this.#sync();
  }

  /** Takes nothing more from now on. */
  end(failure: Failure): void {
    this.#failure ??= failure;
  }

  #enqueue(records: PendingRecord[], durability: Durability): Promise<Fid[]> {
    const bytes = records.reduce((sum, { data }) => sum + data.length, 0);
    return new Promise((resolve, reject) => {
      this.#pending.push({ records, bytes, durability, resolve, reject });
      this.#pendingBytes += bytes;
      this.#pendingCount += records.length;
      this.#writing ??= this.#write();
    });
  }

  #refusal(): Failure | undefined {
    return this.#failure ?? this.#options.refusal();
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
      const end = this.#tail.tail + framed.length;
      if (end > this.#limitBytes || framed.nextOrdinal > ordinalsMax) {
        // In good order: what was stored before stays, once it is synced.
        this.#failure = this.#unavailable("it is full");
        rejectAll([...batch, ...this.#takeAll()], this.#failure);
        break;
      }
      const needsSync = batch.some(({ durability }) => durability === "disk");
      try {
        await this.#options.generation.file.write(framed.buffers, this.#tail.tail);
      } catch (error) {
        // What was answered before may still reach the disk, which has only refused to take more.
        this.#failure ??= this.#diskFailure(error);
        await this.#sync();
        this.#fail(this.#failure, [...batch, ...this.#takeAll()]);
        break;
      }
      try {
        if (needsSync) await this.#options.generation.file.syncData();
      } catch (error) {
        this.#fail(this.#diskFailure(error), [...batch, ...this.#takeAll()]);
        break;
      }
      // A sync in the background may have failed meanwhile: then this batch's page cache is no witness either.
      if (this.#failure !== undefined) {
        rejectAll([...batch, ...this.#takeAll()], this.#failure);
        break;
      }
      this.#acknowledge(batch, framed);
      if (needsSync) {
        this.#noteSynced(this.#tail, this.index.count);
        this.counts.syncs += 1;
      } else {
        const { runtime = systemRuntime } = this.#options.environment;
        this.#cancelSync ??= runtime.after(memorySyncMs, () => this.#startSync());
      }
      this.#options.onBatch();
    }
    this.#writing = undefined;
  }

  #frame(batch: readonly PendingWrite[]): FramedBatch {
    const { environment, generation, epoch } = this.#options;
    const { clock, random } = environment;
    const { tail, lastDigest } = this.#tail;
    const records = batch.flatMap((write) => write.records);
    const timeMs = clock.nowMs();
    const framed: FramedBatch = {
      buffers: [],
      records: [],
      digest: lastDigest,
      length: 0,
      timeMs,
      nextOrdinal: this.index.count,
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
        epoch: epoch(),
        batchPosition: position,
        batchCount: records.length,
        watermark: this.#synced.tail.tail,
        previousDigest: lastDigest,
      };
      const { superblock, seeds } = generation;
      const needle = encodeNeedle({ ...record, cookie, timeMs }, place, superblock, seeds);
      framed.buffers.push(needle.head, record.data, needle.tail);
      framed.records.push({ record, ordinal, cookie, offset: place.offset });
      framed.length += needle.head.length + record.data.length + needle.tail.length;
      digests.push(needle);
    }
    framed.digest = batchDigest(digests);
    if (framed.length <= copyBytesMax) framed.buffers = [Buffer.concat(framed.buffers)];
    return framed;
  }

  #acknowledge(batch: readonly PendingWrite[], framed: FramedBatch): void {
    const { environment, generation, epoch, onAppend } = this.#options;
    const { volume } = generation.superblock;
    environment.spend(framed.length);
    let dataBytes = 0;
    for (const { record, ordinal, offset } of framed.records) {
      if (record.isReservation) {
        this.index.skipTo(ordinal + record.contentLength);
      } else {
        this.index.set(ordinal, offset);
        onAppend(ordinal);
        this.counts.appends += 1;
        dataBytes += record.data.length;
      }
    }
    this.#tail = {
      tail: this.#tail.tail + framed.length,
      lastDigest: framed.digest,
      epoch: epoch(),
      dataBytes: this.#tail.dataBytes + dataBytes,
      lastTimeMs: framed.timeMs,
    };
    let from = 0;
    for (const { records, resolve } of batch) {
      const part = framed.records.slice(from, from + records.length);
      from += records.length;
      resolve(part.map(({ ordinal, cookie }) => ({ volume, ordinal, cookie })));
    }
  }

  #startSync(): void {
    this.#cancelSync = undefined;
    this.#syncing ??= this.#sync().finally(() => {
      this.#syncing = undefined;
    });
  }

  /** Syncs what was written with durability `memory`. */
  async #sync(): Promise<void> {
    if (this.isSynced) return;
    const until = this.#tail;
    const { count } = this.index;
    try {
      await this.#options.generation.file.syncData();
      this.counts.syncs += 1;
      this.#noteSynced(until, count);
    } catch (error) {
      this.#fail(this.#diskFailure(error), this.#takeAll());
    }
  }

  #fail(failure: Failure, writes: readonly PendingWrite[]): void {
    this.#failure ??= failure;
    this.#hasFailed = true;
    if (!this.isSynced) {
      // What the disk may not have, and now never gets, is neither served nor counted any more.
      this.index.forgetFrom(this.#synced.tail.tail, this.#synced.count);
      this.#tail = this.#synced.tail;
    }
    rejectAll(writes, failure);
  }

  #noteSynced(tail: VolumeTail, count: number): void {
    // Another sync, begun later, may have ended earlier.
    if (tail.tail > this.#synced.tail.tail) this.#synced = { tail, count };
  }

  #unavailable(why: string): Failure {
    const { volume } = this.#options.generation.superblock;
    return new Failure("unavailable", `Cannot append to volume ${volume}: ${why}`);
  }

  #diskFailure(error: unknown): Failure {
    const { volume } = this.#options.generation.superblock;
    const code = systemErrorCode(error);
    const isFull = code === "ENOSPC" || code === "EDQUOT";
    return new Failure(
      isFull ? "full" : "unavailable",
      `Cannot append to volume ${volume}: ${isFull ? "the disk is full" : "the disk failed"}`,
      { cause: error },
    );
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

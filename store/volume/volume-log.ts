/**
 * The growing end of an open volume's file: what is written there, what of it counts, what of it is synced.
 * Who decides what is written, and when it counts, stands above: the primary's writer and the replica's.
 *
 * Invariants:
 * - One batch is written at a time, at the tail. It counts once it was admitted; until then its bytes are in
 *   nobody's index, and whatever of them is in the file is excess.
 * - After a failed write or sync nothing is taken any more: the page cache is no witness.
 */

import { Failure, systemErrorCode } from "../../base/failure.ts";
import { systemRuntime } from "../../base/runtime.ts";
import type { Generation } from "./generation.ts";
import type { OffsetIndex } from "./offset-index.ts";
import type { VolumeTail } from "./recovery.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";

/** How long what was stored with durability `memory` may wait for its sync. */
const memorySyncMs = 1_000;

export interface VolumeLogOptions {
  environment: VolumeEnvironment;
  generation: Generation;
  index: OffsetIndex;
  tail: VolumeTail;
  /** Told of each needle that can be read from now on. */
  onAppend: (ordinal: number) => void;
  /** Told after each batch. */
  onBatch: () => void;
}

/** A record of a batch that was written, as the index wants it. */
export interface AdmittedRecord {
  ordinal: number;
  offset: number;
  /** As stored; of a reservation 0. */
  dataLength: number;
  /** Ordinals that it reserves; 0 of a needle. */
  reservedCount: number;
}

export class VolumeLog {
  readonly #options: VolumeLogOptions;
  readonly index: OffsetIndex;
  #tail: VolumeTail;
  /** What the disk surely has: where that ends, and ordinals given out in it. */
  #synced: { tail: VolumeTail; count: number };
  /** Where the last write ended, or was to end. */
  #writtenEnd: number;
  #hasFailed = false;
  #failure: Failure | undefined;
  #syncing: Promise<void> | undefined;
  #cancelSync: (() => void) | undefined;
  /** Syncs and needles since the start: their ratio tells how well batching works. */
  readonly counts: { syncs: number; appends: number } = { syncs: 0, appends: 0 };

  constructor(options: VolumeLogOptions) {
    this.#options = options;
    this.index = options.index;
    this.#tail = options.tail;
    this.#writtenEnd = options.tail.tail;
    this.#synced = { tail: options.tail, count: options.index.count };
  }

  get tail(): VolumeTail {
    return this.#tail;
  }

  /** All before it is on the disk. */
  get syncedTail(): number {
    return this.#synced.tail.tail;
  }

  /** Whether all that can be read is on the disk. */
  get isSynced(): boolean {
    return this.#synced.tail.tail === this.#tail.tail;
  }

  /** Whether the file may have bytes beyond the tail. */
  get hasExcess(): boolean {
    return this.#writtenEnd > this.#tail.tail;
  }

  /** Whether the disk failed under it. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Why nothing is taken any more, for good. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Takes nothing more from now on. */
  end(failure: Failure): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#options.environment.onClosed?.();
  }

  /**
   * Writes a batch at the tail, and syncs it if it has to last. Fails if either does, or if the log has
   * ended meanwhile.
   */
  async write(buffers: readonly Buffer[], lengthBytes: number, needsSync: boolean): Promise<void> {
    const { file } = this.#options.generation;
    this.#writtenEnd = Math.max(this.#writtenEnd, this.#tail.tail + lengthBytes);
    try {
      await file.write(buffers, this.#tail.tail);
    } catch (error) {
      // What was answered before may still reach the disk, which has only refused to take more.
      const failure = this.#diskFailure(error);
      this.end(failure);
      await this.#sync();
      throw this.#fail(failure);
    }
    try {
      if (needsSync) await file.syncData();
    } catch (error) {
      throw this.#fail(this.#diskFailure(error));
    }
    // A sync in the background may have failed meanwhile: then this batch's page cache is no witness either.
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** From now on the batch that was written last counts: the tail moves, the index learns of it. */
  admit({
    records,
    tail,
    isSynced,
  }: {
    records: Iterable<AdmittedRecord>;
    tail: Omit<VolumeTail, "dataBytes">;
    isSynced: boolean;
  }): void {
    const { environment, onAppend, onBatch } = this.#options;
    environment.spend(tail.tail - this.#tail.tail);
    let { dataBytes } = this.#tail;
    for (const { ordinal, offset, dataLength, reservedCount } of records) {
      if (reservedCount > 0) {
        this.index.skipTo(ordinal + reservedCount);
      } else {
        this.index.set(ordinal, offset);
        onAppend(ordinal);
        this.counts.appends += 1;
        dataBytes += dataLength;
      }
    }
    this.#tail = { ...tail, dataBytes };
    if (isSynced) {
      this.#noteSynced(this.#tail, this.index.count);
      this.counts.syncs += 1;
    } else {
      const { runtime = systemRuntime } = environment;
      this.#cancelSync ??= runtime.after(memorySyncMs, () => this.#startSync());
    }
    onBatch();
  }

  /** Returns once the needle at `offset` is on the disk; if it does not get there it can't be read any more. */
  async sync(offset: number): Promise<void> {
    const isThere = () => this.isSynced || offset < this.#synced.tail.tail;
    while (!isThere()) {
      await this.#syncing;
      if (!isThere()) await this.#sync();
    }
  }

  /** Waits until all that counts is synced, or never will be. Nothing is being written meanwhile. */
  async settle(): Promise<void> {
    this.#cancelSync?.();
    this.#cancelSync = undefined;
    await this.#syncing;
    // A volume that is full has failed in good order: what it took still gets its sync.
    if (!this.isSynced) await this.#sync();
  }

  /** The file ends at the tail now. */
  noteCut(): void {
    this.#writtenEnd = this.#tail.tail;
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
      this.#fail(this.#diskFailure(error));
    }
  }

  #fail(failure: Failure): Failure {
    this.end(failure);
    this.#hasFailed = true;
    if (!this.isSynced) {
      // What the disk may not have, and now never gets, is neither served nor counted any more.
      this.index.forgetFrom(this.#synced.tail.tail, this.#synced.count);
      this.#tail = this.#synced.tail;
    }
    return failure;
  }

  #noteSynced(tail: VolumeTail, count: number): void {
    // Another sync, begun later, may have ended earlier.
    if (tail.tail > this.#synced.tail.tail) this.#synced = { tail, count };
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
}

/**
 * Compaction: a sealed volume written anew without what was deleted.
 *
 * Invariants:
 * - Ordinals, cookies, metadata, data and the checksums over data are carried over as they are; headers are
 *   new, because they are bound to generation and place.
 * - The bytes follow from the source, the set of deleted ordinals and the order alone: two runs make the
 *   same file.
 * - Every byte is verified before it is copied. On one that does not, the whole compaction ends, because
 *   a copy would give damage a right checksum.
 */

import type { Clock } from "../../base/clock.ts";
import { systemClock } from "../../base/clock.ts";
import { Failure } from "../../base/failure.ts";
import type { FileHandle } from "../../base/files.ts";
import { RateLimit } from "../../base/rate-limit.ts";
import { type Runtime, systemRuntime } from "../../base/runtime.ts";
import type { Generation } from "./generation.ts";
import { batchDigest, blockBytes, ChecksumSeeds, digestBytes, moveNeedle } from "./needle.ts";
import { OffsetIndex } from "./offset-index.ts";
import type { OrdinalSet } from "./ordinal-set.ts";
import { type FoundRecord, Records } from "./records.ts";
import type { VolumeTail } from "./recovery.ts";
import { SealedIndex } from "./sealed-index.ts";
import { encodeSuperblock, type Superblock, superblockBytes } from "./superblock.ts";
import { VolumeDigest } from "./volume-digest.ts";

export interface CompactionOptions {
  source: Generation;
  /** Bytes of the source that count. */
  sourceEnd: number;
  /** Stands in all headers: the last one of the source. */
  epoch: number;
  /** Empty. The last of it is not synced here. */
  target: FileHandle;
  /** Of the target. */
  superblock: Superblock;
  deleted: OrdinalSet;
  /** Needles with a TTL that ended before this moment are left out. */
  ttlCutoffMs: number;
  /** Bytes a second, 0 for no limit. */
  rateBytes: number;
  signal?: AbortSignal | undefined;
  clock?: Clock | undefined;
  runtime?: Runtime | undefined;
  progress?: ((doneBytes: number) => void) | undefined;
}

export interface CompactedVolume {
  index: SealedIndex;
  end: VolumeTail;
  leaves: Buffer;
  /** Merkle root of the file, hex. */
  digest: string;
  copiedBytes: number;
}

// The shape of batches is part of what makes two runs equal.
const batchBytesMax = 262_144;
const batchCountMax = 128;
/** What is worked on in one go, and what a record costs besides its bytes. */
const sliceBytes = 65_536;
const recordCostBytes = 2_048;
/** One sync of gigabytes at the end would have every append of the store wait for it. */
const unsyncedBytesMax = 32 * 1_048_576;

export async function compactInto(options: CompactionOptions): Promise<CompactedVolume> {
  return await new Compaction(options).run();
}

class Compaction {
  readonly #options: CompactionOptions;
  readonly #records: Records;
  readonly #seeds: ChecksumSeeds;
  readonly #limit: RateLimit;
  readonly #index = new OffsetIndex();
  readonly #runtime: Runtime;
  /** Gathers the bytes into blocks, which are hashed and written at the same time. */
  readonly #output: VolumeDigest;
  #written = 0;
  /** Bytes worked on since others last had the processor. */
  #sinceBytes = 0;
  #unsyncedBytes = 0;
  /** Writes and syncs, one after the other. */
  #writing: Promise<void> = Promise.resolve();
  readonly #end: VolumeTail = {
    tail: superblockBytes,
    lastDigest: Buffer.alloc(digestBytes),
    epoch: 0,
    dataBytes: 0,
    lastTimeMs: 0,
  };

  constructor(options: CompactionOptions) {
    this.#options = options;
    const { source, sourceEnd, superblock, rateBytes, clock = systemClock } = options;
    const { runtime = systemRuntime } = options;
    const { file, seeds } = source;
    this.#records = new Records({
      file,
      end: sourceEnd,
      identity: source.superblock,
      seeds,
    });
    this.#seeds = new ChecksumSeeds(superblock);
    this.#limit = new RateLimit(clock, rateBytes, runtime);
    this.#runtime = runtime;
    this.#output = new VolumeDigest({ onBlock: (block) => this.#write(block), runtime });
  }

  async run(): Promise<CompactedVolume> {
    try {
      await this.#output.update(encodeSuperblock(this.#options.superblock));
      let batch: FoundRecord[] = [];
      let batchBytes = 0;
      for await (const record of this.#living()) {
        const { length } = record.head;
        const isOver = batch.length >= batchCountMax || batchBytes + length > batchBytesMax;
        if (batch.length > 0 && isOver) {
          await this.#copy(batch);
          batch = [];
          batchBytes = 0;
        }
        batch.push(record);
        batchBytes += length;
      }
      if (batch.length > 0) await this.#copy(batch);
      return await this.#finish();
    } finally {
      await this.#records.close();
    }
  }

  /** The records to keep, in the order of their ordinals. */
  async *#living(): AsyncGenerator<FoundRecord> {
    const { source, deleted, ttlCutoffMs, superblock, progress } = this.#options;
    const { index } = source;
    const { volume } = superblock;
    for (let ordinal = 0; ordinal < index.count; ordinal++) {
      const offset = index.get(ordinal);
      if (offset === undefined || deleted.has(ordinal)) continue;
      const found = this.#records.at(offset);
      const record = found instanceof Promise ? await found : found;
      if (record === undefined) {
        throw this.#corrupt(ordinal, offset, "header and footer do not verify");
      }
      const { timeMs, ttlSeconds } = record.head;
      if (ttlSeconds > 0 && timeMs + ttlSeconds * 1_000 < ttlCutoffMs) continue;
      if (record.head.ordinal !== ordinal) {
        throw new Failure(
          "corrupt",
          `Cannot compact volume ${volume}: its index leads to needle ${record.head.ordinal} for ${ordinal}`,
        );
      }
      progress?.(offset);
      yield record;
    }
  }

  async #copy(batch: readonly FoundRecord[]): Promise<void> {
    const end = this.#end;
    const { superblock, signal } = this.#options;
    const batchStart = end.tail;
    const digests: { headerCrc: number; payloadDigest: Buffer }[] = [];
    let bytes = 0;
    for (const [position, record] of batch.entries()) {
      const { ordinal, dataLength, length, timeMs } = record.head;
      const place = {
        offset: end.tail,
        ordinal,
        epoch: this.#options.epoch,
        batchPosition: position,
        batchCount: batch.length,
        watermark: batchStart,
        previousDigest: end.lastDigest,
      };
      const moved = moveNeedle(record.headBytes, place, superblock, this.#seeds);
      await this.#output.update(moved.head);
      await this.#copyData(record);
      await this.#output.update(moved.tail);
      await this.#giveWay(length + recordCostBytes);
      this.#index.set(ordinal, end.tail);
      end.tail += length;
      end.dataBytes += dataLength;
      end.lastTimeMs = Math.max(end.lastTimeMs, timeMs);
      digests.push(moved);
      bytes += length;
    }
    end.lastDigest = batchDigest(digests);
    end.epoch = this.#options.epoch;
    await this.#limit.spend(bytes, signal);
  }

  async #copyData(record: FoundRecord): Promise<void> {
    const { dataLength } = record.head;
    for (let start = 0; start < dataLength; ) {
      const firstBlock = start / blockBytes;
      const data = await this.#records.data(record, firstBlock);
      if (data.length === 0 || !this.#records.verifies(record, firstBlock, data)) {
        throw this.#corruptData(record, start);
      }
      await this.#output.update(data);
      start += data.length;
      if (start < dataLength) await this.#giveWay(data.length);
    }
  }

  #write(block: Buffer): Promise<void> {
    const offset = this.#written;
    this.#written += block.length;
    this.#writing = this.#writing.then(() => this.#writeAt(block, offset));
    return this.#writing;
  }

  async #writeAt(block: Buffer, offset: number): Promise<void> {
    const { target } = this.#options;
    await target.write([block], offset);
    this.#unsyncedBytes += block.length;
    if (this.#unsyncedBytes < unsyncedBytesMax) return;
    this.#unsyncedBytes = 0;
    await target.syncData();
  }

  /** Lets others have the processor now and then: a batch in one go would be felt. */
  async #giveWay(bytes: number): Promise<void> {
    this.#sinceBytes += bytes;
    if (this.#sinceBytes < sliceBytes) return;
    this.#sinceBytes = 0;
    await this.#runtime.giveWay();
  }

  async #finish(): Promise<CompactedVolume> {
    this.#index.skipTo(this.#options.superblock.firstFree);
    const index = await SealedIndex.build({
      count: this.#index.count,
      get: (ordinal) => this.#index.get(ordinal),
      endOffset: this.#end.tail,
    });
    const { leaves, root } = await this.#output.finish();
    return { index, end: this.#end, leaves, digest: root, copiedBytes: this.#written };
  }

  #corruptData({ head }: FoundRecord, start: number): Failure {
    return this.#corrupt(
      head.ordinal,
      head.offset,
      `its data from byte ${start} on does not verify`,
    );
  }

  #corrupt(ordinal: number, offset: number, why: string): Failure {
    const { volume } = this.#options.superblock;
    return new Failure(
      "corrupt",
      `Cannot compact volume ${volume}: needle ${ordinal} at ${offset}: ${why}`,
    );
  }
}

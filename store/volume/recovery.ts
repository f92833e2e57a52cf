/**
 * Recovery: what a volume file holds, found by reading it from the start or from a checkpoint on.
 *
 * Invariants:
 * - A record is taken only if header, footer, place, epoch, ordinal, batch and the digest of the batch
 *   before it all agree. Batches that nothing after them says were synced are taken only if their data
 *   verifies too: they alone may not have reached the disk when the process ended.
 * - A batch is taken whole or not at all, unless a later batch says that it was acknowledged: then each
 *   of its needles that verifies is.
 * - The end of the volume is where nothing that was acknowledged lies beyond. Bytes that do not verify
 *   but have a later batch after them whose watermark lies above them are damage, never the end.
 */

import type { FileHandle } from "../../base/files.ts";
import {
  batchDigest,
  type ChecksumSeeds,
  digestBytes,
  type NeedleHead,
  payloadDigestOf,
  unitBytes,
  type VolumeIdentity,
} from "./needle.ts";
import { OffsetIndex } from "./offset-index.ts";
import { type FoundRecord, Records } from "./records.ts";
import { superblockBytes } from "./superblock.ts";

/** Where a volume file ends and how its last batch is called: what appending goes on from. */
export interface VolumeTail {
  /** Where the next batch goes: all before it counts. */
  tail: number;
  /** Digest of the last batch; zeros before the first. */
  lastDigest: Buffer;
  /** The highest epoch found. */
  epoch: number;
  /** Bytes of data in all needles, as stored. */
  dataBytes: number;
  /** When the last needle was appended, or 0. */
  lastTimeMs: number;
}

export interface RecoveredVolume extends VolumeTail {
  index: OffsetIndex;
  /** All before it is known to have been synced. */
  syncedTail: number;
  /** Stretches below the tail that do not verify. */
  damage: { offset: number; length: number }[];
}

export interface RecoveryOptions {
  file: FileHandle;
  /** Bytes of the file to look at. */
  sizeBytes: number;
  /** Bytes that are known to have been acknowledged, from elsewhere. */
  acknowledgedBytes: number;
  /** The superblock's: where ordinals begin in an empty generation 0, where they go on in later ones. */
  firstFree: number;
  /** Whether ordinals may have been reserved, and be written out of order. */
  hasReservations: boolean;
  identity: VolumeIdentity;
  seeds: ChecksumSeeds;
  /** What a checkpoint vouches for; recovery reads on from its tail. */
  from?: (VolumeTail & { index: OffsetIndex }) | undefined;
  /** Told now and then how far it is. */
  progress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

export async function recoverVolume(options: RecoveryOptions): Promise<RecoveredVolume> {
  return await new Recovery(options).run();
}

const progressBytes = 256 * 1_048_576;

/** What was read of a batch so far. */
interface PartialBatch {
  records: FoundRecord[];
  end: number;
  nextOrdinal: number;
}

class Recovery {
  readonly #options: RecoveryOptions;
  readonly #records: Records;
  readonly #found: RecoveredVolume;
  /** Whether `lastDigest` is known: it is not right after damage. */
  #isChained = true;
  /** The batch before, for as long as it is not known whether its footers are right. */
  #lastBatch: FoundRecord[] = [];

  constructor(options: RecoveryOptions) {
    const { file, sizeBytes, firstFree, identity, seeds, from } = options;
    this.#options = options;
    this.#records = new Records({ file, end: sizeBytes, identity, seeds });
    this.#found = {
      index: new OffsetIndex(),
      tail: superblockBytes,
      lastDigest: Buffer.alloc(digestBytes),
      epoch: 0,
      dataBytes: 0,
      lastTimeMs: 0,
      ...from,
      syncedTail: from?.tail ?? superblockBytes,
      damage: [],
    };
    this.#found.index.skipTo(identity.generation === 0 ? firstFree : 0);
  }

  async run(): Promise<RecoveredVolume> {
    try {
      await this.#readOn();
      return this.#found;
    } finally {
      await this.#records.close();
    }
  }

  async #readOn(): Promise<void> {
    const found = this.#found;
    const { progress, sizeBytes, acknowledgedBytes } = this.#options;
    let toldBytes = found.tail;
    for (;;) {
      if (found.tail - toldBytes >= progressBytes) {
        progress?.(found.tail, sizeBytes);
        toldBytes = found.tail;
      }
      const reading = this.#batchAt(found.tail);
      const batch = reading instanceof Promise ? await reading : reading;
      if (batch !== undefined && (await this.#isWritten(batch))) {
        for (const record of batch) this.#take(record.head);
        this.#lastBatch = batch;
        found.lastDigest = digestOf(batch);
        this.#isChained = true;
        continue;
      }
      // Nothing that verifies stands here: the end, or damage with acknowledged needles behind it.
      const watermark = (await this.#laterWatermark(found.tail)) ?? acknowledgedBytes;
      if (watermark <= found.tail) break;
      await this.#salvage(found.tail, watermark);
      found.tail = watermark;
      this.#isChained = false;
    }
    found.syncedTail = Math.max(found.syncedTail, Math.min(acknowledgedBytes, found.tail));
  }

  #take(head: NeedleHead): void {
    const found = this.#found;
    if (head.isReservation) {
      found.index.skipTo(head.ordinal + head.contentLength);
    } else {
      found.index.set(head.ordinal, head.offset);
      found.dataBytes += head.dataLength;
      found.lastTimeMs = head.timeMs;
    }
    found.epoch = Math.max(found.epoch, head.epoch);
    found.syncedTail = Math.max(found.syncedTail, head.watermark);
    found.tail = head.offset + head.length;
  }

  /** The whole batch at `offset`, if it goes on from what was found so far. */
  #batchAt(offset: number): FoundRecord[] | undefined | Promise<FoundRecord[] | undefined> {
    const batch: PartialBatch = {
      records: [],
      end: offset,
      nextOrdinal: this.#found.index.count,
    };
    for (;;) {
      const record = this.#records.here(batch.end);
      // Most small batches lie in the window whole; for the others it has to move on.
      if (record === "elsewhere") return this.#batchAfterReading(batch);
      const isOver = this.#extend(batch, record);
      if (isOver !== undefined) return isOver ? batch.records : undefined;
    }
  }

  async #batchAfterReading(batch: PartialBatch): Promise<FoundRecord[] | undefined> {
    for (;;) {
      const reading = this.#records.at(batch.end);
      const isOver = this.#extend(batch, reading instanceof Promise ? await reading : reading);
      if (isOver !== undefined) return isOver ? batch.records : undefined;
    }
  }

  /** Adds what comes next; true if the batch is whole then, false if this does not belong there. */
  #extend(batch: PartialBatch, record: FoundRecord | undefined): boolean | undefined {
    const { records } = batch;
    const next = this.#nextOrdinal(record, records, batch.nextOrdinal);
    if (record === undefined || next === undefined) return false;
    const { length, batchCount } = record.head;
    records.push(record);
    batch.nextOrdinal = next;
    batch.end += length;
    return records.length === batchCount ? true : undefined;
  }

  /** The ordinal after `record`'s if it may come next in its batch; undefined if it does not belong there. */
  #nextOrdinal(
    record: FoundRecord | undefined,
    batch: readonly FoundRecord[],
    nextOrdinal: number,
  ): number | undefined {
    if (record === undefined) return undefined;
    const { head } = record;
    const first = batch[0]?.head;
    if (head.batchPosition !== batch.length) return undefined;
    if (first === undefined) {
      if (head.epoch < this.#found.epoch) return undefined;
      if (this.#isChained && !this.#isAfterLast(head)) return undefined;
    } else if (
      head.batchCount !== first.batchCount ||
      head.epoch !== first.epoch ||
      head.watermark !== first.watermark ||
      !head.isAfter(first.previousDigest)
    ) {
      return undefined;
    }
    const { ordinal } = head;
    const last = head.isReservation ? ordinal + head.contentLength : ordinal + 1;
    const { hasReservations, identity } = this.#options;
    if (hasReservations && ordinal < nextOrdinal && !head.isReservation) {
      const isFree =
        this.#found.index.get(ordinal) === undefined &&
        batch.every((other) => other.head.isReservation || other.head.ordinal !== ordinal);
      return isFree ? nextOrdinal : undefined;
    }
    // A compacted file has no needles for what was deleted, and what comes after damage follows a gap.
    // With reservations what was damaged may have been one, and any ordinals may follow.
    const hasGaps =
      identity.generation > 0 ||
      (!this.#isChained && first === undefined) ||
      (hasReservations && this.#found.damage.length > 0);
    return ordinal === nextOrdinal || (hasGaps && ordinal > nextOrdinal) ? last : undefined;
  }

  /** Whether the batch of `head` follows the one that was found last. */
  #isAfterLast(head: NeedleHead): boolean {
    if (head.isAfter(this.#found.lastDigest)) return true;
    // The digests in the footers of the last batch may be what is wrong.
    const digest = batchDigest(
      this.#lastBatch.map((record) => ({
        headerCrc: record.head.headerCrc,
        payloadDigest: payloadDigestOf(record.headBytes, record.head),
      })),
    );
    return this.#lastBatch.length > 0 && head.isAfter(digest);
  }

  /** Whether `batch` is on the disk: what follows says that it was synced, or all of its data is there. */
  async #isWritten(batch: FoundRecord[]): Promise<boolean> {
    const last = batch.at(-1)?.head;
    if (last === undefined) return false;
    const end = last.offset + last.length;
    if (end <= this.#options.acknowledgedBytes || end <= this.#found.syncedTail) return true;
    const here = this.#records.here(end);
    const next = here === "elsewhere" ? await this.#records.at(end) : here;
    const isFollowed =
      next !== undefined && next.head.watermark >= end && next.head.epoch >= last.epoch;
    return isFollowed || (await this.#isIntact(batch));
  }

  async #isIntact(batch: FoundRecord[]): Promise<boolean> {
    for (const record of batch) {
      if ((await this.#records.problem(record)) !== undefined) return false;
    }
    return true;
  }

  /**
   * The watermark of the first record beyond `damagedFrom` that says that what lies there was
   * acknowledged. Steps on by 8 bytes and trusts no length of what does not verify.
   */
  async #laterWatermark(damagedFrom: number): Promise<number | undefined> {
    for await (const offset of this.#records.candidates(
      damagedFrom + unitBytes,
      this.#records.end,
    )) {
      const head = (await this.#records.at(offset))?.head;
      if (head === undefined || head.epoch < this.#found.epoch) continue;
      if (head.watermark > damagedFrom && head.watermark <= offset) return head.watermark;
    }
    return undefined;
  }

  /** Takes each record in [from, to) that verifies by itself; all of them were acknowledged. */
  async #salvage(from: number, to: number): Promise<void> {
    const { index, damage } = this.#found;
    let goodUpTo = from;
    for await (const offset of this.#records.candidates(from, to)) {
      if (offset < goodUpTo) continue; // inside a needle that was taken
      const head = (await this.#records.at(offset))?.head;
      if (head === undefined || offset + head.length > to) continue;
      const isLate = this.#options.hasReservations && index.get(head.ordinal) === undefined;
      if (head.ordinal < index.count && !isLate) continue;
      if (offset > goodUpTo) damage.push({ offset: goodUpTo, length: offset - goodUpTo });
      this.#take(head);
      goodUpTo = offset + head.length;
    }
    if (goodUpTo < to) damage.push({ offset: goodUpTo, length: to - goodUpTo });
  }
}

function digestOf(batch: readonly FoundRecord[]): Buffer {
  return batchDigest(
    batch.map(({ head, payloadDigest }) => ({ headerCrc: head.headerCrc, payloadDigest })),
  );
}

const settleBytes = 4 * 1_048_576;

/**
 * Makes sure that what recovery found is on the disk before anything is said of it. What nobody knows to
 * have been synced may be in the page cache alone, and after a failed sync the cache calls it clean: so it
 * is written anew. What is beyond the tail was never acknowledged (recovery.ts), and is cut off.
 */
export async function settleTail(
  file: FileHandle,
  { syncedTail, tail }: RecoveredVolume,
  sizeBytes: number,
): Promise<void> {
  if (tail < sizeBytes) await file.truncate(tail);
  const piece = Buffer.allocUnsafe(Math.min(settleBytes, tail - syncedTail));
  for (let at = syncedTail; at < tail; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, tail - at));
    await file.read(part, at);
    await file.write([part], at);
  }
  await file.syncData();
}

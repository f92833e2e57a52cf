/**
 * Recovery: what a volume file holds, found by reading it from the start.
 *
 * Invariants:
 * - A needle is taken only if header, footer, place, epoch, ordinal, batch and the digest of the batch
 *   before it all agree. The last batch is taken only if its data verifies too: it alone may not have
 *   been synced when the process ended.
 * - A batch is taken whole or not at all, unless a later batch says that it was acknowledged: then each
 *   of its needles that verifies is.
 * - The end of the volume is where nothing that was acknowledged lies beyond. Bytes that do not verify
 *   but have a later batch after them whose watermark lies above them are damage, never the end.
 */

import type { FileHandle } from "../base/files.ts";
import {
  batchDigest,
  blockTableOf,
  type ChecksumSeeds,
  decodeFooter,
  decodeHead,
  digestBytes,
  footerBytes,
  headerBytes,
  measureNeedle,
  type NeedleHead,
  unitBytes,
  type VolumeIdentity,
  verifyBlocks,
} from "./needle.ts";
import { OffsetIndex } from "./offset-index.ts";
import { superblockBytes } from "./superblock.ts";

export interface RecoveredVolume {
  index: OffsetIndex;
  /** Where the next batch goes: all before it counts. */
  tail: number;
  lastBatchOffset: number;
  /** Digest of the last batch; zeros before the first. */
  lastDigest: Buffer;
  /** The highest epoch found. */
  epoch: number;
  /** Bytes of data in all needles. */
  dataBytes: number;
  /** Stretches below the tail that do not verify. */
  damage: { offset: number; length: number }[];
}

const windowBytes = 4 * 1_048_576;

/** Reads forward through a file, keeping a window of it in memory. */
class Window {
  readonly #file: FileHandle;
  readonly end: number;
  #bytes = Buffer.alloc(0);
  #start = 0;

  constructor(file: FileHandle, end: number) {
    this.#file = file;
    this.end = end;
  }

  /** The bytes from `offset`, `length` of them or as many as there are. */
  async at(offset: number, length: number): Promise<Buffer> {
    const wanted = Math.min(length, this.end - offset);
    const isHere = offset >= this.#start && offset + wanted <= this.#start + this.#bytes.length;
    if (!isHere) {
      const bytes = Buffer.allocUnsafe(Math.min(Math.max(wanted, windowBytes), this.end - offset));
      const count = await this.#file.read(bytes, offset);
      this.#bytes = bytes.subarray(0, count);
      this.#start = offset;
    }
    return this.#bytes.subarray(offset - this.#start, offset - this.#start + wanted);
  }
}

interface FoundNeedle {
  head: NeedleHead;
  payloadDigest: Buffer;
}

export interface RecoveryOptions {
  file: FileHandle;
  /** Bytes of the file to look at. */
  sizeBytes: number;
  /** Bytes that are known to have been acknowledged, from elsewhere. */
  acknowledgedBytes: number;
  /** The superblock's: where ordinals begin in an empty generation 0, where they go on in later ones. */
  firstFree: number;
  identity: VolumeIdentity;
  seeds: ChecksumSeeds;
}

export async function recoverVolume(options: RecoveryOptions): Promise<RecoveredVolume> {
  return await new Recovery(options).run();
}

class Recovery {
  readonly #window: Window;
  readonly #identity: VolumeIdentity;
  readonly #seeds: ChecksumSeeds;
  readonly #acknowledgedBytes: number;
  readonly #found: RecoveredVolume = {
    index: new OffsetIndex(),
    tail: superblockBytes,
    lastBatchOffset: superblockBytes,
    lastDigest: Buffer.alloc(digestBytes),
    epoch: 0,
    dataBytes: 0,
    damage: [],
  };
  /** Whether `lastDigest` is known: it is not right after damage. */
  #isChained = true;

  constructor({ file, sizeBytes, acknowledgedBytes, firstFree, identity, seeds }: RecoveryOptions) {
    this.#window = new Window(file, sizeBytes);
    this.#identity = identity;
    this.#seeds = seeds;
    this.#acknowledgedBytes = acknowledgedBytes;
    this.#found.index.skipTo(identity.generation === 0 ? firstFree : 0);
  }

  async run(): Promise<RecoveredVolume> {
    const found = this.#found;
    for (;;) {
      const batch = await this.#batchAt(found.tail);
      if (
        batch !== undefined &&
        ((await this.#isFollowed(batch)) || (await this.#isIntact(batch)))
      ) {
        found.lastBatchOffset = found.tail;
        for (const needle of batch) this.#take(needle.head);
        found.lastDigest = batchDigest(
          batch.map(({ head, payloadDigest }) => ({ headerCrc: head.headerCrc, payloadDigest })),
        );
        this.#isChained = true;
        continue;
      }
      // Nothing that verifies stands here: the end, or damage with acknowledged needles behind it.
      const watermark = (await this.#laterWatermark(found.tail)) ?? this.#acknowledgedBytes;
      if (watermark <= found.tail) return found;
      await this.#salvage(found.tail, watermark);
      found.tail = watermark;
      this.#isChained = false;
    }
  }

  #take(head: NeedleHead): void {
    const found = this.#found;
    found.index.set(head.ordinal, head.offset);
    found.dataBytes += head.dataLength;
    found.epoch = head.epoch;
    found.tail = head.offset + head.length;
  }

  /** The whole batch at `offset`, if it goes on from what was found so far. */
  async #batchAt(offset: number): Promise<FoundNeedle[] | undefined> {
    const { index, epoch, lastDigest } = this.#found;
    const batch: FoundNeedle[] = [];
    let at = offset;
    for (;;) {
      const needle = await this.#needleAt(at);
      if (needle === undefined) return undefined;
      const { head } = needle;
      const first = batch[0]?.head ?? head;
      const fits =
        head.batchPosition === batch.length &&
        head.batchCount === first.batchCount &&
        head.epoch === first.epoch &&
        head.epoch >= epoch &&
        head.watermark === first.watermark &&
        head.previousDigest.equals(first.previousDigest) &&
        // A compacted file has no needles for what was deleted: its ordinals only grow.
        (this.#identity.generation === 0
          ? head.ordinal === first.ordinal + batch.length
          : head.ordinal > (batch.at(-1)?.head.ordinal ?? -1)) &&
        (this.#isChained
          ? this.#follows(first.ordinal) && first.previousDigest.equals(lastDigest)
          : first.ordinal >= index.count);
      if (!fits) return undefined;
      batch.push(needle);
      at += head.length;
      if (batch.length === head.batchCount) return batch;
    }
  }

  /** Whether `ordinal` may come after those that were found. */
  #follows(ordinal: number): boolean {
    const { count } = this.#found.index;
    return this.#identity.generation === 0 ? ordinal === count : ordinal >= count;
  }

  /** The needle at `offset` if header and footer verify; its data is not looked at. */
  async #needleAt(offset: number): Promise<FoundNeedle | undefined> {
    const start = await this.#window.at(offset, headerBytes);
    const measured = measureNeedle(start, this.#identity.recordMagic);
    if (measured === undefined || offset + measured.length > this.#window.end) return undefined;
    // Copied, because the window may move on to the footer.
    const headBytes = Buffer.from(await this.#window.at(offset, measured.headLength));
    const head = decodeHead(headBytes, offset, this.#identity, this.#seeds);
    if (head === undefined) return undefined;
    const footer = await this.#window.at(head.dataOffset + head.dataLength, footerBytes);
    const payloadDigest = decodeFooter(footer, head, headBytes);
    return payloadDigest === undefined ? undefined : { head, payloadDigest };
  }

  /** Whether something was written after `batch` was acknowledged, which tells that it was synced. */
  async #isFollowed(batch: FoundNeedle[]): Promise<boolean> {
    const last = batch.at(-1)?.head;
    if (last === undefined) return false;
    const end = last.offset + last.length;
    const next = await this.#needleAt(end);
    return next !== undefined && next.head.watermark >= end && next.head.epoch >= last.epoch;
  }

  async #isIntact(batch: FoundNeedle[]): Promise<boolean> {
    for (const { head } of batch) {
      const bytes = await this.#window.at(head.offset, head.length);
      const data = bytes.subarray(head.dataOffset - head.offset).subarray(0, head.dataLength);
      const table = blockTableOf(bytes, head);
      const place = { table, ordinal: head.ordinal, firstBlock: 0 };
      if (data.length < head.dataLength || !verifyBlocks(data, place, this.#seeds)) return false;
    }
    return true;
  }

  /**
   * The watermark of the first needle beyond `damagedFrom` that says that what lies there was
   * acknowledged. Steps on by 8 bytes and trusts no length of what does not verify.
   */
  async #laterWatermark(damagedFrom: number): Promise<number | undefined> {
    for await (const offset of this.#candidates(damagedFrom + unitBytes, this.#window.end)) {
      const head = (await this.#needleAt(offset))?.head;
      if (head === undefined || head.epoch < this.#found.epoch) continue;
      if (head.watermark > damagedFrom && head.watermark <= offset) return head.watermark;
    }
    return undefined;
  }

  /** Takes each needle in [from, to) that verifies by itself; all of them were acknowledged. */
  async #salvage(from: number, to: number): Promise<void> {
    const { index, damage } = this.#found;
    let goodUpTo = from;
    for await (const offset of this.#candidates(from, to)) {
      if (offset < goodUpTo) continue; // inside a needle that was taken
      const head = (await this.#needleAt(offset))?.head;
      if (head === undefined || head.ordinal < index.count || offset + head.length > to) continue;
      if (offset > goodUpTo) damage.push({ offset: goodUpTo, length: offset - goodUpTo });
      this.#take(head);
      goodUpTo = offset + head.length;
    }
    if (goodUpTo < to) damage.push({ offset: goodUpTo, length: to - goodUpTo });
  }

  /** Offsets in [from, to) at which the record magic stands. */
  async *#candidates(from: number, to: number): AsyncGenerator<number> {
    const { recordMagic } = this.#identity;
    let at = from;
    while (at + headerBytes <= to) {
      const bytes = await this.#window.at(at, windowBytes);
      const found = bytes.indexOf(recordMagic);
      if (found >= 0) {
        const offset = at + found;
        if (offset >= to) return;
        if (offset % unitBytes === 0) yield offset;
        at = offset - (offset % unitBytes) + unitBytes;
      } else {
        // The magic may lie across the edge of two windows.
        const step = Math.max(bytes.length - recordMagic.length, unitBytes);
        at += step - (step % unitBytes);
      }
    }
  }
}

/**
 * Makes sure that what recovery found is on the disk before anything is said of it. The last batch may be
 * in the page cache alone, and after a failed sync the cache calls it clean: so it is written anew. What
 * is beyond the tail was never acknowledged (recovery.ts): a torn batch, cut off.
 */
export async function settleTail(
  file: FileHandle,
  { lastBatchOffset, tail }: RecoveredVolume,
  sizeBytes: number,
): Promise<void> {
  if (tail < sizeBytes) await file.truncate(tail);
  const piece = Buffer.allocUnsafe(Math.min(windowBytes, tail - lastBatchOffset));
  for (let at = lastBatchOffset; at < tail; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, tail - at));
    await file.read(part, at);
    await file.write([part], at);
  }
  await file.syncData();
}

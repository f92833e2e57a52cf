/**
 * A batch as all members of a volume write it: the very bytes as they go into the file, and what they go on
 * from. The one who takes a batch from another process, or from another's file, reads it here first.
 *
 * Invariant: a batch is taken only if every byte of it is what it says: place, epoch, chain, ordinals, heads,
 * data and padding. What one copy has then, all copies have.
 */

import { Failure } from "../../base/failure.ts";
import {
  batchDigest,
  blockTableOf,
  type ChecksumSeeds,
  decodeFooter,
  decodeHead,
  footerBytes,
  headerBytes,
  type NeedleHead,
  payloadDigestOf,
  peekHead,
  unitBytes,
  type VolumeIdentity,
  verifyBlocks,
} from "./needle.ts";

export type Durability = "disk" | "memory";

/** Where the largest volume ends: offsets are u32 in units of 8 bytes. */
export const volumeBytesMax: number = 0xffff_ffff * unitBytes;
export const ordinalsMax = 0xffff_fff0;

/** What a batch says of itself. */
export interface BatchHead {
  /** Of the volume: 32 hex digits. */
  uuid: string;
  generation: number;
  epoch: number;
  /** Where it begins in the file. */
  offset: number;
  /** Of the batch before it: 8 bytes. */
  previousDigest: Buffer;
  digest: Buffer;
  /** The first ordinal after it. */
  nextOrdinal: number;
  durability: Durability;
}

export interface Batch extends BatchHead {
  /** Its bytes, one piece after the other. */
  buffers: readonly Buffer[];
  /** Bytes of all buffers. */
  lengthBytes: number;
}

/** What a copy has where the batch is to go. */
export interface BatchPlace {
  identity: VolumeIdentity;
  seeds: ChecksumSeeds;
  offset: number;
  previousDigest: Buffer;
  /** Epochs never fall. */
  epochMin: number;
  nextOrdinal: number;
  /** Whether an ordinal before `nextOrdinal` was reserved and has no needle yet. */
  isFree: (ordinal: number) => boolean;
}

/** A batch whose every byte verified. */
export interface VerifiedBatch {
  heads: NeedleHead[];
  epoch: number;
  digest: Buffer;
  lengthBytes: number;
  nextOrdinal: number;
  /** All before it was acknowledged, and synced at the primary, when the batch was written. */
  watermark: number;
}

/**
 * The batch that `bytes` begin with, or undefined if they end before it does. Fails with `corrupt` on what
 * can't be the next batch of that copy.
 */
export function verifyBatch(bytes: Buffer, place: BatchPlace): VerifiedBatch | undefined {
  const heads: NeedleHead[] = [];
  const digests: { headerCrc: number; payloadDigest: Buffer }[] = [];
  const taken = new Set<number>();
  let { nextOrdinal } = place;
  let at = 0;
  for (;;) {
    const found = verifyRecord(bytes, at, place);
    if (found === undefined) return undefined;
    const { head, payloadDigest } = found;
    checkPlace(head, heads, place);
    const { ordinal } = head;
    if (!head.isReservation && ordinal < nextOrdinal && place.isFree(ordinal)) {
      if (taken.has(ordinal)) throw refusal(head.offset, `ordinal ${ordinal} comes twice`);
      taken.add(ordinal);
    } else if (ordinal === nextOrdinal) {
      nextOrdinal = head.isReservation ? ordinal + head.contentLength : ordinal + 1;
    } else {
      throw refusal(head.offset, `it has ordinal ${ordinal}, and ${nextOrdinal} is the next`);
    }
    if (nextOrdinal > ordinalsMax) throw refusal(head.offset, "the volume has no more ordinals");
    heads.push(head);
    digests.push({ headerCrc: head.headerCrc, payloadDigest });
    at += head.length;
    if (heads.length < head.batchCount) continue;
    const { epoch, watermark } = head;
    return { heads, epoch, digest: batchDigest(digests), lengthBytes: at, nextOrdinal, watermark };
  }
}

function verifyRecord(
  bytes: Buffer,
  at: number,
  { identity, seeds, offset }: BatchPlace,
): { head: NeedleHead; payloadDigest: Buffer } | undefined {
  const recordOffset = offset + at;
  const rest = bytes.subarray(at);
  if (rest.length < headerBytes) return undefined;
  const seeming = peekHead(rest, recordOffset, identity);
  if (seeming === undefined) throw refusal(recordOffset, "no record of this volume begins there");
  if (rest.length < seeming.length) return undefined;
  const record = rest.subarray(0, seeming.length);
  const head = decodeHead(record, recordOffset, identity, seeds);
  if (head === undefined) throw refusal(recordOffset, "its header does not verify");
  const dataStart = head.headLength;
  const footerStart = dataStart + head.dataLength;
  const footer = record.subarray(footerStart, footerStart + footerBytes);
  const payloadDigest = decodeFooter(footer, head);
  if (payloadDigest === undefined || !payloadDigestOf(record, head).equals(payloadDigest)) {
    throw refusal(recordOffset, "its footer does not verify");
  }
  const data = record.subarray(dataStart, footerStart);
  const table = blockTableOf(record, head);
  if (!verifyBlocks(data, { table, ordinal: head.ordinal, firstBlock: 0 }, seeds)) {
    throw refusal(recordOffset, "a checksum of its data does not match");
  }
  // No checksum covers the padding, and copies are to be the same to the last byte.
  if (record.subarray(footerStart + footerBytes).some((byte) => byte !== 0)) {
    throw refusal(recordOffset, "its padding is not blank");
  }
  return { head, payloadDigest };
}

function checkPlace(head: NeedleHead, before: readonly NeedleHead[], place: BatchPlace): void {
  const refuse = (why: string) => refusal(head.offset, why);
  if (head.batchPosition !== before.length) throw refuse("it has another place in its batch");
  if (!head.isAfter(place.previousDigest)) throw refuse("it goes on from another batch");
  if (head.watermark > place.offset) throw refuse("its watermark lies beyond its own batch");
  if (head.epoch < place.epochMin) throw refuse(`epoch ${head.epoch} is over`);
  const first = before[0];
  if (
    first !== undefined &&
    (head.batchCount !== first.batchCount ||
      head.epoch !== first.epoch ||
      head.watermark !== first.watermark)
  ) {
    throw refuse("it belongs to another batch than the record before it");
  }
}

function refusal(offset: number, why: string): Failure {
  return new Failure("corrupt", `Cannot take the record at ${offset}: ${why}`);
}

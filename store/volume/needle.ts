/**
 * The bytes of a needle: a blob's record in a volume (FORMAT.md tells why each field is there).
 *
 * Invariants:
 * - A needle is header, metadata, block table, data, footer, zeros to a multiple of 8, in this order.
 * - The header CRC covers header, metadata and block table, and is bound to the volume's uuid, its
 *   generation and the needle's offset: a needle that was moved, or is left from before, does not verify.
 * - Each 16 KiB of data have a CRC bound to uuid, ordinal and block, so that a part can be verified alone
 *   and compaction can carry data and table over untouched.
 */

import assert from "node:assert/strict";
import { hash } from "node:crypto";
import { crc32 } from "../../base/checksum.ts";
import { Failure } from "../../base/failure.ts";

export const blockBytes = 16_384;
/** Offsets count units of 8 bytes, so that a u32 reaches 32 GiB. */
export const unitBytes = 8;
export const metadataBytesMax = 0xffff;
/** The largest blob; larger objects are several blobs. */
export const dataBytesMax: number = 64 * 1_048_576;

// Needle header, little-endian, in the order written:
//    0  recordMagic     8 B   the volume's secret: bytes of an upload can't pass for a needle
//    8  headerCrc       u32   of what follows up to the data, seeded by the place (see `placeSeed`)
//   12  flags           u8    see `flagBits`
//   13  codec           u8    how data is stored: see `codecs`
//   14  metadataLength  u16   bytes
//   16  dataLength      u32   bytes as stored
//   20  contentLength   u32   bytes before the codec
//   24  ordinal         u32   the needle's place in the order of its volume
//   28  cookie          u32   random; a reader must present it
//   32  epoch           u32   whose run wrote it
//   36  batchPosition   u16   its place in its batch
//   38  batchCount      u16   needles in the batch
//   40  watermark       u32   units: all before this offset was acknowledged when the batch was written
//   44  previousDigest  8 B   digest of the batch before
//   52  timeMs          u64   since 1970, when it was appended
//   60  ttlSeconds      u32   from timeMs; 0 is for ever
//   64  ownerCatalog    8 B   the catalog's id; zeros are a native blob
//   72  ownerSession    u32   the catalog's writer session
//   76  reserved        u32   zero
const at = {
  recordMagic: 0,
  headerCrc: 8,
  flags: 12,
  codec: 13,
  metadataLength: 14,
  dataLength: 16,
  contentLength: 20,
  ordinal: 24,
  cookie: 28,
  epoch: 32,
  batchPosition: 36,
  batchCount: 38,
  watermark: 40,
  previousDigest: 44,
  timeMs: 52,
  ttlSeconds: 60,
  ownerCatalog: 64,
  ownerSession: 72,
  reserved: 76,
} as const;

export const headerBytes = 80;

// Footer:
//    0  dataLength     u32  again
//    4  headerCrc      u32  again
//    8  payloadDigest  8 B  the first 8 bytes of SHA-256 over metadata and block table
const footerAt = { dataLength: 0, headerCrc: 4, payloadDigest: 8 } as const;

export const footerBytes = 16;
export const digestBytes = 8;

/** How data is stored. Values are part of the format. */
export const codecs = { none: 0, lz4: 1, zstd: 2 } as const;
export type Codec = (typeof codecs)[keyof typeof codecs];

/** A reservation is a record without data: `contentLength` ordinals from its own on are reserved. */
const flagBits = { reservation: 1 } as const;
const knownFlags = flagBits.reservation;
const codecMax = codecs.zstd;

/** What a needle is bound to; the same for all needles of a volume's generation. */
export interface VolumeIdentity {
  /** 16 bytes. */
  uuid: Buffer;
  generation: number;
  /** 8 bytes. */
  recordMagic: Buffer;
}

/** Who a blob belongs to: a catalog and the writer session that stored it, or nobody (native). */
export interface Owner {
  /** 16 hex digits. */
  catalog: string;
  session: number;
}

/** A blob on its way into a volume. */
export interface NeedleSource {
  cookie: number;
  /** Opaque to the store's engine, at most `metadataBytesMax`. */
  metadata: Buffer;
  /** As stored. */
  data: Buffer;
  codec: Codec;
  /** Bytes before the codec; of a reservation, how many ordinals. */
  contentLength: number;
  isReservation: boolean;
  owner: Owner | undefined;
  ttlSeconds: number;
  timeMs: number;
}

/** Where a needle stands: decided by the one writer when it frames the batch. */
export interface NeedlePlace {
  offset: number;
  ordinal: number;
  epoch: number;
  batchPosition: number;
  batchCount: number;
  /** Bytes: all before this offset was acknowledged. */
  watermark: number;
  /** 8 bytes. */
  previousDigest: Buffer;
}

/**
 * A needle's header, with what it says of the needle's extent: a view on the bytes that it was decoded
 * from, which have to stay as they are for as long as it is used.
 */
export class NeedleHead implements NeedlePlace {
  readonly #bytes: Buffer;
  readonly offset: number;
  readonly metadataLength: number;
  /** Bytes as stored. */
  readonly dataLength: number;

  constructor(bytes: Buffer, offset: number) {
    this.#bytes = bytes;
    this.offset = offset;
    this.metadataLength = bytes.readUInt16LE(at.metadataLength);
    this.dataLength = bytes.readUInt32LE(at.dataLength);
  }

  get headerCrc(): number {
    return this.#bytes.readUInt32LE(at.headerCrc);
  }

  get isReservation(): boolean {
    return ((this.#bytes[at.flags] ?? 0) & flagBits.reservation) !== 0;
  }

  get codec(): Codec {
    return this.#bytes.readUInt8(at.codec) as Codec;
  }

  /** Bytes before the codec; of a reservation, how many ordinals from its own on are reserved. */
  get contentLength(): number {
    return this.#bytes.readUInt32LE(at.contentLength);
  }

  get ordinal(): number {
    return this.#bytes.readUInt32LE(at.ordinal);
  }

  get cookie(): number {
    return this.#bytes.readUInt32LE(at.cookie);
  }

  get epoch(): number {
    return this.#bytes.readUInt32LE(at.epoch);
  }

  get batchPosition(): number {
    return this.#bytes.readUInt16LE(at.batchPosition);
  }

  get batchCount(): number {
    return this.#bytes.readUInt16LE(at.batchCount);
  }

  get watermark(): number {
    return this.#bytes.readUInt32LE(at.watermark) * unitBytes;
  }

  get previousDigest(): Buffer {
    return this.#bytes.subarray(at.previousDigest, at.timeMs);
  }

  /** Whether the batch before this one has `digest`. */
  isAfter(digest: Buffer): boolean {
    return isSameAt(this.#bytes, at.previousDigest, digest);
  }

  get timeMs(): number {
    return this.#bytes.readUIntLE(at.timeMs, 6);
  }

  get ttlSeconds(): number {
    return this.#bytes.readUInt32LE(at.ttlSeconds);
  }

  get owner(): Owner | undefined {
    const catalog = this.#bytes.toString("hex", at.ownerCatalog, at.ownerSession);
    if (catalog === "0000000000000000") return undefined;
    return { catalog, session: this.#bytes.readUInt32LE(at.ownerSession) };
  }

  /** Bytes before the data: header, metadata, block table. */
  get headLength(): number {
    return headLength(this);
  }

  /** Offset in the volume of the first byte of data. */
  get dataOffset(): number {
    return this.offset + this.headLength;
  }

  /** Bytes from header to the end of the padding. */
  get length(): number {
    return needleLength(this);
  }
}

/** Bytes that a needle takes in a volume. */
export function needleLength({
  metadataLength,
  dataLength,
}: {
  metadataLength: number;
  dataLength: number;
}): number {
  const raw = headLength({ metadataLength, dataLength }) + dataLength + footerBytes;
  return Math.ceil(raw / unitBytes) * unitBytes;
}

/** Bytes before the data: header, metadata, block table. */
export function headLength({
  metadataLength,
  dataLength,
}: {
  metadataLength: number;
  dataLength: number;
}): number {
  return headerBytes + metadataLength + blockCount(dataLength) * 4;
}

function blockCount(dataLength: number): number {
  return Math.ceil(dataLength / blockBytes);
}

const seedScratch = Buffer.alloc(8);
const placeScratch = Buffer.alloc(4);

/** Seeds of the two kinds of checksum of one volume's generation, worked out once. */
export class ChecksumSeeds {
  readonly #place: number;
  readonly #block: number;

  constructor({ uuid, generation }: { uuid: Buffer; generation: number }) {
    assert.equal(uuid.length, 16);
    this.#block = crc32(uuid);
    seedScratch.writeUInt32LE(generation, 0);
    this.#place = crc32(seedScratch.subarray(0, 4), this.#block);
  }

  /** For the header of the needle at `offset`. */
  place(offset: number): number {
    placeScratch.writeUInt32LE(offset / unitBytes, 0);
    return crc32(placeScratch, this.#place);
  }

  /** For block number `block` of needle `ordinal`: free of generation and offset. */
  block(ordinal: number, block: number): number {
    seedScratch.writeUInt32LE(ordinal, 0);
    seedScratch.writeUInt32LE(block, 4);
    return crc32(seedScratch, this.#block);
  }
}

/**
 * Frames a needle as the bytes before and after its data; the data itself is not copied.
 * `tail` includes the padding.
 */
export function encodeNeedle(
  source: NeedleSource,
  place: NeedlePlace,
  { recordMagic }: VolumeIdentity,
  seeds: ChecksumSeeds,
): { head: Buffer; tail: Buffer; headerCrc: number; payloadDigest: Buffer } {
  const { metadata, data, owner } = source;
  const sizes = { metadataLength: metadata.length, dataLength: data.length };
  assert(metadata.length <= metadataBytesMax && data.length <= dataBytesMax);
  const head = Buffer.alloc(headLength(sizes));
  recordMagic.copy(head, at.recordMagic);
  head[at.flags] = source.isReservation ? flagBits.reservation : 0;
  head[at.codec] = source.codec;
  head.writeUInt16LE(metadata.length, at.metadataLength);
  head.writeUInt32LE(data.length, at.dataLength);
  head.writeUInt32LE(source.contentLength, at.contentLength);
  head.writeUInt32LE(source.cookie, at.cookie);
  writePlace(head, place);
  head.writeUIntLE(source.timeMs, at.timeMs, 6);
  head.writeUInt32LE(source.ttlSeconds, at.ttlSeconds);
  if (owner !== undefined) {
    head.write(owner.catalog, at.ownerCatalog, "hex");
    head.writeUInt32LE(owner.session, at.ownerSession);
  }
  metadata.copy(head, headerBytes);
  let tableAt = headerBytes + metadata.length;
  for (let block = 0; block * blockBytes < data.length; block++) {
    const bytes = data.subarray(block * blockBytes, (block + 1) * blockBytes);
    head.writeUInt32LE(crc32(bytes, seeds.block(place.ordinal, block)), tableAt);
    tableAt += 4;
  }
  const headerCrc = crc32(head.subarray(at.flags), seeds.place(place.offset));
  head.writeUInt32LE(headerCrc, at.headerCrc);
  const payloadDigest = digestOf(head.subarray(headerBytes));
  return { head, tail: encodeTail(sizes, { headerCrc, payloadDigest }), headerCrc, payloadDigest };
}

/**
 * The same needle at another place, with another history: `headBytes` is a verified head with metadata and
 * block table. Data and its checksums know nothing of the place and stay as they are.
 */
export function moveNeedle(
  headBytes: Buffer,
  place: NeedlePlace,
  { recordMagic }: VolumeIdentity,
  seeds: ChecksumSeeds,
): { head: Buffer; tail: Buffer; headerCrc: number; payloadDigest: Buffer } {
  const head = Buffer.from(headBytes);
  const sizes = new NeedleHead(head, place.offset);
  recordMagic.copy(head, at.recordMagic);
  writePlace(head, place);
  const headerCrc = crc32(head.subarray(at.flags), seeds.place(place.offset));
  head.writeUInt32LE(headerCrc, at.headerCrc);
  const payloadDigest = digestOf(head.subarray(headerBytes));
  return { head, tail: encodeTail(sizes, { headerCrc, payloadDigest }), headerCrc, payloadDigest };
}

function writePlace(head: Buffer, place: NeedlePlace): void {
  head.writeUInt32LE(place.ordinal, at.ordinal);
  head.writeUInt32LE(place.epoch, at.epoch);
  head.writeUInt16LE(place.batchPosition, at.batchPosition);
  head.writeUInt16LE(place.batchCount, at.batchCount);
  head.writeUInt32LE(place.watermark / unitBytes, at.watermark);
  place.previousDigest.copy(head, at.previousDigest);
}

/** Footer and padding. */
function encodeTail(
  sizes: { metadataLength: number; dataLength: number },
  { headerCrc, payloadDigest }: { headerCrc: number; payloadDigest: Buffer },
): Buffer {
  const tail = Buffer.alloc(needleLength(sizes) - headLength(sizes) - sizes.dataLength);
  tail.writeUInt32LE(sizes.dataLength, footerAt.dataLength);
  tail.writeUInt32LE(headerCrc, footerAt.headerCrc);
  payloadDigest.copy(tail, footerAt.payloadDigest);
  return tail;
}

/**
 * The header that seems to begin at `bytes`, before anything is verified, or undefined if these are not the
 * first bytes of a needle of this volume. Needs `headerBytes` bytes.
 */
export function peekHead(
  bytes: Buffer,
  offset: number,
  { recordMagic }: VolumeIdentity,
): NeedleHead | undefined {
  if (bytes.length < headerBytes || !isSameAt(bytes, 0, recordMagic)) return undefined;
  const head = new NeedleHead(bytes, offset);
  return head.dataLength > dataBytesMax ? undefined : head;
}

/**
 * The head of the needle at `offset`, verified, or undefined if these bytes are not it. `bytes` begins at
 * the needle and holds at least header, metadata and block table. Fails with `corrupt` on a needle that
 * verifies and that this program does not understand.
 */
export function decodeHead(
  bytes: Buffer,
  offset: number,
  identity: VolumeIdentity,
  seeds: ChecksumSeeds,
): NeedleHead | undefined {
  const head = peekHead(bytes, offset, identity);
  if (head === undefined) return undefined;
  const { headLength } = head;
  if (bytes.length < headLength) return undefined;
  const covered = bytes.subarray(at.flags, headLength);
  if (crc32(covered, seeds.place(offset)) !== head.headerCrc) return undefined;
  const flags = bytes[at.flags] ?? 0;
  const codec = bytes[at.codec] ?? 0;
  if ((flags & ~knownFlags) !== 0 || codec > codecMax) {
    // It verifies, so a newer program wrote it: its bytes are not what this one would take them for.
    throw new Failure(
      "corrupt",
      `Cannot read the needle at ${offset}: it has flags ${flags} and codec ${codec}, this program knows flags up to ${knownFlags} and codecs up to ${codecMax}`,
    );
  }
  return head;
}

/** Whether the 8 bytes at `start` are `eight`. Twice as fast as `compare`, and asked for each needle. */
function isSameAt(bytes: Buffer, start: number, eight: Buffer): boolean {
  return (
    bytes.readUInt32LE(start) === eight.readUInt32LE(0) &&
    bytes.readUInt32LE(start + 4) === eight.readUInt32LE(4)
  );
}

/** The metadata of a verified head; `bytes` is what `decodeHead` was given. */
export function metadataOf(bytes: Buffer, head: NeedleHead): Buffer {
  return bytes.subarray(headerBytes, headerBytes + head.metadataLength);
}

/** The block table of a verified head; `bytes` is what `decodeHead` was given. */
export function blockTableOf(bytes: Buffer, head: NeedleHead): Buffer {
  return bytes.subarray(headerBytes + head.metadataLength, head.headLength);
}

/**
 * Whether the data from block `firstBlock` on is what the table says. `data` begins at a block's start
 * and ends at a block's end or the needle's.
 */
export function verifyBlocks(
  data: Buffer,
  { table, ordinal, firstBlock }: { table: Buffer; ordinal: number; firstBlock: number },
  seeds: ChecksumSeeds,
): boolean {
  for (let start = 0, block = firstBlock; start < data.length; start += blockBytes, block++) {
    const crc = crc32(data.subarray(start, start + blockBytes), seeds.block(ordinal, block));
    if (crc !== table.readUInt32LE(block * 4)) return false;
  }
  return true;
}

/**
 * Whether `footer` closes the needle that `head` opened; returns the payload digest that it states, if so.
 * That digest is not worked out anew: header CRC and chain cover what it covers, and hashing each needle
 * would take most of a recovery's time. `payloadDigestOf` tells whether it is true.
 */
export function decodeFooter(footer: Buffer, head: NeedleHead): Buffer | undefined {
  if (footer.length < footerBytes) return undefined;
  if (footer.readUInt32LE(footerAt.dataLength) !== head.dataLength) return undefined;
  if (footer.readUInt32LE(footerAt.headerCrc) !== head.headerCrc) return undefined;
  return footer.subarray(footerAt.payloadDigest, footerBytes);
}

/** The digest of metadata and block table; `bytes` is what `decodeHead` was given. */
export function payloadDigestOf(bytes: Buffer, head: NeedleHead): Buffer {
  return digestOf(bytes.subarray(headerBytes, head.headLength));
}

/** The digest of a batch: over each needle's header CRC and payload digest, in order. */
export function batchDigest(
  needles: readonly { headerCrc: number; payloadDigest: Buffer }[],
): Buffer {
  const bytes = Buffer.alloc(needles.length * 12);
  let to = 0;
  for (const { headerCrc, payloadDigest } of needles) {
    bytes.writeUInt32LE(headerCrc, to);
    payloadDigest.copy(bytes, to + 4);
    to += 12;
  }
  return digestOf(bytes);
}

function digestOf(bytes: Buffer): Buffer {
  return hash("sha256", bytes, "buffer").subarray(0, digestBytes);
}

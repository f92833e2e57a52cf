/**
 * A volume of SeaweedFS, read so that its photos can move in: a `.dat` of needles, and an `.idx` that says
 * where each lies. Integers are big-endian, in versions 2 and 3 of its needles.
 *
 * Invariants:
 * - No data leave unverified: key and size are what the index says, and the stored bytes have their CRC.
 *   A needle that fails is a value, `SeaweedDamage`, and those after it are still read.
 * - No size or offset found in a file is believed before it is seen to lie inside the file and its limit.
 * - The index costs 16 bytes a row, some 40 while it is sorted, and keeps no object for any of them.
 */

import assert from "node:assert/strict";
import { endianness } from "node:os";
import { promisify } from "node:util";
import { gunzip, zstdDecompress } from "node:zlib";
import { crc32c } from "@node-rs/crc32";
import { Failure, messageOf, systemErrorCode } from "../../base/failure.ts";
import type { FileHandle, FileSystem } from "../../base/files.ts";

// Superblock:
//   0  version             u8   of its needles
//   1  replication         u8   decimal digits: copies in other data centres, racks, servers
//   2  ttlCount            u8
//   3  ttlUnit             u8   index in `ttlUnitSeconds`
//   4  compactionRevision  u16
//   6  extraLength         u16  bytes that follow; nothing that a reader needs
const superblockAt = {
  version: 0,
  replication: 1,
  ttl: 2,
  compactionRevision: 4,
  extraLength: 6,
} as const;

const superblockBytes = 8;

// Needle header, then `size` bytes of body, then the trailer:
//   0  cookie  u32
//   4  key     u64
//  12  size    u32  bytes of body; 0 for an empty file, which then has no flags and no name either
const headerAt = { cookie: 0, key: 4, size: 12 } as const;

const headerBytes = 16;

// Needle body:
//   dataLength    u32
//   data          dataLength B
//   flags         u8    which of the next are there, see `flag`
//   name          u8 length, then as many bytes
//   mime          u8 length, then as many bytes
//   lastModified  5 B   seconds since 1970
//   ttl           2 B   count and unit, as in the superblock
//   pairs         u16 length, then as many bytes of JSON
const flag = {
  compressed: 0x01,
  name: 0x02,
  mime: 0x04,
  lastModified: 0x08,
  ttl: 0x10,
  pairs: 0x20,
  chunkManifest: 0x80,
} as const;

const bodyFixedBytes = 5; // dataLength and flags
const bodyMetadataBytesMax = 256 + 256 + 5 + 2 + 2 + 65_535;

// Needle trailer, then 1 to 8 bytes of anything, up to a multiple of 8:
//   0  crc         u32  CRC-32C of data as stored; nothing covers the other fields
//   4  appendAtNs  u64  since 1970; from version 3 on
const trailerAt = { crc: 0, appendAtNs: 4 } as const;

const trailerBytesByVersion = { 2: 4, 3: 12 } as const;

type NeedleVersion = keyof typeof trailerBytesByVersion;

// Index row; a later row of the same key replaces an earlier one:
//   0  key     u64
//   8  offset  u32  units of 8 bytes
//  12  size    i32  as in the needle's header, or -1: deleted
const rowAt = { key: 0, offset: 8, size: 12 } as const;

const rowBytes = 16;
// A build for volumes of up to 8 TiB puts the offset's high byte behind its four low ones.
const wideRowBytes = 17;

const unitBytes = 8;
/** What four bytes of offset reach. */
const reachBytes = 0x1_0000_0000 * unitBytes;

/** SeaweedFS takes no larger upload unless told to. */
const dataBytesMax = 256 * 1_048_576;
const bodyBytesMax = dataBytesMax + bodyFixedBytes + bodyMetadataBytesMax;
/** Bounds the memory for an index: 2 GiB, and 5 while it is sorted. */
const rowsMax = 2 ** 27;

/** None, minutes, hours, days, weeks, months, years. */
const ttlUnitSeconds = [0, 60, 3_600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400] as const;

export interface SeaweedSuperblock {
  version: NeedleVersion;
  /** Three digits: further copies in other data centres, in other racks, on other servers. */
  replication: string;
  /** 0 is for ever. */
  ttlSeconds: number;
  compactionRevision: number;
  /** Bytes after the superblock that were skipped. */
  extraLength: number;
}

export interface SeaweedNeedle {
  key: bigint;
  cookie: number;
  /** As it was uploaded: unpacked if it was stored compressed. */
  data: Buffer;
  name: string | undefined;
  mime: string | undefined;
  lastModifiedSeconds: number | undefined;
  /** From `lastModifiedSeconds`; 0 is for ever. Needles whose time is over are read like others. */
  ttlSeconds: number;
  /** Headers that the uploader wanted back, by name. */
  pairs: Record<string, string> | undefined;
  /** Whether `data` is JSON that lists the needles of a larger file. */
  isChunkManifest: boolean;
  /** When it was appended; version 2 doesn't say. */
  timeMs: number | undefined;
}

/** A needle that the index promises and the file does not hold. Tell it by `"damage" in found`. */
export interface SeaweedDamage {
  key: bigint;
  offset: number;
  /** What was found, to go on after a colon. */
  damage: string;
}

/** Opens the volume and loads its index, or scans `dat` for one if there is no file `idx`. */
export async function openSeaweedVolume(
  files: FileSystem,
  { dat, idx }: { dat: string; idx: string },
): Promise<SeaweedVolume> {
  const file = await openIfThere(files, dat);
  if (file === undefined) {
    throw new Failure("not-found", `Cannot read SeaweedFS volume ${dat}: there is no such file`);
  }
  try {
    const lengthBytes = await file.sizeBytes();
    const start = Buffer.alloc(superblockBytes);
    const superblock = decodeSuperblock(start.subarray(0, await file.read(start, 0)), dat);
    const volume: DataFile = { dat, file, lengthBytes, superblock };
    const warnings: string[] = [];
    const indexFile = await openIfThere(files, idx);
    const rows =
      indexFile === undefined
        ? await scanRows(volume, warnings)
        : await loadRows(volume, { idx, indexFile }, warnings).finally(() => indexFile.close());
    rows.settle();
    return new SeaweedVolume(volume, rows, warnings);
  } catch (error) {
    await file.close();
    throw error;
  }
}

export class SeaweedVolume {
  readonly superblock: SeaweedSuperblock;
  /** What a person should know before trusting that this is all, as sentences. */
  readonly warnings: readonly string[];
  /** The keys of all needles that are there, in order; a position in it is what `read` takes. */
  readonly keys: BigUint64Array;
  readonly #volume: DataFile;
  readonly #rows: Rows;

  constructor(volume: DataFile, rows: Rows, warnings: readonly string[]) {
    this.superblock = volume.superblock;
    this.warnings = warnings;
    this.keys = rows.keys;
    this.#volume = volume;
    this.#rows = rows;
  }

  /** All needles in the order of their keys, one at a time. */
  async *needles(): AsyncGenerator<SeaweedNeedle | SeaweedDamage, void> {
    for (let position = 0; position < this.keys.length; position++) {
      yield await this.read(position);
    }
  }

  async read(position: number): Promise<SeaweedNeedle | SeaweedDamage> {
    const { key, offset, size } = this.#rows.at(position);
    try {
      const { version } = this.superblock;
      const record = await readRecord(this.#volume, { key, offset, size });
      const { isCompressed, ...needle } = decodeNeedle(record, version);
      return isCompressed ? { ...needle, data: await unpack(needle.data) } : needle;
    } catch (error) {
      if (error instanceof Damage) return { key, offset, damage: error.message };
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#volume.file.close();
  }
}

interface DataFile {
  dat: string;
  file: FileHandle;
  lengthBytes: number;
  superblock: SeaweedSuperblock;
}

/** One needle is not what it should be. Never leaves this file: `read` makes a `SeaweedDamage` of it. */
class Damage extends Error {}

async function openIfThere(files: FileSystem, file: string): Promise<FileHandle | undefined> {
  try {
    return await files.open(file, "read");
  } catch (error) {
    if (systemErrorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

function decodeSuperblock(bytes: Buffer, dat: string): SeaweedSuperblock {
  const fail = (found: string) => `Cannot read SeaweedFS volume ${dat}: ${found}`;
  if (bytes.length < superblockBytes) {
    throw new Failure("corrupt", fail(`it ends within the first ${superblockBytes} bytes`));
  }
  const version = bytes.readUInt8(superblockAt.version);
  if (version !== 2 && version !== 3) {
    const known = "its needles have version";
    throw new Failure("unsupported", fail(`${known} ${version}, this program knows 2 and 3`));
  }
  return {
    version,
    replication: String(bytes.readUInt8(superblockAt.replication)).padStart(3, "0"),
    ttlSeconds: decodeTtl(bytes, superblockAt.ttl),
    compactionRevision: bytes.readUInt16BE(superblockAt.compactionRevision),
    extraLength: bytes.readUInt16BE(superblockAt.extraLength),
  };
}

/** Count and unit. A unit that SeaweedFS doesn't know is for ever there too. */
function decodeTtl(bytes: Buffer, at: number): number {
  return bytes.readUInt8(at) * (ttlUnitSeconds[bytes.readUInt8(at + 1)] ?? 0);
}

function firstNeedleOffset({ extraLength }: SeaweedSuperblock): number {
  return Math.ceil((superblockBytes + extraLength) / unitBytes) * unitBytes;
}

/** Bytes of a needle up to its padding. */
function recordLength(size: number, version: NeedleVersion): number {
  return headerBytes + size + trailerBytesByVersion[version];
}

/** Where the next needle begins. Padding is never 0 bytes: a length that fits gets 8. */
function recordEnd(offset: number, size: number, version: NeedleVersion): number {
  return offset + (Math.floor(recordLength(size, version) / unitBytes) + 1) * unitBytes;
}

/** The bytes of the needle at `offset`, up to its padding, with the header that the index promises. */
async function readRecord(
  { file, lengthBytes, superblock }: DataFile,
  { key, offset, size }: { key: bigint; offset: number; size: number },
): Promise<Buffer> {
  if (size > bodyBytesMax) {
    throw new Damage(`it is too large: ${size} bytes, at most ${bodyBytesMax} are read`);
  }
  const length = recordLength(size, superblock.version);
  if (offset < firstNeedleOffset(superblock) || offset + length > lengthBytes) {
    throw new Damage(`its ${length} bytes are not all inside the file, which has ${lengthBytes}`);
  }
  const read = async (from: number) => {
    const bytes = Buffer.allocUnsafe(length);
    const bytesRead = await readOrDamage(file, bytes, from);
    if (bytesRead < length) throw new Damage(`the file ends ${length - bytesRead} bytes early`);
    return bytes;
  };
  const bytes = await read(offset);
  if (hasHeader(bytes, { key, size })) return bytes;
  // SeaweedFS lets a volume grow past what four bytes reach, drops the carry, and looks for it here.
  if (offset + reachBytes + length <= lengthBytes) {
    const carried = await read(offset + reachBytes);
    if (hasHeader(carried, { key, size })) return carried;
  }
  const foundKey = bytes.readBigUInt64BE(headerAt.key).toString(16);
  const found = `key ${foundKey} and size ${bytes.readUInt32BE(headerAt.size)}`;
  throw new Damage(
    `the index says key ${key.toString(16)} and size ${size}, the file has ${found}`,
  );
}

function hasHeader(bytes: Buffer, { key, size }: { key: bigint; size: number }): boolean {
  if (bytes.readUInt32BE(headerAt.size) !== size) return false;
  return bytes.readBigUInt64BE(headerAt.key) === key;
}

/** A disk that can't give some bytes costs the needle, not the import: it may be why they move. */
async function readOrDamage(file: FileHandle, target: Buffer, offset: number): Promise<number> {
  try {
    return await file.read(target, offset);
  } catch (error) {
    if (systemErrorCode(error) !== "EIO") throw error;
    throw new Damage(`the disk cannot read it: ${messageOf(error)}`);
  }
}

/** The needle in `record`, whose header is known to be right, with its data verified and as stored. */
function decodeNeedle(
  record: Buffer,
  version: NeedleVersion,
): SeaweedNeedle & { isCompressed: boolean } {
  const trailer = record.subarray(record.length - trailerBytesByVersion[version]);
  const body = record.subarray(headerBytes, record.length - trailer.length);
  const data = decodeData(body, trailer.readUInt32BE(trailerAt.crc));

  const fields = new Fields(body.subarray(body.length === 0 ? 0 : 4 + data.length));
  const flags = fields.uint(1) ?? 0;
  const has = (bit: number) => (flags & bit) !== 0;
  const name = has(flag.name) ? fields.text(1) : undefined;
  const mime = has(flag.mime) ? fields.text(1) : undefined;
  const lastModifiedSeconds = has(flag.lastModified) ? fields.uint(5) : undefined;
  const ttl = has(flag.ttl) ? fields.bytes(2) : undefined;
  const pairs = has(flag.pairs) ? fields.text(2) : undefined;
  if (fields.left > 0) {
    throw new Damage(`its flags ${flags} leave ${fields.left} bytes after its metadata`);
  }
  return {
    key: record.readBigUInt64BE(headerAt.key),
    cookie: record.readUInt32BE(headerAt.cookie),
    data,
    name,
    mime,
    lastModifiedSeconds,
    ttlSeconds: ttl === undefined ? 0 : decodeTtl(ttl, 0),
    pairs: pairs === undefined ? undefined : parsePairs(pairs),
    isChunkManifest: has(flag.chunkManifest),
    timeMs:
      version === 2
        ? undefined
        : Number(trailer.readBigUInt64BE(trailerAt.appendAtNs) / 1_000_000n),
    isCompressed: has(flag.compressed),
  };
}

/** The data as stored, verified. */
function decodeData(body: Buffer, crc: number): Buffer {
  // An empty file: nothing was written that the CRC could cover, and SeaweedFS looks at it as little.
  if (body.length === 0) return body;
  if (body.length < bodyFixedBytes) throw new Damage(`its body has ${body.length} bytes`);
  const dataLength = body.readUInt32BE(0);
  if (dataLength > body.length - bodyFixedBytes) {
    throw new Damage(`its ${dataLength} bytes of data do not fit in a body of ${body.length}`);
  }
  const data = body.subarray(4, 4 + dataLength);
  const actual = crc32c(data);
  if (crc !== actual && crc !== maskedCrc(actual)) {
    throw new Damage(`its data have the CRC-32C ${hex(actual)}, stored is ${hex(crc)}`);
  }
  return data;
}

/** The form that SeaweedFS stored until 3.08. */
function maskedCrc(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}

/**
 * The metadata of a body, field by field. As SeaweedFS has it, a field that would begin where the body ends
 * is not there; one that begins and runs past the end is damage.
 */
class Fields {
  #rest: Buffer;

  constructor(bytes: Buffer) {
    this.#rest = bytes;
  }

  get left(): number {
    return this.#rest.length;
  }

  bytes(length: number): Buffer | undefined {
    if (this.#rest.length === 0) return undefined;
    if (this.#rest.length < length) throw new Damage("its metadata run past the end of its body");
    const field = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return field;
  }

  uint(length: number): number | undefined {
    return this.bytes(length)?.readUIntBE(0, length);
  }

  /** A length in `lengthBytes` bytes, then the text. */
  text(lengthBytes: number): string | undefined {
    const length = this.uint(lengthBytes);
    if (length === undefined) return undefined;
    if (length === 0) return "";
    if (length > this.left) throw new Damage("its metadata run past the end of its body");
    return this.bytes(length)?.toString("utf8");
  }
}

/** The pairs of a JSON object of strings, or undefined if it is something else. */
function parsePairs(json: string): Record<string, string> | undefined {
  try {
    const value: unknown = JSON.parse(json);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
    return Object.fromEntries(
      Object.entries(value).filter((pair): pair is [string, string] => typeof pair[1] === "string"),
    );
  } catch {
    return undefined;
  }
}

const gunzipAsync: (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer> =
  promisify(gunzip);
const unzstdAsync: (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer> =
  promisify(zstdDecompress);

const gzipMagic = Buffer.from([0x1f, 0x8b]);
const zstdMagic = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

async function unpack(data: Buffer): Promise<Buffer> {
  const options = { maxOutputLength: dataBytesMax };
  try {
    if (data.subarray(0, gzipMagic.length).equals(gzipMagic)) {
      return await gunzipAsync(data, options);
    }
    if (data.subarray(0, zstdMagic.length).equals(zstdMagic)) {
      return await unzstdAsync(data, options);
    }
  } catch (error) {
    throw new Damage(`its data cannot be unpacked: ${messageOf(error)}`);
  }
  // An uploader may call anything compressed. SeaweedFS answers with the bytes as they are.
  return data;
}

/** Rows of an index, a column each. */
class Rows {
  keys: BigUint64Array<ArrayBuffer>;
  #offsets: Uint32Array;
  #sizes: Int32Array;
  /** The halves of `keys`: a bigint for each comparison would be an allocation for each. */
  #words: Uint32Array;
  #count = 0;

  constructor(capacity: number) {
    this.keys = new BigUint64Array(capacity);
    this.#words = new Uint32Array(this.keys.buffer);
    this.#offsets = new Uint32Array(capacity);
    this.#sizes = new Int32Array(capacity);
  }

  at(position: number): { key: bigint; offset: number; size: number } {
    const key = this.keys[position];
    const units = this.#offsets[position];
    const size = this.#sizes[position];
    assert(key !== undefined && units !== undefined && size !== undefined, "a known position");
    return { key, offset: units * unitBytes, size };
  }

  add(row: { keyHigh: number; keyLow: number; units: number; size: number }): void {
    if (this.#count === this.#offsets.length) this.#grow();
    const to = this.#count++;
    this.#words[2 * to + highWord] = row.keyHigh;
    this.#words[2 * to + lowWord] = row.keyLow;
    this.#offsets[to] = row.units;
    this.#sizes[to] = row.size;
  }

  #grow(): void {
    const grown = new Rows(Math.min(Math.max(1_024, this.#count * 2), rowsMax));
    grown.#words.set(this.#words);
    grown.#offsets.set(this.#offsets);
    grown.#sizes.set(this.#sizes);
    this.#take(grown);
  }

  #take(other: Rows): void {
    this.keys = other.keys;
    this.#words = other.#words;
    this.#offsets = other.#offsets;
    this.#sizes = other.#sizes;
  }

  /**
   * Leaves the last row of each key, in the order of keys, without those deleted.
   *
   * A row of size 0 with an offset is an empty file, not a deletion: that has size -1, or offset 0 where
   * the needle lies on another tier. Only in the `.dat` do the two look alike.
   */
  settle(): void {
    if (!this.#isSorted()) this.#sort();
    let live = 0;
    for (let row = 0; row < this.#count; row++) {
      const isReplaced = row + 1 < this.#count && this.#compare(row, row + 1) === 0;
      const units = this.#offsets[row] ?? 0;
      const size = this.#sizes[row] ?? -1;
      if (isReplaced || size < 0 || units === 0) continue;
      this.#words[2 * live] = this.#words[2 * row] ?? 0;
      this.#words[2 * live + 1] = this.#words[2 * row + 1] ?? 0;
      this.#offsets[live] = units;
      this.#sizes[live] = size;
      live += 1;
    }
    this.#count = live;
    this.keys = this.keys.subarray(0, live);
  }

  /** Less than, equal to or more than 0, as the key of `one` is to that of `other`. */
  #compare(one: number, other: number): number {
    const words = this.#words;
    const high = (words[2 * one + highWord] ?? 0) - (words[2 * other + highWord] ?? 0);
    if (high !== 0) return high;
    return (words[2 * one + lowWord] ?? 0) - (words[2 * other + lowWord] ?? 0);
  }

  /** As an index is after SeaweedFS compacted its volume. */
  #isSorted(): boolean {
    for (let row = 1; row < this.#count; row++) {
      if (this.#compare(row - 1, row) > 0) return false;
    }
    return true;
  }

  #sort(): void {
    const order = this.#orderByKey();
    const sorted = new Rows(this.#count);
    for (let to = 0; to < order.length; to++) {
      const from = order[to] ?? 0;
      sorted.#words[2 * to] = this.#words[2 * from] ?? 0;
      sorted.#words[2 * to + 1] = this.#words[2 * from + 1] ?? 0;
      sorted.#offsets[to] = this.#offsets[from] ?? 0;
      sorted.#sizes[to] = this.#sizes[from] ?? 0;
    }
    this.#take(sorted);
  }

  /**
   * The rows by key, those of one key as they were: a radix sort, 16 bits at a time from the lowest. It is
   * stable, and skips the digits that no two keys differ in, mostly the upper two.
   */
  #orderByKey(): Uint32Array {
    let order = new Uint32Array(this.#count);
    for (let row = 0; row < order.length; row++) order[row] = row;
    let sorted = new Uint32Array(this.#count);
    for (const { word, shift } of digits) {
      const digitOf = (row: number) => ((this.#words[2 * row + word] ?? 0) >>> shift) & 0xffff;
      const places = new Uint32Array(0x1_0000);
      for (let row = 0; row < order.length; row++) {
        const digit = digitOf(row);
        places[digit] = (places[digit] ?? 0) + 1;
      }
      if (places.includes(this.#count)) continue;
      let next = 0;
      for (let digit = 0; digit < places.length; digit++) {
        const count = places[digit] ?? 0;
        places[digit] = next;
        next += count;
      }
      for (let at = 0; at < order.length; at++) {
        const row = order[at] ?? 0;
        const digit = digitOf(row);
        const place = places[digit] ?? 0;
        places[digit] = place + 1;
        sorted[place] = row;
      }
      [order, sorted] = [sorted, order];
    }
    return order;
  }
}

/** Which of the two words of a u64 in a typed array is which. */
const lowWord: number = endianness() === "LE" ? 0 : 1;
const highWord: number = 1 - lowWord;

const digits: readonly { word: number; shift: number }[] = [
  { word: lowWord, shift: 0 },
  { word: lowWord, shift: 16 },
  { word: highWord, shift: 0 },
  { word: highWord, shift: 16 },
];

/** A multiple of the row's length. */
const pieceBytes = 65_536 * rowBytes;

async function loadRows(
  volume: DataFile,
  { idx, indexFile }: { idx: string; indexFile: FileHandle },
  warnings: string[],
): Promise<Rows> {
  const { dat, lengthBytes, superblock } = volume;
  const indexBytes = await indexFile.sizeBytes();
  const count = Math.floor(indexBytes / rowBytes);
  if (count > rowsMax) {
    const limit = `it has ${count} rows, at most ${rowsMax} are read`;
    throw new Failure("too-large", `Cannot read SeaweedFS index ${idx}: ${limit}`);
  }
  if (await hasWideRows(volume, indexFile)) {
    const found = "it has offsets of five bytes, this program knows those of four";
    throw new Failure("unsupported", `Cannot read SeaweedFS index ${idx}: ${found}`);
  }
  const end = count * rowBytes;
  if (end < indexBytes) {
    warnings.push(
      `The last ${indexBytes - end} bytes of ${idx} are part of a row: what it said is lost`,
    );
  }

  const rows = new Rows(count);
  const piece = Buffer.allocUnsafe(Math.min(pieceBytes, end));
  let indexedEnd = firstNeedleOffset(superblock);
  for (let start = 0; start < end; start += piece.length) {
    const bytes = piece.subarray(0, Math.min(piece.length, end - start));
    if ((await indexFile.read(bytes, start)) < bytes.length) {
      throw new Failure("corrupt", `Cannot read SeaweedFS index ${idx}: it became shorter`);
    }
    for (let at = 0; at < bytes.length; at += rowBytes) {
      const units = bytes.readUInt32BE(at + rowAt.offset);
      const size = bytes.readInt32BE(at + rowAt.size);
      rows.add({
        keyHigh: bytes.readUInt32BE(at + rowAt.key),
        keyLow: bytes.readUInt32BE(at + rowAt.key + 4),
        units,
        size,
      });
      // A deletion has a needle too, of size 0.
      const rowEnd = recordEnd(units * unitBytes, Math.max(0, size), superblock.version);
      if (units !== 0 && rowEnd > indexedEnd && rowEnd <= lengthBytes) indexedEnd = rowEnd;
    }
  }

  // After a power cut the index can lack needles that were acknowledged. Past what offsets reach they
  // begin again at 0, and nothing can be said.
  if (indexedEnd < lengthBytes && lengthBytes <= reachBytes) {
    warnings.push(
      `The last ${lengthBytes - indexedEnd} bytes of ${dat} are in no row of ${idx}: ` +
        "needles may be missing that a scan without the index would find",
    );
  }
  return rows;
}

const sampledRows = 64;

/** Whether the first rows fit the needles better if their offsets are taken to have five bytes. */
async function hasWideRows(volume: DataFile, indexFile: FileHandle): Promise<boolean> {
  const sample = Buffer.alloc(sampledRows * wideRowBytes);
  const bytes = sample.subarray(0, await indexFile.read(sample, 0));
  const narrow = await countFitting(volume, bytes, rowBytes);
  const wide = await countFitting(volume, bytes, wideRowBytes);
  return wide > narrow;
}

/** How many rows, of that many bytes each, point at the header of their needle. */
async function countFitting(
  { file, lengthBytes }: DataFile,
  bytes: Buffer,
  stride: typeof rowBytes | typeof wideRowBytes,
): Promise<number> {
  const header = Buffer.alloc(headerBytes);
  let fitting = 0;
  for (let at = 0; at + stride <= bytes.length; at += stride) {
    const high = stride === wideRowBytes ? bytes.readUInt8(at + rowAt.size) : 0;
    const units = high * 0x1_0000_0000 + bytes.readUInt32BE(at + rowAt.offset);
    const size = Math.max(0, bytes.readInt32BE(at + stride - 4));
    const key = bytes.readBigUInt64BE(at + rowAt.key);
    if (units * unitBytes + headerBytes > lengthBytes) continue;
    // A place that cannot be read tells nothing here, and is damage when its turn comes.
    const bytesRead = await file.read(header, units * unitBytes).catch(() => 0);
    if (bytesRead < headerBytes) continue;
    if (hasHeader(header, { key, size })) fitting += 1;
  }
  return fitting;
}

/** Small, so that little is read in vain where needles are large. */
const windowBytes = 65_536;

/** The rows that an index of this volume would have, by the headers of its needles one after the other. */
async function scanRows(volume: DataFile, warnings: string[]): Promise<Rows> {
  const { dat, file, lengthBytes, superblock } = volume;
  const { version } = superblock;
  if (lengthBytes > reachBytes) {
    const found = `there is no index, and a scan reaches ${reachBytes} of its ${lengthBytes} bytes`;
    throw new Failure("unsupported", `Cannot read SeaweedFS volume ${dat}: ${found}`);
  }
  const rows = new Rows(1_024);
  const window = Buffer.allocUnsafe(windowBytes);
  let windowStart = 0;
  let windowEnd = 0;
  let needles = 0;
  let deletions = 0;
  let offset = firstNeedleOffset(superblock);
  while (offset < lengthBytes) {
    if (offset + headerBytes + bodyFixedBytes > windowEnd && windowEnd < lengthBytes) {
      windowStart = offset;
      windowEnd = offset + (await file.read(window, offset));
    }
    const bytes = window.subarray(offset - windowStart, windowEnd - windowStart);
    if (!isLikelyNeedle(bytes, { version, leftBytes: lengthBytes - offset })) break;
    if (needles === rowsMax) {
      const limit = `it has more than ${rowsMax} needles, and no index`;
      throw new Failure("too-large", `Cannot read SeaweedFS volume ${dat}: ${limit}`);
    }
    const size = bytes.readInt32BE(headerAt.size);
    rows.add({
      keyHigh: bytes.readUInt32BE(headerAt.key),
      keyLow: bytes.readUInt32BE(headerAt.key + 4),
      units: offset / unitBytes,
      // An empty file looks the same as a deletion. The second is what SeaweedFS takes it for, and
      // the mistake that brings nothing back which somebody had removed.
      size: size === 0 ? -1 : size,
    });
    needles += 1;
    if (size === 0) deletions += 1;
    offset = recordEnd(offset, size, version);
  }

  warnings.push(`There is no index: ${dat} was scanned, and ${needles} needles found in it`);
  if (deletions > 0) {
    warnings.push(
      `${deletions} needles of size 0 were taken for deletions: empty files look the same without an index`,
    );
  }
  if (offset < lengthBytes) {
    // Going on behind it would mean to search for a header, and an uploaded file can contain one.
    warnings.push(
      `The scan of ${dat} ended at ${offset}, where no needle begins: ` +
        `its last ${lengthBytes - offset} bytes were not read`,
    );
  }
  return rows;
}

/**
 * Whether a needle may begin here, by what its sizes say of each other. It keeps a scan from walking off
 * over a broken header; the data are verified when they are read.
 */
function isLikelyNeedle(
  bytes: Buffer,
  { version, leftBytes }: { version: NeedleVersion; leftBytes: number },
): boolean {
  if (bytes.length < headerBytes) return false;
  const size = bytes.readUInt32BE(headerAt.size);
  if (recordLength(size, version) > leftBytes) return false;
  // Space that was reserved and not written is zeros.
  if (size === 0) return bytes.subarray(0, headerBytes).some((byte) => byte !== 0);
  if (size < bodyFixedBytes || bytes.length < headerBytes + bodyFixedBytes) return false;
  const metadataLength = size - bodyFixedBytes - bytes.readUInt32BE(headerBytes);
  return metadataLength >= 0 && metadataLength <= bodyMetadataBytesMax;
}

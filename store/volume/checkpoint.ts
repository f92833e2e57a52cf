/**
 * The checkpoint of a generation's index: what a start would otherwise find by reading the whole volume.
 *
 * Invariants:
 * - It vouches only for bytes that were synced before it was written, and it is replaced whole.
 * - It is never the only evidence: lost or damaged, it is made anew from the volume.
 */

import assert from "node:assert/strict";
import { setImmediate as giveWay } from "node:timers/promises";
import { crc32 } from "../../base/checksum.ts";
import { Failure, systemErrorCode } from "../../base/failure.ts";
import type { FileHandle, FileSystem } from "../../base/files.ts";
import { KeyIndex } from "./key-index.ts";
import { digestBytes, unitBytes } from "./needle.ts";
import { OffsetIndex } from "./offset-index.ts";
import type { VolumeTail } from "./recovery.ts";
import { SealedIndex } from "./sealed-index.ts";

const magic = Buffer.from("HAYLOFTI", "latin1");
const formatVersion = 1;
const kinds = { open: 0, sealed: 1 } as const;

// Checkpoint header, little-endian, in the order written; what is between is zero:
//    0  magic          8 B   "HAYLOFTI"
//    8  formatVersion  u32
//   12  volume         u32   id
//   16  uuid           16 B
//   32  generation     u32
//   36  kind           u32   0 an array of offsets, 1 Elias-Fano
//   40  tail           u32   units: bytes of the volume before this offset are covered
//   44  epoch          u32
//   48  lastDigest     8 B   of the last batch covered
//   56  dataBytes      f64
//   64  lastTimeMs     f64
//   72  indexBytes     f64   bytes of the index, which follows the header
//   80  keyBytes       f64   bytes of the table of sparse keys, which follows the index
//   88  leafBytes      f64   bytes of the volume's digest leaves (32 each), which follow the keys
//  120  bodyCrc        u32   of all that follows the header
//  124  headerCrc      u32   of all before it
const at = {
  magic: 0,
  formatVersion: 8,
  volume: 12,
  uuid: 16,
  generation: 32,
  kind: 36,
  tail: 40,
  epoch: 44,
  lastDigest: 48,
  dataBytes: 56,
  lastTimeMs: 64,
  indexBytes: 72,
  keyBytes: 80,
  leafBytes: 88,
  bodyCrc: 120,
  headerCrc: 124,
} as const;
const headerBytes = 128;

interface Identity {
  volume: number;
  /** 16 bytes. */
  uuid: Buffer;
  generation: number;
}

export interface Checkpoint extends VolumeTail {
  index: OffsetIndex | SealedIndex;
  /** Of a volume with sparse keys. */
  keys?: KeyIndex | undefined;
  /** SHA-256 of each MiB of a sealed volume, 32 bytes each; none if not known. */
  leaves?: Buffer | undefined;
}

/** The checkpoint as bytes, in pieces. `isFinal`: no entry of an open index is set later (offset-index.ts). */
export async function encodeCheckpoint(
  { volume, uuid, generation }: Identity,
  { index, keys, leaves, ...tail }: Checkpoint,
  isFinal: boolean,
): Promise<Uint8Array[]> {
  const isOpen = index instanceof OffsetIndex;
  const indexParts: Uint8Array[] = isOpen
    ? index
        .parts(isFinal)
        .map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength))
    : index.encode();
  const keyParts = keys?.encode() ?? [];
  const leafParts = leaves === undefined ? [] : [leaves];
  const header = Buffer.alloc(headerBytes);
  magic.copy(header, at.magic);
  header.writeUInt32LE(formatVersion, at.formatVersion);
  header.writeUInt32LE(volume, at.volume);
  uuid.copy(header, at.uuid);
  header.writeUInt32LE(generation, at.generation);
  header.writeUInt32LE(isOpen ? kinds.open : kinds.sealed, at.kind);
  header.writeUInt32LE(tail.tail / unitBytes, at.tail);
  header.writeUInt32LE(tail.epoch, at.epoch);
  tail.lastDigest.copy(header, at.lastDigest, 0, digestBytes);
  header.writeDoubleLE(tail.dataBytes, at.dataBytes);
  header.writeDoubleLE(tail.lastTimeMs, at.lastTimeMs);
  header.writeDoubleLE(lengthOf(indexParts), at.indexBytes);
  header.writeDoubleLE(lengthOf(keyParts), at.keyBytes);
  header.writeDoubleLE(lengthOf(leafParts), at.leafBytes);
  const body = [...indexParts, ...keyParts, ...leafParts];
  header.writeUInt32LE(await checksum(body), at.bodyCrc);
  header.writeUInt32LE(crc32(header.subarray(0, at.headerCrc)), at.headerCrc);
  return [header, ...body];
}

/**
 * The checkpoint in `file`, or undefined if there is none. Fails with `corrupt` if it does not verify, is
 * of another volume or generation, or of a version that this program does not know.
 */
export async function readCheckpoint(
  files: FileSystem,
  file: string,
  identity: Identity,
): Promise<Checkpoint | undefined> {
  const handle = await openIfThere(files, file);
  if (handle === undefined) return undefined;
  try {
    const header = Buffer.alloc(headerBytes);
    await handle.read(header, 0);
    const lengths = checkHeader(header, file, identity);
    const bodyBytes = lengths.index + lengths.keys + lengths.leaves;
    if ((await handle.sizeBytes()) < headerBytes + bodyBytes) throw refusal(file, "it ends early");
    // Of its own, so that an index can be a view on it for as long as the volume is open.
    const body = Buffer.from(new ArrayBuffer(bodyBytes));
    let bodyCrc = 0;
    for (let start = 0; start < bodyBytes; start += pieceBytes) {
      const piece = body.subarray(start, start + pieceBytes);
      await handle.read(piece, headerBytes + start);
      bodyCrc = crc32(piece, bodyCrc);
    }
    if (bodyCrc !== header.readUInt32LE(at.bodyCrc)) throw refusal(file, "it does not verify");
    const indexPart = body.subarray(0, lengths.index);
    const keyPart = body.subarray(lengths.index, lengths.index + lengths.keys);
    const leafPart = body.subarray(lengths.index + lengths.keys);
    return {
      tail: header.readUInt32LE(at.tail) * unitBytes,
      epoch: header.readUInt32LE(at.epoch),
      lastDigest: Buffer.from(header.subarray(at.lastDigest, at.lastDigest + digestBytes)),
      dataBytes: header.readDoubleLE(at.dataBytes),
      lastTimeMs: header.readDoubleLE(at.lastTimeMs),
      index:
        header.readUInt32LE(at.kind) === kinds.open
          ? OffsetIndex.from(
              new Uint32Array(indexPart.buffer, indexPart.byteOffset, lengths.index / 4),
            )
          : SealedIndex.decode(indexPart),
      keys: lengths.keys === 0 ? undefined : KeyIndex.decode(keyPart),
      leaves: lengths.leaves === 0 ? undefined : leafPart,
    };
  } finally {
    await handle.close();
  }
}

/**
 * The leaves that a checkpoint has, or undefined. Whether they are right is for the caller to find out, by
 * the root over them: the rest of the checkpoint is not read.
 */
export async function readLeaves(
  files: FileSystem,
  file: string,
  identity: Identity,
): Promise<Buffer | undefined> {
  const handle = await openIfThere(files, file);
  if (handle === undefined) return undefined;
  try {
    const header = Buffer.alloc(headerBytes);
    await handle.read(header, 0);
    const lengths = checkHeader(header, file, identity);
    const leaves = Buffer.alloc(lengths.leaves);
    await handle.read(leaves, headerBytes + lengths.index + lengths.keys);
    return leaves.length === 0 ? undefined : leaves;
  } finally {
    await handle.close();
  }
}

const pieceBytes = 8 * 1_048_576;

function checkHeader(
  header: Buffer,
  file: string,
  { volume, uuid, generation }: Identity,
): { index: number; keys: number; leaves: number } {
  if (crc32(header.subarray(0, at.headerCrc)) !== header.readUInt32LE(at.headerCrc)) {
    throw refusal(file, "its header does not verify");
  }
  const version = header.readUInt32LE(at.formatVersion);
  const kind = header.readUInt32LE(at.kind);
  if (!header.subarray(0, 8).equals(magic) || version !== formatVersion || kind > kinds.sealed) {
    throw refusal(file, `it has format version ${version}, this program knows ${formatVersion}`);
  }
  if (
    header.readUInt32LE(at.volume) !== volume ||
    !header.subarray(at.uuid, at.generation).equals(uuid) ||
    header.readUInt32LE(at.generation) !== generation
  ) {
    throw refusal(file, "it belongs to another volume or generation");
  }
  return {
    index: header.readDoubleLE(at.indexBytes),
    keys: header.readDoubleLE(at.keyBytes),
    leaves: header.readDoubleLE(at.leafBytes),
  };
}

async function openIfThere(files: FileSystem, file: string): Promise<FileHandle | undefined> {
  try {
    return await files.open(file, "read");
  } catch (error) {
    if (systemErrorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

function refusal(file: string, why: string): Failure {
  return new Failure("corrupt", `Cannot use the checkpoint ${file}: ${why}`);
}

function lengthOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** In slices, because there may be hundreds of megabytes and reads are not to wait for them. */
async function checksum(parts: readonly Uint8Array[]): Promise<number> {
  let crc = 0;
  let sinceBytes = 0;
  for (const part of parts) {
    for (let start = 0; start < part.length; start += sliceBytes) {
      const slice = part.subarray(start, start + sliceBytes);
      crc = crc32(slice, crc);
      sinceBytes += slice.length;
      if (sinceBytes >= sliceBytes) {
        sinceBytes = 0;
        await giveWay();
      }
    }
  }
  assert(crc >= 0);
  return crc;
}

const sliceBytes = 1_048_576;

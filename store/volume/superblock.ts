/**
 * The superblock: what a volume file says of itself. Written twice, each copy in a page of its own, so
 * that one bad sector does not cost the volume.
 */

import { crc32 } from "../../base/checksum.ts";
import { Failure } from "../../base/failure.ts";
import type { VolumeIdentity } from "./needle.ts";

const volumeClasses = ["original", "native", "variant", "journal"] as const;
type VolumeClass = (typeof volumeClasses)[number];

export interface Superblock extends VolumeIdentity {
  volume: number;
  class: VolumeClass;
  createdMs: number;
  /**
   * The first ordinal that appends to this file may give out. Zero in generation 0; after a compaction one
   * more than the highest ordinal ever given out, whether or not its needle still is there.
   */
  firstFree: number;
  /** No needle lives longer than this, counted from its append; 0 is for ever. */
  ttlSeconds: number;
  /** Fids carry keys of another store, looked up in a table, in the place of ordinals. */
  hasSparseKeys: boolean;
}

const formatVersion = 1;
const magic = Buffer.from("HAYLOFTV", "latin1");
const featureBits = { sparseKeys: 1 } as const;
const copyBytes = 4_096;
const copies = 2;

/** Where the first needle goes. */
export const superblockBytes: number = copyBytes * copies;

// Superblock copy, little-endian, in the order written; what is between is zero:
//    0  magic          8 B   "HAYLOFTV"
//    8  formatVersion  u32
//   12  volume         u32   id
//   16  uuid           16 B
//   32  generation     u32   how often the volume was compacted
//   36  class          u32   index in `volumeClasses`
//   40  recordMagic    8 B
//   48  createdMs      u64   by the directory's clock, so that replicas agree
//   56  firstFree      u32   ordinals from here on are given out by appends: compaction keeps it
//   60  features       u32   what a reader has to know beyond this format: see `featureBits`
//   64  ttlSeconds     u32   bound of its needles' TTL, 0 for none
// 4092  crc            u32   of all before it
const at = {
  magic: 0,
  formatVersion: 8,
  volume: 12,
  uuid: 16,
  generation: 32,
  class: 36,
  recordMagic: 40,
  createdMs: 48,
  firstFree: 56,
  features: 60,
  ttlSeconds: 64,
  crc: copyBytes - 4,
} as const;

export function encodeSuperblock(superblock: Superblock): Buffer {
  const page = Buffer.alloc(copyBytes);
  magic.copy(page, at.magic);
  page.writeUInt32LE(formatVersion, at.formatVersion);
  page.writeUInt32LE(superblock.volume, at.volume);
  superblock.uuid.copy(page, at.uuid);
  page.writeUInt32LE(superblock.generation, at.generation);
  page.writeUInt32LE(volumeClasses.indexOf(superblock.class), at.class);
  superblock.recordMagic.copy(page, at.recordMagic);
  page.writeUIntLE(superblock.createdMs, at.createdMs, 6);
  page.writeUInt32LE(superblock.firstFree, at.firstFree);
  page.writeUInt32LE(superblock.hasSparseKeys ? featureBits.sparseKeys : 0, at.features);
  page.writeUInt32LE(superblock.ttlSeconds, at.ttlSeconds);
  page.writeUInt32LE(crc32(page.subarray(0, at.crc)), at.crc);
  return Buffer.concat(Array.from({ length: copies }, () => page));
}

/** Reads the first copy that verifies. Fails with `corrupt` if none does, or if the version is unknown. */
export function decodeSuperblock(bytes: Buffer, file: string): Superblock {
  for (let start = 0; start + copyBytes <= bytes.length; start += copyBytes) {
    const page = bytes.subarray(start, start + copyBytes);
    if (crc32(page.subarray(0, at.crc)) !== page.readUInt32LE(at.crc)) continue;
    if (page.compare(magic, 0, magic.length, 0, magic.length) !== 0) continue;
    const version = page.readUInt32LE(at.formatVersion);
    const volumeClass = volumeClasses[page.readUInt32LE(at.class)];
    const features = page.readUInt32LE(at.features);
    const isKnown = (features & ~featureBits.sparseKeys) === 0;
    if (version !== formatVersion || !isKnown || volumeClass === undefined) {
      throw new Failure(
        "corrupt",
        `Cannot read ${file}: it has format version ${version} and features ${features}, this program knows version ${formatVersion} and features up to ${featureBits.sparseKeys}`,
      );
    }
    return {
      volume: page.readUInt32LE(at.volume),
      uuid: Buffer.from(page.subarray(at.uuid, at.generation)),
      generation: page.readUInt32LE(at.generation),
      class: volumeClass,
      recordMagic: Buffer.from(page.subarray(at.recordMagic, at.createdMs)),
      createdMs: page.readUIntLE(at.createdMs, 6),
      firstFree: page.readUInt32LE(at.firstFree),
      ttlSeconds: page.readUInt32LE(at.ttlSeconds),
      hasSparseKeys: (features & featureBits.sparseKeys) !== 0,
    };
  }
  throw new Failure("corrupt", `Cannot read ${file}: neither copy of its superblock verifies`);
}

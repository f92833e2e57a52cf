/** The keys of a volume with sparse keys, read from its needles where no checkpoint has them. */

import { Failure } from "../../base/failure.ts";
import type { FileHandle } from "../../base/files.ts";
import { KeyIndex } from "./key-index.ts";
import { decodeNativeMetadata } from "./native-metadata.ts";
import { ChecksumSeeds, metadataOf } from "./needle.ts";
import { Records } from "./records.ts";
import type { RecoveredVolume } from "./recovery.ts";
import type { Superblock } from "./superblock.ts";

/**
 * A needle that was lost leaves no key: its ordinal gets the key before it plus one, or failing that any
 * free one, which leads to a needle that is not there.
 */
export async function readKeys(
  file: FileHandle,
  { index, tail }: RecoveredVolume,
  superblock: Superblock,
): Promise<KeyIndex> {
  const seeds = new ChecksumSeeds(superblock);
  const records = new Records({ file, end: tail, identity: superblock, seeds });
  const keys = new BigUint64Array(index.count);
  let last = -1n;
  try {
    for (let ordinal = 0; ordinal < index.count; ordinal++) {
      const offset = index.get(ordinal);
      const record = offset === undefined ? undefined : await records.at(offset);
      const { key } =
        record === undefined ? {} : decodeNativeMetadata(metadataOf(record.headBytes, record.head));
      const value = key === undefined ? last + 1n : BigInt(`0x${key}`);
      if (value <= last) {
        throw new Failure(
          "corrupt",
          `Cannot open volume ${superblock.volume}: its keys do not grow at needle ${ordinal}`,
        );
      }
      keys[ordinal] = value;
      last = value;
    }
  } finally {
    await records.close();
  }
  return KeyIndex.build(keys);
}

/** Checksums and digests, each by its one well-known name. */

import { createHash, type Hash } from "node:crypto";
import { crc32 as zlibCrc32 } from "node:zlib";

/** CRC-32 (IEEE 802.3, as zlib), going on from `seed`. Unsigned. */
export function crc32(bytes: Uint8Array, seed = 0): number {
  return zlibCrc32(bytes, seed);
}

export function md5(): Hash {
  return createHash("md5");
}

export function sha256(): Hash {
  return createHash("sha256");
}

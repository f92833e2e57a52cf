/**
 * Content that anybody can make again: the bytes of blob `id` under `seed` are a cipher's key stream,
 * so they look random, are never alike, and cost next to nothing.
 */

import { type Cipheriv, createCipheriv, createHash } from "node:crypto";

export interface ContentName {
  seed: number;
  id: number;
}

function cipherOf({ seed, id }: ContentName): Cipheriv {
  const key = createHash("sha256").update(`${seed}:${id}`).digest().subarray(0, 16);
  return createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
}

export function contentOf(name: ContentName, lengthBytes: number): Buffer {
  return cipherOf(name).update(Buffer.alloc(lengthBytes));
}

const partBytes = 1024 * 1024;

/** The same bytes in parts, for what is too large to hold. */
export function* contentParts(name: ContentName, lengthBytes: number): Generator<Buffer> {
  const cipher = cipherOf(name);
  const blank = Buffer.alloc(partBytes);
  for (let left = lengthBytes; left > 0; left -= partBytes) {
    yield cipher.update(blank.subarray(0, Math.min(left, partBytes)));
  }
}

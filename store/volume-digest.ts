/**
 * The digest of a volume: a Merkle root over the SHA-256 of each MiB of its file, superblock included, so
 * that two copies are compared by 32 bytes, and a difference is found without reading all of both.
 *
 * Leaf n is SHA-256(0x00, bytes of MiB n), a node is SHA-256(0x01, left, right), and a node without a right
 * neighbour goes up as it is: the tree of RFC 9162, section 2.1.1, with the odd one out at the end.
 */

import { createHash, type Hash } from "node:crypto";

const leafBytes = 1_048_576;
const hashBytes = 32;

export class VolumeDigest {
  readonly #leaves: Buffer[] = [];
  #hash: Hash | undefined;
  #filled = 0;

  /** Takes in the file's next bytes. */
  update(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      this.#hash ??= createHash("sha256").update(Buffer.of(0));
      const part = bytes.subarray(at, at + leafBytes - this.#filled);
      this.#hash.update(part);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === leafBytes) this.#endLeaf();
    }
  }

  /** The leaves, 32 bytes each, and the root in hex. Nothing may be taken in after this. */
  finish(): { leaves: Buffer; root: string } {
    if (this.#filled > 0) this.#endLeaf();
    return { leaves: Buffer.concat(this.#leaves), root: rootOf(this.#leaves).toString("hex") };
  }

  #endLeaf(): void {
    if (this.#hash !== undefined) this.#leaves.push(this.#hash.digest());
    this.#hash = undefined;
    this.#filled = 0;
  }
}

function rootOf(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 0) return Buffer.alloc(hashBytes);
  let level = [...leaves];
  while (level.length > 1) {
    const above: Buffer[] = [];
    for (let at = 0; at < level.length; at += 2) {
      const [left, right] = [level[at], level[at + 1]];
      if (left === undefined) break;
      above.push(
        right === undefined
          ? left
          : createHash("sha256").update(Buffer.of(1)).update(left).update(right).digest(),
      );
    }
    level = above;
  }
  return level[0] ?? Buffer.alloc(hashBytes);
}

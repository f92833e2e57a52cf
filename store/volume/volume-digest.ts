/**
 * The digest of a volume: a Merkle root over the SHA-256 of each MiB of its file, superblock included, so
 * that two copies are compared by 32 bytes, and a difference is found without reading all of both.
 *
 * Leaf n is SHA-256(0x00, bytes of MiB n), a node is SHA-256(0x01, left, right), and a node without a right
 * neighbour goes up as it is: the tree of RFC 9162, section 2.1.1, with the odd one out at the end.
 */

import { createHash } from "node:crypto";
import { type Runtime, systemRuntime } from "../../base/runtime.ts";

export const leafBytes = 1_048_576;
export const hashBytes = 32;
/** Before the bytes of a leaf. */
const leafPrefix = 0;
const nodePrefix = 1;

/** One is filled while the other is hashed, on another thread. */
const blockCount = 2;

export class VolumeDigest {
  readonly #onBlock: (bytes: Buffer) => Promise<void>;
  readonly #runtime: Runtime;
  readonly #leaves: Promise<Buffer>[] = [];
  /** Blocks that nobody uses, each with room for the prefix. */
  readonly #free: Buffer[] = [];
  readonly #busy: Promise<void>[] = [];
  #block: Buffer | undefined;
  #filled = 0;

  /** `onBlock` is told each MiB of the file as it is complete; its memory is used again afterwards. */
  constructor({
    onBlock = async () => undefined,
    runtime = systemRuntime,
  }: { onBlock?: (bytes: Buffer) => Promise<void>; runtime?: Runtime | undefined } = {}) {
    this.#onBlock = onBlock;
    this.#runtime = runtime;
    for (let count = 0; count < blockCount; count++) {
      this.#free.push(Buffer.alloc(1 + leafBytes, leafPrefix));
    }
  }

  /** Takes in the file's next bytes: at once, or, when a block is complete, once there is room again. */
  update(bytes: Uint8Array): undefined | Promise<void> {
    if (this.#filled + bytes.length < leafBytes && this.#block !== undefined) {
      this.#fill(this.#block, bytes);
      return undefined;
    }
    return this.#updateBlocks(bytes);
  }

  /** The leaves, 32 bytes each, and the root in hex. Nothing may be taken in after this. */
  async finish(): Promise<{ leaves: Buffer; root: string }> {
    if (this.#block !== undefined && this.#filled > 0) this.#end(this.#block);
    await Promise.all(this.#busy);
    const leaves = await Promise.all(this.#leaves);
    return { leaves: Buffer.concat(leaves), root: rootOf(leaves).toString("hex") };
  }

  async #updateBlocks(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      while (this.#block === undefined) {
        this.#block = this.#free.pop();
        if (this.#block === undefined) await this.#busy.shift();
      }
      const part = bytes.subarray(at, at + leafBytes - this.#filled);
      this.#fill(this.#block, part);
      at += part.length;
      if (this.#filled === leafBytes) this.#end(this.#block);
    }
  }

  #fill(block: Buffer, bytes: Uint8Array): void {
    block.set(bytes, 1 + this.#filled);
    this.#filled += bytes.length;
  }

  #end(block: Buffer): void {
    const end = 1 + this.#filled;
    const hashing = this.#runtime.sha256(block.subarray(0, end));
    const telling = this.#onBlock(block.subarray(1, end));
    const done = Promise.all([hashing, telling]).then(() => {
      this.#free.push(block);
    });
    hashing.catch(() => undefined); // told by `done`
    done.catch(() => undefined); // told to whoever waits for room, or for the end
    this.#leaves.push(hashing);
    this.#busy.push(done);
    this.#block = undefined;
    this.#filled = 0;
  }
}

/** The root over leaves that lie one after the other, in hex. */
export function rootOfLeaves(leaves: Buffer): string {
  const each: Buffer[] = [];
  for (let at = 0; at < leaves.length; at += hashBytes)
    each.push(leaves.subarray(at, at + hashBytes));
  return rootOf(each).toString("hex");
}

/** The leaf of a MiB, or of what is left at the end. */
export async function leafOf(bytes: Uint8Array, runtime: Runtime = systemRuntime): Promise<Buffer> {
  return await runtime.sha256(Buffer.concat([Buffer.of(leafPrefix), bytes]));
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
          : createHash("sha256").update(Buffer.of(nodePrefix)).update(left).update(right).digest(),
      );
    }
    level = above;
  }
  return level[0] ?? Buffer.alloc(hashBytes);
}

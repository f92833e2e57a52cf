/**
 * A volume's file in one generation, with the index of what lies in it. Whoever reads from it holds on to
 * it, so that compaction can put the next generation in its place without any read waiting or failing.
 *
 * Invariant: the file is closed when the last one has let go, never under a read.
 */

import assert from "node:assert/strict";
import type { FileHandle } from "../../base/files.ts";
import { ChecksumSeeds } from "./needle.ts";
import type { NeedleIndex } from "./needle-index.ts";
import type { Superblock } from "./superblock.ts";

export class Generation {
  readonly superblock: Superblock;
  readonly file: FileHandle;
  readonly seeds: ChecksumSeeds;
  /** Replaced by a smaller one when the volume is sealed. */
  index: NeedleIndex;
  #users = 1;
  readonly #closed = Promise.withResolvers<void>();

  constructor(superblock: Superblock, file: FileHandle, index: NeedleIndex) {
    this.superblock = superblock;
    this.file = file;
    this.index = index;
    this.seeds = new ChecksumSeeds(superblock);
  }

  retain(): void {
    assert(this.#users > 0, "nobody reads from a closed file");
    this.#users += 1;
  }

  release(): void {
    this.#users -= 1;
    if (this.#users > 0) return;
    assert.equal(this.#users, 0, "each hold is let go of once");
    this.file.close().then(this.#closed.resolve, this.#closed.reject);
    this.#closed.promise.catch(() => undefined); // told to whoever closes
  }

  /** Lets go of the owner's own hold, and waits for all others. */
  async close(): Promise<void> {
    this.release();
    await this.#closed.promise;
  }
}

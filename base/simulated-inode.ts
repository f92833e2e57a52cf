/**
 * What one simulated file holds: what readers see, what the disk has, and between the two whatever a
 * power cut may or may not leave.
 *
 * Invariants:
 * - A block never changes once it is in a list; a change puts another in its place. So copies are cheap:
 *   they share all blocks.
 * - Bytes after the end are zeros, in the cache and on the disk.
 * - Between two syncs the disk takes blocks in any order, each whole, as it was after any of the writes
 *   to it. Changes of length reach it in their own order, as through a journal, and a cut takes the
 *   blocks behind it along: what was cut off never shows again in a file that grew later.
 */

import assert from "node:assert/strict";
import type { Random } from "./random.ts";

type Block = Uint8Array | undefined; // none: zeros

/** A list of blocks that copies share until one of them changes it. */
class BlockList {
  #blocks: Block[] = [];
  #isShared = false;

  get(index: number): Block {
    return this.#blocks[index];
  }

  set(index: number, block: Block): void {
    this.#own();
    this.#blocks[index] = block;
  }

  setCount(count: number): void {
    if (this.#blocks.length <= count) return;
    this.#own();
    this.#blocks.length = count;
  }

  clone(): BlockList {
    const copy = new BlockList();
    copy.#blocks = this.#blocks;
    copy.#isShared = true;
    this.#isShared = true;
    return copy;
  }

  #own(): void {
    if (this.#isShared) this.#blocks = this.#blocks.slice();
    this.#isShared = false;
  }
}

/** What a block was made after the last sync. */
interface Version {
  readonly block: Block;
  /** A cut, and nothing else, made this of what the disk had. */
  readonly isCut: boolean;
  /** The last change of length that cut this block, an index into `#lengths`; 0 if there was none. */
  readonly cut: number;
}

export class Inode {
  readonly #blockBytes: number;
  #cached = new BlockList();
  #durable = new BlockList();
  /** The length that the disk has, then each that came after it since the last sync. */
  #lengths = [0];
  /** What a sync would write: for each block its versions, the newest last. The lists never change. */
  #dirty = new Map<number, readonly Version[]>();

  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
  }

  get lengthBytes(): number {
    return this.#lengths.at(-1) ?? 0;
  }

  get #durableLengthBytes(): number {
    return this.#lengths[0] ?? 0;
  }

  read(target: Uint8Array, offset: number): number {
    return this.#copy(this.#cached, this.lengthBytes, target, offset);
  }

  /** Takes `data` over: its owner may not change it any more. */
  write(data: Uint8Array, offset: number): void {
    if (data.length === 0) return;
    const size = this.#blockBytes;
    const end = offset + data.length;
    if (end > this.lengthBytes) this.#lengths.push(end);
    for (let index = Math.floor(offset / size); index * size < end; index++) {
      const start = index * size;
      if (start >= offset && start + size <= end) {
        this.#change(index, data.subarray(start - offset, start - offset + size));
        continue;
      }
      const block = this.#copyOf(this.#cached.get(index));
      const from = Math.max(start, offset);
      block.set(data.subarray(from - offset, Math.min(start + size, end) - offset), from - start);
      this.#change(index, block);
    }
  }

  truncate(lengthBytes: number): void {
    const before = this.lengthBytes;
    if (lengthBytes === before) return;
    this.#lengths.push(lengthBytes);
    if (lengthBytes > before) return;
    const size = this.#blockBytes;
    for (let index = Math.floor(lengthBytes / size); index * size < before; index++) {
      this.#cut(index, lengthBytes - index * size);
    }
  }

  sync(): void {
    for (const [index, versions] of this.#dirty) this.#durable.set(index, versions.at(-1)?.block);
    this.#dirty.clear();
    this.#lengths = [this.lengthBytes];
  }

  /**
   * A sync that failed: the blocks are clean, though the disk has not got them, so no later sync writes
   * them. `random` picks which are lost so; without it all are. Length and cuts are still to come: they
   * are not data but the journal's.
   */
  failSync(random: Random | undefined): void {
    for (const [index, versions] of this.#dirty) {
      if (random !== undefined && random.fraction() < 0.5) continue;
      const cuts = versions.filter(({ isCut }) => isCut);
      if (cuts.length === 0) this.#dirty.delete(index);
      else this.#dirty.set(index, cuts);
    }
  }

  /** What is left when the power goes: what was synced, and of the rest what `random` picks, if any. */
  afterPowerCut(random: Random | undefined): Inode {
    const left = new Inode(this.#blockBytes);
    const blocks = this.#durable.clone();
    let length = this.#durableLengthBytes;
    if (random !== undefined) {
      // From nearly nothing to nearly all, else a large file would never lose just one of its blocks.
      const share = random.fraction();
      const change = Math.floor(random.fraction() * this.#lengths.length);
      length = this.#lengths[change] ?? 0;
      for (const index of this.#dirty.keys()) {
        const candidates = this.#possible(index, change);
        const older = Math.floor(random.fraction() * (candidates.length - 1));
        blocks.set(index, random.fraction() < share ? candidates.at(-1) : candidates[older]);
      }
      this.#trim(blocks, length);
    }
    left.#durable = blocks;
    left.#cached = blocks.clone();
    left.#lengths = [length];
    return left;
  }

  /** What the disk may have of a dirty block once it has the length changes up to `change`. */
  #possible(index: number, change: number): Block[] {
    const versions = this.#dirty.get(index) ?? [];
    const cut = versions.findLast((version) => version.cut <= change)?.cut ?? 0;
    const since = versions.filter((version) => version.cut === cut).map(({ block }) => block);
    return cut === 0 ? [this.#durable.get(index), ...since] : since;
  }

  clone(): Inode {
    const copy = new Inode(this.#blockBytes);
    copy.#cached = this.#cached.clone();
    copy.#durable = this.#durable.clone();
    copy.#lengths = this.#lengths.slice();
    copy.#dirty = new Map(this.#dirty);
    return copy;
  }

  content(of: "cached" | "durable"): Buffer {
    const [blocks, length] =
      of === "cached"
        ? [this.#cached, this.lengthBytes]
        : [this.#durable, this.#durableLengthBytes];
    const content = Buffer.alloc(length);
    this.#copy(blocks, length, content, 0);
    return content;
  }

  /** Rots in place: whatever there is of the bit, in the cache, on the disk and on its way there. */
  flipBit(bit: number): void {
    const at = Math.floor(bit / 8);
    assert(at < Math.max(this.lengthBytes, this.#durableLengthBytes), "the file has this bit");
    const index = Math.floor(at / this.#blockBytes);
    const flip = (block: Block) => {
      const flipped = this.#copyOf(block);
      const place = at % this.#blockBytes;
      flipped[place] = (flipped[place] ?? 0) ^ (1 << (bit % 8));
      return flipped;
    };
    if (at < this.lengthBytes) this.#cached.set(index, flip(this.#cached.get(index)));
    if (at < this.#durableLengthBytes) this.#durable.set(index, flip(this.#durable.get(index)));
    const versions = this.#dirty.get(index);
    if (versions === undefined) return;
    const rotten = versions.map((version) => ({ ...version, block: flip(version.block) }));
    this.#dirty.set(index, rotten);
  }

  #change(index: number, block: Block): void {
    this.#cached.set(index, block);
    const versions = this.#dirty.get(index) ?? [];
    const cut = versions.at(-1)?.cut ?? 0;
    this.#dirty.set(index, [...versions, { block, isCut: false, cut }]);
  }

  /** Cuts a block, wholly or from a place on. No write before that got more certain by it. */
  #cut(index: number, from: number): void {
    const cut = this.#lengths.length - 1;
    const cached = this.#cached.get(index);
    const before = new Set(from > 0 ? [...this.#possible(index, cut), cached] : [undefined]);
    const after = [...before].map((block) => this.#zeroFrom(block, from));
    this.#cached.set(index, after.at(-1));
    const versions = after.map((block, at) => ({ block, isCut: at === 0, cut }));
    this.#dirty.set(index, [...(this.#dirty.get(index) ?? []), ...versions]);
  }

  #copy(blocks: BlockList, length: number, target: Uint8Array, offset: number): number {
    const size = this.#blockBytes;
    const end = Math.min(offset + target.length, length);
    for (let at = offset; at < end; ) {
      const from = at % size;
      const to = Math.min(size, from + end - at);
      const block = blocks.get((at - from) / size);
      if (block === undefined) target.fill(0, at - offset, at - offset + to - from);
      else target.set(to - from === size ? block : block.subarray(from, to), at - offset);
      at += to - from;
    }
    return Math.max(0, end - offset);
  }

  #copyOf(block: Block): Uint8Array {
    const copy = new Uint8Array(this.#blockBytes);
    if (block !== undefined) copy.set(block);
    return copy;
  }

  #zeroFrom(block: Block, start: number): Block {
    return block === undefined || start <= 0 ? undefined : this.#copyOf(block).fill(0, start);
  }

  #trim(blocks: BlockList, lengthBytes: number): void {
    const last = Math.floor(lengthBytes / this.#blockBytes);
    const used = lengthBytes % this.#blockBytes;
    blocks.setCount(used === 0 ? last : last + 1);
    const block = blocks.get(last);
    if (used > 0 && block?.some((byte, at) => at >= used && byte !== 0)) {
      blocks.set(last, this.#zeroFrom(block, used));
    }
  }
}

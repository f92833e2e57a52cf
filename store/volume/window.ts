/**
 * Reads forward through a file, keeping a window of it in memory and the next ones on their way.
 *
 * A few buffers are used in turn, because a fresh one for each window costs more to fault in than the read
 * itself. The window before is kept too, and each has room in front of it, where the end of the one before is
 * put if something lies across the edge.
 *
 * Invariants:
 * - Bytes that were handed out stay as they are until something is asked for that has to be read: whoever
 *   wants them for longer copies them.
 * - Whoever asks waits for the answer before asking again.
 */

import assert from "node:assert/strict";
import type { FileHandle } from "../../base/files.ts";

/** Small enough that the processor's cache still has it when it is looked at. */
export const windowBytes = 524_288;
/** While one is handed over, the thread that reads is not to stand still. */
const aheadCount = 2;
/** The most that is asked for at once, and what is read after a jump: nobody knows yet whether more is wanted. */
export const askedBytesMax = 262_144;
const memoryBytes = askedBytesMax + windowBytes;
const restBytes = 65_536;
const nothing = Buffer.alloc(0);

export class Window {
  readonly #file: FileHandle;
  readonly end: number;
  #before = new Stretch();
  #current = new Stretch();
  /** What follows the current one, as far as it was asked for; `hasCome` is false if reading failed. */
  readonly #ahead: { stretch: Stretch; hasCome: Promise<boolean> }[] = [];
  #aheadEnd = 0;
  /** Nobody looks at these. */
  readonly #spares = Array.from({ length: aheadCount }, () => new Stretch());
  #isLoading = false;

  constructor(file: FileHandle, end: number) {
    this.#file = file;
    this.end = end;
  }

  /** The bytes from `offset`, `length` of them or as many as there are. */
  at(offset: number, length: number): Buffer | Promise<Buffer> {
    assert(length <= askedBytesMax, "no more is asked for at once");
    return this.here(offset, length) ?? this.#load(offset, this.#wanted(offset, length));
  }

  /** The same if no read is needed for it; `length` may be anything. */
  here(offset: number, length: number): Buffer | undefined {
    const wanted = this.#wanted(offset, length);
    if (wanted === 0) return nothing;
    return this.#current.view(offset, wanted) ?? this.#further(offset, wanted);
  }

  /** From `offset` on what is here, some kilobytes at least unless the end is nearer. */
  async rest(offset: number): Promise<Buffer> {
    const least = await this.at(offset, restBytes);
    if (least.length === 0) return nothing;
    return this.#current.viewFrom(offset) ?? least;
  }

  /** Waits for what is on its way: the file may be closed after this. */
  async close(): Promise<void> {
    await this.#dropAhead();
  }

  #wanted(offset: number, length: number): number {
    return Math.max(Math.min(length, this.end - offset), 0);
  }

  /** What lies before the current stretch, or begins there. */
  #further(offset: number, wanted: number): Buffer | undefined {
    const before = this.#before.view(offset, wanted);
    if (before !== undefined) return before;
    const current = this.#current;
    if (offset >= current.start || offset + wanted > current.end) return undefined;
    const head = this.#before.view(offset, current.start - offset);
    if (head === undefined || !current.extend(head)) return undefined;
    return current.view(offset, wanted);
  }

  async #load(offset: number, wanted: number): Promise<Buffer> {
    assert(!this.#isLoading, "one read at a time");
    this.#isLoading = true;
    try {
      return await this.#loadAlone(offset, wanted);
    } finally {
      this.#isLoading = false;
    }
  }

  async #loadAlone(offset: number, wanted: number): Promise<Buffer> {
    const { start, end, isEmpty } = this.#current;
    // The data of a needle may be skipped over: as much of it as a jump would not be quicker for.
    const isOnward = isEmpty || (offset >= start && offset <= end + windowBytes);
    for (let next = this.#ahead[0]; isOnward && next !== undefined; next = this.#ahead[0]) {
      if (!(await next.hasCome)) break; // it is read anew, and told then
      this.#ahead.shift();
      this.#moveTo(next.stretch);
      this.#fetchAhead();
      const bytes = this.here(offset, wanted);
      if (bytes !== undefined) return bytes;
    }
    await this.#dropAhead();
    const length = this.#wanted(offset, isOnward ? windowBytes : askedBytesMax);
    const stretch = this.#spares[0];
    assert(stretch !== undefined, "nothing is on its way");
    await stretch.read(this.#file, offset, length);
    this.#spares.shift();
    this.#moveTo(stretch);
    this.#aheadEnd = this.#current.end;
    if (isOnward) this.#fetchAhead();
    return this.#current.viewFrom(offset)?.subarray(0, wanted) ?? nothing;
  }

  #moveTo(stretch: Stretch): void {
    this.#spares.push(this.#before);
    this.#before = this.#current;
    this.#current = stretch;
  }

  #fetchAhead(): void {
    if (this.#current.isEmpty) return; // the file is shorter than it should be
    for (let length = 1; ; this.#aheadEnd += length) {
      length = this.#wanted(this.#aheadEnd, windowBytes);
      const stretch = length === 0 ? undefined : this.#spares.shift();
      if (stretch === undefined) return;
      const hasCome = stretch.read(this.#file, this.#aheadEnd, length).then(
        () => true,
        () => false,
      );
      this.#ahead.push({ stretch, hasCome });
    }
  }

  async #dropAhead(): Promise<void> {
    for (const { stretch, hasCome } of this.#ahead) {
      await hasCome;
      this.#spares.push(stretch);
    }
    this.#ahead.length = 0;
  }
}

/** Bytes of the file in memory that is used again. */
class Stretch {
  #memory: Buffer = nothing;
  /** Offset in the file of the first byte of memory, whether or not it was read. */
  #origin = 0;
  start = 0;
  end = 0;

  get isEmpty(): boolean {
    return this.start === this.end;
  }

  view(offset: number, length: number): Buffer | undefined {
    if (offset < this.start || offset + length > this.end) return undefined;
    const from = offset - this.#origin;
    return this.#memory.subarray(from, from + length);
  }

  viewFrom(offset: number): Buffer | undefined {
    return offset < this.end ? this.view(offset, this.end - offset) : undefined;
  }

  /** Reads `length` bytes, or as many as there are. */
  async read(file: FileHandle, offset: number, length: number): Promise<void> {
    this.start = 0;
    this.end = 0;
    // Not before it is needed: most tails that are read are short.
    if (this.#memory === nothing) this.#memory = Buffer.allocUnsafeSlow(memoryBytes);
    const target = this.#memory.subarray(askedBytesMax, askedBytesMax + length);
    const count = await file.read(target, offset);
    this.#origin = offset - askedBytesMax;
    this.start = offset;
    this.end = offset + count;
  }

  /** Puts what comes before its start there; false if there is no room. */
  extend(head: Buffer): boolean {
    const start = this.start - head.length;
    if (start < this.#origin) return false;
    this.#memory.set(head, start - this.#origin);
    this.start = start;
    return true;
  }
}

/**
 * Reads forward through a file, keeping a window of it in memory and the next one on its way.
 *
 * Invariants:
 * - Bytes that were handed out stay as they are: each window is a buffer of its own.
 * - One read at a time: whoever asks waits for the answer before asking again.
 */

import assert from "node:assert/strict";
import type { FileHandle } from "../../base/files.ts";

const windowBytesUsual = 4 * 1_048_576;
/** After a jump nobody knows yet whether what follows is wanted too. */
const jumpBytes = 262_144;
const restBytes = 65_536;
const nothing = Buffer.alloc(0);

export class Window {
  readonly #file: FileHandle;
  readonly #windowBytes: number;
  readonly end: number;
  #bytes: Buffer = Buffer.alloc(0);
  #start = 0;
  #isLoading = false;
  #next: { start: number; bytes: Promise<Buffer> } | undefined;

  constructor(file: FileHandle, end: number, windowBytes: number = windowBytesUsual) {
    this.#file = file;
    this.#windowBytes = windowBytes;
    this.end = end;
  }

  /** The bytes from `offset`, `length` of them or as many as there are. */
  at(offset: number, length: number): Buffer | Promise<Buffer> {
    return this.here(offset, length) ?? this.#load(offset, this.#wanted(offset, length));
  }

  /** The same if no read is needed for it. */
  here(offset: number, length: number): Buffer | undefined {
    const wanted = this.#wanted(offset, length);
    if (wanted === 0) return nothing;
    const from = offset - this.#start;
    if (from < 0 || from + wanted > this.#bytes.length) return undefined;
    return this.#bytes.subarray(from, from + wanted);
  }

  /** From `offset` on what is here, some kilobytes at least unless the end is nearer. */
  async rest(offset: number): Promise<Buffer> {
    if ((await this.at(offset, restBytes)).length === 0) return nothing;
    return this.#bytes.subarray(offset - this.#start);
  }

  /** Waits for what is on its way: the file may be closed after this. */
  async close(): Promise<void> {
    await this.#next?.bytes.catch(() => undefined);
    this.#next = undefined;
  }

  #wanted(offset: number, length: number): number {
    return Math.max(Math.min(length, this.end - offset), 0);
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
    const isOnward = offset >= this.#start && offset <= this.#start + this.#bytes.length;
    const next = this.#next;
    this.#next = undefined;
    const upcoming = await next?.bytes.catch(() => undefined); // what failed is read anew, and told then
    if (next !== undefined && upcoming !== undefined && isOnward) {
      // What lies across the edge of two windows: the rest of this one is put before the next.
      const rest = this.#bytes.subarray(offset - this.#start);
      const joined = rest.length === 0 ? upcoming : Buffer.concat([rest, upcoming]);
      if (joined.length >= wanted) return this.#take(offset, joined, wanted);
    }
    const length = Math.max(
      wanted,
      isOnward || this.#bytes.length === 0 ? this.#windowBytes : jumpBytes,
    );
    const bytes = await this.#read(offset, length);
    return this.#take(offset, bytes, wanted, isOnward);
  }

  #take(start: number, bytes: Buffer, wanted: number, isOnward = true): Buffer {
    this.#start = start;
    this.#bytes = bytes;
    const nextStart = start + bytes.length;
    if (isOnward && nextStart < this.end && bytes.length > 0) {
      this.#next = { start: nextStart, bytes: this.#read(nextStart, this.#windowBytes) };
      this.#next.bytes.catch(() => undefined);
    }
    return bytes.subarray(0, wanted);
  }

  async #read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(Math.min(length, this.end - offset));
    const count = await this.#file.read(bytes, offset);
    return bytes.subarray(0, count);
  }
}

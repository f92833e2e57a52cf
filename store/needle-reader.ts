/**
 * Reads the data of one needle, whole or in part.
 *
 * Invariants:
 * - No byte leaves before the block it lies in was verified.
 * - Memory is bounded by a piece (1 MiB), however large the needle.
 */

import { Failure } from "../base/failure.ts";
import type { FileHandle } from "../base/files.ts";
import {
  blockBytes,
  blockTableOf,
  type ChecksumSeeds,
  metadataOf,
  type NeedleHead,
  verifyBlocks,
} from "./needle.ts";

const pieceBytes = 64 * blockBytes;

interface NeedleReaderParts {
  head: NeedleHead;
  /** Begins at the needle and holds its verified head, and as much more as was read with it. */
  bytes: Buffer;
  file: FileHandle;
  seeds: ChecksumSeeds;
  release: () => void;
}

export class NeedleReader {
  readonly head: NeedleHead;
  readonly #bytes: Buffer;
  readonly #file: FileHandle;
  readonly #seeds: ChecksumSeeds;

  /** Tells that the bytes of `whole` have left and are not looked at again. */
  readonly release: () => void;

  constructor({ head, bytes, file, seeds, release }: NeedleReaderParts) {
    this.head = head;
    this.#bytes = bytes;
    this.#file = file;
    this.#seeds = seeds;
    this.release = release;
  }

  get metadata(): Buffer {
    return metadataOf(this.#bytes, this.head);
  }

  /** All of the data if it came with the head, verified; else undefined: then `pieces` reads it. */
  whole(): Buffer | undefined {
    const { dataOffset, offset, dataLength } = this.head;
    const start = dataOffset - offset;
    if (this.#bytes.length < start + dataLength) return undefined;
    const data = this.#bytes.subarray(start, start + dataLength);
    this.#verify(data, 0);
    return data;
  }

  /** The data from `start` up to `end`, in pieces. */
  async *pieces(start: number, end: number): AsyncGenerator<Buffer> {
    const { dataOffset, dataLength } = this.head;
    let at = start - (start % blockBytes);
    while (at < end) {
      const until = Math.min(at + pieceBytes, Math.ceil(end / blockBytes) * blockBytes, dataLength);
      const data = Buffer.allocUnsafe(until - at);
      const count = await this.#file.read(data, dataOffset + at);
      if (count < data.length) throw this.#corrupt(at, "the file ends early");
      this.#verify(data, at / blockBytes);
      yield data.subarray(Math.max(start - at, 0), Math.min(end - at, data.length));
      at = until;
    }
  }

  #verify(data: Buffer, firstBlock: number): void {
    const { ordinal } = this.head;
    const table = blockTableOf(this.#bytes, this.head);
    if (!verifyBlocks(data, { table, ordinal, firstBlock }, this.#seeds)) {
      throw this.#corrupt(firstBlock * blockBytes, "a checksum does not match");
    }
  }

  #corrupt(at: number, why: string): Failure {
    const { ordinal, offset } = this.head;
    return new Failure(
      "corrupt",
      `Cannot read needle ${ordinal} at ${offset}, from byte ${at} of its data: ${why}`,
    );
  }
}

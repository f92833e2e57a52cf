/**
 * Reads the data of one needle, whole or in part.
 *
 * Invariants:
 * - No byte leaves before the block it lies in was verified.
 * - Memory is bounded by a piece (1 MiB), however large the needle, unless it was compressed.
 * - A reader that has more to read holds on to its generation until it is closed.
 */

import { Failure } from "../../base/failure.ts";
import { decodeContent } from "./codec.ts";
import type { Generation } from "./generation.ts";
import {
  blockBytes,
  blockTableOf,
  codecs,
  metadataOf,
  type NeedleHead,
  verifyBlocks,
} from "./needle.ts";

const pieceBytes = 64 * blockBytes;

interface NeedleReaderParts {
  head: NeedleHead;
  /** Begins at the needle and holds its verified head, and as much more as was read with it. */
  bytes: Buffer;
  generation: Generation;
  /** Takes back the memory of `bytes`. */
  giveBack: () => void;
  /** Told when something of the needle does not verify. */
  onCorrupt: (head: NeedleHead) => void;
}

export class NeedleReader {
  readonly head: NeedleHead;
  readonly #bytes: Buffer;
  readonly #generation: Generation;
  readonly #giveBack: () => void;
  readonly #onCorrupt: (head: NeedleHead) => void;
  #isHolding = false;

  constructor({ head, bytes, generation, giveBack, onCorrupt }: NeedleReaderParts) {
    this.#onCorrupt = onCorrupt;
    this.head = head;
    this.#bytes = bytes;
    this.#generation = generation;
    this.#giveBack = giveBack;
    if (!this.#isWhole()) {
      generation.retain();
      this.#isHolding = true;
    }
  }

  get metadata(): Buffer {
    return metadataOf(this.#bytes, this.head);
  }

  /** All of the data as stored if it came with the head, verified; else undefined: then `pieces` reads it. */
  whole(): Buffer | undefined {
    if (!this.#isWhole()) return undefined;
    const start = this.head.headLength;
    const data = this.#bytes.subarray(start, start + this.head.dataLength);
    this.#verify(data, 0);
    return data;
  }

  /** The data as stored from `start` up to `end`, in pieces. */
  async *pieces(start: number, end: number): AsyncGenerator<Buffer> {
    const { dataOffset, dataLength } = this.head;
    let at = start - (start % blockBytes);
    while (at < end) {
      const until = Math.min(at + pieceBytes, Math.ceil(end / blockBytes) * blockBytes, dataLength);
      const data = Buffer.allocUnsafe(until - at);
      const count = await this.#generation.file.read(data, dataOffset + at);
      if (count < data.length) throw this.#corrupt(at, "the file ends early");
      this.#verify(data, at / blockBytes);
      yield data.subarray(Math.max(start - at, 0), Math.min(end - at, data.length));
      at = until;
    }
  }

  /** All of the blob as it was given, in memory. */
  async content(): Promise<Buffer> {
    const { codec, contentLength, dataLength } = this.head;
    const stored =
      this.whole() ?? Buffer.concat(await Array.fromAsync(this.pieces(0, dataLength)), dataLength);
    if (codec === codecs.none) return stored;
    return await decodeContent(codec, stored, contentLength);
  }

  /**
   * Nothing of the needle is looked at any more, the bytes of `whole` neither. Has to be called: without it
   * a compacted volume's old file stays open.
   */
  close(): void {
    this.#giveBack();
    if (this.#isHolding) this.#generation.release();
    this.#isHolding = false;
  }

  #isWhole(): boolean {
    return this.#bytes.length >= this.head.headLength + this.head.dataLength;
  }

  #verify(data: Buffer, firstBlock: number): void {
    const { ordinal } = this.head;
    const table = blockTableOf(this.#bytes, this.head);
    if (!verifyBlocks(data, { table, ordinal, firstBlock }, this.#generation.seeds)) {
      throw this.#corrupt(firstBlock * blockBytes, "a checksum does not match");
    }
  }

  #corrupt(at: number, why: string): Failure {
    const { ordinal, offset } = this.head;
    this.#onCorrupt(this.head);
    return new Failure(
      "corrupt",
      `Cannot read needle ${ordinal} at ${offset}, from byte ${at} of its data: ${why}`,
    );
  }
}

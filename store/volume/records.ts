/**
 * The records of a volume file, found and verified: what recovery, scrub, compaction and tools stand on.
 *
 * Invariant: a length is believed only once the checksum over it matches.
 */

import type { FileHandle } from "../../base/files.ts";
import {
  blockBytes,
  blockTableOf,
  type ChecksumSeeds,
  decodeFooter,
  decodeHead,
  footerBytes,
  headerBytes,
  type NeedleHead,
  payloadDigestOf,
  peekHead,
  unitBytes,
  type VolumeIdentity,
  verifyBlocks,
} from "./needle.ts";
import { Window } from "./window.ts";

export interface FoundRecord {
  head: NeedleHead;
  /** Header, metadata and block table. */
  headBytes: Buffer;
  /** As the footer states it. */
  payloadDigest: Buffer;
}

/** What is verified in one go. */
const pieceBytes = 4 * blockBytes;
const dataProblem = "a checksum of its data does not match";

export class Records {
  readonly #window: Window;
  readonly #identity: VolumeIdentity;
  readonly #seeds: ChecksumSeeds;
  /** Where the file ends for this reader. */
  readonly end: number;

  constructor({
    file,
    end,
    identity,
    seeds,
  }: {
    file: FileHandle;
    end: number;
    identity: VolumeIdentity;
    seeds: ChecksumSeeds;
  }) {
    this.#window = new Window(file, end);
    this.#identity = identity;
    this.#seeds = seeds;
    this.end = end;
  }

  /** Waits for reads on their way: the file may be closed after this. */
  async close(): Promise<void> {
    await this.#window.close();
  }

  /** The record at `offset` if header and footer verify; its data is not looked at. */
  at(offset: number): FoundRecord | undefined | Promise<FoundRecord | undefined> {
    const here = this.here(offset);
    return here === "elsewhere" ? this.#atAfterReading(offset) : here;
  }

  async #atAfterReading(offset: number): Promise<FoundRecord | undefined> {
    const start = await this.#window.at(offset, headerBytes);
    const seeming = peekHead(start, offset, this.#identity);
    if (seeming === undefined || offset + seeming.length > this.#window.end) return undefined;
    const headBytes = Buffer.from(await this.#window.at(offset, seeming.headLength));
    const head = decodeHead(headBytes, offset, this.#identity, this.#seeds);
    if (head === undefined) return undefined;
    const footer = await this.#window.at(head.dataOffset + head.dataLength, footerBytes);
    return foundRecord(head, headBytes, footer);
  }

  /** The same where no read is needed for it, or `elsewhere`. */
  here(offset: number): FoundRecord | undefined | "elsewhere" {
    const start = this.#window.here(offset, headerBytes);
    if (start === undefined) return "elsewhere";
    const seeming = peekHead(start, offset, this.#identity);
    if (seeming === undefined || offset + seeming.length > this.#window.end) return undefined;
    const window = this.#window.here(offset, seeming.headLength);
    const footer = this.#window.here(seeming.dataOffset + seeming.dataLength, footerBytes);
    if (window === undefined || footer === undefined) return "elsewhere";
    const headBytes = Buffer.from(window);
    const head = decodeHead(headBytes, offset, this.#identity, this.#seeds);
    return head === undefined ? undefined : foundRecord(head, headBytes, footer);
  }

  /** The data of a record from block `firstBlock` on, up to 64 KiB of it, as stored and not verified. */
  data({ head }: FoundRecord, firstBlock: number): Buffer | Promise<Buffer> {
    const start = firstBlock * blockBytes;
    const length = Math.min(pieceBytes, head.dataLength - start);
    return this.#window.at(head.dataOffset + start, length);
  }

  /** Why data or digest of a record do not verify, or undefined if they do. */
  problem(record: FoundRecord): string | undefined | Promise<string | undefined> {
    const { head, headBytes, payloadDigest } = record;
    if (!payloadDigestOf(headBytes, head).equals(payloadDigest)) return "its digest does not match";
    const data = this.#window.here(head.dataOffset, head.dataLength);
    if (data === undefined || data.length < head.dataLength) return this.#dataProblem(record);
    return this.verifies(record, 0, data) ? undefined : dataProblem;
  }

  async #dataProblem(record: FoundRecord): Promise<string | undefined> {
    const { dataLength } = record.head;
    for (let start = 0; start < dataLength; start += pieceBytes) {
      const firstBlock = start / blockBytes;
      const data = await this.data(record, firstBlock);
      if (data.length < Math.min(pieceBytes, dataLength - start)) return "the file ends early";
      if (!this.verifies(record, firstBlock, data)) return dataProblem;
    }
    return undefined;
  }

  /** Whether `data` is what the record has from block `firstBlock` on. */
  verifies({ head, headBytes }: FoundRecord, firstBlock: number, data: Buffer): boolean {
    const table = blockTableOf(headBytes, head);
    return verifyBlocks(data, { table, ordinal: head.ordinal, firstBlock }, this.#seeds);
  }

  /** Offsets in [from, to) at which the record magic stands. */
  async *candidates(from: number, to: number): AsyncGenerator<number> {
    const { recordMagic } = this.#identity;
    let at = from;
    while (at + headerBytes <= Math.min(to, this.end)) {
      const bytes = await this.#window.rest(at);
      const found = bytes.indexOf(recordMagic);
      if (found >= 0) {
        const offset = at + found;
        if (offset >= to) return;
        if (offset % unitBytes === 0) yield offset;
        at = offset - (offset % unitBytes) + unitBytes;
      } else {
        // The magic may lie across the edge of two windows.
        const step = Math.max(bytes.length - recordMagic.length, unitBytes);
        at += step - (step % unitBytes);
      }
    }
  }
}

/** The record that `footer` closes, with bytes of its own: the window goes on, and records are kept. */
function foundRecord(head: NeedleHead, headBytes: Buffer, footer: Buffer): FoundRecord | undefined {
  const payloadDigest = decodeFooter(footer, head);
  if (payloadDigest === undefined) return undefined;
  return { head, headBytes, payloadDigest: Buffer.from(payloadDigest) };
}

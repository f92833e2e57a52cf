/**
 * The delete log of a volume: the ordinals that were deleted, in a file beside it that only grows.
 *
 * Invariants:
 * - `add` returns once the record is synced; whoever comes while one sync runs is in the next.
 * - A record of the last write that is blank was torn and never answered: it is made void at the next start.
 *   Any other that does not verify is damage: it is stepped over, and told.
 */

import { crc32 } from "../../base/checksum.ts";
import { Failure, systemErrorCode } from "../../base/failure.ts";
import type { FileHandle, FileSystem } from "../../base/files.ts";
import { OrdinalSet } from "./ordinal-set.ts";

const magic = Buffer.from("HAYLOFTD", "latin1");
const formatVersion = 1;

// Log header:  0 magic 8 B "HAYLOFTD" · 8 formatVersion u32 · 12 volume u32 · 16 uuid 16 B · 32 crc u32
//              of all before it, then zeros up to 48
// Log record:  0 ordinal u32 · 4 timeMs u48 · 10 position u16 in the write that brought it · 12 crc u32 of
//              the 12 bytes before it, seeded with the CRC-32 of the uuid and the record's number (u32)
const headerBytes = 48;
const recordBytes = 16;
/** In the place of a record that was torn. */
const voidOrdinal = 0xffff_ffff;

const batchRecordsMax = 4_096;

interface PendingDelete {
  ordinal: number;
  timeMs: number;
  resolve: (isNew: boolean) => void;
  reject: (failure: Failure) => void;
}

interface DecodedRecords {
  deleted: OrdinalSet;
  /** Up to the last one that counts. */
  count: number;
  /** Numbers of those that were torn. */
  torn: number[];
  damagedCount: number;
}

export class DeleteLog {
  readonly deleted: OrdinalSet;
  /** Bytes of records that did not verify, and were answered once, when the log was opened. */
  readonly damagedBytes: number;
  readonly #file: FileHandle;
  readonly #name: string;
  readonly #seed: number;
  #recordCount: number;
  #pending: PendingDelete[] = [];
  #running: Promise<void> | undefined;
  #failed: Failure | undefined;

  private constructor(file: FileHandle, name: string, seed: number, records: DecodedRecords) {
    this.#file = file;
    this.#name = name;
    this.#seed = seed;
    this.deleted = records.deleted;
    this.#recordCount = records.count;
    this.damagedBytes = records.damagedCount * recordBytes;
  }

  /** Makes an empty log on disk. */
  static async create(
    files: FileSystem,
    name: string,
    identity: { volume: number; uuid: Buffer },
  ): Promise<void> {
    await files.replace(name, encodeHeader(identity));
  }

  /**
   * Opens the log of a volume, which is known to have had `recordsMin` records. Fails with `corrupt` if it
   * is lost: then nobody knows what was deleted.
   */
  static async open(
    files: FileSystem,
    name: string,
    { volume, uuid, recordsMin = 0 }: { volume: number; uuid: Buffer; recordsMin?: number },
  ): Promise<DeleteLog> {
    const seed = crc32(uuid);
    const content = await files.readWhole(name);
    if (content === undefined) throw new Failure("corrupt", `Cannot use ${name}: it is not there`);
    checkHeader(content, name, { volume, uuid });
    const records = decodeRecords(content.subarray(headerBytes), seed, recordsMin);
    const file = await files.open(name, "write");
    // What a killed process wrote may be in the page cache alone, and after a failed sync the cache calls
    // it clean: what could not have been synced is written anew before anything is said of it.
    const end = Math.min(headerBytes + records.count * recordBytes, content.length);
    for (const number of records.torn) {
      const record = { ordinal: voidOrdinal, timeMs: 0 };
      encodeRecord(record, { number, position: 0, seed }).copy(
        content,
        headerBytes + number * recordBytes,
      );
    }
    if (content.length > end) await file.truncate(end);
    const from = Math.max(end - batchRecordsMax * recordBytes, 0);
    await file.write([content.subarray(from, end)], from);
    await file.syncData();
    return new DeleteLog(file, name, seed, records);
  }

  /** The highest ordinal that was deleted, or -1. */
  get highest(): number {
    return this.deleted.highest;
  }

  /** Records on the disk. */
  get recordCount(): number {
    return this.#recordCount;
  }

  /** Deletes an ordinal; returns once that is on the disk, and whether it was not deleted before. */
  add(ordinal: number, timeMs: number): Promise<boolean> {
    if (this.#failed !== undefined) return Promise.reject(this.#failed);
    if (this.deleted.has(ordinal)) return Promise.resolve(false);
    return new Promise((resolve, reject) => {
      this.#pending.push({ ordinal, timeMs, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /**
   * Deletes many; returns once all of them are on the disk, and how many were not deleted before. They go
   * in few writes, each with one sync.
   */
  merge(ordinals: Iterable<number>, timeMs: number): Promise<number> {
    if (this.#failed !== undefined) return Promise.reject(this.#failed);
    const fresh = new OrdinalSet();
    for (const ordinal of ordinals) if (!this.deleted.has(ordinal)) fresh.add(ordinal);
    if (fresh.size === 0) return Promise.resolve(0);
    return new Promise((resolve, reject) => {
      let left = fresh.size;
      let added = 0;
      const done = (isNew: boolean) => {
        if (isNew) added += 1;
        left -= 1;
        if (left === 0) resolve(added);
      };
      for (const ordinal of fresh) this.#pending.push({ ordinal, timeMs, resolve: done, reject });
      this.#running ??= this.#run();
    });
  }

  async close(): Promise<void> {
    await this.#running;
    await this.#file.close();
  }

  async #run(): Promise<void> {
    while (this.#pending.length > 0 && this.#failed === undefined) {
      const batch = this.#pending.splice(0, batchRecordsMax);
      const bytes = Buffer.concat(
        batch.map((record, position) =>
          encodeRecord(record, {
            number: this.#recordCount + position,
            position,
            seed: this.#seed,
          }),
        ),
      );
      try {
        await this.#file.write([bytes], headerBytes + this.#recordCount * recordBytes);
        await this.#file.syncData();
      } catch (error) {
        // After a failed sync nobody knows what the disk has: the log takes nothing more in this run.
        const kind = systemErrorCode(error) === "ENOSPC" ? "full" : "unavailable";
        this.#failed = new Failure(kind, `Cannot write ${this.#name}`, { cause: error });
        for (const { reject } of [...batch, ...this.#pending.splice(0)]) reject(this.#failed);
        break;
      }
      this.#recordCount += batch.length;
      for (const { ordinal, resolve } of batch) resolve(this.deleted.add(ordinal));
    }
    this.#running = undefined;
  }
}

function encodeHeader({ volume, uuid }: { volume: number; uuid: Buffer }): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  magic.copy(bytes, 0);
  bytes.writeUInt32LE(formatVersion, 8);
  bytes.writeUInt32LE(volume, 12);
  uuid.copy(bytes, 16);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 32)), 32);
  return bytes;
}

function checkHeader(
  content: Buffer,
  name: string,
  { volume, uuid }: { volume: number; uuid: Buffer },
): void {
  const refuse = (why: string) => new Failure("corrupt", `Cannot use ${name}: ${why}`);
  if (content.length < headerBytes) throw refuse("it ends within its header");
  if (crc32(content.subarray(0, 32)) !== content.readUInt32LE(32)) {
    throw refuse("its header does not verify");
  }
  const version = content.readUInt32LE(8);
  if (content.compare(magic, 0, 8, 0, 8) !== 0 || version !== formatVersion) {
    throw refuse(`it has format version ${version}, this program knows version ${formatVersion}`);
  }
  if (content.readUInt32LE(12) !== volume || content.compare(uuid, 0, 16, 16, 32) !== 0) {
    throw refuse("it belongs to another volume");
  }
}

function encodeRecord(
  { ordinal, timeMs }: { ordinal: number; timeMs: number },
  { number, position, seed }: { number: number; position: number; seed: number },
): Buffer {
  const bytes = Buffer.alloc(recordBytes);
  bytes.writeUInt32LE(ordinal, 0);
  bytes.writeUIntLE(timeMs, 4, 6);
  bytes.writeUInt16LE(position, 10);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12), recordSeed(number, seed)), 12);
  return bytes;
}

function decodeRecords(bytes: Buffer, seed: number, recordsMin: number): DecodedRecords {
  const deleted = new OrdinalSet();
  const blank: number[] = [];
  let damagedCount = 0;
  let count = recordsMin;
  // Where the last write begins that left something: what is blank from there on was torn.
  let lastWrite = 0;
  const whole = Math.floor(bytes.length / recordBytes);
  for (let number = 0; number < Math.max(whole, recordsMin); number++) {
    const record = bytes.subarray(number * recordBytes, (number + 1) * recordBytes);
    // A power cut leaves sectors as they were: a record of a torn write is there, or blank, or beyond the end.
    if (record.length < recordBytes || record.every((byte) => byte === 0)) {
      blank.push(number);
      continue;
    }
    count = Math.max(count, number + 1);
    if (crc32(record.subarray(0, 12), recordSeed(number, seed)) !== record.readUInt32LE(12)) {
      damagedCount += 1;
      continue;
    }
    const ordinal = record.readUInt32LE(0);
    if (ordinal !== voidOrdinal) deleted.add(ordinal);
    lastWrite = number - record.readUInt16LE(10);
  }
  const torn = blank.filter(
    (number) => number < count && number >= Math.max(lastWrite, recordsMin),
  );
  const missing = blank.filter((number) => number < Math.max(lastWrite, recordsMin));
  return { deleted, count, torn, damagedCount: damagedCount + missing.length };
}

function recordSeed(number: number, seed: number): number {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number, 0);
  return crc32(bytes, seed);
}

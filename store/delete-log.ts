/**
 * The delete log of a volume: the ordinals that were deleted, in a file beside it that only grows.
 *
 * Invariants:
 * - `add` returns once the record is synced; whoever comes while one sync runs is in the next.
 * - A record that does not verify is stepped over and counted: a torn one at the end was never answered.
 */

import { crc32 } from "../base/checksum.ts";
import { Failure, systemErrorCode } from "../base/failure.ts";
import type { FileHandle, FileSystem } from "../base/files.ts";
import { OrdinalSet } from "./offset-index.ts";

const magic = Buffer.from("HAYLOFTD", "latin1");
const formatVersion = 1;

// Log header:  0 magic 8 B "HAYLOFTD" · 8 formatVersion u32 · 12 volume u32 · 16 uuid 16 B · 32 crc u32
//              of all before it, then zeros up to 48
// Log record:  0 ordinal u32 · 4 timeMs u64 · 12 crc u32 of the 12 bytes before it, seeded with the
//              CRC-32 of the uuid and the record's number (u32)
const headerBytes = 48;
export const recordBytes = 16;

const batchRecordsMax = 4_096;

interface PendingDelete {
  ordinal: number;
  timeMs: number;
  resolve: () => void;
  reject: (failure: Failure) => void;
}

export class DeleteLog {
  readonly deleted: OrdinalSet;
  /** Records that did not verify when the log was opened. */
  readonly damagedCount: number;
  readonly #file: FileHandle;
  readonly #name: string;
  readonly #seed: number;
  #recordCount: number;
  #pending: PendingDelete[] = [];
  #running: Promise<void> | undefined;
  #failed: Failure | undefined;

  private constructor(
    file: FileHandle,
    name: string,
    seed: number,
    records: { deleted: OrdinalSet; count: number; damagedCount: number },
  ) {
    this.#file = file;
    this.#name = name;
    this.#seed = seed;
    this.deleted = records.deleted;
    this.#recordCount = records.count;
    this.damagedCount = records.damagedCount;
  }

  /** Makes an empty log on disk. */
  static async create(
    files: FileSystem,
    name: string,
    identity: { volume: number; uuid: Buffer },
  ): Promise<void> {
    await files.replace(name, encodeHeader(identity));
  }

  /** Opens the log of a volume. Fails with `corrupt` if it is lost: then nobody knows what was deleted. */
  static async open(
    files: FileSystem,
    name: string,
    { volume, uuid }: { volume: number; uuid: Buffer },
  ): Promise<DeleteLog> {
    const seed = crc32(uuid);
    const content = await files.readWhole(name);
    if (content === undefined) throw new Failure("corrupt", `Cannot use ${name}: it is not there`);
    checkHeader(content, name, { volume, uuid });
    const records = decodeRecords(content.subarray(headerBytes), seed);
    const file = await files.open(name, "write");
    // What a killed process wrote may be in the page cache alone, and after a failed sync the cache calls
    // it clean: what could not have been synced is written anew before anything is said of it.
    const end = headerBytes + records.count * recordBytes;
    const from = Math.max(end - batchRecordsMax * recordBytes, 0);
    await file.write([content.subarray(from, end)], from);
    await file.syncData();
    return new DeleteLog(file, name, seed, records);
  }

  /** The highest ordinal that was deleted, or -1. */
  get highest(): number {
    return this.deleted.highest;
  }

  /** Deletes an ordinal; returns once that is on the disk. */
  add(ordinal: number, timeMs: number): Promise<void> {
    if (this.#failed !== undefined) return Promise.reject(this.#failed);
    if (this.deleted.has(ordinal)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#pending.push({ ordinal, timeMs, resolve, reject });
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
        batch.map((record, at) => encodeRecord(record, this.#recordCount + at, this.#seed)),
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
      for (const { ordinal, resolve } of batch) {
        this.deleted.add(ordinal);
        resolve();
      }
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
  number: number,
  seed: number,
): Buffer {
  const bytes = Buffer.alloc(recordBytes);
  bytes.writeUInt32LE(ordinal, 0);
  bytes.writeUIntLE(timeMs, 4, 6);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 12), recordSeed(number, seed)), 12);
  return bytes;
}

function decodeRecords(
  bytes: Buffer,
  seed: number,
): { deleted: OrdinalSet; count: number; damagedCount: number } {
  const deleted = new OrdinalSet();
  let good = 0;
  let count = 0;
  const whole = Math.floor(bytes.length / recordBytes);
  for (let number = 0; number < whole; number++) {
    const record = bytes.subarray(number * recordBytes, (number + 1) * recordBytes);
    if (crc32(record.subarray(0, 12), recordSeed(number, seed)) !== record.readUInt32LE(12))
      continue;
    deleted.add(record.readUInt32LE(0));
    good += 1;
    // The log goes on after the last good record: what lies beyond was torn and is written over.
    count = number + 1;
  }
  return { deleted, count, damagedCount: count - good };
}

function recordSeed(number: number, seed: number): number {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number, 0);
  return crc32(bytes, seed);
}

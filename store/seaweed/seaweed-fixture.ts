/**
 * Writes volumes as SeaweedFS does, for tests and demonstrations of what reads them.
 *
 * It builds its bytes one field after the other and shares no table with the reader, so that a wrong place
 * there does not meet the same wrong place here.
 */

import { gzipSync, zstdCompressSync } from "node:zlib";
import { crc32c } from "@node-rs/crc32";
import type { FileSystem } from "../../base/files.ts";

interface FixtureTtl {
  count: number;
  /** 0 none, 1 minutes, 2 hours, 3 days, 4 weeks, 5 months, 6 years. */
  unit: number;
}

export interface FixtureNeedle {
  key: bigint;
  cookie: number;
  data: Uint8Array;
  name?: string | undefined;
  mime?: string | undefined;
  lastModifiedSeconds?: number | undefined;
  ttl?: FixtureTtl | undefined;
  pairs?: Record<string, string> | undefined;
  compression?: "gzip" | "zstd" | undefined;
  isChunkManifest?: boolean | undefined;
  /** "masked" is what was stored before 3.09. */
  crcForm?: "plain" | "masked" | undefined;
}

export interface FixtureOptions {
  version?: 1 | 2 | 3;
  /** dc * 100 + rack * 10 + same rack. */
  replication?: number;
  ttl?: FixtureTtl;
  compactionRevision?: number;
  /** Bytes after the superblock. */
  extra?: Uint8Array;
}

/** When the first needle of a version 3 volume is appended; each next one a second later. */
const firstAppendNs = 1_790_000_000_000_000_000n;
const secondNs = 1_000_000_000n;

export class SeaweedFixture {
  readonly #version: number;
  readonly #dat: Buffer[] = [];
  readonly #idx: Buffer[] = [];
  readonly #crcs = new Map<bigint, number>();
  #datBytes = 0;
  #appended = 0n;

  constructor(options: FixtureOptions = {}) {
    const { version = 3, replication = 0, compactionRevision = 0 } = options;
    const { ttl = { count: 0, unit: 0 }, extra = new Uint8Array(0) } = options;
    this.#version = version;
    this.#push(
      uint(1, version),
      uint(1, replication),
      uint(1, ttl.count),
      uint(1, ttl.unit),
      uint(2, compactionRevision),
      uint(2, extra.length),
      extra,
    );
    const over = this.#datBytes % 8;
    if (over > 0) this.#push(Buffer.alloc(8 - over));
  }

  get dat(): Buffer {
    return Buffer.concat(this.#dat);
  }

  get idx(): Buffer {
    return Buffer.concat(this.#idx);
  }

  /** Appends a needle and its row; returns the needle's offset in bytes. */
  put(needle: FixtureNeedle): number {
    const stored = compress(needle);
    const plain = crc32c(stored);
    // Nothing of an empty file but its header is written.
    const body = stored.length === 0 ? Buffer.alloc(0) : this.#body(needle, stored);
    const crc = needle.crcForm === "masked" ? mask(plain) : plain;
    this.#crcs.set(needle.key, crc);
    const offset = this.#append({ key: needle.key, cookie: needle.cookie, body, crc });
    this.row({ key: needle.key, offset, size: body.length });
    return offset;
  }

  /** Appends a needle without data and a row of size -1, whether or not the key is there. */
  delete({ key, cookie }: { key: bigint; cookie: number }): number {
    // The needle was read to compare the cookie, and keeps the checksum that it had then.
    const crc = this.#crcs.get(key) ?? 0;
    const offset = this.#append({ key, cookie, body: Buffer.alloc(0), crc });
    this.row({ key, offset, size: -1 });
    return offset;
  }

  /** Appends a row alone, true or not. */
  row({ key, offset, size }: { key: bigint; offset: number; size: number }): void {
    const row = Buffer.alloc(16);
    row.writeBigUInt64BE(key, 0);
    row.writeUInt32BE(offset / 8, 8);
    row.writeInt32BE(size, 12);
    this.#idx.push(row);
  }

  async save(files: FileSystem, { dat, idx }: { dat: string; idx: string }): Promise<void> {
    await files.replace(dat, this.#dat);
    await files.replace(idx, this.#idx);
  }

  #body(needle: FixtureNeedle, stored: Buffer): Buffer {
    const { name, mime, lastModifiedSeconds, ttl, pairs } = needle;
    const flags =
      (needle.compression === undefined ? 0 : 0x01) |
      (name === undefined ? 0 : 0x02) |
      (mime === undefined ? 0 : 0x04) |
      (lastModifiedSeconds === undefined ? 0 : 0x08) |
      (ttl === undefined ? 0 : 0x10) |
      (pairs === undefined ? 0 : 0x20) |
      (needle.isChunkManifest ? 0x80 : 0);
    const parts: Uint8Array[] = [uint(4, stored.length), stored, uint(1, flags)];
    if (name !== undefined) parts.push(...sized(1, Buffer.from(name)));
    if (mime !== undefined) parts.push(...sized(1, Buffer.from(mime)));
    if (lastModifiedSeconds !== undefined) parts.push(uint(5, lastModifiedSeconds));
    if (ttl !== undefined) parts.push(uint(1, ttl.count), uint(1, ttl.unit));
    if (pairs !== undefined) parts.push(...sized(2, Buffer.from(JSON.stringify(pairs))));
    return Buffer.concat(parts);
  }

  #append(needle: { key: bigint; cookie: number; body: Buffer; crc: number }): number {
    const offset = this.#datBytes;
    const key = Buffer.alloc(8);
    key.writeBigUInt64BE(needle.key);
    const { cookie, body, crc } = needle;
    this.#push(uint(4, cookie), key, uint(4, body.length), body, uint(4, crc));
    if (this.#version === 3) {
      const appendAtNs = Buffer.alloc(8);
      appendAtNs.writeBigUInt64BE(firstAppendNs + this.#appended * secondNs);
      this.#push(appendAtNs);
    }
    this.#appended += 1n;
    // Never 0 bytes, and not zeros either: they are left from what the buffer held before.
    this.#push(Buffer.alloc(8 - (this.#datBytes % 8), 0xa5));
    return offset;
  }

  #push(...parts: Uint8Array[]): void {
    for (const part of parts) {
      this.#dat.push(Buffer.from(part));
      this.#datBytes += part.length;
    }
  }
}

function compress({ data, compression }: FixtureNeedle): Buffer {
  if (compression === "gzip") return gzipSync(data);
  if (compression === "zstd") return zstdCompressSync(data);
  return Buffer.from(data);
}

/** Rotated by 15 bits to the right, plus a constant. */
function mask(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function uint(length: number, value: number): Buffer {
  const bytes = Buffer.alloc(length);
  bytes.writeUIntBE(value, 0, length);
  return bytes;
}

/** A length of that many bytes, then the text. */
function sized(lengthBytes: number, text: Buffer): Buffer[] {
  return [uint(lengthBytes, text.length), text];
}

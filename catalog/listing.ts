/**
 * A page of a listing: keys in byte order, those that share a common prefix shown as that prefix.
 *
 * Invariants:
 * - A common prefix costs one seek, however many keys it stands for; nothing is ever counted.
 * - The pages, one after the other, show each key or its common prefix once.
 */

import { decodeText, encodeText } from "./model.ts";

export interface ListQuery {
  prefix?: string;
  /** Of any length; empty for a flat listing. */
  delimiter?: string;
  /** Exclusive: a key, or the `next` of the page before. A common prefix here skips its whole group. */
  startAfter?: string;
  /** Objects and common prefixes together. */
  maxKeys: number;
}

export interface KeyPage<Row> {
  rows: Row[];
  prefixes: string[];
  isTruncated: boolean;
  next?: string;
}

/** Rows with `from <= key < end` in byte order, found as they are asked for. */
export type Scan<Row> = (range: { from: Buffer; end: Buffer }) => Iterable<Row>;

// UTF-8 has no such byte.
const pastEveryKey = Buffer.of(0xff);

export function listKeys<Row extends { key: Uint8Array }>(
  scan: Scan<Row>,
  { prefix = "", delimiter = "", startAfter = "", maxKeys }: ListQuery,
): KeyPage<Row> {
  const grouping = { prefix: encodeText(prefix), delimiter: encodeText(delimiter) };
  const start = encodeText(startAfter);
  const end = grouping.prefix.length === 0 ? pastEveryKey : pastAll(grouping.prefix);
  const rows: Row[] = [];
  const prefixes: string[] = [];
  if (maxKeys <= 0) return { rows, prefixes, isTruncated: false };

  let last: Uint8Array = start;
  let from: Buffer | undefined = firstAfter(start, grouping);
  while (from !== undefined && from.compare(end) < 0) {
    let group: Buffer | undefined;
    for (const row of scan({ from, end })) {
      if (rows.length + prefixes.length >= maxKeys) {
        return { rows, prefixes, isTruncated: true, next: decodeText(last) };
      }
      group = commonPrefix(row.key, grouping);
      if (group !== undefined) {
        prefixes.push(decodeText(group));
        last = group;
        break;
      }
      rows.push(row);
      last = row.key;
    }
    from = group === undefined ? undefined : pastAll(group);
  }
  return { rows, prefixes, isTruncated: false };
}

interface Grouping {
  prefix: Buffer;
  delimiter: Buffer;
}

function firstAfter(start: Buffer, grouping: Grouping): Buffer {
  if (start.compare(grouping.prefix) < 0) return grouping.prefix;
  if (start.length === 0) return start;
  // No key that is listed as itself can equal a common prefix, so this is one of the page before.
  if (commonPrefix(start, grouping)?.length === start.length) return pastAll(start);
  return Buffer.concat([start, Buffer.of(0)]);
}

/** The key up to and with the first delimiter after the prefix, or undefined if it stands for itself. */
function commonPrefix(key: Uint8Array, { prefix, delimiter }: Grouping): Buffer | undefined {
  if (delimiter.length === 0) return undefined;
  const bytes = Buffer.from(key.buffer, key.byteOffset, key.length);
  if (!bytes.subarray(0, prefix.length).equals(prefix)) return undefined;
  const at = bytes.indexOf(delimiter, prefix.length);
  return at === -1 ? undefined : bytes.subarray(0, at + delimiter.length);
}

/** The first place after everything that begins with `prefix`, which is not empty. */
function pastAll(prefix: Buffer): Buffer {
  const past = Buffer.from(prefix);
  // Can't overflow: UTF-8 has no byte 0xff.
  past.writeUInt8(past.readUInt8(past.length - 1) + 1, past.length - 1);
  return past;
}

/**
 * A page of a listing: keys in byte order, those that share a common prefix shown as that prefix.
 *
 * Invariants:
 * - A common prefix costs one seek and a few rows, however many keys it stands for; nothing is counted,
 *   and nothing is skipped by number.
 * - The pages, one after the other, show each key or its common prefix once.
 */

import { decodeText, encodeText } from "./model.ts";
import type { Work } from "./query.ts";

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

/** The first `limit` rows with `from <= key < end`, in byte order. */
export type Scan<Row> = (range: { from: Buffer; end: Buffer; limit: number }) => Work<Row[]>;

// UTF-8 has no such byte.
const pastEveryKey = Buffer.of(0xff);

/** How many rows are asked for where the next of them may be the only one of use. */
const fewRows = 8;

export function* listKeys<Row extends { key: Uint8Array }>(
  scan: Scan<Row>,
  { prefix = "", delimiter = "", startAfter = "", maxKeys }: ListQuery,
): Work<KeyPage<Row>> {
  const grouping = { prefix: encodeText(prefix), delimiter: encodeText(delimiter) };
  const start = encodeText(startAfter);
  const end = grouping.prefix.length === 0 ? pastEveryKey : pastAll(grouping.prefix);
  const rows: Row[] = [];
  const prefixes: string[] = [];
  if (maxKeys <= 0) return { rows, prefixes, isTruncated: false };

  let last: Uint8Array = start;
  let from = firstAfter(start, grouping);
  let limit = delimiter === "" ? maxKeys + 1 : fewRows;
  while (from.compare(end) < 0) {
    const listedBefore = rows.length + prefixes.length;
    const found = yield* scan({ from, end, limit });
    for (const row of found) {
      if (from.compare(row.key) > 0) continue; // within the group that was listed last
      if (rows.length + prefixes.length >= maxKeys) {
        return { rows, prefixes, isTruncated: true, next: decodeText(last) };
      }
      const group = commonPrefix(row.key, grouping);
      if (group === undefined) {
        rows.push(row);
        last = row.key;
        from = firstPast(row.key);
      } else {
        prefixes.push(decodeText(group));
        last = group;
        from = pastAll(group);
      }
    }
    if (found.length < limit) break;
    // Where one group fills what was found it may hold millions more: few rows are asked for behind it.
    const listedCount = rows.length + prefixes.length - listedBefore;
    const leftMax = Math.max(maxKeys - rows.length - prefixes.length + 1, fewRows);
    limit = listedCount * fewRows < found.length ? fewRows : Math.min(limit * 2, leftMax);
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
  return firstPast(start);
}

function firstPast(key: Uint8Array): Buffer {
  return Buffer.concat([key, Buffer.of(0)]);
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

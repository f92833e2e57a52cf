/** A child that does with files what anybody could: what the engine's absolute figures stand beside. */

import { closeSync, fdatasyncSync, openSync, readSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { serve } from "./child.ts";

export type RawRequest =
  /** Reads each file whole into memory. */
  | { kind: "read"; files: string[] }
  /** CRC-32 over each file in one pass. */
  | { kind: "crc"; files: string[] }
  /** Appends to a file and syncs, again and again. */
  | { kind: "sync"; file: string; bytes: number; limitMs: number };

export interface RawAnswer {
  seconds: number;
  /** Bytes, or syncs. */
  count: number;
}

const pieceBytes = 4 * 2 ** 20;

async function answer(request: RawRequest): Promise<RawAnswer> {
  const startedMs = performance.now();
  const count = await act(request);
  return { seconds: (performance.now() - startedMs) / 1_000, count };
}

async function act(request: RawRequest): Promise<number> {
  switch (request.kind) {
    case "read": {
      let bytes = 0;
      for (const file of request.files) bytes += (await readFile(file)).length;
      return bytes;
    }
    case "crc":
      return request.files.reduce((sum, file) => sum + checksumFile(file), 0);
    case "sync":
      return syncAgainAndAgain(request);
  }
}

function checksumFile(name: string): number {
  const descriptor = openSync(name, "r");
  const piece = Buffer.allocUnsafeSlow(pieceBytes);
  let crc = 0;
  let bytes = 0;
  for (;;) {
    const count = readSync(descriptor, piece);
    if (count === 0) break;
    crc = crc32(piece.subarray(0, count), crc);
    bytes += count;
  }
  closeSync(descriptor);
  return bytes;
}

function syncAgainAndAgain({ file, bytes, limitMs }: RawRequest & { kind: "sync" }): number {
  const descriptor = openSync(file, "w");
  const piece = Buffer.alloc(bytes, 1);
  const endMs = performance.now() + limitMs;
  let syncs = 0;
  for (; performance.now() < endMs; syncs++) {
    writeSync(descriptor, piece);
    fdatasyncSync(descriptor);
  }
  closeSync(descriptor);
  return syncs;
}

await serve(answer);

/**
 * Scrub: reads a volume from its first byte to its last and verifies all of it, because a sector that has
 * gone bad is told only to those who read it.
 *
 * Invariant: nothing is changed. What does not verify is reported with its place, as far as it is known.
 */

import type { Clock } from "../../base/clock.ts";
import { systemClock } from "../../base/clock.ts";
import { RateLimit } from "../../base/rate-limit.ts";
import { type Runtime, systemRuntime } from "../../base/runtime.ts";
import type { Generation } from "./generation.ts";
import { unitBytes } from "./needle.ts";
import { type FoundRecord, Records } from "./records.ts";
import { decodeSuperblock, superblockBytes } from "./superblock.ts";
import { VolumeDigest } from "./volume-digest.ts";

export interface ScrubFinding {
  offset: number;
  length: number;
  /** Of the damaged needle, where its header still tells. */
  ordinal?: number | undefined;
  why: string;
}

export interface ScrubOptions {
  generation: Generation;
  /** Bytes of the volume that count. */
  end: number;
  /** Bytes a second to read, 0 for no limit. */
  rateBytes: number;
  isDeleted: (ordinal: number) => boolean;
  signal?: AbortSignal | undefined;
  clock?: Clock | undefined;
  runtime?: Runtime | undefined;
  progress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

export interface ScrubResult {
  findings: ScrubFinding[];
  needleCount: number;
  /** Merkle root over the bytes as they are (volume-digest.ts), hex, and the leaves under it. */
  digest: string;
  leaves: Buffer;
}

/** A slice of work between two looks at who else wants the processor. */
const sliceBytes = 262_144;

export async function scrubVolume(options: ScrubOptions): Promise<ScrubResult> {
  const { generation, end, rateBytes, isDeleted, signal, clock = systemClock, progress } = options;
  const { file, superblock, index } = generation;
  const { runtime = systemRuntime } = options;
  const limit = new RateLimit(clock, rateBytes, runtime);
  const findings: ScrubFinding[] = [];
  let needleCount = 0;
  let spentUpTo = 0;
  for await (const slice of scan(generation, end)) {
    for (const found of slice) {
      if (found.kind === "damage") {
        findings.push({ offset: found.offset, length: found.length, why: found.why });
        continue;
      }
      const { ordinal, offset, length, isReservation } = found.record.head;
      if (found.problem !== undefined) {
        findings.push({ offset, length, ordinal, why: found.problem });
      }
      if (isReservation) continue;
      needleCount += 1;
      if (!isDeleted(ordinal) && index.get(ordinal) !== offset) {
        findings.push({ offset, length, ordinal, why: "the index does not lead to it" });
      }
    }
    const last = slice.at(-1);
    const upTo = last === undefined ? spentUpTo : last.offset + last.length;
    await limit.spend(upTo - spentUpTo, signal);
    progress?.(upTo, end);
    spentUpTo = upTo;
  }
  await checkSuperblock();
  const { root, leaves } = await digestOf(generation, { end, limit, signal, runtime });
  return { findings, needleCount, digest: root, leaves };

  async function checkSuperblock(): Promise<void> {
    const bytes = Buffer.alloc(superblockBytes);
    await file.read(bytes, 0);
    const copyBytes = superblockBytes / 2;
    for (const offset of [0, copyBytes]) {
      try {
        const copy = decodeSuperblock(bytes.subarray(offset, offset + copyBytes), "the volume");
        if (copy.uuid.equals(superblock.uuid) && copy.generation === superblock.generation)
          continue;
      } catch {
        // Told below: one copy of two is enough to read the volume, and none too few to leave it at that.
      }
      findings.push({ offset, length: copyBytes, why: "a copy of the superblock does not verify" });
    }
  }
}

async function digestOf(
  { file }: Generation,
  options: { end: number; limit: RateLimit; signal: AbortSignal | undefined; runtime: Runtime },
): Promise<{ root: string; leaves: Buffer }> {
  const { end, limit, signal, runtime } = options;
  const digest = new VolumeDigest({ runtime });
  const piece = Buffer.allocUnsafe(sliceBytes);
  for (let at = 0; at < end; at += sliceBytes) {
    const count = await file.read(piece.subarray(0, Math.min(sliceBytes, end - at)), at);
    await digest.update(piece.subarray(0, count));
    await limit.spend(0, signal); // the bytes were paid for when they were read first
  }
  return await digest.finish();
}

interface Extent {
  offset: number;
  length: number;
}

export type Scanned = Extent &
  (
    | { kind: "record"; record: FoundRecord; problem: string | undefined }
    | { kind: "damage"; why: string }
  );

/**
 * All records of a volume in the order of the file, each verified, and the stretches between that are none.
 * They come in slices of a quarter of a MiB or so.
 */
export async function* scan(
  { file, superblock, seeds }: Generation,
  end: number,
): AsyncGenerator<Scanned[]> {
  const there = Math.min(end, await file.sizeBytes());
  const records = new Records({
    file,
    end: there,
    identity: superblock,
    seeds,
  });
  try {
    let at = superblockBytes;
    while (at < end) {
      const slice: Scanned[] = [];
      if (at >= there) {
        yield [{ kind: "damage", offset: at, length: end - at, why: "the file ends early" }];
        return;
      }
      const sliceEnd = Math.min(at + sliceBytes, there);
      while (at < sliceEnd) {
        const scanned = scanAt(records, at);
        // Waiting costs more than looking at a small needle does.
        const found = scanned instanceof Promise ? await scanned : scanned;
        slice.push(found);
        at += found.length;
      }
      yield slice;
    }
  } finally {
    await records.close();
  }
}

function scanAt(records: Records, offset: number): Scanned | Promise<Scanned> {
  const record = records.at(offset);
  if (record === undefined || record instanceof Promise) {
    return scanAfterReading(records, offset, record);
  }
  const problem = records.problem(record);
  return problem instanceof Promise
    ? problem.then((why) => scanned(record, why))
    : scanned(record, problem);
}

/** `reading` is on its way already: a second read at the same time would move the window under it. */
async function scanAfterReading(
  records: Records,
  offset: number,
  reading: Promise<FoundRecord | undefined> | undefined,
): Promise<Scanned> {
  const record = await reading;
  if (record !== undefined) return scanned(record, await records.problem(record));
  const next = (await nextRecord(records, offset + unitBytes)) ?? records.end;
  const why = "no header and footer that verify stand here";
  return { kind: "damage", offset, length: next - offset, why };
}

function scanned(record: FoundRecord, problem: string | undefined): Scanned {
  const { offset, length } = record.head;
  return { kind: "record", offset, length, record, problem };
}

async function nextRecord(records: Records, from: number): Promise<number | undefined> {
  for await (const offset of records.candidates(from, records.end)) {
    if ((await records.at(offset)) !== undefined) return offset;
  }
  return undefined;
}

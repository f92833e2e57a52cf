/**
 * What operators see of a volume: the facts of it as a whole, its records one by one, and its damage by name.
 *
 * Invariant: a cookie is told only to who asks for it, and the record magic to nobody.
 */

import { setImmediate as giveWay } from "node:timers/promises";
import type { VolumeStatus } from "../directory/client.ts";
import type { Descriptor } from "./volume/descriptor.ts";
import type { Generation } from "./volume/generation.ts";
import { codecs, metadataOf, type NeedleHead, type Owner } from "./volume/needle.ts";
import type { FoundRecord } from "./volume/records.ts";
import { type Scanned, type ScrubFinding, scan } from "./volume/scrub.ts";
import { superblockBytes } from "./volume/superblock.ts";
import type { Volume } from "./volume/volume.ts";

export interface VolumeFacts extends VolumeStatus {
  /** Needles in the file, those deleted and not yet compacted away too. */
  presentCount: number;
  /** The first ordinal that appends to this generation could give out. */
  firstFree: number;
  /** Memory for finding its needles. */
  indexBytes: number;
  /** What its descriptor says beyond that, where it was at hand. */
  descriptor?: Pick<
    Descriptor,
    "members" | "sealedLength" | "sealedDigest" | "closedLength" | "trash"
  >;
}

/** One record of a volume's file, or a stretch of it that is none. */
export interface RecordFacts {
  kind: "needle" | "reservation" | "damage";
  offset: number;
  length: number;
  ordinal?: number;
  /** With stars in the place of the cookie, unless it was asked for. */
  fid?: string;
  codec?: keyof typeof codecs;
  /** Bytes as stored, and before the codec. */
  dataLength?: number;
  contentLength?: number;
  /** Ordinals that a reservation sets aside, from its own on. */
  reservedCount?: number;
  timeMs?: number;
  ttlSeconds?: number;
  owner?: Owner;
  metadata?: unknown;
  isDeleted?: true;
  isExpired?: true;
  /** Why it does not verify. */
  problem?: string;
}

/** Something in a volume that does not verify. */
export interface DamageFacts extends ScrubFinding {
  /** The needle is deleted: nobody misses it. */
  isDeleted?: true;
}

export async function factsOf(volume: Volume, descriptor?: Descriptor): Promise<VolumeFacts> {
  const presentCount = await volume.read(async ({ index }) => index.presentCount);
  const { firstFree } = volume.superblock;
  const facts = { ...volume.report(), presentCount, firstFree, indexBytes: volume.indexBytes };
  if (descriptor === undefined) return facts;
  const { members, sealedLength, sealedDigest, closedLength, trash } = descriptor;
  return { ...facts, descriptor: { members, sealedLength, sealedDigest, closedLength, trash } };
}

export interface RecordSelection {
  /** The first ordinal. */
  from?: number | undefined;
  /** How many records at most. */
  count?: number | undefined;
  withCookies?: boolean | undefined;
  nowMs: number;
}

/**
 * The records of a volume in the order of its file, each verified. They come in slices of about a MiB, which
 * may be empty: whoever waits sees that it goes on.
 */
export async function* listRecords(
  volume: Volume,
  selection: RecordSelection,
): AsyncGenerator<RecordFacts[]> {
  const { from = 0 } = selection;
  let left = selection.count ?? Number.POSITIVE_INFINITY;
  let hasBegun = from === 0;
  for await (const { slice, generation } of scanHeld(volume)) {
    const facts: RecordFacts[] = [];
    for (const found of slice) {
      if (facts.length >= left) break;
      if (found.kind === "record") {
        const { ordinal, isReservation, contentLength } = found.record.head;
        if (ordinal + (isReservation ? contentLength : 1) <= from) continue;
        hasBegun = true;
      }
      if (hasBegun) facts.push(recordFacts(found, { volume, generation, selection }));
    }
    left -= facts.length;
    yield facts;
    if (left <= 0) return;
  }
}

/** `scan`, on a generation that is held on to for as long as it takes. */
export async function* scanHeld(
  volume: Volume,
): AsyncGenerator<{ slice: Scanned[]; generation: Generation }> {
  const begun = Promise.withResolvers<{ generation: Generation; end: number }>();
  const ended = Promise.withResolvers<void>();
  const held = volume.read(async (generation, end) => {
    begun.resolve({ generation, end });
    await ended.promise;
  });
  try {
    const { generation, end } = await begun.promise;
    for await (const slice of scan(generation, end)) yield { slice, generation };
  } finally {
    ended.resolve();
    await held;
  }
}

function recordFacts(
  found: Scanned,
  {
    volume,
    generation,
    selection,
  }: { volume: Volume; generation: Generation; selection: RecordSelection },
): RecordFacts {
  const { offset, length } = found;
  if (found.kind === "damage") return { kind: "damage", offset, length, problem: found.why };
  const { record, problem } = found;
  const { head } = record;
  const { ordinal, timeMs, contentLength } = head;
  const facts = { offset, length, ordinal, timeMs };
  if (head.isReservation) {
    return withProblem({ kind: "reservation", ...facts, reservedCount: contentLength }, problem);
  }
  const isDeleted = volume.isDeleted(ordinal);
  const isLost = !isDeleted && generation.index.get(ordinal) !== offset;
  return withProblem(
    {
      kind: "needle",
      ...facts,
      fid: fidOf(volume, head, selection.withCookies === true ? "told" : "masked"),
      codec: codecName(head),
      dataLength: head.dataLength,
      contentLength,
      ttlSeconds: head.ttlSeconds,
      ...(head.owner === undefined ? {} : { owner: head.owner }),
      metadata: readMetadata(record),
      ...(isDeleted ? { isDeleted } : {}),
      ...(isExpired(head, selection.nowMs) ? { isExpired: true } : {}),
    },
    problem ?? (isLost ? "the index does not lead to it" : undefined),
  );
}

function withProblem(facts: RecordFacts, problem: string | undefined): RecordFacts {
  return problem === undefined ? facts : { ...facts, problem };
}

export function isExpired({ timeMs, ttlSeconds }: NeedleHead, nowMs: number): boolean {
  return ttlSeconds > 0 && nowMs > timeMs + ttlSeconds * 1_000;
}

/** The fid by which a needle is read; a key of another store may be longer than an ordinal. */
export function fidOf(
  volume: Volume,
  { ordinal, cookie }: NeedleHead,
  cookieIs: "told" | "masked" = "told",
): string {
  const digits = volume.keyOf(ordinal).toString(16);
  const even = digits.length % 2 === 0 ? digits : `0${digits}`;
  const cookieText = cookieIs === "told" ? cookie.toString(16).padStart(8, "0") : "********";
  return `${volume.superblock.volume},${even}${cookieText}`;
}

export function codecName({ codec }: NeedleHead): keyof typeof codecs {
  const names = Object.keys(codecs) as (keyof typeof codecs)[];
  return names.find((name) => codecs[name] === codec) ?? "none";
}

/** A needle's metadata: the JSON that it is, or the bytes that it should not be. */
export function readMetadata({ head, headBytes }: FoundRecord): unknown {
  const bytes = metadataOf(headBytes, head);
  if (bytes.length === 0) return {};
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return { base64: bytes.toString("base64") };
  }
}

// Long enough to be worth the turn, short enough not to be felt by a reader who waits.
const namedInOneTurn = 16_384;

/**
 * The findings of a scrub with the needles that they belong to: where not even a header is left, the index
 * still knows who lay there.
 */
export async function nameDamage(
  volume: Volume,
  findings: readonly ScrubFinding[],
): Promise<DamageFacts[]> {
  const named: DamageFacts[] = [];
  const stretches: ScrubFinding[] = [];
  for (const finding of findings) {
    const isRecord = finding.offset >= superblockBytes;
    if (finding.ordinal === undefined && isRecord) stretches.push(finding);
    else named.push(withDeletion(volume, finding));
  }
  if (stretches.length > 0) {
    stretches.sort((left, right) => left.offset - right.offset);
    const nameless = new Set(stretches);
    await volume.read(async ({ index }, end) => {
      for (let ordinal = 0; ordinal < index.count; ordinal++) {
        if (ordinal % namedInOneTurn === namedInOneTurn - 1) await giveWay();
        const offset = index.get(ordinal);
        const stretch = offset === undefined ? undefined : findStretch(stretches, offset);
        if (offset === undefined || stretch === undefined) continue;
        nameless.delete(stretch);
        const length = (index.bound(ordinal) ?? end) - offset;
        named.push(withDeletion(volume, { offset, length, ordinal, why: stretch.why }));
      }
    });
    named.push(...nameless);
  }
  return named.sort((left, right) => left.offset - right.offset);
}

function withDeletion(volume: Volume, finding: ScrubFinding): DamageFacts {
  const isDeleted = finding.ordinal !== undefined && volume.isDeleted(finding.ordinal);
  return isDeleted ? { ...finding, isDeleted } : finding;
}

/** The stretch that `offset` lies in; they are in the order of the file and do not overlap. */
function findStretch(stretches: readonly ScrubFinding[], offset: number): ScrubFinding | undefined {
  let low = 0;
  let high = stretches.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((stretches[middle]?.offset ?? 0) <= offset) low = middle + 1;
    else high = middle;
  }
  const stretch = stretches[low - 1];
  return stretch !== undefined && offset < stretch.offset + stretch.length ? stretch : undefined;
}

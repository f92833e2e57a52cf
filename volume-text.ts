/** How `hayloft volume` shows what it has to say: pure, from facts to text for people. */

import Table from "cli-table3";
import { formatBytes, formatDuration } from "./base/units.ts";
import type { DamageFacts, RecordFacts, VolumeFacts } from "./store/client.ts";
import type { CompactionOutcome, CompactionPlan, UnreadableVolume } from "./store/offline.ts";

/** A volume in a list: what a store or the directory says of it. */
export type ListedVolume =
  | (Omit<VolumeFacts, "presentCount" | "firstFree" | "indexBytes"> &
      Partial<Pick<VolumeFacts, "presentCount" | "firstFree" | "indexBytes">> & {
        store?: string;
        address?: string;
      })
  | UnreadableVolume;

type ReadableVolume = Exclude<ListedVolume, UnreadableVolume>;

export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** `1 needle`, `2 needles`. */
export function formatMany(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function formatShare(part: number, whole: number): string {
  return whole === 0 ? "0%" : `${Math.round((part / whole) * 100)}%`;
}

function formatAgo(timeMs: number, nowMs: number): string {
  const ms = nowMs - timeMs;
  if (ms < 10_000) return "just now";
  return `${formatDuration(ms).split(" ").slice(0, 2).join(" ")} ago`;
}

function formatTime(timeMs: number): string {
  return new Date(timeMs)
    .toISOString()
    .replace("T", " ")
    .replace(/\.[0-9]+Z$/, " UTC");
}

const hasNumbers = new Set([
  "needles",
  "deleted",
  "length",
  "dead",
  "",
  "index",
  "gen",
  "epoch",
  "offset",
  "trash",
  "volumes",
  "held",
  "free",
  "missing",
  "to copy",
  "to free",
]);

export function formatList(volumes: readonly ListedVolume[], nowMs: number): string {
  if (volumes.length === 0) return "There are no volumes.\n";
  const hasIndex = volumes.some((volume) => "indexBytes" in volume);
  const stores = new Set(volumes.flatMap((volume) => ("store" in volume ? [volume.store] : [])));
  const rows = volumes.map((volume): Record<string, string> => {
    if ("reason" in volume) {
      return { volume: String(volume.volume), state: volume.state, notes: volume.reason };
    }
    const { lengthBytes, deadBytes, scrubbedMs, trashBytes } = volume;
    return {
      volume: String(volume.volume),
      class: volume.class,
      state: volume.state,
      gen: String(volume.generation),
      needles: formatCount(volume.needleCount),
      deleted: formatCount(volume.deletedCount),
      length: formatBytes(lengthBytes),
      dead: formatBytes(deadBytes),
      "": formatShare(deadBytes, lengthBytes),
      index: formatBytes(volume.indexBytes ?? 0),
      verified: scrubbedMs === 0 ? "never" : formatAgo(scrubbedMs, nowMs),
      trash: trashBytes === 0 ? "-" : formatBytes(trashBytes),
      store: volume.address ?? "",
      notes: notesOf(volume),
    };
  });
  const names = [
    ...["volume", "class", "state", "gen", "needles", "deleted", "length", "dead", ""],
    ...(hasIndex ? ["index"] : []),
    ...["verified", "trash"],
    ...(stores.size > 1 ? ["store"] : []),
    ...(rows.some(({ notes }) => notes !== "") ? ["notes"] : []),
  ];
  return formatTable(names, rows);
}

function notesOf({ damagedBytes, operation, closedBecause, ...volume }: ReadableVolume): string {
  const notes = [
    damagedBytes > 0 ? `${formatBytes(damagedBytes)} damaged` : "",
    operation === undefined
      ? ""
      : `${operation.kind} runs, ${formatShare(operation.doneBytes, operation.totalBytes)}`,
    volume.state === "open" && closedBecause !== undefined ? "takes no appends" : "",
    volume.hasSparseKeys ? "imported" : "",
  ];
  return notes.filter((note) => note !== "").join(", ");
}

/** Columns with two spaces between them: easy to read, and to cut up. Those of numbers end alike. */
export function formatTable(
  names: readonly string[],
  rows: readonly Record<string, string>[],
): string {
  const sides = ["top", "bottom", "left", "right", "mid"];
  const places = sides.flatMap((side) => [
    ...[side, `${side}-mid`, `${side}-left`, `${side}-right`],
    `mid-${side}`,
  ]);
  const none = Object.fromEntries([...places, "left-mid", "right-mid"].map((name) => [name, ""]));
  const table = new Table({
    head: [...names],
    chars: { ...none, middle: "  " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
    colAligns: names.map((name) => (hasNumbers.has(name) ? "right" : "left")),
  });
  for (const row of rows) table.push(names.map((name) => row[name] ?? ""));
  const lines = table.toString().split("\n");
  return `${lines.map((line) => line.trimEnd()).join("\n")}\n`;
}

/** With fewer, what an index costs in any case hides what it costs a needle. */
const manyNeedles = 10_000;

export function formatFacts(facts: VolumeFacts & { store?: string }, nowMs: number): string {
  const { lengthBytes, deadBytes, dataBytes, needleCount, deletedCount, presentCount } = facts;
  const { state, generation, damagedBytes, indexBytes, scrubbedMs, ttlSeconds, operation } = facts;
  const { members, sealedDigest, trash = [] } = facts.descriptor ?? {};
  const inFile = presentCount === needleCount ? "" : `, ${formatCount(presentCount)} in the file`;
  const perNeedle =
    presentCount < manyNeedles ? "" : `, ${(indexBytes / presentCount).toFixed(1)} B a needle`;
  // Where nothing runs nobody appends, which says nothing of the volume.
  const isClosed = state === "open" && facts.store !== undefined && !facts.isWritable;
  const rows: [string, string | undefined][] = [
    ["class", facts.class],
    ["state", isClosed ? `${state}, takes no appends now` : state],
    ["because", state === "open" ? facts.closedBecause : undefined],
    ["generation", String(generation)],
    ["needles", `${formatCount(needleCount)}${inFile}, ${formatCount(deletedCount)} deleted`],
    ["length", `${formatBytes(lengthBytes)} (${formatMany(lengthBytes, "byte")})`],
    ["data", formatBytes(dataBytes)],
    ["dead", `${formatBytes(deadBytes)}, ${formatShare(deadBytes, lengthBytes)} of the length`],
    ["damaged", damagedBytes === 0 ? "nothing known" : formatBytes(damagedBytes)],
    ["verified", scrubbedMs === 0 ? "never" : formatSince(scrubbedMs, nowMs)],
    ["index", `${formatBytes(indexBytes)} in memory${perNeedle}`],
    ["keys", facts.hasSparseKeys ? "of another store: it was imported" : undefined],
    ["lifetime", ttlSeconds === 0 ? undefined : formatDuration(ttlSeconds * 1_000)],
    ["running", operation === undefined ? undefined : notesOf({ ...facts, damagedBytes: 0 })],
    ["created", formatSince(facts.createdMs, nowMs)],
    ["epoch", String(facts.epoch)],
    ["uuid", facts.uuid],
    ["digest", sealedDigest],
    ["store", facts.store],
    ["copies at", members?.join(", ")],
    ...trash.map((entry): [string, string] => [
      "trash",
      `generation ${entry.generation}, replaced ${formatSince(entry.sinceMs, nowMs)}`,
    ]),
    ["trash", facts.trashBytes === 0 ? undefined : `${formatBytes(facts.trashBytes)} in all`],
  ];
  return `volume ${facts.volume}\n\n${formatRows(rows)}`;
}

function formatSince(timeMs: number, nowMs: number): string {
  return `${formatTime(timeMs)}, ${formatAgo(timeMs, nowMs)}`;
}

function formatRows(rows: readonly [string, string | undefined][]): string {
  return rows
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `  ${name.padEnd(12)}${value}\n`)
    .join("");
}

export const recordHead: string = [
  "ordinal".padStart(10),
  "offset".padStart(14),
  "length".padStart(11),
  "content".padStart(11),
  "codec".padEnd(5),
  "written".padEnd(20),
  "fid".padEnd(18),
  "what",
].join("  ");

/** One line for a record; whatever was uploaded can't break out of it. */
export function formatRecord(facts: RecordFacts): string {
  const { kind, ordinal, offset, length, contentLength, codec, timeMs, fid } = facts;
  const written = timeMs === undefined ? "" : new Date(timeMs).toISOString();
  const columns = [
    (ordinal === undefined ? "-" : formatCount(ordinal)).padStart(10),
    formatCount(offset).padStart(14),
    formatCount(length).padStart(11),
    (contentLength === undefined ? "-" : formatCount(contentLength)).padStart(11),
    (codec === undefined || codec === "none" ? "-" : codec).padEnd(5),
    written.replace(/\.[0-9]+Z$/, "Z").padEnd(20),
    (fid ?? "-").padEnd(18),
  ];
  const what = kind === "reservation" ? formatReservation(facts) : nameOf(facts.metadata);
  const flags = [
    facts.isDeleted ? "deleted" : "",
    facts.isExpired ? "expired" : "",
    facts.problem === undefined ? "" : `DAMAGED: ${facts.problem}`,
  ].filter((flag) => flag !== "");
  const shown = [printable(what), flags.length === 0 ? "" : `[${flags.join(", ")}]`];
  return [...columns, shown.filter((text) => text !== "").join(" ")].join("  ").trimEnd();
}

function formatReservation({ ordinal = 0, reservedCount = 0 }: RecordFacts): string {
  const last = formatCount(ordinal + reservedCount - 1);
  return `reserves ${formatCount(ordinal)} to ${last}`;
}

/** What people know a blob by. */
function nameOf(metadata: unknown): string {
  const { bucket, key, chunk, name, type } = (metadata ?? {}) as Record<string, unknown>;
  const text = (value: unknown) => (typeof value === "string" ? value : "");
  const path = typeof bucket === "string" ? `${bucket}/${text(key)}` : text(name);
  const part = typeof chunk === "number" && chunk > 0 ? `chunk ${chunk}` : "";
  return [path, part, text(type)].filter((word) => word !== "").join("  ");
}

/** Without what a terminal would obey. */
export function printable(text: string): string {
  return text.toWellFormed().replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, "\ufffd");
}

export function formatDamage({ ordinal, offset, length, why, isDeleted }: DamageFacts): string {
  const what = ordinal === undefined ? "no known needle" : `needle ${formatCount(ordinal)}`;
  const place = `at ${formatCount(offset)}, ${formatMany(length, "byte")}`;
  return `  ${what} ${place}: ${why}${isDeleted === true ? " (it is deleted)" : ""}`;
}

export function formatVerified({
  volume,
  lengthBytes,
  tookMs,
  findings,
}: {
  volume: number;
  lengthBytes: number;
  tookMs: number;
  findings: readonly DamageFacts[];
}): string {
  const needles = findings.filter(({ ordinal }) => ordinal !== undefined).length;
  const found = [
    findings.length === 0 ? "no damage" : "",
    needles > 0 ? `${formatMany(needles, "needle")} damaged` : "",
    findings.length > needles ? `${formatMany(findings.length - needles, "place")} damaged` : "",
  ].filter((text) => text !== "");
  const speed = `${formatBytes(lengthBytes)} read in ${formatDuration(tookMs)}`;
  return [
    `volume ${volume}: ${[...found, speed].join(", ")}`,
    ...findings.map(formatDamage),
    "",
  ].join("\n");
}

export function formatPlan(
  plans: readonly CompactionPlan[],
  { rateBytes }: { rateBytes: number },
): string {
  const rowOf = (volume: string, state: string, copyBytes: number, freedBytes: number) => ({
    ...{ volume, state, "to copy": formatBytes(copyBytes), "to free": formatBytes(freedBytes) },
    ...(rateBytes === 0 ? {} : { takes: formatDuration((copyBytes / rateBytes) * 1_000) }),
  });
  const rows = plans.map(({ volume, state, copyBytes, freedBytes }) =>
    rowOf(String(volume), state, copyBytes, freedBytes),
  );
  const copyBytes = plans.reduce((sum, plan) => sum + plan.copyBytes, 0);
  const freedBytes = plans.reduce((sum, plan) => sum + plan.freedBytes, 0);
  if (plans.length > 1) rows.push(rowOf("in all", "", copyBytes, freedBytes));
  const names = ["volume", "state", "to copy", "to free", ...(rateBytes === 0 ? [] : ["takes"])];
  return formatTable(names, rows);
}

export function formatCompacted(
  { volume, generation, copiedBytes, freedBytes }: CompactionOutcome,
  { tookMs, purge }: { tookMs: number; purge: boolean },
): string {
  const copied = `${formatBytes(copiedBytes)} copied in ${formatDuration(tookMs)}`;
  const kept = purge ? "" : " once the old generation leaves the trash";
  return `volume ${volume}: generation ${generation}, ${copied}, ${formatBytes(freedBytes)} freed${kept}\n`;
}

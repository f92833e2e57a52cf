/**
 * What a call between processes is signed with. One header carries it:
 *
 *     x-hayloft-signature: v1:<run>:<time>:<caller>.<count>:<body>:<mac>
 *
 *   run     the run of the called process that it is for, 16 hex digits
 *   time    milliseconds since that run began, by the caller's reckoning
 *   caller  the run of who calls, 16 hex digits
 *   count   of the caller's calls there that change something; 0 for GET and HEAD
 *   body    SHA-256 of the body, 64 hex digits, or `-` for a call without one, or `*` for a pass
 *   mac     HMAC-SHA256 over all of that, method, path with query, and the headers that mean something
 *
 * A pass is signed without method, path and headers, and is for reading blobs by their fids: the same one
 * again and again for a minute. A MAC for each photo would cost a store a third of its reads. Who listens on
 * the way can use one for five minutes, at that run alone, for fids that he knows whole, cookie included: so
 * for little that he did not see go by.
 *
 * No wall clock is part of it, so none has to be right. A process tells its run and its time in the refusal
 * of a call that was signed with others, and signs that answer, too; whoever called signs anew and is let in:
 *
 *     x-hayloft-challenge: v1:<run>:<time>:<mac>
 */

import { hash } from "node:crypto";

export const signatureHeader = "x-hayloft-signature";
export const challengeHeader = "x-hayloft-challenge";

/** How far the time of a signature may lie from that of the called process, either way. */
export const windowMs = 300_000;

/** Stands for a run that is not known yet. */
export const unknownRun: string = "0".repeat(16);
export const noBody = "-";
export const anyRead = "*";

export interface CallSignature {
  run: string;
  timeMs: number;
  caller: string;
  count: number;
  body: string;
  mac: string;
}

/** What is signed beside what the signature itself says. */
export interface SignedCall {
  method: string;
  /** Path with query, as it stands in the request. */
  path: string;
  /** With names in lower case; those that mean nothing to the called process are left out of it. */
  headers: Readonly<Record<string, string | string[] | undefined>>;
}

export interface Challenge {
  run: string;
  timeMs: number;
  mac: string;
}

const signaturePattern =
  /^v1:([0-9a-f]{16}):([0-9]{1,15}):([0-9a-f]{16})\.([0-9]{1,15}):([-*]|[0-9a-f]{64}):([\w-]{43})$/;
const challengePattern = /^v1:([0-9a-f]{16}):([0-9]{1,15}):([\w-]{43})$/;

export function formatSignature({ run, timeMs, caller, count, body, mac }: CallSignature): string {
  return `v1:${run}:${timeMs}:${caller}.${count}:${body}:${mac}`;
}

export function parseSignature(text: string): CallSignature | undefined {
  const match = signaturePattern.exec(text);
  if (match === null) return undefined;
  const [, run = "", time = "", caller = "", count = "", body = "", mac = ""] = match;
  return { run, timeMs: Number(time), caller, count: Number(count), body, mac };
}

/** The text that the MAC is of. Nothing in it can hold a line end but the ends of its lines. */
export function signedText(
  { run, timeMs, caller, count, body }: Omit<CallSignature, "mac">,
  { method, path, headers }: SignedCall,
): string {
  const begin = `call\n${run}\n${timeMs}\n${caller}.${count}\n${body}\n`;
  if (body === anyRead) return begin;
  const head = `${begin}${method} ${path}\n`;
  const names: string[] = [];
  for (const name in headers) if (hasMeaning(name)) names.push(name);
  if (names.length === 0) return head;
  const lines = names.sort().map((name) => `${name}:${headers[name]}\n`);
  return head + lines.join("");
}

/** Whether a header changes what the call does: ours, and which part is read. */
function hasMeaning(name: string): boolean {
  return (name.startsWith("x-hayloft-") && name !== signatureHeader) || name === "range";
}

export function formatChallenge({ run, timeMs, mac }: Challenge): string {
  return `v1:${run}:${timeMs}:${mac}`;
}

export function parseChallenge(text: string): Challenge | undefined {
  const match = challengePattern.exec(text);
  if (match === null) return undefined;
  const [, run = "", time = "", mac = ""] = match;
  return { run, timeMs: Number(time), mac };
}

/** The text that a challenge's MAC is of: it answers one call alone, so an old one is worth nothing. */
export function challengeText({ run, timeMs }: Omit<Challenge, "mac">, callMac: string): string {
  return `challenge\n${run}\n${timeMs}\n${callMac}\n`;
}

export function bodyDigest(body: Uint8Array | string): string {
  return hash("sha256", body, "hex");
}

/** Whether a call may be answered twice without harm. */
export function isRead(method: string): boolean {
  return method === "GET" || method === "HEAD";
}

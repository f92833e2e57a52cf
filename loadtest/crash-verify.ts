/**
 * Compares what a server holds with what it once promised.
 *
 *     node loadtest/crash-verify.ts LOG URL [--credentials FILE]
 *
 * LOG is a crash run's log, URL the bucket (`http://127.0.0.1:8333/crash`), FILE a `credentials.json`.
 * Exits with 1 if anything is lost, came back, is torn or can't be read.
 *
 * Invariants:
 * - Nothing here comes from the server's code, nor from the rest of the project: Node and the log alone.
 *   Who shares a mistake with the judged can't judge it.
 * - What counts is the log's order. One client at a time works on a key, so a key's records are its history.
 */

import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { Agent, request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

/**
 * The log: one JSON object a line, in the order in which things happened.
 *
 * `put` and `delete` are intents and stand in the log before anything is sent. What came of each is one
 * of `done` (2xx), `refused` (it has not happened: the precondition failed, or nobody listened) and
 * `unknown` (cut off, or failed: it may have happened). `seen` is what a later look has settled; 0
 * is the absence of the object, any other number the `put` whose content was there.
 */
export type LogRecord =
  | { type: "run"; seed: number; bucket: string }
  | PutIntent
  | { type: "delete"; id: number; key: string }
  | { type: "done"; id: number }
  | { type: "refused"; id: number; status: number }
  | { type: "unknown"; id: number; reason: string }
  | { type: "seen"; key: string; ids: number[] }
  | ({ type: "violation" } & Violation)
  | { type: "kill"; cycle: number; victim: string; underWay?: Record<string, number> }
  /** What an operator had done meanwhile, and what came of it. It says nothing of any key. */
  | { type: "order"; order: number; kind: string; volume: number; state: string };

export interface PutIntent {
  type: "put";
  id: number;
  key: string;
  sizeBytes: number;
  sha256: string;
  md5: string;
  /** Sent with `If-None-Match: *`. */
  ifAbsent?: boolean;
  /** Sent with `x-amz-meta-op: <id>`, which must come back with this content and with no other. */
  isMarked?: boolean;
}

export interface Violation {
  key: string;
  kind: "lost" | "ghost" | "torn" | "unreadable";
  text: string;
}

const absent = 0;

/** One key, and what it may hold by all that is known. */
interface KeyState {
  /** Values, by the id of their `put`; more than one where an outcome is unknown. */
  settled: Set<number>;
  /** The intent that is under way. */
  pending: { id: number; value: number; ifAbsent: boolean } | undefined;
  /** All that anybody ever meant to put there. */
  puts: Map<number, PutIntent>;
}

/** What the log's records add up to. */
export class Ledger {
  readonly #keys = new Map<string, KeyState>();
  readonly #keyById = new Map<number, string>();
  /** Keys of which a violation was told: what they may hold is anybody's guess now. */
  readonly #spoilt = new Set<string>();
  readonly violations: Violation[] = [];

  /** Takes the next record; returns the violation that it proves, if it does. */
  apply(record: LogRecord): Violation | undefined {
    switch (record.type) {
      case "put":
      case "delete": {
        const state = this.#stateOf(record.key);
        const value = record.type === "put" ? record.id : absent;
        this.#keyById.set(record.id, record.key);
        if (record.type === "put") state.puts.set(record.id, record);
        const ifAbsent = record.type === "put" && record.ifAbsent === true;
        state.pending = { id: record.id, value, ifAbsent };
        return undefined;
      }
      case "done":
      case "refused":
      case "unknown":
        return this.#conclude(record);
      case "seen":
        this.#stateOf(record.key).settled = new Set(record.ids);
        return undefined;
      case "violation":
        if (record.key !== "" && this.#spoilt.has(record.key)) return undefined;
        this.#spoilt.add(record.key);
        this.violations.push({ key: record.key, kind: record.kind, text: record.text });
        return undefined;
      case "run":
      case "kill":
      case "order":
        return undefined;
    }
  }

  #conclude(record: LogRecord & { type: "done" | "refused" | "unknown" }): Violation | undefined {
    const key = this.#keyById.get(record.id);
    const state = key === undefined ? undefined : this.#keys.get(key);
    if (key === undefined || state?.pending?.id !== record.id) {
      throw new Error(`Cannot read the log: outcome of ${record.id}, which was not under way`);
    }
    const { pending, settled } = state;
    state.pending = undefined;
    const mayBeAbsent = settled.has(absent);

    switch (record.type) {
      case "done":
        state.settled = new Set([pending.value]);
        if (!pending.ifAbsent || mayBeAbsent || this.isSpoilt(key)) return undefined;
        return {
          key,
          kind: "lost",
          text: `${formatValues(settled)} was acknowledged, yet an If-None-Match: * put it over`,
        };
      case "unknown":
        if (!pending.ifAbsent || mayBeAbsent) settled.add(pending.value);
        return undefined;
      case "refused":
        if (record.status !== 412) return undefined;
        settled.delete(absent);
        if (settled.size > 0 || this.isSpoilt(key)) return undefined;
        settled.add(absent);
        return { key, kind: "ghost", text: "If-None-Match: * found an object where none can be" };
    }
  }

  keys(): string[] {
    return [...this.#keys.keys()];
  }

  isSpoilt(key: string): boolean {
    return this.#spoilt.has(key);
  }

  /** All that the key may hold now, with what is under way. */
  possible(key: string): Set<number> {
    const state = this.#keys.get(key);
    if (state === undefined) return new Set([absent]);
    const possible = new Set(state.settled);
    if (state.pending !== undefined) possible.add(state.pending.value);
    return possible;
  }

  put(key: string, id: number): PutIntent | undefined {
    return this.#keys.get(key)?.puts.get(id);
  }

  puts(key: string): PutIntent[] {
    return [...(this.#keys.get(key)?.puts.values() ?? [])];
  }

  #stateOf(key: string): KeyState {
    let state = this.#keys.get(key);
    if (state === undefined) {
      state = { settled: new Set([absent]), pending: undefined, puts: new Map() };
      this.#keys.set(key, state);
    }
    return state;
  }
}

export async function readLog(file: string): Promise<{ ledger: Ledger; records: number }> {
  const ledger = new Ledger();
  let records = 0;
  let cutLine: string | undefined;
  for await (const line of createInterface({
    input: createReadStream(file),
    crlfDelay: Infinity,
  })) {
    if (cutLine !== undefined) throw new Error(`Cannot read the log: "${cutLine}" is no record`);
    let record: LogRecord;
    try {
      record = JSON.parse(line);
    } catch {
      cutLine = line; // the harness itself may have been cut off in its last line, and only there
      continue;
    }
    records += 1;
    const violation = ledger.apply(record);
    // The run puts down itself what it finds; a log that was cut short may lack it.
    if (violation !== undefined) ledger.apply({ type: "violation", ...violation });
  }
  return { ledger, records };
}

/** What a look at a key brought. `status` is 0 where there was no answer at all. */
export interface Look {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
  error?: string;
}

/** Whether what was seen is one of the things that may be there: which of them, or what is wrong. */
export function judge(
  ledger: Ledger,
  key: string,
  { status, headers, body, error }: Look,
): { ids: number[] } | { violation: Violation } {
  const possible = ledger.possible(key);
  const violate = (kind: Violation["kind"], text: string) => ({ violation: { key, kind, text } });

  if (status === 404) {
    if (possible.has(absent)) return { ids: [absent] };
    return violate("lost", `404, but ${formatValues(possible)} was acknowledged`);
  }
  if (status !== 200) {
    return violate("unreadable", status === 0 ? (error ?? "no answer") : `status ${status}`);
  }

  const sha256 = createHash("sha256").update(body).digest("hex");
  const matches = ledger.puts(key).filter((put) => put.sha256 === sha256);
  const current = matches.filter((put) => possible.has(put.id));
  const found = `${body.length} bytes, sha256 ${sha256.slice(0, 16)}…`;
  if (current.length === 0) {
    const [older] = matches;
    if (older !== undefined && possible.has(absent) && possible.size === 1) {
      return violate("ghost", `put ${older.id} came back after it was deleted`);
    }
    if (older !== undefined) {
      return violate("lost", `put ${older.id} came back over ${formatValues(possible)}`);
    }
    const isGhost = possible.has(absent) && possible.size === 1;
    return isGhost
      ? violate("ghost", `${found} where nothing can be`)
      : violate("torn", `${found}, which nobody put; expected ${formatValues(possible)}`);
  }

  const mark = headers["x-amz-meta-op"];
  const marked = current.filter((put) => (put.isMarked ? String(put.id) : undefined) === mark);
  if (marked.length === 0) {
    return violate("torn", `content of put ${current[0]?.id} under x-amz-meta-op ${mark}`);
  }
  const etag = `"${marked[0]?.md5}"`;
  if (headers.etag !== etag) return violate("torn", `ETag ${headers.etag}, expected ${etag}`);
  if (headers["content-length"] !== String(body.length)) {
    return violate("torn", `Content-Length ${headers["content-length"]} for ${body.length} bytes`);
  }
  return { ids: marked.map(({ id }) => id) };
}

export interface ListedObject {
  key: string;
  sizeBytes: number;
  etag: string;
}

/** Whether a listing of everything under `prefix` is in order and holds what is there, and nothing else. */
export function judgeListing(
  ledger: Ledger,
  listed: readonly ListedObject[],
  prefix = "",
): Violation[] {
  const violations: Violation[] = [];
  const byKey = new Map<string, ListedObject>();
  let previous: Buffer | undefined;
  for (const object of listed) {
    const bytes = Buffer.from(object.key);
    if (previous !== undefined && Buffer.compare(previous, bytes) >= 0) {
      violations.push({ key: object.key, kind: "torn", text: "listed out of order, or twice" });
    }
    previous = bytes;
    byKey.set(object.key, object);

    const possible = ledger.possible(object.key);
    if (ledger.isSpoilt(object.key)) continue;
    const puts = [...possible].flatMap((id) => ledger.put(object.key, id) ?? []);
    if (puts.length === 0) {
      violations.push({ key: object.key, kind: "ghost", text: "listed, but nothing can be there" });
    } else if (
      !puts.some(({ md5, sizeBytes }) => object.etag === md5 && object.sizeBytes === sizeBytes)
    ) {
      const text = `listed with ${object.sizeBytes} bytes and ETag ${object.etag}; expected ${formatValues(possible)}`;
      violations.push({ key: object.key, kind: "torn", text });
    }
  }
  for (const key of ledger.keys()) {
    if (!key.startsWith(prefix) || byKey.has(key) || ledger.isSpoilt(key)) continue;
    const possible = ledger.possible(key);
    if (possible.has(absent)) continue;
    const text = `not listed, but ${formatValues(possible)} was acknowledged`;
    violations.push({ key, kind: "lost", text });
  }
  return violations;
}

function formatValues(possible: Set<number>): string {
  return [...possible].map((id) => (id === absent ? "absence" : `put ${id}`)).join(" or ");
}

export interface Target {
  /** The bucket: `http://127.0.0.1:8333/crash`. */
  url: string;
  /** `accessKey:secretKey`. */
  login: string;
}

export interface Verification {
  violations: Violation[];
  /** What was settled by looking, key by key. */
  seen: (LogRecord & { type: "seen" })[];
  keys: number;
  listed: number;
  /** Reads that failed and were tried again. */
  retries: number;
}

const looksAtOnce = 12;
const lookTimeoutMs = 30_000;
const pageKeys = 97; // small and odd, so that a listing takes several pages
/** Every so many keys, one beside it that nobody wrote is looked at too. */
const neverWrittenEvery = 8;
/** The size at which a server may begin to keep an object in parts: ranges are read across it. */
const chunkBytes = 8 * 1024 * 1024;

/**
 * Looks at the keys (all if none are given), at a few that nobody ever wrote, and at the listing.
 * Nothing else may be at work meanwhile: what is seen is taken for settled.
 */
export async function verify(
  ledger: Ledger,
  target: Target,
  keys: readonly string[] = ledger.keys(),
): Promise<Verification> {
  const reader = new BucketReader(target);
  // One violation for a key: what is missing is not listed either.
  const violations = new Map<string, Violation>();
  const seen: Verification["seen"] = [];
  let listed: ListedObject[] = [];
  try {
    const queue = keys.filter((key) => !ledger.isSpoilt(key)).entries();
    const lookAtRest = async () => {
      for (const [at, key] of queue) {
        const look = await reader.get(encodePath(key));
        const verdict = judge(ledger, key, look);
        const violation =
          "violation" in verdict
            ? verdict.violation
            : ((await judgeRange(reader, key, look.body)) ??
              (at % neverWrittenEvery === 0 ? await judgeNeverWritten(reader, key) : undefined));
        if (violation !== undefined) violations.set(violation.key, violation);
        else if ("ids" in verdict) seen.push({ type: "seen", key, ids: verdict.ids });
      }
    };
    await Promise.all(Array.from({ length: looksAtOnce }, lookAtRest));
    // Settled first: the listing is held against what the reads have shown.
    for (const record of seen) ledger.apply(record);

    const listing = await reader.list();
    if (typeof listing === "string") {
      violations.set("", { key: "", kind: "unreadable", text: `listing: ${listing}` });
    } else {
      listed = listing;
      for (const violation of judgeListing(ledger, listed)) {
        if (!violations.has(violation.key)) violations.set(violation.key, violation);
      }
    }
  } finally {
    reader.close();
  }
  return {
    violations: [...violations.values()],
    seen,
    keys: keys.length,
    listed: listed.length,
    retries: reader.retries,
  };
}

async function judgeNeverWritten(
  reader: BucketReader,
  neighbour: string,
): Promise<Violation | undefined> {
  const key = `${neighbour}.never`;
  const { status } = await reader.get(encodePath(key));
  if (status === 404) return undefined;
  return { key, kind: "ghost", text: `status ${status} for a key that nobody wrote` };
}

/** Whether a few bytes across the first seam of a large object are those of the whole. */
async function judgeRange(
  reader: BucketReader,
  key: string,
  whole: Buffer,
): Promise<Violation | undefined> {
  if (whole.length <= chunkBytes) return undefined;
  const first = chunkBytes - 100;
  const last = Math.min(chunkBytes + 99, whole.length - 1);
  const range = `bytes=${first}-${last}`;
  const { status, body } = await reader.get(encodePath(key), { range });
  if (status === 206 && body.equals(whole.subarray(first, last + 1))) return undefined;
  return { key, kind: "torn", text: `${range} answered ${status} with other bytes` };
}

const triesMax = 5;
const retryDelayMs = 300;
// For stragglers. A server that is not there at all is told after seconds, not minutes.
const retriesMax = 100;

/** Reads a bucket; tries again for a while what got no answer or a 5xx. */
class BucketReader {
  readonly #target: Target;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: looksAtOnce });
  retries = 0;

  constructor(target: Target) {
    this.#target = target;
  }

  async get(path: string, headers: Record<string, string> = {}): Promise<Look> {
    for (let tries = 1; ; tries++) {
      const look = await this.#getOnce(path, headers);
      const isAnswer = look.status >= 200 && look.status < 500;
      if (isAnswer || tries === triesMax || this.retries >= retriesMax) return look;
      this.retries += 1;
      await sleep(retryDelayMs);
    }
  }

  /** Everything in the bucket, or what went wrong. */
  async list(): Promise<ListedObject[] | string> {
    const listed: ListedObject[] = [];
    let token: string | undefined;
    do {
      const query = new URLSearchParams({ "list-type": "2", "max-keys": String(pageKeys) });
      if (token !== undefined) query.set("continuation-token", token);
      const look = await this.get(`?${query}`, { accept: "application/json" });
      if (look.status !== 200) return look.error ?? `status ${look.status}`;
      const page = JSON.parse(look.body.toString()) as {
        objects: { key: string; size: number; etag: string }[];
        isTruncated: boolean;
        nextContinuationToken?: string;
      };
      for (const { key, size, etag } of page.objects) {
        listed.push({ key, sizeBytes: size, etag: etag.replaceAll('"', "") });
      }
      if (page.isTruncated && page.nextContinuationToken === undefined) {
        return "a page is truncated, but has no continuation token";
      }
      token = page.isTruncated ? page.nextContinuationToken : undefined;
    } while (token !== undefined);
    return listed;
  }

  close(): void {
    this.#agent.destroy();
  }

  #getOnce(path: string, headers: Record<string, string>): Promise<Look> {
    const { url, login } = this.#target;
    const { hostname, port, pathname } = new URL(url);
    const authorization = `Basic ${Buffer.from(login).toString("base64")}`;
    return new Promise((resolve) => {
      const fail = (error: Error) => {
        resolve({ status: 0, headers: {}, body: Buffer.alloc(0), error: error.message });
      };
      const outgoing = httpRequest({
        agent: this.#agent,
        hostname,
        port,
        // As it is written: a URL would lose `..` and empty segments.
        path: `${pathname.replace(/\/$/, "")}${path}`,
        headers: { authorization, ...headers },
        timeout: lookTimeoutMs,
      });
      outgoing.on("timeout", () => outgoing.destroy(new Error(`silent for ${lookTimeoutMs} ms`)));
      outgoing.on("error", fail);
      outgoing.on("response", (incoming) => {
        const parts: Buffer[] = [];
        incoming.on("data", (part: Buffer) => parts.push(part));
        incoming.on("error", fail);
        incoming.on("end", () => {
          const status = incoming.statusCode ?? 0;
          resolve({ status, headers: incoming.headers, body: Buffer.concat(parts) });
        });
      });
      outgoing.end();
    });
  }
}

/** A key as a path: all escaped but `/`. */
export function encodePath(key: string): string {
  return `/${key.split("/").map(encodeURIComponent).join("/")}`;
}

export function countKinds(violations: readonly Violation[]): string {
  const count = { lost: 0, ghost: 0, torn: 0, unreadable: 0 };
  for (const { kind } of violations) count[kind] += 1;
  const { lost, ghost, torn, unreadable } = count;
  return `${lost} lost, ${ghost} ghosts, ${torn} torn, ${unreadable} unreadable`;
}

async function main(): Promise<void> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { credentials: { type: "string" } },
  });
  const [file, url] = positionals;
  if (file === undefined || url === undefined || positionals.length > 2) {
    console.error("usage: node loadtest/crash-verify.ts LOG URL [--credentials FILE]");
    process.exit(2);
  }
  let login = "";
  if (values.credentials !== undefined) {
    const { accessKey, secretKey } = JSON.parse(readFileSync(values.credentials, "utf8"));
    login = `${accessKey}:${secretKey}`;
  }
  const { ledger, records } = await readLog(file);
  const { violations, keys, listed, retries } = await verify(ledger, { url, login });
  const all = [...ledger.violations, ...violations];
  for (const { kind, key, text } of all) console.log(`${kind}: ${JSON.stringify(key)}: ${text}`);
  console.log(
    `${records} records, ${keys} keys read, ${listed} listed, ${retries} reads tried again`,
  );
  console.log(countKinds(all));
  const failed = new Set(all.map(({ key }) => key)).size;
  console.log(`${ledger.keys().length - failed} passed, ${failed} failed`);
  process.exitCode = all.length > 0 ? 1 : 0;
}

if (import.meta.main) await main();

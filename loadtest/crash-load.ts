/**
 * The mixed load of a crash run: clients that write, read, delete and list, and put down every intent
 * and every outcome in the log.
 *
 * Invariants:
 * - A folder of keys belongs to one client at a time, so the operations on a key never overlap.
 * - An intent is on the disk before its request leaves, an outcome before it counts.
 */

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure, messageOf } from "../base/failure.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { contentOf } from "./content.ts";
import type { CrashLog } from "./crash-log.ts";
import {
  encodePath,
  judge,
  judgeListing,
  type Ledger,
  type LogRecord,
  type PutIntent,
  type Violation,
} from "./crash-verify.ts";
import { type Answer, isUnsent, type RequestOptions, request } from "./request.ts";

/** Where the bucket is now: another address after every restart. */
export interface LoadTarget {
  address: string;
  authorization: string;
}

export interface LoadOptions {
  seed: number;
  bucket: string;
  log: CrashLog;
  ledger: Ledger;
  target: () => LoadTarget;
}

export interface LoadCount {
  operations: number;
  writes: number;
  deletes: number;
  reads: number;
  listings: number;
  /** By a precondition, as they should be. */
  refused: number;
  /** Nobody listened: a process was starting. */
  unsent: number;
  unknown: number;
  /** Failed, although nothing had been killed yet. */
  failedInPeace: number;
}

const clients = 10;
const folders = 60;
/** Names within a folder: what a form can carry first, then what only a path can. */
const formNames = ["a.bin", "b c+d.bin", "größe.bin"];
const names = [...formNames, "e/../f", "g//h", "%2F%00", "日本/🌾", "i&j=k?l#m"];

/** How often each operation is drawn, in hundredths. */
const mix = { put: 40, putIfAbsent: 9, delete: 15, form: 9, read: 19, list: 8 } as const;
type Operation = keyof typeof mix;

/** Sizes as photos and their crumbs have them: the share of each, and its range. */
const sizes = [
  { share: 0.06, min: 0, max: 0 },
  { share: 0.6, min: 1, max: 16 * 1024 },
  { share: 0.26, min: 16 * 1024, max: 256 * 1024 },
  { share: 0.07, min: 256 * 1024, max: 2 * 1024 * 1024 },
  { share: 0.01, min: 2 * 1024 * 1024, max: 8 * 1024 * 1024 },
];
/** Over a chunk, and a few at a time at the most: one client in ten is at them half of the time. */
const largeSize = { min: 8 * 1024 * 1024 + 1, max: 20 * 1024 * 1024 };

const requestTimeoutMs = 25_000;
/** Pause after a failure: nobody listens while a process starts. */
const failurePauseMs = 25;

export class CrashLoad {
  readonly #options: LoadOptions;
  readonly #free: string[];
  readonly #random: Random[];
  #isOn = false;
  #isPeace = true;
  #lastId = 0;
  /** Keys that were worked on since the last `takeTouched`. */
  #touched = new Set<string>();
  #violations: Violation[] = [];
  #oddities = new Map<string, number>();
  readonly count: LoadCount = {
    operations: 0,
    writes: 0,
    deletes: 0,
    reads: 0,
    listings: 0,
    refused: 0,
    unsent: 0,
    unknown: 0,
    failedInPeace: 0,
  };

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#free = Array.from({ length: folders }, (_, at) => `f${String(at).padStart(2, "0")}-`);
    this.#random = Array.from({ length: clients }, (_, at) =>
      seededRandom(options.seed * 1_000 + at),
    );
  }

  /** Runs all clients until `stop` is called; each finishes what it is at. */
  async run(): Promise<void> {
    this.#isOn = true;
    this.#isPeace = true;
    await Promise.all(this.#random.map((random, client) => this.#runClient(random, client)));
  }

  stop(): void {
    this.#isOn = false;
  }

  /** From here on failures are to be expected. */
  endPeace(): void {
    this.#isPeace = false;
  }

  takeTouched(): string[] {
    const touched = [...this.#touched];
    this.#touched = new Set();
    return touched;
  }

  takeViolations(): Violation[] {
    const violations = this.#violations;
    this.#violations = [];
    return violations;
  }

  /** Answers of a kind that a load like this should not get, and how often each came. */
  get oddities(): ReadonlyMap<string, number> {
    return this.#oddities;
  }

  async #runClient(random: Random, client: number): Promise<void> {
    while (this.#isOn) {
      const at = Math.floor(random.fraction() * this.#free.length);
      const [folder] = this.#free.splice(at, 1);
      if (folder === undefined) throw new Failure("internal", "more clients than folders");
      try {
        this.count.operations += 1;
        const isFine = await this.#operate(pick(random), folder, random, client);
        if (!isFine) await sleep(failurePauseMs);
      } finally {
        this.#free.push(folder);
      }
    }
  }

  async #operate(
    operation: Operation,
    folder: string,
    random: Random,
    client: number,
  ): Promise<boolean> {
    const key = folder + names[Math.floor(random.fraction() * names.length)];
    switch (operation) {
      case "put":
        return await this.#put(key, drawSize(random, client === 0), false);
      case "putIfAbsent":
        return await this.#put(key, drawSize(random, false), true);
      case "delete":
        return await this.#delete(key);
      case "form":
        return await this.#postForm(folder, random);
      case "read":
        return await this.#read(key);
      case "list":
        return await this.#list(folder);
    }
  }

  #intend(key: string, sizeBytes: number, rest: Partial<PutIntent>): [PutIntent, Buffer] {
    const id = ++this.#lastId;
    const content = contentOf({ seed: this.#options.seed, id }, sizeBytes);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const md5 = createHash("md5").update(content).digest("hex");
    return [{ type: "put", id, key, sizeBytes, sha256, md5, ...rest }, content];
  }

  async #put(key: string, sizeBytes: number, ifAbsent: boolean): Promise<boolean> {
    const [intent, content] = this.#intend(key, sizeBytes, { ifAbsent, isMarked: true });
    await this.#record(intent);
    const answer = await this.#send({
      method: "PUT",
      path: this.#path(key),
      headers: {
        "content-type": "application/octet-stream",
        "x-amz-meta-op": String(intent.id),
        ...(ifAbsent ? { "if-none-match": "*" } : {}),
      },
      body: content,
    });
    const isDone = await this.#conclude([intent.id], answer, [200, 201]);
    if (isDone && "status" in answer) await this.#checkEtag(intent, String(answer.headers.etag));
    return isDone || ("status" in answer && answer.status === 412);
  }

  async #delete(key: string): Promise<boolean> {
    const id = ++this.#lastId;
    await this.#record({ type: "delete", id, key });
    const answer = await this.#send({ method: "DELETE", path: this.#path(key) });
    return await this.#conclude([id], answer, [204]);
  }

  async #postForm(folder: string, random: Random): Promise<boolean> {
    const count = 1 + Math.floor(random.fraction() * formNames.length);
    const intents = formNames
      .slice(0, count)
      .map((name) => this.#intend(folder + name, drawSize(random, false), {}));
    await this.#record(...intents.map(([intent]) => intent));

    const boundary = `hayloft-crash-${intents[0]?.[0].id}`;
    const parts = intents.flatMap(([{ key }, content]) => [
      Buffer.from(
        `--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="${key}"\r\n` +
          "content-type: application/octet-stream\r\n\r\n",
      ),
      content,
      Buffer.from("\r\n"),
    ]);
    const answer = await this.#send({
      method: "POST",
      path: `/${this.#options.bucket}`,
      headers: {
        "content-type": `multipart/form-data; boundary=${boundary}`,
        accept: "application/json",
      },
      body: Buffer.concat([...parts, Buffer.from(`--${boundary}--\r\n`)]),
    });
    const ids = intents.map(([{ id }]) => id);
    const isDone = await this.#conclude(ids, answer, [200, 201]);
    if (isDone && "status" in answer) {
      const text = answer.body.toString();
      for (const [intent] of intents) {
        if (!text.includes(intent.md5))
          await this.#checkEtag(intent, "none in the answer to the form");
      }
    }
    return isDone;
  }

  async #read(key: string): Promise<boolean> {
    const answer = await this.#send({ method: "GET", path: this.#path(key) });
    if (!("status" in answer) || answer.status >= 500) return this.#failed("GET", answer);
    this.count.reads += 1;
    const verdict = judge(this.#options.ledger, key, answer);
    if ("violation" in verdict) await this.#violate(verdict.violation);
    return true;
  }

  async #list(folder: string): Promise<boolean> {
    const query = `list-type=2&prefix=${encodeURIComponent(folder)}`;
    const answer = await this.#send({
      method: "GET",
      path: `/${this.#options.bucket}?${query}`,
      headers: { accept: "application/json" },
    });
    if (!("status" in answer) || answer.status !== 200) return this.#failed("GET listing", answer);
    this.count.listings += 1;
    const page = JSON.parse(answer.body.toString()) as {
      objects: { key: string; size: number; etag: string }[];
    };
    const listed = page.objects.map(({ key, size, etag }) => ({
      key,
      sizeBytes: size,
      etag: etag.replaceAll('"', ""),
    }));
    for (const violation of judgeListing(this.#options.ledger, listed, folder)) {
      await this.#violate(violation);
    }
    return true;
  }

  /** Puts down what came of the intents; returns whether they were acknowledged. */
  async #conclude(
    ids: number[],
    answer: Answer | { error: unknown },
    statusesDone: number[],
  ): Promise<boolean> {
    const { count } = this;
    if ("status" in answer && statusesDone.includes(answer.status)) {
      await this.#record(...ids.map((id): LogRecord => ({ type: "done", id })));
      if (answer.status === 204) count.deletes += ids.length;
      else count.writes += ids.length;
      return true;
    }
    const isRefused =
      "status" in answer ? answer.status >= 400 && answer.status < 500 : isUnsent(answer.error);
    if (isRefused) {
      const status = "status" in answer ? answer.status : 0;
      await this.#record(...ids.map((id): LogRecord => ({ type: "refused", id, status })));
      if (status === 0) count.unsent += ids.length;
      else count.refused += ids.length;
      if (status !== 412) this.#failed("write", answer);
    } else {
      const reason = describe(answer);
      await this.#record(...ids.map((id): LogRecord => ({ type: "unknown", id, reason })));
      count.unknown += ids.length;
      this.#failed("write", answer);
    }
    return false;
  }

  #failed(what: string, answer: Answer | { error: unknown }): false {
    const isClientMistake = "status" in answer && answer.status < 500;
    if (this.#isPeace || isClientMistake) {
      this.count.failedInPeace += 1;
      const text = `${what}: ${describe(answer)}`;
      this.#oddities.set(text, (this.#oddities.get(text) ?? 0) + 1);
    }
    return false;
  }

  async #checkEtag({ id, key, md5 }: PutIntent, etag: string): Promise<void> {
    if (etag === `"${md5}"`) return;
    const text = `put ${id} was acknowledged with ETag ${etag}, expected "${md5}"`;
    await this.#violate({ key, kind: "torn", text });
  }

  async #violate(violation: Violation): Promise<void> {
    if (this.#options.ledger.isSpoilt(violation.key)) return;
    this.#violations.push(violation);
    await this.#record({ type: "violation", ...violation });
  }

  async #record(...records: LogRecord[]): Promise<void> {
    for (const record of records) {
      if ("key" in record) this.#touched.add(record.key);
      const violation = this.#options.ledger.apply(record);
      if (violation !== undefined) await this.#violate(violation);
    }
    await this.#options.log.append(...records);
  }

  #path(key: string): string {
    return `/${this.#options.bucket}${encodePath(key)}`;
  }

  async #send(options: Omit<RequestOptions, "address">): Promise<Answer | { error: unknown }> {
    const { address, authorization } = this.#options.target();
    const headers = { authorization, ...options.headers };
    try {
      return await request({ ...options, address, headers, timeoutMs: requestTimeoutMs });
    } catch (error) {
      return { error };
    }
  }
}

function describe(answer: Answer | { error: unknown }): string {
  if ("status" in answer) return `status ${answer.status} ${answer.body.toString().slice(0, 200)}`;
  return messageOf(answer.error);
}

function pick(random: Random): Operation {
  let left = random.fraction() * 100;
  for (const [operation, share] of Object.entries(mix)) {
    left -= share;
    if (left < 0) return operation as Operation;
  }
  return "read";
}

function drawSize(random: Random, mayBeLarge: boolean): number {
  const between = ({ min, max }: { min: number; max: number }) =>
    min + Math.floor(random.fraction() * (max - min + 1));
  if (mayBeLarge && random.fraction() < 0.5) return between(largeSize);
  let left = random.fraction();
  for (const size of sizes) {
    left -= size.share;
    if (left < 0) return between(size);
  }
  return 0;
}

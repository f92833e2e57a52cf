/**
 * The clients of a chaos run: they put, read, delete and list few keys at the same time from all gateways, and
 * remember every call with the moments of its beginning and its end.
 *
 * Invariant: what a put sends follows from its id, and the id comes back with every read: whoever reads knows
 * whose bytes they are, and whether they are whole.
 */

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type Random, seededRandom } from "../base/random.ts";
import { contentOf } from "./content.ts";
import type { Recorded, RegisterOperation } from "./linearizable.ts";
import { type Answer, isUnsent, request } from "./request.ts";

export interface ChaosLoadOptions {
  seed: number;
  bucket: string;
  authorization: string;
  /** `host:port` of each gateway. */
  gateways: readonly string[];
  clients: number;
}

/** How often each is drawn, in hundredths. */
const mix = { put: 34, putIfAbsent: 8, putIfMatch: 8, delete: 10, get: 32, list: 8 } as const;
type Operation = keyof typeof mix;

const sizes = [
  { share: 0.7, min: 16, max: 20_000 },
  { share: 0.27, min: 20_000, max: 300_000 },
  { share: 0.03, min: 300_000, max: 2_000_000 },
];

/** A key is used for so many calls, then others take its place: short histories are checked to the end. */
const callsPerKey = 60;
const keysAtOnce = 24;
const timeoutMs = 30_000;
const pauseMs = { ordinary: 20, afterError: 200 };

export interface Oddity {
  atMs: number;
  text: string;
}

export interface ChaosCount {
  reads: number;
  readErrors: number;
  writes: number;
  writeErrors: number;
  wrongBytes: number;
}

export class ChaosLoad {
  readonly count: ChaosCount = {
    reads: 0,
    readErrors: 0,
    writes: 0,
    writeErrors: 0,
    wrongBytes: 0,
  };
  readonly oddities: Oddity[] = [];
  /** By key, in the order of their ends. */
  readonly history: Map<string, Recorded[]> = new Map();
  /** Why reads and writes failed, how often. */
  readonly errors: Map<string, number> = new Map();
  readonly #options: ChaosLoadOptions;
  readonly #keys: { name: string; calls: number; lastValue: number | undefined }[] = [];
  readonly #etags = new Map<number, string>();
  #keyCount = 0;
  #id = 0;
  #isOn = false;

  constructor(options: ChaosLoadOptions) {
    this.#options = options;
    for (let at = 0; at < keysAtOnce; at++) this.#keys.push(this.#freshKey());
  }

  /** Works until `stop`; every client ends what it is at. */
  async run(): Promise<void> {
    this.#isOn = true;
    const { clients, seed } = this.#options;
    const randoms = Array.from({ length: clients }, (_, at) => seededRandom(seed * 1_000 + at));
    await Promise.all(randoms.map((random) => this.#work(random)));
  }

  stop(): void {
    this.#isOn = false;
  }

  /** Reads every key once more, from each gateway; to be called when all is well again. */
  async readAll(): Promise<void> {
    for (const key of this.history.keys()) {
      for (const gateway of this.#options.gateways) await this.#get(key, gateway);
    }
  }

  async #work(random: Random): Promise<void> {
    const { gateways } = this.#options;
    while (this.#isOn) {
      const at = random.u32() % this.#keys.length;
      const key = this.#keys[at];
      const gateway = gateways[random.u32() % gateways.length];
      if (key === undefined || gateway === undefined) return;
      key.calls += 1;
      if (key.calls > callsPerKey) this.#keys[at] = this.#freshKey();
      const isFine = await this.#operate(pick(random), key, gateway, random);
      await sleep(isFine ? random.fraction() * pauseMs.ordinary : pauseMs.afterError);
    }
  }

  async #operate(
    operation: Operation,
    key: { name: string; lastValue: number | undefined },
    gateway: string,
    random: Random,
  ): Promise<boolean> {
    switch (operation) {
      case "put":
      case "putIfAbsent":
      case "putIfMatch":
        return await this.#put(operation, key, gateway, random);
      case "delete": {
        const [answer, moments] = await this.#send(gateway, "DELETE", key.name);
        return this.#wrote(key.name, { kind: "delete" }, { answer, moments, done: [204] });
      }
      case "get":
        return await this.#get(key.name, gateway, key);
      case "list":
        return await this.#list(key.name, gateway);
    }
  }

  async #put(
    operation: "put" | "putIfAbsent" | "putIfMatch",
    key: { name: string; lastValue: number | undefined },
    gateway: string,
    random: Random,
  ): Promise<boolean> {
    const value = ++this.#id;
    const body = this.#contentOf(value, drawSize(random));
    const expected = key.lastValue;
    const kind = operation === "putIfMatch" && expected === undefined ? "put" : operation;
    const headers: Record<string, string> = {
      "content-type": "application/octet-stream",
      "x-amz-meta-id": String(value),
      "x-amz-meta-size": String(body.length),
    };
    if (kind === "putIfAbsent") headers["if-none-match"] = "*";
    if (kind === "putIfMatch" && expected !== undefined) {
      headers["if-match"] = `"${this.#etags.get(expected) ?? ""}"`;
    }
    this.#etags.set(value, createHash("md5").update(body).digest("hex"));
    const [answer, moments] = await this.#send(gateway, "PUT", key.name, headers, body);
    const isRefused =
      "status" in answer && (answer.status === 412 || (answer.status === 404 && kind !== "put"));
    const recorded: RegisterOperation =
      kind === "putIfAbsent"
        ? { kind: "put-if-absent", value, isRefused }
        : kind === "putIfMatch" && expected !== undefined
          ? { kind: "put-if-match", expected, value, isRefused }
          : { kind: "put", value };
    const done = kind === "put" ? [200, 201] : [200, 201, 412, 404];
    const isFine = this.#wrote(key.name, recorded, { answer, moments, done });
    if (isFine && !isRefused) key.lastValue = value;
    return isFine;
  }

  async #get(
    name: string,
    gateway: string,
    key?: { lastValue: number | undefined },
  ): Promise<boolean> {
    const [answer, moments] = await this.#send(gateway, "GET", name);
    this.count.reads += 1;
    if (!("status" in answer) || (answer.status !== 200 && answer.status !== 404)) {
      this.count.readErrors += 1;
      return this.#failed("read", answer);
    }
    let value: number | undefined;
    if (answer.status === 200) {
      value = Number(answer.headers["x-amz-meta-id"]);
      const size = Number(answer.headers["x-amz-meta-size"]);
      if (!answer.body.equals(this.#contentOf(value, size))) {
        this.count.wrongBytes += 1;
        this.#odd(`wrong bytes: ${name} as value ${value}, ${answer.body.length} of ${size} bytes`);
      }
      if (key !== undefined) key.lastValue = value;
    }
    this.#record(name, { kind: "get", value }, moments);
    return true;
  }

  async #list(name: string, gateway: string): Promise<boolean> {
    const query = `?list-type=2&prefix=${encodeURIComponent(name)}`;
    const [answer, moments] = await this.#send(gateway, "GET", query, {
      accept: "application/json",
    });
    this.count.reads += 1;
    if (!("status" in answer) || answer.status !== 200) {
      this.count.readErrors += 1;
      return this.#failed("list", answer);
    }
    const { objects } = JSON.parse(answer.body.toString()) as { objects: { key: string }[] };
    const isThere = objects.some(({ key }) => key === name);
    this.#record(name, { kind: "list", isThere }, moments);
    return true;
  }

  #wrote(
    name: string,
    operation: RegisterOperation,
    outcome: {
      answer: Answer | { error: unknown };
      moments: { calledMs: number; answeredMs: number };
      done: number[];
    },
  ): boolean {
    const { answer, moments, done } = outcome;
    this.count.writes += 1;
    if ("status" in answer && done.includes(answer.status)) {
      this.#record(name, operation, moments);
      return true;
    }
    this.count.writeErrors += 1;
    // Nobody listened: it was never sent, and is not part of the history.
    if (!("error" in answer && isUnsent(answer.error))) {
      this.#record(name, operation, { ...moments, answeredMs: undefined });
    }
    return this.#failed("write", answer);
  }

  #failed(what: string, answer: Answer | { error: unknown }): false {
    const why =
      "status" in answer
        ? `status ${answer.status} ${answer.body.toString().slice(0, 160)}`
        : String(answer.error instanceof Error ? answer.error.message : answer.error);
    const text = `${what}: ${why.replaceAll(/[0-9a-f-]{16,}|[0-9]+/g, "N")}`;
    this.errors.set(text, (this.errors.get(text) ?? 0) + 1);
    return false;
  }

  #record(
    name: string,
    operation: RegisterOperation,
    { calledMs, answeredMs }: { calledMs: number; answeredMs: number | undefined },
  ): void {
    const records = this.history.get(name) ?? [];
    this.history.set(name, records);
    records.push({ operation, calledMs, answeredMs });
  }

  #odd(text: string): void {
    this.oddities.push({ atMs: performance.now(), text });
  }

  async #send(
    gateway: string,
    method: string,
    name: string,
    headers: Record<string, string> = {},
    body?: Buffer,
  ): Promise<[Answer | { error: unknown }, { calledMs: number; answeredMs: number }]> {
    const { bucket, authorization } = this.#options;
    const path = name.startsWith("?") ? `/${bucket}${name}` : `/${bucket}/${name}`;
    const calledMs = performance.now();
    const answer = await request({
      address: gateway,
      method,
      path,
      headers: { authorization, ...headers },
      timeoutMs,
      ...(body === undefined ? {} : { body }),
    }).catch((error: unknown) => ({ error }));
    return [answer, { calledMs, answeredMs: performance.now() }];
  }

  #contentOf(value: number, sizeBytes: number): Buffer {
    return contentOf({ seed: this.#options.seed, id: value }, sizeBytes);
  }

  #freshKey(): { name: string; calls: number; lastValue: number | undefined } {
    this.#keyCount += 1;
    return { name: `k${String(this.#keyCount).padStart(6, "0")}`, calls: 0, lastValue: undefined };
  }
}

function pick(random: Random): Operation {
  let left = random.fraction() * 100;
  for (const [operation, share] of Object.entries(mix)) {
    left -= share;
    if (left < 0) return operation as Operation;
  }
  return "get";
}

function drawSize(random: Random): number {
  let left = random.fraction();
  for (const { share, min, max } of sizes) {
    left -= share;
    if (left < 0) return min + Math.floor(random.fraction() * (max - min + 1));
  }
  return 16;
}

/** The verifier finds every planted lie of a server, and calls an honest one honest. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { contentOf } from "./content.ts";
import { CrashLog } from "./crash-log.ts";
import {
  countKinds,
  Ledger,
  type LogRecord,
  type PutIntent,
  readLog,
  type Violation,
  verify,
} from "./crash-verify.ts";

const seed = 3;
const chunkBytes = 8 * 1024 * 1024;

function put(id: number, key: string, sizeBytes: number, rest: Partial<PutIntent> = {}): PutIntent {
  const content = contentOf({ seed, id }, sizeBytes);
  const sha256 = createHash("sha256").update(content).digest("hex");
  const md5 = createHash("md5").update(content).digest("hex");
  return { type: "put", id, key, sizeBytes, sha256, md5, ...rest };
}

interface Stored {
  content: Buffer;
  etag: string;
  mark?: string | undefined;
}

/** A bucket that holds exactly what it is given: the honest server, until somebody changes it. */
class FakeBucket {
  readonly objects = new Map<string, Stored>();
  /** Keys that listings leave out, and keys that they make up. */
  readonly unlisted = new Set<string>();
  readonly invented = new Map<string, Stored>();
  readonly broken = new Set<string>();
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const url = request.url ?? "";
      const query = new URLSearchParams(url.split("?")[1] ?? "");
      const key = decodeURIComponent(url.split("?")[0]?.slice("/crash/".length) ?? "");
      if (query.has("list-type")) {
        response.end(JSON.stringify(this.#page(query)));
        return;
      }
      if (this.broken.has(key)) {
        request.socket.destroy();
        return;
      }
      const stored = this.objects.get(key);
      if (stored === undefined) {
        response.writeHead(404).end();
        return;
      }
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
      const body =
        range === null
          ? stored.content
          : stored.content.subarray(Number(range[1]), Number(range[2]) + 1);
      response.writeHead(range === null ? 200 : 206, {
        etag: stored.etag,
        "content-length": body.length,
        ...(stored.mark === undefined ? {} : { "x-amz-meta-op": stored.mark }),
      });
      response.end(body);
    });
  }

  #page(query: URLSearchParams): unknown {
    const after = query.get("continuation-token") ?? "";
    const pageKeys = Number(query.get("max-keys"));
    const all = [...this.objects, ...this.invented]
      .filter(([key]) => !this.unlisted.has(key) && key > after)
      .sort(([left], [right]) => (left < right ? -1 : 1));
    const page = all.slice(0, pageKeys);
    const isTruncated = page.length < all.length;
    return {
      objects: page.map(([key, { content, etag }]) => ({ key, size: content.length, etag })),
      isTruncated,
      ...(isTruncated ? { nextContinuationToken: page.at(-1)?.[0] } : {}),
    };
  }

  store(intent: PutIntent): Stored {
    const stored: Stored = {
      content: contentOf({ seed, id: intent.id }, intent.sizeBytes),
      etag: `"${intent.md5}"`,
      mark: intent.isMarked ? String(intent.id) : undefined,
    };
    this.objects.set(intent.key, stored);
    return stored;
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/crash`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

// A history with everything in it. What the honest server holds at its end is beside each key.
const steady = put(1, "steady", 1_000, { isMarked: true });
const first = put(2, "overwritten", 500);
const second = put(3, "overwritten", 700, { isMarked: true });
const deleted = put(4, "deleted", 300);
const unsure = put(6, "unsure put", 400);
const undeleted = put(7, "unsure delete", 200, { isMarked: true });
const large = put(9, "large ünd ödd/..//%2F", chunkBytes + 5_000, { isMarked: true });
const empty = put(10, "empty", 0);
const refused = put(11, "steady", 50, { ifAbsent: true });
const unsent = put(12, "unsent", 50);
const many = Array.from({ length: 120 }, (_, at) => put(100 + at, `many/${at}`, at));

const history: LogRecord[] = [
  { type: "run", seed, bucket: "crash" },
  ...[steady, first, second, deleted].flatMap((intent): LogRecord[] => [
    intent,
    { type: "done", id: intent.id },
  ]),
  { type: "delete", id: 5, key: "deleted" },
  { type: "done", id: 5 },
  unsure,
  { type: "unknown", id: 6, reason: "cut" },
  undeleted,
  { type: "done", id: 7 },
  { type: "delete", id: 8, key: "unsure delete" },
  { type: "unknown", id: 8, reason: "cut" },
  { type: "kill", cycle: 1, victim: "store" },
  large,
  { type: "done", id: 9 },
  empty,
  { type: "done", id: 10 },
  refused,
  { type: "refused", id: 11, status: 412 },
  unsent,
  { type: "refused", id: 12, status: 0 },
  ...many.flatMap((intent): LogRecord[] => [intent, { type: "done", id: intent.id }]),
];

function ledgerOf(records: readonly LogRecord[]): Ledger {
  const ledger = new Ledger();
  for (const record of records) expect(ledger.apply(record)).toBeUndefined();
  return ledger;
}

let bucket: FakeBucket;
let url: string;

beforeAll(async () => {
  bucket = new FakeBucket();
  url = await bucket.start();
});

afterAll(() => bucket.stop());

beforeEach(() => {
  bucket.objects.clear();
  bucket.unlisted.clear();
  bucket.invented.clear();
  bucket.broken.clear();
  for (const intent of [steady, second, undeleted, large, empty, ...many]) bucket.store(intent);
});

async function check(): Promise<Violation[]> {
  return (await verify(ledgerOf(history), { url, login: "" })).violations;
}

function objectOf(key: string): Stored {
  const stored = bucket.objects.get(key);
  if (stored === undefined) throw new Error(`the honest server has no ${key}`);
  return stored;
}

test("An honest server has no violation, and every key of the log is looked at", async () => {
  const ledger = ledgerOf(history);
  const result = await verify(ledger, { url, login: "" });
  expect(result.violations).toEqual([]);
  expect(result.keys).toBe(ledger.keys().length);
  expect(result.listed).toBe(bucket.objects.size);
  expect(result.seen).toHaveLength(ledger.keys().length);
});

test("An outcome that nobody knows may be the one or the other", async () => {
  bucket.store(unsure);
  bucket.objects.delete("unsure delete");
  expect(await check()).toEqual([]);
});

test("What was seen once is settled: the other outcome is a violation from then on", async () => {
  bucket.store(unsure);
  const ledger = ledgerOf(history);
  expect((await verify(ledger, { url, login: "" })).violations).toEqual([]);
  bucket.objects.delete(unsure.key);
  const { violations } = await verify(ledger, { url, login: "" });
  expect(violations.map(({ kind, key }) => ({ kind, key }))).toContainEqual({
    kind: "lost",
    key: unsure.key,
  });
});

const lies: { name: string; tell: () => void; kind: Violation["kind"]; key: string }[] = [
  {
    name: "a byte was changed",
    tell: () => {
      const { content } = objectOf("steady");
      content.writeUInt8(content.readUInt8(500) ^ 1, 500);
    },
    kind: "torn",
    key: "steady",
  },
  {
    name: "an object ends early",
    tell: () => {
      const stored = objectOf("steady");
      stored.content = stored.content.subarray(0, 999);
    },
    kind: "torn",
    key: "steady",
  },
  {
    name: "an acknowledged object is missing",
    tell: () => void bucket.objects.delete("steady"),
    kind: "lost",
    key: "steady",
  },
  {
    name: "an empty object is missing",
    tell: () => void bucket.objects.delete("empty"),
    kind: "lost",
    key: "empty",
  },
  {
    name: "a deleted object came back",
    tell: () => void bucket.store(deleted),
    kind: "ghost",
    key: "deleted",
  },
  {
    name: "an overwritten content came back",
    tell: () => void bucket.store(first),
    kind: "lost",
    key: "overwritten",
  },
  {
    name: "a put that was refused is there",
    tell: () => void bucket.store(refused),
    kind: "lost",
    key: "steady",
  },
  {
    name: "a put that never left is there",
    tell: () => void bucket.store(unsent),
    kind: "ghost",
    key: "unsent",
  },
  {
    name: "an unsure put left something that nobody sent",
    tell: () => {
      bucket.store(unsure).content = Buffer.from("half of it");
    },
    kind: "torn",
    key: "unsure put",
  },
  {
    name: "the content of one version is under the metadata of another",
    tell: () => {
      objectOf("overwritten").mark = "2";
    },
    kind: "torn",
    key: "overwritten",
  },
  {
    name: "the ETag is of another content",
    tell: () => {
      objectOf("steady").etag = `"${first.md5}"`;
    },
    kind: "torn",
    key: "steady",
  },
  {
    name: "an object is there but not listed",
    tell: () => void bucket.unlisted.add("many/77"),
    kind: "lost",
    key: "many/77",
  },
  {
    name: "a deleted object is listed",
    tell: () => void bucket.invented.set("deleted", { content: Buffer.alloc(300), etag: "x" }),
    kind: "ghost",
    key: "deleted",
  },
  {
    name: "a key that nobody wrote is listed",
    tell: () => void bucket.invented.set("nobody's", { content: Buffer.alloc(3), etag: "x" }),
    kind: "ghost",
    key: "nobody's",
  },
  {
    name: "a key is listed twice",
    tell: () => void bucket.invented.set("many/5", objectOf("many/5")),
    kind: "torn",
    key: "many/5",
  },
  {
    name: "an object can't be read",
    tell: () => void bucket.broken.add("steady"),
    kind: "unreadable",
    key: "steady",
  },
];

describe("A lie is reported:", () => {
  test.each(lies)("$name", async ({ tell, kind, key }) => {
    tell();
    const found = await check();
    expect(found.map((violation) => ({ kind: violation.kind, key: violation.key }))).toContainEqual(
      {
        kind,
        key,
      },
    );
    expect(new Set(found.map((violation) => violation.key))).toEqual(new Set([key]));
  });
});

test("A key that nobody ever wrote must be missing", async () => {
  for (const intent of many) {
    bucket.objects.set(`${intent.key}.never`, { content: Buffer.from("x"), etag: '"x"' });
    bucket.unlisted.add(`${intent.key}.never`);
  }
  const found = await check();
  expect(found.length).toBeGreaterThan(5);
  expect(new Set(found.map(({ kind }) => kind))).toEqual(new Set(["ghost"]));
});

describe("The log itself proves:", () => {
  const conditional = put(21, "key", 20, { ifAbsent: true });

  test("a conditional put that overwrote an acknowledged object lost it", () => {
    const ledger = ledgerOf([put(20, "key", 10), { type: "done", id: 20 }, conditional]);
    expect(ledger.apply({ type: "done", id: 21 })?.kind).toBe("lost");
  });

  test("a conditional put that was refused on an absent key met a ghost", () => {
    const ledger = ledgerOf([conditional]);
    expect(ledger.apply({ type: "refused", id: 21, status: 412 })?.kind).toBe("ghost");
  });

  test("a refusal settles an unknown put: it did happen", () => {
    const ledger = ledgerOf([
      put(20, "key", 10),
      { type: "unknown", id: 20, reason: "cut" },
      conditional,
      { type: "refused", id: 21, status: 412 },
    ]);
    expect(ledger.possible("key")).toEqual(new Set([20]));
  });

  test("a conditional put with an unknown outcome can't have happened over an object", () => {
    const ledger = ledgerOf([
      put(20, "key", 10),
      { type: "done", id: 20 },
      conditional,
      { type: "unknown", id: 21, reason: "cut" },
    ]);
    expect(ledger.possible("key")).toEqual(new Set([20]));
  });
});

describe("From the command line", () => {
  let folder: string;
  let log: string;

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "hayloft-verify-"));
    log = path.join(folder, "acks.log");
    const writer = new CrashLog(log);
    await Promise.all(history.map((record) => writer.append(record)));
    await writer.close();
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  function run(...args: string[]): Promise<{ code: number; output: string }> {
    const script = path.join(import.meta.dirname, "crash-verify.ts");
    return new Promise((resolve) => {
      const child = execFile(process.execPath, [script, ...args], (_error, stdout, stderr) => {
        resolve({ code: child.exitCode ?? -1, output: stdout + stderr });
      });
    });
  }

  test("an honest server ends with 0", async () => {
    const { code, output } = await run(log, url);
    expect(output).toContain("0 lost, 0 ghosts");
    expect(output.trimEnd().split("\n").at(-1)).toMatch(/^\d+ passed, 0 failed$/);
    expect(code).toBe(0);
  });

  test("a lost object ends with 1 and is named", async () => {
    bucket.objects.delete("steady");
    const { code, output } = await run(log, url);
    expect(output).toContain('lost: "steady"');
    expect(output).toContain("1 lost, 0 ghosts");
    expect(code).toBe(1);
  });

  test("a log that was cut in its last line is read up to there, and nowhere else", async () => {
    const cut = path.join(folder, "cut.log");
    const lines = history.map((record) => JSON.stringify(record));
    await writeFile(cut, `${lines.join("\n")}\n{"type":"done","i`);
    expect((await readLog(cut)).records).toBe(history.length);
    await writeFile(cut, `{"type":"done","i\n${lines.join("\n")}\n`);
    await expect(readLog(cut)).rejects.toThrow("is no record");
  });

  test("a server that is not there is unreadable, not right", async () => {
    const { code, output } = await run(log, "http://127.0.0.1:1/crash");
    expect(code).toBe(1);
    expect(output).toMatch(/[1-9]\d* unreadable/);
  }, 60_000);
});

test("Kinds are counted apart", () => {
  const violation = (kind: Violation["kind"]): Violation => ({ kind, key: "k", text: "" });
  expect(countKinds([violation("lost"), violation("torn"), violation("lost")])).toBe(
    "2 lost, 0 ghosts, 1 torn, 0 unreadable",
  );
});

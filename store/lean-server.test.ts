import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import { md5 } from "../base/checksum.ts";
import { systemClock } from "../base/clock.ts";
import { type Fid, formatFid, parseFid } from "../base/fid.ts";
import { diskFiles } from "../base/files.ts";
import { closeServer } from "../base/http-serve.ts";
import { makeLog } from "../base/log.ts";
import { makeRegistry } from "../base/metrics.ts";
import { seededRandom } from "../base/random.ts";
import { tokenCheck, tokenHeader } from "../base/token.ts";
import { type LeanAnswer, type LeanOptions, LeanServer } from "./lean-server.ts";
import { makeStoreMetrics } from "./metrics.ts";
import { metadataHeader } from "./protocol.ts";
import { readHeaderLines, readHeaders } from "./read-headers.ts";
import { makeStoreServer } from "./server.ts";
import { Store } from "./store.ts";

const token = "5a".repeat(32);
const isOurs = tokenCheck(token);
const timeMs = 1_790_000_000_123;
const random = seededRandom(11);
const badRequest = "HTTP/1.1 400";
const host = "Host: store\r\n";
const ours = `${tokenHeader}: ${token}\r\n`;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** The blobs of the servers here, by fid. */
const blobs = new Map<string, Buffer>();
function blobOf(ordinal: number, length: number): { fid: string; data: Buffer } {
  const fid = formatFid({ volume: 3, ordinal, cookie: 0xdeadbeef });
  const data = blobs.get(fid) ?? random.bytes(length);
  blobs.set(fid, data);
  return { fid, data };
}
const small = blobOf(1, 1_024);
const other = blobOf(2, 77);
const empty = blobOf(3, 0);
const medium = blobOf(4, 100_000);
const missing = formatFid({ volume: 3, ordinal: 99, cookie: 0xdeadbeef });

/** What node:http answers with: the whole of it at once, so that the order of answers is plain. */
function handle(request: IncomingMessage, response: ServerResponse): void {
  const fail = (status: number) => response.writeHead(status, ["Content-Length", "0"]).end();
  const fid = parseFid((request.url ?? "").slice(1));
  const data = fid === undefined ? undefined : blobs.get(formatFid(fid));
  if (!isOurs(request.headers[tokenHeader])) fail(403);
  else if (request.method !== "GET" && request.method !== "HEAD") fail(405);
  else if (data === undefined) fail(404);
  else response.writeHead(200, readHeaders({ timeMs, length: data.length })).end(data);
}

function answerOf(fid: Fid): LeanAnswer | undefined {
  const body = blobs.get(formatFid(fid));
  if (body === undefined) return undefined;
  return { headers: readHeaderLines({ timeMs, length: body.length }), body };
}

interface Started {
  server: Server;
  port: number;
  /** Fids that were answered without node:http. */
  found: string[];
}

async function start(server: Server): Promise<number> {
  server.keepAliveTimeout = 15_000;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanUps.push(() => closeServer(server, 0));
  return (server.address() as AddressInfo).port;
}

async function startLean(options: Partial<LeanOptions> = {}): Promise<Started> {
  const found: string[] = [];
  const { find = answerOf } = options;
  const server = new LeanServer({
    isOurs,
    handle,
    onCut: () => undefined,
    ...options,
    find: (fid) => {
      const answer = find(fid);
      if (answer !== undefined) found.push(formatFid(fid));
      return answer;
    },
  });
  return { server, port: await start(server), found };
}

async function startBare(): Promise<number> {
  return await start(createServer(handle));
}

function get(fid: string, lines: string[] = []): string {
  const all = ["Host: store", `${tokenHeader}: ${token}`, ...lines];
  return `GET /${fid} HTTP/1.1\r\n${all.map((line) => `${line}\r\n`).join("")}\r\n`;
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
  cleanUps.push(() => socket.destroy());
  socket.on("error", () => undefined);
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  return socket;
}

interface Talk {
  pieces: (Buffer | string)[];
  /** Whether each piece but the first waits for an answer to the one before. */
  inTurn?: boolean;
  /** How many answers to wait for; else until nothing comes any more. */
  count?: number;
}

/** Sends the pieces one by one; returns all that came until the server closed. */
async function talk(port: number, { pieces, inTurn = false, count }: Talk): Promise<Buffer> {
  const socket = await open(port);
  const parts: Buffer[] = [];
  let isClosed = false;
  socket.on("data", (part) => parts.push(part));
  socket.on("close", () => {
    isClosed = true;
  });
  socket.on("end", () => socket.end());
  for (const [at, piece] of pieces.entries()) {
    if (inTurn) while (parts.length < at && !isClosed) await wait(1);
    else if (at > 0) await wait(3);
    socket.write(typeof piece === "string" ? bytesOf(piece) : piece);
  }
  const isWhole = () => splitAnswers(Buffer.concat(parts)).answers.length >= (count ?? Infinity);
  // Turns and not time: server and client are one process, so what a busy machine slows, it slows for both.
  let seen = 0;
  for (let quietTurns = 0; !isClosed && quietTurns < 20; quietTurns++) {
    if (parts.length > seen && isWhole()) break;
    if (parts.length > seen || count !== undefined) quietTurns = 0;
    seen = parts.length;
    await wait(3);
  }
  socket.end(); // a head that was begun has to be answered now
  while (!isClosed) await wait(3);
  return Buffer.concat(parts);
}

interface Parsed {
  status: number;
  head: string;
  body: Buffer;
}

function splitAnswers(bytes: Buffer): { answers: Parsed[]; rest: Buffer } {
  const answers: Parsed[] = [];
  for (let at = 0; ; ) {
    const bodyAt = bytes.indexOf("\r\n\r\n", at) + 4;
    const head = bytes.toString("latin1", at, bodyAt - 4);
    const end = bodyAt + Number(/content-length: ([0-9]+)/i.exec(head)?.[1] ?? 0);
    if (bodyAt < 4 || end > bytes.length) return { answers, rest: bytes.subarray(at) };
    answers.push({ status: Number(head.slice(9, 12)), head, body: bytes.subarray(bodyAt, end) });
    at = end;
  }
}

function parseAnswers(bytes: Buffer): Parsed[] {
  const { answers, rest } = splitAnswers(bytes);
  if (rest.length > 0) throw new Error(`no answer: ${rest.toString("latin1").slice(0, 200)}`);
  return answers;
}

function until(isSo: () => boolean): Promise<unknown> {
  return expect.poll(isSo, { timeout: 10_000, interval: 5 }).toBe(true);
}

/** Without what tells when it was sent. */
function plainHead(head: string | undefined): string[] {
  return (head ?? "").split("\r\n").filter((line) => !line.startsWith("Date: "));
}

/** What a client sees of an exchange: statuses, and the bodies of those that have one. */
function outcomeOf(bytes: Buffer): string[] {
  return parseAnswers(bytes).map(
    ({ status, body }) => `${status} ${md5().update(body).digest("hex")}`,
  );
}

test("A store answers a simple GET as node:http would, header by header and byte by byte", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-lean-"));
  cleanUps.push(() => rmSync(folder, { recursive: true }));
  const log = makeLog("store", "silent");
  const store = await Store.open({
    ...{ files: diskFiles, clock: systemClock, random, log, folder },
    ...{ volumeBytes: 1e9, reserveBytes: 0, trashMs: 0 },
  });
  cleanUps.push(() => store.close());
  await store.carryOut({
    ...{ order: 1, kind: "create", volume: 3, uuid: "ab".repeat(16), class: "original" },
    ...{
      generation: 0,
      recordMagic: "cd".repeat(8),
      epoch: 1,
      members: [{ store: store.id, address: "127.0.0.1:1" }],
    },
    ...{ createdMs: 1, ttlSeconds: 0 },
  });
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  const options = { store, token, log, metrics, onVolumeClosed: () => undefined };
  const server = makeStoreServer(options);
  const port = await start(server);
  let byHttp = 0;
  server.on("request", () => {
    byHttp += 1;
  });
  const lengths = [0, 1, 1_024, 16_384, 16_385, 70_000, 1_048_577, 5_000_000];
  const contents = [
    ...lengths.map((length) => random.bytes(length)),
    Buffer.alloc(50_000, "text "),
  ];
  for (const data of contents) {
    const metadata = Buffer.from('{"type":"text/plain"}').toString("base64");
    const head = `POST /volumes/3/needles HTTP/1.1\r\n${host}${ours}${metadataHeader}: ${metadata}\r\n`;
    const post = `${head}Content-Length: ${data.length}\r\n\r\n`;
    const [stored] = parseAnswers(await talk(port, { pieces: [post, data], count: 1 }));
    const { fid } = JSON.parse(stored?.body.toString() ?? "") as { fid: string };
    const pieces = [get(fid), get(fid), get(fid, ["X-Other: 1"])];
    const [lean, again, slow] = parseAnswers(await talk(port, { pieces, count: 3 }));
    expect(lean?.status).toBe(200);
    expect(lean?.body.equals(data) && again?.body.equals(data)).toBe(true);
    expect(slow?.body.equals(data)).toBe(true);
    expect(plainHead(lean?.head)).toEqual(plainHead(slow?.head));
    expect(lean?.head).toMatch(/\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n/);
  }
  expect(byHttp).toBe(2 * contents.length);
});

test("A request in two pieces, cut at any byte, is answered as a whole one", async () => {
  const { port, found } = await startLean();
  const request = get(small.fid, ["Accept: */*"]);
  const cuts = Array.from({ length: request.length - 1 }, (_, index) => index + 1);
  const answers = await Promise.all(
    cuts.map(async (cut) =>
      parseAnswers(await talk(port, { pieces: [request.slice(0, cut), request.slice(cut)] })),
    ),
  );
  for (const [answer, ...more] of answers) {
    expect(answer?.status).toBe(200);
    expect(answer?.body.equals(small.data)).toBe(true);
    expect(more).toEqual([]);
  }
  expect(found.length).toBe(cuts.length);
});

test("A request that comes byte by byte is answered, by node:http", async () => {
  const { port, found } = await startLean();
  const answers = parseAnswers(await talk(port, { pieces: [...get(small.fid)] }));
  expect(answers.map(({ status }) => status)).toEqual([200]);
  expect(found).toEqual([]);
});

test("A head that ends in the middle gets what node:http gives it, wherever it ends", async () => {
  const { port } = await startLean();
  const barePort = await startBare();
  const request = get(small.fid);
  const cuts = Array.from({ length: request.length - 1 }, (_, index) => index + 1);
  await Promise.all(
    cuts.map(async (cut) => {
      const bytes = [get(other.fid) + request.slice(0, cut)];
      expect(outcomeOf(await talk(port, { pieces: bytes }))).toEqual(
        outcomeOf(await talk(barePort, { pieces: bytes })),
      );
    }),
  );
});

for (let seed = 1; seed <= 5; seed++) {
  test(`Pipelined requests are answered in order, whoever answers each (seed ${seed})`, async () => {
    const rng = seededRandom(seed);
    const { port } = await startLean({
      find: (fid) => {
        const answer = answerOf(fid);
        if (rng.fraction() < 0.6) return answer;
        return wait(rng.fraction() * 3).then(() => answer);
      },
    });
    const kinds = [small, other, empty, medium];
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        const expected: string[] = [];
        const requests = Array.from({ length: 60 }, () => {
          const blob = kinds[Math.floor(rng.fraction() * kinds.length)] ?? small;
          const chance = rng.fraction();
          expected.push(
            chance < 0.01
              ? `404 ${md5().digest("hex")}`
              : `200 ${md5().update(blob.data).digest("hex")}`,
          );
          if (chance < 0.01) return get(missing);
          return get(blob.fid, chance < 0.02 ? ["X-Other: 1"] : []);
        }).join("");
        const pieces: string[] = [];
        for (let at = 0; at < requests.length; ) {
          const length = 1 + Math.floor(rng.fraction() * 3_000);
          pieces.push(requests.slice(at, at + length));
          at += length;
        }
        const outcome = outcomeOf(await talk(port, { pieces, count: 60 }));
        expect(outcome.length).toBe(expected.length);
        expect(outcome.every((one, at) => one === expected[at])).toBe(true);
      }),
    );
  });
}

const line = `GET /${small.fid} HTTP/1.1\r\n`;
const hostile: Record<string, string> = {
  "no host": `${line}${ours}\r\n`,
  "host twice": `${line}${host}${host}${ours}\r\n`,
  "token twice": `${line}${host}${ours}${ours}\r\n`,
  "another token": `${line}${host}${tokenHeader}: ${"5b".repeat(32)}\r\n\r\n`,
  "no token": `${line}${host}\r\n`,
  "header continued on the next line": `${line}${host}${ours}Accept: a\r\n b\r\n\r\n`,
  "continuation right after the request line": `${line} x: y\r\n${host}${ours}\r\n`,
  "space before the colon": `${line}Host : store\r\n${ours}\r\n`,
  "space before the name": `${line}${host} Accept: x\r\n${ours}\r\n`,
  "tab after the colon": `${line}Host:\tstore\r\n${ours}\r\n`,
  "no space after the colon": `${line}Host:store\r\n${ours}\r\n`,
  "space after the value": `${line}Host: store \r\n${ours}\r\n`,
  "space after the token": `${line}${host}${tokenHeader}: ${token} \r\n\r\n`,
  "empty value": `${line}Host: \r\n${ours}\r\n`,
  "empty name": `${line}${host}: x\r\n${ours}\r\n`,
  "no colon": `${line}${host}Accept\r\n${ours}\r\n`,
  "NUL in a value": `${line}${host}${ours}Accept: a\0b\r\n\r\n`,
  "NUL in a name": `${line}${host}${ours}Acc\0ept: a\r\n\r\n`,
  "NUL in the path": `GET /${small.fid}\0 HTTP/1.1\r\n${host}${ours}\r\n`,
  "high byte in a value": `${line}${host}${ours}Accept: \xe9\r\n\r\n`,
  "high byte in a name": `${line}${host}${ours}Acc\xe9pt: x\r\n\r\n`,
  "bare LF at the end of a line": `${line}${host}${ours}Accept: a\n\r\n`,
  "bare LF everywhere": `${line}${host}${ours}\r\n`.replaceAll("\r\n", "\n"),
  "bare LF at the end": `${line}${host}${ours}\n`,
  "bare CR in a value": `${line}${host}${ours}Accept: a\rb\r\n\r\n`,
  "bare CR at the end": `${line}${host}${ours}\r\r\n`,
  "CR for a letter of a name": `${line}${host}x\rhayloft-token: ${token}\r\n\r\n`,
  "two CR at the end of a line": `${line}${host}${ours}Accept: a\r\r\n\r\n`,
  "names in other case": `${line}hOST: store\r\n${ours.toUpperCase().replace(token.toUpperCase(), token)}\r\n`,
  "content length": `${line}${host}${ours}Content-Length: 5\r\n\r\nabcde${line}${host}${ours}\r\n`,
  "content length zero": `${line}${host}${ours}Content-Length: 0\r\n\r\n`,
  "content length twice": `${line}${host}${ours}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef`,
  "content length and chunks": `${line}${host}${ours}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  "a body in chunks": `${line}${host}${ours}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
  "chunked by another name": `${line}${host}${ours}Transfer-Encoding: xchunked\r\n\r\n`,
  "chunked behind a tab": `${line}${host}${ours}Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n`,
  "chunked behind a space in the name": `${line}${host}${ours}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`,
  "a body that nobody announced": `${line}${host}${ours}\r\nabcde`,
  "a request within the body": `${line}${host}${ours}Content-Length: ${line.length + host.length + ours.length + 2}\r\n\r\n${line}${host}${ours}\r\n`,
  "HTTP/1.0": `GET /${small.fid} HTTP/1.0\r\n${host}${ours}\r\n`,
  "HTTP/1.0 kept alive": `GET /${small.fid} HTTP/1.0\r\nConnection: keep-alive\r\n${ours}\r\n`,
  "HTTP/0.9": `GET /${small.fid}\r\n`,
  "HTTP/2.0": `GET /${small.fid} HTTP/2.0\r\n${host}${ours}\r\n`,
  "HTTP/1.2": `GET /${small.fid} HTTP/1.2\r\n${host}${ours}\r\n`,
  "http in lower case": `GET /${small.fid} http/1.1\r\n${host}${ours}\r\n`,
  "method in lower case": `get /${small.fid} HTTP/1.1\r\n${host}${ours}\r\n`,
  "method with a letter more": `GETS /${small.fid} HTTP/1.1\r\n${host}${ours}\r\n`,
  "another method": `POST /${small.fid} HTTP/1.1\r\n${host}${ours}Content-Length: 0\r\n\r\n`,
  "HEAD to close": `HEAD /${missing} HTTP/1.1\r\n${host}${ours}Connection: close\r\n\r\n`,
  "absolute form": `GET http://store/${small.fid} HTTP/1.1\r\n${host}${ours}\r\n`,
  "authority form": `GET store:80 HTTP/1.1\r\n${host}${ours}\r\n`,
  "asterisk form": `GET * HTTP/1.1\r\n${host}${ours}\r\n`,
  "a query": `GET /${small.fid}?a=1 HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fragment": `GET /${small.fid}#a HTTP/1.1\r\n${host}${ours}\r\n`,
  "two spaces before the path": `GET  /${small.fid} HTTP/1.1\r\n${host}${ours}\r\n`,
  "two spaces after the path": `GET /${small.fid}  HTTP/1.1\r\n${host}${ours}\r\n`,
  "a tab after the path": `GET /${small.fid}\tHTTP/1.1\r\n${host}${ours}\r\n`,
  "space at the end of the request line": `GET /${small.fid} HTTP/1.1 \r\n${host}${ours}\r\n`,
  "an empty line before": `\r\n${line}${host}${ours}\r\n`,
  "an LF before": `\n${line}${host}${ours}\r\n`,
  "a space before": ` ${line}${host}${ours}\r\n`,
  "no fid": `GET / HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fid in capitals": `GET /${small.fid.toUpperCase()} HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fid of volume 0": `GET /0,01deadbeef HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fid with too large a volume": `GET /4294967299,01deadbeef HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fid with leading zeros": `GET /3,0001deadbeef HTTP/1.1\r\n${host}${ours}\r\n`,
  "a fid that is not there": `GET /${missing} HTTP/1.1\r\n${host}${ours}\r\n`,
  "a range": `${line}${host}${ours}Range: bytes=0-1\r\n\r\n`,
  "a condition": `${line}${host}${ours}If-None-Match: "a"\r\n\r\n`,
  "an expectation": `${line}${host}${ours}Expect: 100-continue\r\n\r\n`,
  "an upgrade": `${line}${host}${ours}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
  "to close": `${line}${host}${ours}Connection: close\r\n\r\n`,
  "to keep alive and close": `${line}${host}${ours}Connection: keep-alive, close\r\n\r\n`,
  "to keep alive, then to close": `${line}${host}${ours}Connection: keep-alive\r\nConnection: close\r\n\r\n`,
  "zstd accepted": `${line}${host}${ours}Accept-Encoding: gzip, ZSTD\r\n\r\n`,
  "a head of 12 KiB": `${line}${host}${ours}Accept: ${"a".repeat(12_000)}\r\n\r\n`,
  "a head of 20 KiB": `${line}${host}${ours}Accept: ${"a".repeat(20_000)}\r\n\r\n`,
  "a head of 20 KiB without an end": `${line}${host}${ours}Accept: ${"a".repeat(20_000)}`,
  "a path of 20 KiB": `GET /${"a".repeat(20_000)} HTTP/1.1\r\n${host}${ours}\r\n`,
  "a thousand headers": `${line}${host}${ours}${"a: b\r\n".repeat(1_000)}\r\n`,
  TLS: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
  "HTTP/2 by prior knowledge": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "nothing but line ends": "\r\n\r\n\r\n\r\n",
};

/**
 * Sends the text here and to node:http alone, as the first request of a connection or after another,
 * and with another behind it: whether that is found at the same place shows how the text was read.
 */
async function expectSame(ports: { port: number; barePort: number }, text: string): Promise<void> {
  for (const pieces of [[text], [get(small.fid), text + get(other.fid)]]) {
    const both = [ports.port, ports.barePort].map((one) => talk(one, { pieces, inTurn: true }));
    const [here = [], bare = []] = (await Promise.all(both)).map(outcomeOf);
    expect({ text, outcome: withoutLastWord(here) }).toEqual({
      text,
      outcome: withoutLastWord(bare),
    });
  }
}

/**
 * Bad bytes that come in one piece with a good request end the connection, and whether node:http still says
 * why depends on how far its answer has got.
 */
function withoutLastWord(outcome: string[]): string[] {
  const isLastWord = outcome.length > 1 && /^(400|431) /.test(outcome.at(-1) ?? "");
  return isLastWord ? outcome.slice(0, -1) : outcome;
}

test("Hostile requests get from here what node:http alone gives them", async () => {
  const { port } = await startLean();
  const barePort = await startBare();
  await Promise.all(
    Object.entries(hostile).map(async ([name, text]) => {
      await expectSame({ port, barePort }, text).catch((error: unknown) => {
        throw new Error(name, { cause: error });
      });
    }),
  );
});

test("A head that is not whole and can't become simple is not held back", async () => {
  const { port } = await startLean();
  const socket = await open(port);
  socket.write(`${line}${host}A\0`);
  const [answer] = await new Promise<Buffer[]>((resolve) =>
    socket.once("data", (...all) => resolve(all)),
  );
  expect(answer?.toString("latin1").startsWith(badRequest)).toBe(true);
});

const dictionary = [
  ...[
    "\r",
    "\n",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    "\r\n",
    "\r\n\r\n",
    "\x7f",
    "\x80",
    "\xff",
    "%00",
    "/",
  ],
  ...["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Range: bytes=0-1\r\n"],
  ...["Connection: close\r\n", "Connection: keep-alive\r\n", "HTTP/1.0", "HTTP/1.1", "GET "],
  ...["Host: x\r\n", "Accept: */*\r\n", "X-A: b\r\n", ours, line, "Upgrade: h2c\r\n", "close"],
];
const mutation = fc.record({
  kind: fc.constantFrom("insert", "replace", "cut", "word", "repeat", "case"),
  at: fc.nat(),
  length: fc.integer({ min: 1, max: 12 }),
  byte: fc.integer({ min: 0, max: 255 }),
  word: fc.constantFrom(...dictionary),
});
const bases = [
  get(small.fid),
  get(small.fid, ["User-Agent: a/1 (b; c)", "Accept: */*", "Accept-Encoding: gzip, br"]),
  get(other.fid, ["Connection: keep-alive", "x-request-id: 0123456789abcdef"]),
];

/** A valid request with a few bytes changed. */
const mutant = fc
  .tuple(fc.constantFrom(...bases), fc.array(mutation, { minLength: 1, maxLength: 3 }))
  .map(([base, mutations]) => {
    let text = base;
    for (const { kind, at: anywhere, length, byte, word } of mutations) {
      const at = anywhere % (text.length + 1);
      const before = text.slice(0, at);
      const after = text.slice(at);
      const sign = String.fromCharCode(byte);
      if (kind === "insert") text = before + sign + after;
      else if (kind === "replace") text = before + sign + after.slice(1);
      else if (kind === "cut") text = before + after.slice(length);
      else if (kind === "word") text = before + word + after;
      else if (kind === "repeat") text = before + after.slice(0, length * 4) + after;
      else text = before + after.slice(0, length).toUpperCase() + after.slice(length);
    }
    return text;
  });

test("Requests with bytes changed get the same with this server as with node:http alone", async () => {
  const { port } = await startLean();
  const barePort = await startBare();
  const mutants = fc.array(mutant, { minLength: 50, maxLength: 50 });
  const property = fc.asyncProperty(mutants, async (texts) => {
    await Promise.all(texts.map((text) => expectSame({ port, barePort }, text)));
  });
  await fc.assert(property, { numRuns: 12, endOnFailure: true });
}, 60_000);

test("A token that was right does not let a wrong one pass on the same connection", async () => {
  const { port } = await startLean();
  const wrong = get(small.fid).replace(token, "5b".repeat(32));
  const bytes = await talk(port, {
    pieces: [get(small.fid), get(other.fid, ["x-request-id: 1"]), wrong],
    inTurn: true,
  });
  expect(parseAnswers(bytes).map(({ status }) => status)).toEqual([200, 200, 403]);
});

test("A find that fails is left to node:http", async () => {
  let finds = 0;
  const { port } = await startLean({
    find: () => {
      finds += 1;
      if (finds === 1) throw new Error("at once");
      return Promise.reject(new Error("later"));
    },
  });
  for (let round = 0; round < 2; round++) {
    expect(
      parseAnswers(await talk(port, { pieces: [get(small.fid)] })).map(({ status }) => status),
    ).toEqual([200]);
  }
  expect(finds).toBe(2);
});

test("A reader that does not read costs the memory of one answer, and gets all when it does", async () => {
  for (const { fid, data } of [small, medium, blobOf(5, 2_000_000)]) {
    let open = 0;
    let mostOpen = 0;
    const rest = async function* () {
      for (let at = 500_000; at < data.length; at += 500_000) yield data.subarray(at, at + 500_000);
    };
    const { server, port, found } = await startLean({
      find: () => {
        open += 1;
        mostOpen = Math.max(mostOpen, open);
        return {
          headers: readHeaderLines({ timeMs, length: data.length }),
          body: data.subarray(0, 500_000),
          ...(data.length > 500_000 ? { rest: rest() } : {}),
          release: () => {
            open -= 1;
          },
        };
      },
    });
    const sockets: Socket[] = [];
    server.on("connection", (socket) => sockets.push(socket));
    const socket = await openPaused(port);
    const count = Math.ceil(30_000_000 / Math.max(data.length, 1_000));
    socket.write(get(fid).repeat(count));
    await wait(300);
    const [served] = sockets;
    expect(found.length).toBeLessThan(count);
    expect(served?.writableLength).toBeLessThanOrEqual(1_100_000);
    expect(served?.readableLength).toBeLessThanOrEqual(131_072);
    let bytes = 0;
    socket.on("data", (part) => {
      bytes += part.length;
    });
    socket.resume();
    for (let before = -1; before < bytes || found.length < count; await wait(50)) before = bytes;
    expect(found.length).toBe(count);
    expect(bytes % count).toBe(0);
    expect(bytes / count - data.length).toBeGreaterThan(150);
    expect(open).toBe(0);
    expect(mostOpen).toBeLessThanOrEqual(2);
    socket.destroy();
  }
});

async function openPaused(port: number): Promise<Socket> {
  const socket = await open(port);
  socket.pause();
  return socket;
}

test("A client that goes away in the middle of an answer leaves nothing behind", async () => {
  let released = 0;
  const large = random.bytes(1_000_000);
  let settle: (() => void) | undefined;
  const release = () => {
    released += 1;
  };
  let pieces = 0;
  const endless = async function* () {
    for (;;) {
      pieces += 1;
      yield large;
    }
  };
  const { server, port, found } = await startLean({
    find: ({ ordinal }) => {
      const answer = { headers: readHeaderLines({ timeMs, length: 1e12 }), body: large, release };
      if (ordinal === 1) return { ...answer, rest: endless() };
      if (ordinal === 2) return answer;
      return new Promise((resolve) => {
        settle = () => resolve(answer);
      });
    },
  });
  for (const { fid } of [small, other, medium]) {
    const socket = await openPaused(port);
    const before = found.length;
    socket.write(get(fid).repeat(40));
    await until(() => found.length > before);
    await wait(50);
    socket.resetAndDestroy();
    await wait(50);
  }
  settle?.();
  await until(() => released === found.length);
  const sent = pieces;
  await wait(50);
  expect(pieces).toBe(sent);
  const connections = await new Promise((resolve) => {
    server.getConnections((_, count) => resolve(count));
  });
  expect(connections).toBe(0);
});

test("An answer whose rest fails is cut off, and the reason told", async () => {
  const causes: unknown[] = [];
  const cause = new Error("damaged");
  const rest = async function* () {
    yield Buffer.alloc(1_000);
    throw cause;
  };
  const { port } = await startLean({
    find: () => ({
      headers: readHeaderLines({ timeMs, length: 100_000 }),
      body: Buffer.alloc(20_000),
      rest: rest(),
    }),
    onCut: (error) => causes.push(error),
  });
  const bytes = await talk(port, { pieces: [get(small.fid)] });
  expect(bytes.length).toBeLessThan(22_000);
  expect(causes).toEqual([cause]);
});

test("A request whose client has sent all it will is still answered", async () => {
  const { port } = await startLean({ find: (fid) => wait(30).then(() => answerOf(fid)) });
  const socket = await open(port);
  socket.end(get(small.fid) + get(other.fid));
  const parts: Buffer[] = [];
  for await (const part of socket) parts.push(part as Buffer);
  expect(parseAnswers(Buffer.concat(parts)).map(({ status }) => status)).toEqual([200, 200]);
});

test("Closing ends idle connections at once and lets running answers finish", async () => {
  const { server, port, found } = await startLean({
    find: (fid) => wait(200).then(() => answerOf(fid)),
  });
  const fresh = await open(port);
  const idle = await open(port);
  idle.write(get(small.fid));
  await new Promise((resolve) => idle.once("data", resolve));
  const running = await open(port);
  running.write(get(medium.fid));
  const parts: Buffer[] = [];
  running.on("data", (part) => parts.push(part));
  await until(() => found.length === 2);
  const closedAtMs: Record<string, number> = {};
  const startedMs = performance.now();
  for (const [name, socket] of Object.entries({ fresh, idle, running })) {
    socket.resume();
    socket.on("close", () => {
      closedAtMs[name] = performance.now() - startedMs;
    });
    socket.on("end", () => socket.end());
  }
  await closeServer(server, 15_000);
  await until(() => Object.keys(closedAtMs).length === 3);
  expect(performance.now() - startedMs).toBeLessThan(10_000);
  expect(closedAtMs.fresh).toBeLessThan(closedAtMs.running ?? 0);
  expect(closedAtMs.idle).toBeLessThan(closedAtMs.running ?? 0);
  expect(parseAnswers(Buffer.concat(parts))[0]?.body.equals(medium.data)).toBe(true);
});

test("Closing cuts off what has not ended after the grace", async () => {
  const { server, port, found } = await startLean({
    find: () => new Promise(() => undefined),
  });
  const socket = await open(port);
  socket.resume();
  socket.write(get(small.fid));
  await until(() => found.length === 1);
  const startedMs = performance.now();
  await closeServer(server, 150);
  expect(performance.now() - startedMs).toBeGreaterThan(140);
  expect(performance.now() - startedMs).toBeLessThan(10_000);
});

test("A connection is closed when idle, and a head that does not come is given up", async () => {
  const { server, port } = await startLean({
    sweepMs: 20,
    http: { connectionsCheckingInterval: 20, headersTimeout: 200 },
  });
  server.keepAliveTimeout = 100;
  const cases = { idle: get(small.fid), half: get(small.fid) + line, never: "", halfFirst: line };
  await Promise.all(
    Object.entries(cases).map(async ([name, text]) => {
      const socket = await open(port);
      const startedMs = performance.now();
      const parts: Buffer[] = [];
      if (text !== "") socket.write(text);
      for await (const part of socket) parts.push(part as Buffer);
      const tookMs = performance.now() - startedMs;
      const statuses = parseAnswers(Buffer.concat(parts)).map(({ status }) => status);
      const expected = { idle: [200], half: [200, 408], never: [408], halfFirst: [408] }[name];
      expect({ name, statuses }).toEqual({ name, statuses: expected });
      expect(tookMs).toBeGreaterThan(name === "idle" ? 99 : 250);
      expect(tookMs).toBeLessThan(10_000);
    }),
  );
});

test("A connection that is used is not closed as idle", async () => {
  const { server, port, found } = await startLean({ sweepMs: 10 });
  server.keepAliveTimeout = 400;
  const socket = await open(port);
  socket.resume();
  for (let round = 0; round < 8; round++) {
    socket.write(get(small.fid));
    await wait(100);
  }
  expect(found.length).toBe(8);
  expect(socket.destroyed).toBe(false);
});

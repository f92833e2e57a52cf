import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingHttpHeaders, type Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync, zstdDecompressSync } from "node:zlib";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { challengeHeader, signatureHeader } from "../../base/call-signature.ts";
import { CallSigner } from "../../base/call-signer.ts";
import { systemClock } from "../../base/clock.ts";
import { ClusterSecret } from "../../base/cluster-secret.ts";
import { formatFid } from "../../base/fid.ts";
import { diskFiles } from "../../base/files.ts";
import { closeServer, listen } from "../../base/http-serve.ts";
import { makeRegistry } from "../../base/metrics.ts";
import type { NativeAccess } from "../../base/native-access.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { reservedCookie } from "../../base/reserved-cookie.ts";
import { makeStoreMetrics } from "../metrics.ts";
import { SeaweedFixture } from "../seaweed/seaweed-fixture.ts";
import { makeStoreServer } from "../server.ts";
import { Store } from "../store.ts";
import { etagOf } from "../volume/native-metadata.ts";
import { dataBytesMax } from "../volume/needle.ts";

const secret = ClusterSecret.of("ab".repeat(32));
const signer = new CallSigner(secret);
const bearer = { authorization: `Bearer ${secret.nativeBearer}` };
const log = pino({ level: "silent" });
const volumes = { native: 3, original: 4, withTtl: 5, imported: 6 };

let folder: string;
let random: Random;
let nowMs: number;
let store: Store;
const servers: Server[] = [];
let port: number;

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-native-"));
  random = seededRandom(11);
  nowMs = 1_790_000_000_500;
  store = await Store.open({
    files: diskFiles,
    clock: { nowMs: () => nowMs, monotonicMs: () => systemClock.monotonicMs() },
    random,
    log,
    folder,
    volumeBytes: 1_073_741_824,
    reserveBytes: 0,
    trashMs: 0,
  });
  await create(volumes.native, "native", 0);
  await create(volumes.original, "original", 0);
  await create(volumes.withTtl, "native", 3_600);
  port = await serve("open");
});

afterEach(async () => {
  for (const server of servers.splice(0)) await closeServer(server, 0);
  await store.close();
  rmSync(folder, { recursive: true });
});

async function create(volume: number, volumeClass: "native" | "original", ttlSeconds: number) {
  await store.carryOut({
    order: volume,
    kind: "create",
    volume,
    uuid: random.bytes(16).toString("hex"),
    class: volumeClass,
    generation: 0,
    recordMagic: random.bytes(8).toString("hex"),
    epoch: 1,
    members: [{ store: store.id, address: "127.0.0.1:1" }],
    createdMs: 1_790_000_000_000,
    ttlSeconds,
  });
}

async function serve(native: NativeAccess, readiness?: () => string | undefined): Promise<number> {
  const metrics = makeStoreMetrics(store, makeRegistry("store"));
  const onVolumeClosed = () => undefined;
  const server = makeStoreServer({
    store,
    secret,
    log,
    metrics,
    onVolumeClosed,
    native,
    readiness,
  });
  servers.push(server);
  return (await listen(server, { host: "127.0.0.1", port: 0 })).port;
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
  json: unknown;
}

interface Options {
  headers?: Record<string, string>;
  body?: Buffer | string | undefined;
  at?: number;
}

/** The same as one of our own processes sends it. */
async function callSigned(method: string, url: string, options: Options = {}): Promise<Answer> {
  const { headers = {}, body, at = port } = options;
  const address = `127.0.0.1:${at}`;
  for (;;) {
    const signature = signer.sign({ address, method, path: url, headers, body });
    const answer = await call(method, url, {
      ...options,
      headers: { ...headers, [signatureHeader]: signature },
    });
    if (!signer.learn(address, signature, String(answer.headers[challengeHeader]))) return answer;
  }
}

/** A bare request: nothing is added to it, and nothing decoded in its answer. */
function call(method: string, url: string, { headers = {}, body, at = port }: Options = {}) {
  return new Promise<Answer>((resolve, reject) => {
    const length = body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) };
    const request = httpRequest(
      {
        port: at,
        host: "127.0.0.1",
        method,
        path: url,
        agent: false,
        headers: { ...length, ...headers },
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("error", reject);
        response.on("end", () => {
          const whole = Buffer.concat(parts);
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: whole,
            json: parseJson(whole),
          });
        });
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}

/** A fid as the directory gives it out: `/3,01637037d6`. */
async function assign(volume: number = volumes.native, count = 1): Promise<string> {
  const { first } = await store.reserve(volume, count);
  const { superblock } = store.volume(volume) ?? {};
  if (superblock === undefined) throw new Error("there is no such volume");
  const cookie = reservedCookie({ ...superblock, ordinal: first });
  return `/${formatFid({ volume, ordinal: first, cookie })}`;
}

function formOf(...parts: { headers: string[]; content: string | Buffer }[]) {
  const body = Buffer.concat([
    ...parts.map(({ headers, content }) =>
      Buffer.concat([
        Buffer.from(`--b\r\n${headers.map((line) => `${line}\r\n`).join("")}\r\n`),
        Buffer.from(content),
        Buffer.from("\r\n"),
      ]),
    ),
    Buffer.from("--b--\r\n"),
  ]);
  return { body, headers: { "content-type": "multipart/form-data; boundary=b" } };
}

const fileHeader = (name: string) =>
  `Content-Disposition: form-data; name="file"; filename="${name}"`;

test("A blob is put and read in all five forms of its URL, and its answers are SeaweedFS's", async () => {
  const fid = await assign();
  const data = random.bytes(5_000);
  const put = await call("PUT", fid, { body: data, headers: { "content-type": "image/jpeg" } });
  expect(put.status).toBe(201);
  const etag = etagOf(data);
  expect(put.json).toEqual({ name: fid.slice(1), size: 5_000, eTag: etag, mime: "image/jpeg" });
  expect(put.headers.etag).toBe(`"${etag}"`);

  const slashed = fid.replace(",", "/");
  for (const url of [fid, `${fid}.jpg`, slashed, `${slashed}.jpg`, `${slashed}/my%20photo.jpg`]) {
    const got = await call("GET", url);
    expect(got.status, url).toBe(200);
    expect(got.body.equals(data), url).toBe(true);
    expect(got.headers).toMatchObject({
      etag: `"${etag}"`,
      "content-type": "image/jpeg",
      "content-length": "5000",
      "accept-ranges": "bytes",
      "last-modified": new Date(nowMs).toUTCString(),
      "x-content-type-options": "nosniff",
    });
    const head = await call("HEAD", url);
    const { date: _, connection: __, ...rest } = head.headers;
    expect(got.headers).toMatchObject(rest);
    expect(head.body.length).toBe(0);
  }
  const named = await call("GET", `${slashed}/my%20photo.jpg?dl=true`);
  expect(named.headers["content-disposition"]).toBe('attachment; filename="my photo.jpg"');

  expect(await call("DELETE", fid)).toMatchObject({ status: 202, json: { size: 5_000 } });
  expect(await call("DELETE", fid)).toMatchObject({ status: 404, json: { size: 0 } });
  expect((await call("GET", fid)).status).toBe(404);
  const deleted = await call("GET", `${fid}?readDeleted=true`);
  expect(deleted.body.equals(data)).toBe(true);
});

test("Fids of one run are written with a delta and the first one's cookie", async () => {
  const fid = await assign(volumes.native, 3);
  for (const delta of ["", "_1", "_2"]) {
    const put = await call("POST", `${fid}${delta}.txt`, {
      body: `blob${delta}`,
      headers: { "content-type": "text/plain" },
    });
    expect(put.status).toBe(201);
  }
  expect((await call("GET", `${fid}_2`)).body.toString()).toBe("blob_2");
  const [, key = "", cookie = ""] = /^\/3,(..)(.{8})$/.exec(fid) ?? [];
  const next = (Number.parseInt(key, 16) + 1).toString(16).padStart(2, "0");
  // In plain form it is read, and written once it is there; before that it is refused.
  expect((await call("GET", `/3,${next}${cookie}`)).body.toString()).toBe("blob_1");
  expect((await call("PUT", `/3,${next}${cookie}`, { body: "other" })).status).toBe(409);
  const again = await assign(volumes.native, 2);
  const [, at = "", other = ""] = /^\/3,(..)(.{8})$/.exec(again) ?? [];
  const plain = `/3,${(Number.parseInt(at, 16) + 1).toString(16).padStart(2, "0")}${other}`;
  expect((await call("PUT", plain, { body: "x" })).status).toBe(404);
  expect((await call("PUT", `${again}_2`, { body: "beyond the run" })).status).toBe(404);
});

test("A blob is written once: the same bytes again are answered alike, others are refused", async () => {
  const fid = await assign();
  const first = await call("PUT", fid, { body: "one" });
  const again = await call("PUT", fid, { body: "one" });
  expect(again.status).toBe(201);
  expect(again.json).toEqual(first.json);
  const other = await call("PUT", fid, { body: "two" });
  expect(other.status).toBe(409);
  expect(other.json).toMatchObject({ error: expect.stringContaining("written once") });
  expect((await call("GET", fid)).body.toString()).toBe("one");
  await call("DELETE", fid);
  expect((await call("PUT", fid, { body: "one" })).status).toBe(409);

  const raced = await assign();
  const bodies = ["a", "b", "a", "b", "a"];
  const statuses = await Promise.all(
    bodies.map(async (body) => (await call("PUT", raced, { body })).status),
  );
  const { body } = await call("GET", raced);
  expect(statuses).toEqual(bodies.map((each) => (each === body.toString() ? 201 : 409)));
});

test("What was not assigned is not stored, however large its key", async () => {
  const fid = await assign();
  const count = store.volume(volumes.native)?.report().needleCount;
  const wrongCookie = fid.replace(/.{8}$/, "00000000");
  const cookie = fid.slice(-8);
  const before = process.memoryUsage().rss;
  for (const url of [
    wrongCookie,
    `/3,ffffffff${cookie}`,
    `/3,ffffffffffffffff${cookie}`,
    `/3,7fffffff${cookie}_5`,
    `/99,01${cookie}`,
  ]) {
    const { status, json } = await call("PUT", url, { body: "x" });
    expect(status, url).toBe(404);
    expect(json).toEqual({ error: expect.stringContaining("was not assigned") });
    expect((await call("GET", url)).status).toBe(404);
    expect(await call("DELETE", url)).toMatchObject({ status: 404, json: { size: 0 } });
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1_048_576);
  expect(store.volume(volumes.native)?.report().needleCount).toBe(count);
  // A fid that was assigned and not written yet is not there.
  expect((await call("GET", fid)).status).toBe(404);
  for (const url of ["/3,xyz", "/3/", "/3,637037d6", "/4294967296,01637037d6"]) {
    for (const method of ["GET", "PUT", "DELETE"]) {
      expect((await call(method, url)).status, `${method} ${url}`).toBe(400);
    }
  }
  expect((await call("PATCH", fid)).status).toBe(405);
});

test("Of a form the first part counts, unless it has no file name and a later one has", async () => {
  const jpeg = "Content-Type: image/jpeg";
  const text = 'Content-Disposition: form-data; name="note"';
  const rows: [{ headers: string[]; content: string }[], string, object][] = [
    [[{ headers: [fileHeader("a.jpg"), jpeg], content: "1" }], "1", { name: "a.jpg" }],
    [[{ headers: [fileHeader("a.png"), jpeg], content: "1" }], "1", { mime: "image/jpeg" }],
    [
      [
        { headers: [text], content: "note" },
        { headers: [fileHeader("b.jpg")], content: "2" },
      ],
      "2",
      { name: "b.jpg" },
    ],
    [
      [
        { headers: [fileHeader("first.jpg")], content: "1" },
        { headers: [fileHeader("second.jpg")], content: "2" },
      ],
      "1",
      { name: "first.jpg" },
    ],
    [
      [
        { headers: [text], content: "first" },
        { headers: [text], content: "second" },
      ],
      "first",
      {},
    ],
  ];
  for (const [parts, content, reply] of rows) {
    const fid = await assign();
    const put = await call("POST", fid, formOf(...parts));
    expect(put.status).toBe(201);
    expect(put.json).toMatchObject({ size: content.length, ...reply });
    expect((await call("GET", fid)).body.toString()).toBe(content);
  }
});

test("Only POST takes forms; it takes one where nothing says what the body is", async () => {
  const form = formOf({ headers: [fileHeader("a.jpg")], content: "1" });
  const fid = await assign();
  expect((await call("PUT", fid, form)).status).toBe(201);
  expect((await call("GET", fid)).body.equals(form.body)).toBe(true);

  const other = await assign();
  expect(await call("POST", other, { body: "no form" })).toMatchObject({
    status: 400,
    json: { error: expect.stringContaining("Cannot read the form") },
  });
  const cut = { ...form, body: form.body.subarray(0, -4) };
  expect((await call("POST", other, cut)).status).toBe(400);
  const raw = { body: "raw", headers: { "content-type": "image/png" } };
  expect((await call("POST", other, raw)).status).toBe(201);
});

test("Names come from the form, from Content-Disposition or from the URL", async () => {
  const rows: [string, Record<string, string>, unknown][] = [
    ["", { "content-disposition": 'attachment; filename="a.jpg"' }, { name: "a.jpg" }],
    ["", { "content-disposition": "attachment; name=b.jpg" }, { name: "b.jpg" }],
    ["/c.jpg", {}, { name: "c.jpg" }],
  ];
  for (const [suffix, headers, reply] of rows) {
    const fid = (await assign()).replace(",", suffix === "" ? "," : "/");
    const put = await call("PUT", `${fid}${suffix}`, {
      body: "x",
      headers: { "content-type": "image/jpeg", ...headers },
    });
    expect(put.json).toEqual({ ...(reply as object), size: 1, eTag: etagOf(Buffer.from("x")) });
    const got = await call("GET", fid);
    expect(got.headers["content-type"]).toBe("image/jpeg");
    expect(got.headers["content-disposition"]).toMatch(/^inline; filename="[abc]\.jpg"$/);
  }
});

test("An empty blob is a real one", async () => {
  const fid = await assign();
  const put = await call("POST", fid, formOf({ headers: [fileHeader("empty")], content: "" }));
  expect(put).toMatchObject({ status: 201, json: { name: "empty", size: 0 } });
  const got = await call("GET", fid);
  expect(got).toMatchObject({ status: 200, headers: { "content-length": "0" } });
  expect((await call("GET", fid, { headers: { range: "bytes=0-" } })).status).toBe(416);
  expect(await call("DELETE", fid)).toMatchObject({ status: 202, json: { size: 0 } });
});

test("Content-MD5 is checked against the plain content, of the whole or of the part", async () => {
  const content = "content ".repeat(100);
  const md5 = createHash("md5").update(content).digest("base64");
  const wrong = createHash("md5").update("other").digest("base64");
  const fid = await assign();
  const bad = await call("PUT", fid, { body: content, headers: { "content-md5": wrong } });
  expect(bad.status).toBe(400);
  const zipped = { "content-encoding": "gzip", "content-md5": md5 };
  const put = await call("PUT", fid, { body: gzipSync(content), headers: zipped });
  expect(put).toMatchObject({ status: 201, json: { contentMd5: md5 } });
  expect(put.headers["content-md5"]).toBe(md5);

  const inForm = await assign();
  const formWith = (digest: string) =>
    formOf({ headers: [fileHeader("a.txt"), `Content-MD5: ${digest}`], content });
  expect((await call("POST", inForm, formWith(wrong))).status).toBe(400);
  expect((await call("POST", inForm, formWith(md5))).json).toMatchObject({ contentMd5: md5 });
});

test("What comes as gzip is kept as what it is, for every reader", async () => {
  const content = '{"some":"json"}'.repeat(1_000);
  const fid = await assign();
  const type = { "content-type": "application/json" };
  const put = await call("PUT", fid, {
    body: gzipSync(content),
    headers: { ...type, "content-encoding": "gzip" },
  });
  expect(put.json).toMatchObject({ size: content.length });
  const got = await call("GET", fid, { headers: { "accept-encoding": "gzip" } });
  expect(got.headers["content-encoding"]).toBeUndefined();
  expect(got.body.toString()).toBe(content);

  const inForm = await assign();
  const headers = [fileHeader("a.json"), "Content-Encoding: gzip"];
  await call("POST", inForm, formOf({ headers, content: gzipSync(content) }));
  expect((await call("GET", inForm)).body.toString()).toBe(content);

  const other = await assign();
  const gzip = { "content-encoding": "gzip" };
  expect((await call("PUT", other, { body: "no gzip", headers: gzip })).status).toBe(400);
  const lying = gzipSync(Buffer.alloc(1_000_000));
  lying.writeUInt32LE(10, lying.length - 4);
  expect((await call("PUT", other, { body: lying, headers: gzip })).status).toBe(400);
  const bomb = gzipSync(Buffer.alloc(dataBytesMax + 1));
  expect((await call("PUT", other, { body: bomb, headers: gzip })).status).toBe(413);
  const strange = { "content-encoding": "br" };
  expect((await call("PUT", other, { body: "x", headers: strange })).status).toBe(415);
});

test("More than a blob can have is refused, whether or not its length is told before", async () => {
  const fid = await assign();
  const body = Buffer.alloc(dataBytesMax + 1);
  expect((await call("PUT", fid, { body })).status).toBe(413);
  const answer = await fetch(`http://127.0.0.1:${port}${fid}`, {
    method: "PUT",
    body: new Blob([body]).stream(),
    duplex: "half",
  } as RequestInit);
  expect(answer.status).toBe(413);
  const largest = await call("PUT", fid, { body: body.subarray(1) });
  expect(largest).toMatchObject({ status: 201, json: { size: dataBytesMax } });
  const got = await call("GET", fid);
  expect(got.body.length).toBe(dataBytesMax);
});

test("Headers that an uploader chose come back, but none that speak for the server", async () => {
  const fid = await assign();
  await call("PUT", fid, {
    body: "x",
    headers: {
      "Seaweed-Cache-Control": "max-age=60",
      "Seaweed-X-Album": "summer",
      "Seaweed-Set-Cookie": "a=b",
      "Seaweed-Content-Length": "100",
      "Seaweed-Access-Control-Allow-Credentials": "true",
      "Seaweed-X-Accel-Redirect": "/etc/passwd",
    },
  });
  const { headers, body } = await call("GET", fid);
  expect(headers).toMatchObject({ "cache-control": "max-age=60", "x-album": "summer" });
  expect(body.toString()).toBe("x");
  for (const name of ["set-cookie", "access-control-allow-credentials", "x-accel-redirect"]) {
    expect(headers[name], name).toBeUndefined();
  }
});

test("A read's parameters take the place of what was stored, and end no header", async () => {
  const fid = await assign();
  await call("PUT", fid, { body: "x", headers: { "content-type": "image/png" } });
  const query = new URLSearchParams({
    "response-content-type": "text/html",
    "response-cache-control": "no-store",
    "response-expires": "a\r\nSet-Cookie: b=c",
    "response-content-disposition": 'attachment; filename="z"',
  });
  const { headers } = await call("GET", `${fid}?${query}`);
  expect(headers).toMatchObject({
    "content-type": "text/html",
    "content-security-policy": "sandbox",
    "cache-control": "no-store",
    "content-disposition": 'attachment; filename="z"',
  });
  expect(headers.expires).toBeUndefined();
  expect(headers["set-cookie"]).toBeUndefined();
});

test("Times are those that were given, and conditions hold in RFC 9110's order", async () => {
  const fid = await assign();
  await call("PUT", `${fid}?ts=1700000000`, { body: "x" });
  const modified = "Tue, 14 Nov 2023 22:13:20 GMT";
  const etag = `"${etagOf(Buffer.from("x"))}"`;
  const rows: [Record<string, string>, number][] = [
    [{ "if-none-match": etag }, 304],
    [{ "if-none-match": `"a", W/${etag}` }, 304],
    [{ "if-none-match": "*" }, 304],
    [{ "if-none-match": '"a"', "if-modified-since": modified }, 200],
    [{ "if-modified-since": modified }, 304],
    [{ "if-modified-since": "Tue, 14 Nov 2023 22:13:19 GMT" }, 200],
    [{ "if-match": etag }, 200],
    [{ "if-match": '"a"' }, 412],
    [{ "if-unmodified-since": "Tue, 14 Nov 2023 22:13:19 GMT" }, 412],
    [{ range: "bytes=0-0", "if-range": etag }, 206],
    [{ range: "bytes=0-0", "if-range": '"a"' }, 200],
    [{ range: "bytes=0-0", "if-range": modified }, 206],
  ];
  for (const [headers, status] of rows) {
    const got = await call("GET", fid, { headers });
    expect(got.status, JSON.stringify(headers)).toBe(status);
    if (status === 304) {
      expect(got.headers).toMatchObject({ etag, "last-modified": modified });
      expect(got.headers["content-type"]).toBeUndefined();
      expect(got.body.length).toBe(0);
      expect((await call("HEAD", fid, { headers })).status).toBe(304);
    }
  }
  for (const ts of ["yesterday", "-1", "999999999999"]) {
    expect((await call("PUT", `${await assign()}?ts=${ts}`, { body: "x" })).status, ts).toBe(400);
  }
});

test("Ranges are answered one by one, several at once, and beyond the end with the length", async () => {
  for (const size of [1_000, 2_500_000]) {
    const fid = await assign();
    const data = random.bytes(size);
    await call("PUT", fid, { body: data, headers: { "content-type": "image/jpeg" } });
    const single = await call("GET", fid, { headers: { range: "bytes=10-99" } });
    expect(single.status).toBe(206);
    expect(single.headers["content-range"]).toBe(`bytes 10-99/${size}`);
    expect(single.body.equals(data.subarray(10, 100))).toBe(true);

    const several = await call("GET", fid, { headers: { range: "bytes=0-9,-5" } });
    expect(several.status).toBe(206);
    expect(several.headers["content-length"]).toBe(String(several.body.length));
    const boundary = /^multipart\/byteranges; boundary=(\w+)$/.exec(
      several.headers["content-type"] ?? "",
    )?.[1];
    const part = (range: string, bytes: Buffer) => [
      Buffer.from(
        `--${boundary}\r\nContent-Type: image/jpeg\r\nContent-Range: bytes ${range}/${size}\r\n\r\n`,
      ),
      bytes,
    ];
    const expected = Buffer.concat([
      ...part("0-9", data.subarray(0, 10)),
      Buffer.from("\r\n"),
      ...part(`${size - 5}-${size - 1}`, data.subarray(size - 5)),
      Buffer.from(`\r\n--${boundary}--\r\n`),
    ]);
    expect(several.body.equals(expected)).toBe(true);

    const many = `bytes=${Array.from({ length: 17 }, (_, at) => `${at * 2}-${at * 2}`).join(",")}`;
    for (const range of [many, "bytes=0-,0-", "bytes=5-2", "lines=1-2"]) {
      const whole = await call("GET", fid, { headers: { range } });
      expect(whole.status, range).toBe(200);
      expect(whole.body.equals(data), range).toBe(true);
    }
    const beyond = await call("GET", fid, { headers: { range: `bytes=${size}-` } });
    expect(beyond.status).toBe(416);
    expect(beyond.headers["content-range"]).toBe(`bytes */${size}`);
    const head = await call("HEAD", fid, { headers: { range: "bytes=0-9" } });
    expect(head).toMatchObject({ status: 200, headers: { "content-length": String(size) } });
  }
});

test("What is stored as zstd goes out as that to who wants it, with a tag of its own", async () => {
  const words = Array.from({ length: 40_000 }, () => random.u32() % 500).join(" ");
  const fid = await assign();
  const headers = { "content-type": "text/plain; charset=latin1" };
  const { json } = await call("PUT", fid, { body: words, headers });
  const { eTag } = json as { eTag: string };

  const plain = await call("GET", fid);
  expect(plain.body.toString()).toBe(words);
  expect(plain.headers).toMatchObject({ etag: `"${eTag}"`, vary: "Accept-Encoding" });

  const accept = { "accept-encoding": "gzip, zstd" };
  const coded = await call("GET", fid, { headers: accept });
  expect(coded.headers).toMatchObject({
    "content-encoding": "zstd",
    etag: `"${eTag}-zstd"`,
    vary: "Accept-Encoding",
    "content-length": String(coded.body.length),
  });
  expect(zstdDecompressSync(coded.body).toString()).toBe(words);
  expect((await call("HEAD", fid, { headers: accept })).headers["content-length"]).toBe(
    coded.headers["content-length"],
  );
  const known = { ...accept, "if-none-match": `"${eTag}-zstd"` };
  expect((await call("GET", fid, { headers: known })).status).toBe(304);
  expect((await call("GET", fid, { headers: { ...accept, "if-match": `"${eTag}"` } })).status).toBe(
    200,
  );

  for (const more of [
    { range: "bytes=100-199" },
    { range: "bytes=100-199", "if-range": `"${eTag}"` },
  ]) {
    const part = await call("GET", fid, { headers: { ...accept, ...more } });
    expect(part.status).toBe(206);
    expect(part.headers["content-encoding"]).toBeUndefined();
    expect(part.body.toString()).toBe(words.slice(100, 200));
  }
  const other = await call("GET", `${fid}?response-content-encoding=identity`, { headers: accept });
  expect(other.body.toString()).toBe(words);
});

test("A blob lives as long as it asked, and no longer than its volume's bound", async () => {
  const minuteMs = 60_000;
  const forever = await assign();
  const short = await assign();
  const bounded = await assign(volumes.withTtl);
  const boundedShort = await assign(volumes.withTtl);
  await call("PUT", forever, { body: "x" });
  await call("PUT", `${short}?ttl=3m`, { body: "x" });
  await call("PUT", bounded, { body: "x" });
  const field = (name: string, content: string) => ({
    headers: [`Content-Disposition: form-data; name="${name}"`],
    content,
  });
  const form = formOf(field("ttl", "5"), { headers: [fileHeader("a.jpg")], content: "x" });
  expect((await call("POST", boundedShort, form)).status).toBe(201);
  const tooLong = await call("PUT", `${await assign(volumes.withTtl)}?ttl=2h`, { body: "x" });
  expect(tooLong.status).toBe(400);
  expect((await call("PUT", `${await assign()}?ttl=soon`, { body: "x" })).status).toBe(400);

  const alive = async () => {
    const fids = { forever, short, bounded, boundedShort };
    const found = [];
    for (const [name, fid] of Object.entries(fids)) {
      if ((await call("GET", fid)).status === 200) found.push(name);
    }
    return found;
  };
  expect(await alive()).toEqual(["forever", "short", "bounded", "boundedShort"]);
  nowMs += 4 * minuteMs;
  expect(await alive()).toEqual(["forever", "bounded", "boundedShort"]);
  nowMs += 2 * minuteMs;
  expect(await alive()).toEqual(["forever", "bounded"]);
  nowMs += 60 * minuteMs;
  expect(await alive()).toEqual(["forever"]);
  expect(await call("DELETE", bounded)).toMatchObject({ status: 404 });
});

test("Into a volume that was sealed meanwhile nothing new goes, and the answer says what to do", async () => {
  const stored = await assign();
  const late = await assign();
  await call("PUT", stored, { body: "x" });
  await store.carryOut({ order: 9, kind: "seal", volume: volumes.native });
  const refused = await call("PUT", late, { body: "x" });
  expect(refused.status).toBe(503);
  expect(refused.headers["retry-after"]).toBe("1");
  expect(refused.json).toEqual({ error: expect.stringContaining("assign another fid") });
  expect((await call("PUT", stored, { body: "x" })).status).toBe(201);
  expect((await call("GET", stored)).body.toString()).toBe("x");
  expect((await call("DELETE", stored)).status).toBe(202);
});

test("A tenant's volume looks like one that is not there", async () => {
  const owner = { catalog: "c".repeat(16), session: 1 };
  const volume = store.volume(volumes.original);
  const fid = await volume?.append({
    data: Buffer.from("secret"),
    metadata: Buffer.from("{}"),
    owner,
    ttlSeconds: 0,
  });
  const url = `/${formatFid(fid ?? { volume: 0, ordinal: 0, cookie: 0 })}`;
  const absent = url.replace("/4,", "/99,");
  for (const method of ["GET", "HEAD", "PUT", "DELETE"]) {
    const options = method === "PUT" ? { body: "secret" } : {};
    const seen = await call(method, url, options);
    const unseen = await call(method, absent, options);
    expect(seen.status, method).toBe(404);
    expect(seen.body.toString().replace("4", "99")).toBe(unseen.body.toString());
  }
  expect((await callSigned("GET", url)).body.toString()).toBe("secret");
  expect((await call("GET", url, { headers: bearer })).status).toBe(404);
  // In any other form than our own processes use it is a native call, signed or not.
  expect((await callSigned("GET", `${url}.jpg`)).status).toBe(404);
  expect((await callSigned("DELETE", url)).status).toBe(404);
  const status = await call("GET", "/status");
  expect(status.json).toMatchObject({ Volumes: [{ Id: 3 }, { Id: 5 }] });
});

test("Signed, a read by a fid alone is answered as our own processes want it", async () => {
  const fid = await assign();
  await call("PUT", fid, { body: "x", headers: { "content-type": "image/png" } });
  const internal = await callSigned("GET", fid);
  expect(internal.body.toString()).toBe("x");
  expect(internal.headers["content-type"]).toBe("application/octet-stream");
  expect(internal.headers.etag).toBeUndefined();
  const missing = await callSigned("GET", "/3,ff00000000");
  expect(missing).toMatchObject({ status: 404, json: { error: { kind: "not-found" } } });
  const native = await callSigned("GET", `${fid}.png`);
  expect(native.headers["content-type"]).toBe("image/png");
});

test("Who may make native calls is the operator's choice", async () => {
  const closed = await serve("token");
  const off = await serve("off");
  const fid = await assign();
  const stranger = ClusterSecret.of("cd".repeat(32));
  const headers = bearer;
  for (const [method, url] of [
    ["PUT", fid],
    ["GET", fid],
    ["DELETE", fid],
    ["OPTIONS", fid],
    ["GET", "/status"],
  ] as const) {
    for (const at of [closed, off]) {
      const body = method === "PUT" ? "x" : undefined;
      for (const wrong of ["", `Bearer ${stranger.nativeBearer}`, `Bearer ${"ab".repeat(32)}`]) {
        const refused = await call(method, url, { at, body, headers: { authorization: wrong } });
        expect(refused.status, `${method} ${url}`).toBe(403);
      }
    }
  }
  expect((await call("PUT", fid, { at: closed, body: "x", headers })).status).toBe(201);
  expect((await call("GET", `${fid}.jpg`, { at: closed, headers })).status).toBe(200);
  expect((await call("GET", "/status", { at: closed, headers })).status).toBe(200);
  expect((await call("GET", "/readyz", { at: closed })).status).toBe(200);
  expect((await call("GET", "/readyz", { at: off })).status).toBe(403);
  expect((await call("PUT", fid, { at: off, body: "x", headers })).status).toBe(403);
  expect((await callSigned("PUT", fid, { at: off, body: "x" })).status).toBe(404);
  const other = await assign();
  expect((await callSigned("PUT", other, { at: closed, body: "x" })).status).toBe(201);
  // Calls between processes are never open, nor is the bearer for them.
  for (const [method, url] of [
    ["POST", "/volumes/3/needles"],
    ["POST", "/volumes/3/batch"],
    ["POST", "/needles/delete"],
    ["GET", "/volumes"],
    ["GET", "/volumes/3"],
    ["GET", "/volumes/3/records"],
    ["GET", "/volumes/3/findings"],
    ["GET", "/volumes/3/export"],
    ["GET", "/nothing"],
  ] as const) {
    for (const at of [port, closed, off]) {
      const body = method === "POST" ? "{}" : undefined;
      for (const each of [{}, bearer, { "x-hayloft-token": "ab".repeat(32) }]) {
        const refused = await call(method, url, { at, body, headers: each });
        expect(refused.status, `${method} ${url}`).toBe(403);
        expect(refused.headers[challengeHeader]).toBeUndefined();
      }
    }
  }
});

test("Status, health and OPTIONS are answered as SeaweedFS's clients expect", async () => {
  const { status, json, headers } = await call("GET", "/status");
  expect(status).toBe(200);
  expect(headers["x-content-type-options"]).toBe("nosniff");
  expect(json).toMatchObject({
    Version: expect.any(String),
    DiskStatuses: [{ dir: expect.any(String), all: expect.any(Number), free: expect.any(Number) }],
    Volumes: [
      { Id: 3, ReadOnly: false, Ttl: { Count: 0, Unit: 0 }, ReplicaPlacement: { node: 0 } },
      { Id: 5, Ttl: { Count: 60, Unit: 1 } },
    ],
  });
  let reason: string | undefined = "the directory does not answer";
  const at = await serve("open", () => reason);
  expect((await call("GET", "/healthz", { at })).status).toBe(200);
  expect((await call("GET", "/readyz", { at })).status).toBe(503);
  reason = undefined;
  expect((await call("GET", "/readyz", { at })).status).toBe(200);

  const fid = await assign();
  const origin = { origin: "https://example.com" };
  const options = await call("OPTIONS", fid, { headers: origin });
  expect(options).toMatchObject({
    status: 200,
    headers: {
      allow: "GET, HEAD, PUT, POST, DELETE, OPTIONS",
      "access-control-allow-origin": "*",
      "access-control-allow-headers": "*",
    },
  });
  await call("PUT", fid, { body: "x" });
  const got = await call("GET", fid, { headers: origin });
  expect(got.headers["access-control-allow-origin"]).toBe("*");
  expect(got.headers["access-control-allow-credentials"]).toBeUndefined();
  expect((await call("GET", fid)).headers["access-control-allow-origin"]).toBeUndefined();
});

test("A chunk manifest reads as what its chunks are put together, and takes them with it", async () => {
  const parts = [random.bytes(1_500_000), Buffer.from("text ".repeat(1_000)), random.bytes(7)];
  const chunks = [];
  let offset = 0;
  for (const part of parts) {
    const fid = await assign();
    const type = part.length === 5_000 ? "text/plain" : "image/jpeg";
    await call("PUT", fid, { body: part, headers: { "content-type": type } });
    chunks.push({ fid: fid.slice(1), offset, size: part.length });
    offset += part.length;
  }
  const whole = Buffer.concat(parts);
  const manifest = JSON.stringify({ name: "a.jpg", mime: "image/jpeg", size: offset, chunks });
  const fid = await assign();
  expect((await call("PUT", `${fid}?cm=true`, { body: manifest })).status).toBe(201);

  const got = await call("GET", fid);
  expect(got.body.equals(whole)).toBe(true);
  expect(got.headers).toMatchObject({
    "x-file-store": "chunked",
    "content-type": "image/jpeg",
    "content-length": String(offset),
    "content-disposition": 'inline; filename="a.jpg"',
  });
  const range = { range: "bytes=1499998-1505003" };
  const part = await call("GET", fid, { headers: range });
  expect(part.body.equals(whole.subarray(1_499_998, 1_505_004))).toBe(true);
  expect((await call("GET", `${fid}?cm=false`)).body.toString()).toBe(manifest);

  expect(await call("DELETE", fid)).toMatchObject({ status: 202, json: { size: offset } });
  for (const chunk of chunks) expect((await call("GET", `/${chunk.fid}`)).status).toBe(404);
});

test("Chunks that are elsewhere, or don't fit together, are told of and left alone", async () => {
  const here = await assign();
  await call("PUT", here, { body: "xy" });
  const own = { fid: here.slice(1), offset: 0, size: 2 };
  const rows = [
    { size: 3, chunks: [own, { fid: "77,01637037d6", offset: 2, size: 1 }] },
    { size: 3, chunks: [own] },
    { size: 3, chunks: [own, { ...own, offset: 1 }] },
    { chunks: "none" },
  ];
  for (const row of rows) {
    const fid = await assign();
    const body = JSON.stringify(row);
    await call("PUT", `${fid}?cm=true`, { body });
    const got = await call("GET", fid);
    expect(got.status).toBe(501);
    expect(got.json).toEqual({ error: expect.stringMatching(/^Cannot (put|read) the chunk/) });
    expect((await call("DELETE", fid)).status).toBe(501);
    expect((await call("GET", here)).body.toString()).toBe("xy");
    expect((await call("DELETE", `${fid}?cm=false`)).status).toBe(202);
  }
});

test("Damaged bytes never leave: the answer is 500 before the first of them, and a cut after it", async () => {
  const small = await assign();
  const large = await assign();
  const data = { small: random.bytes(50_000), large: random.bytes(3_000_000) };
  await call("PUT", small, { body: data.small });
  await call("PUT", large, { body: data.large });
  const file = path.join(folder, "3.g0.volume");
  const bytes = readFileSync(file);
  for (const content of [data.small, data.large]) {
    const at = bytes.indexOf(content.subarray(content.length - 100)) + 50;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
  }
  writeFileSync(file, bytes);
  const damaged = await call("GET", small);
  expect(damaged.status).toBe(500);
  expect(damaged.json).toEqual({ error: expect.stringContaining("a checksum does not match") });
  const lastByte = { headers: { range: "bytes=-1" } };
  expect((await call("GET", large, lastByte)).status).toBe(500);
  expect((await call("GET", large, { headers: { range: "bytes=0-999" } })).status).toBe(206);
  await expect(call("GET", large)).rejects.toThrow(/aborted/);
});

test("An imported volume answers to its old fids, whatever their keys", async () => {
  const fixture = new SeaweedFixture();
  const key = 0x1234_5678_9abc_def0n;
  fixture.put({
    key,
    cookie: 0xdeadbeef,
    data: Buffer.from("old"),
    name: "old.jpg",
    pairs: { "X-Album": "1999", "Set-Cookie": "a=b" },
    lastModifiedSeconds: 946_684_800,
  });
  const source = mkdtempSync(path.join(tmpdir(), "hayloft-old-"));
  const [dat, idx] = [path.join(source, "6.dat"), path.join(source, "6.idx")];
  await fixture.save(diskFiles, { dat, idx });
  await store.carryOut({
    order: 10,
    kind: "import",
    volume: volumes.imported,
    uuid: random.bytes(16).toString("hex"),
    recordMagic: random.bytes(8).toString("hex"),
    createdMs: nowMs,
    epoch: 1,
    members: [store.id],
    dat,
    idx,
  });
  rmSync(source, { recursive: true });
  const url = "/6,123456789abcdef0deadbeef";
  const got = await call("GET", url);
  expect(got.body.toString()).toBe("old");
  expect(got.headers).toMatchObject({
    "content-type": "image/jpeg",
    "x-album": "1999",
    "last-modified": "Sat, 01 Jan 2000 00:00:00 GMT",
  });
  expect(got.headers["set-cookie"]).toBeUndefined();
  expect((await call("GET", url.replace("dead", "0ead"))).status).toBe(404);
  expect((await call("PUT", url.replace("dead", "0ead"), { body: "old" })).status).toBe(404);
  expect((await call("PUT", "/6,01deadbeef", { body: "old" })).status).toBe(404);
  expect((await call("PUT", url, { body: "new" })).status).toBe(409);
  expect(await call("DELETE", url)).toMatchObject({ status: 202, json: { size: 3 } });
});

/** What users may count on, from an upload to a damaged disk, against a real `hayloft up`. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { makePhoto } from "./photo.ts";
import { type Answer, basicAuth, request } from "./request.ts";
import { SignedCalls } from "./signed-calls.ts";

const random = seededRandom(11);
let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster({ flags: ["--delete-delay", "1"] });
}, 60_000);

afterAll(() => cluster?.close());

type Headers = Record<string, string>;

function call(
  method: string,
  target: string,
  { body, headers = {} }: { body?: Buffer | string; headers?: Headers } = {},
): Promise<Answer> {
  return request({
    address: cluster.gatewayAddress,
    method,
    path: target,
    headers: { authorization: basicAuth(cluster.credentials), ...headers },
    ...(body === undefined ? {} : { body }),
  });
}

/** Without credentials. */
function get(target: string, headers: Headers = {}): Promise<Answer> {
  return request({ address: cluster.gatewayAddress, path: target, headers });
}

const md5 = (bytes: Buffer) => createHash("md5").update(bytes).digest("hex");

test("An object comes back with all that was given with it", async () => {
  const body = random.bytes(5_000);
  const put = await call("PUT", "/photos/kept.bin", {
    body,
    headers: {
      "content-type": "application/x-hay",
      "cache-control": "max-age=60",
      "content-disposition": 'attachment; filename="hay.bin"',
      "x-amz-meta-Farm": "Über den Hügel",
    },
  });
  expect(put.status).toBe(200);
  expect(put.headers.etag).toBe(`"${md5(body)}"`);
  for (const method of ["GET", "HEAD"]) {
    const answer = await call(method, "/photos/kept.bin");
    expect(answer.status).toBe(200);
    expect(answer.headers).toMatchObject({
      etag: `"${md5(body)}"`,
      "content-length": "5000",
      "content-type": "application/x-hay",
      "cache-control": "max-age=60",
      "content-disposition": 'attachment; filename="hay.bin"',
      "accept-ranges": "bytes",
      "x-content-type-options": "nosniff",
    });
    const farm = Buffer.from(String(answer.headers["x-amz-meta-farm"]), "latin1").toString("utf8");
    expect(farm).toBe("Über den Hügel");
    expect(answer.headers["last-modified"]).toMatch(/GMT$/);
    expect(answer.body).toEqual(method === "GET" ? body : Buffer.alloc(0));
  }
});

test("A photo without a type given has the one that its bytes say", async () => {
  await call("PUT", "/photos/typed", { body: await makePhoto({ seed: 1, width: 64, height: 48 }) });
  expect((await get("/photos/typed")).headers["content-type"]).toBe("image/jpeg");
  await call("PUT", "/photos/untyped", { body: "words" });
  expect((await get("/photos/untyped")).headers["content-type"]).toBe("application/octet-stream");
});

test("Ranges and conditions are answered as HTTP has them", async () => {
  const body = random.bytes(40_000);
  await call("PUT", "/photos/ranges", { body });
  const etag = `"${md5(body)}"`;
  const rows: [Headers, number, Buffer | undefined][] = [
    [{ range: "bytes=0-0" }, 206, body.subarray(0, 1)],
    [{ range: "bytes=16380-16390" }, 206, body.subarray(16_380, 16_391)],
    [{ range: "bytes=-10" }, 206, body.subarray(39_990)],
    [{ range: "bytes=39990-99999" }, 206, body.subarray(39_990)],
    [{ range: "bytes=40000-" }, 416, undefined],
    [{ range: "bytes=5-2" }, 200, body],
    [{ range: "bytes=0-1", "if-range": etag }, 206, body.subarray(0, 2)],
    [{ range: "bytes=0-1", "if-range": '"other"' }, 200, body],
    [{ "if-none-match": etag }, 304, Buffer.alloc(0)],
    [{ "if-match": '"other"' }, 412, undefined],
    [{ "if-modified-since": new Date(Date.now() + 1_000).toUTCString() }, 304, Buffer.alloc(0)],
  ];
  for (const [headers, status, expected] of rows) {
    const answer = await get("/photos/ranges", headers);
    expect(answer.status, JSON.stringify(headers)).toBe(status);
    if (expected !== undefined) expect(answer.body.equals(expected)).toBe(true);
    if (status === 416) expect(answer.headers["content-range"]).toBe("bytes */40000");
    if (status === 304) expect(answer.headers.etag).toBe(etag);
  }
});

test("An object of several chunks comes back bit for bit, and any range of it", async () => {
  const body = Buffer.alloc(20_000_000);
  for (let at = 0; at < body.length; at += 4) body.writeUInt32LE(random.u32(), at);
  const put = await call("PUT", "/photos/large", { body });
  expect(put.headers.etag).toBe(`"${md5(body)}"`);
  expect((await get("/photos/large")).body.equals(body)).toBe(true);
  const chunk = 8 * 1_048_576;
  for (const [start, end] of [
    [0, 10],
    [chunk - 5, chunk + 5],
    [chunk, 2 * chunk],
    [chunk - 1, 2 * chunk + 1],
    [19_999_999, 20_000_000],
  ] as const) {
    const answer = await get("/photos/large", { range: `bytes=${start}-${end - 1}` });
    expect(answer.status).toBe(206);
    expect(answer.body.equals(body.subarray(start, end)), `${start}-${end}`).toBe(true);
  }
});

/** Bytes of all needles' data, as the stores keep it. */
async function storedBytes(): Promise<number> {
  const { body } = await new SignedCalls(cluster).request({
    address: cluster.storeAddress,
    path: "/volumes",
  });
  const { volumes } = JSON.parse(body.toString()) as { volumes: { dataBytes: number }[] };
  return volumes.reduce((sum, { dataBytes }) => sum + dataBytes, 0);
}

/** Made-up words: they say little for their length, as text does. */
function makeText(length: number): string {
  const words = Array.from({ length: 500 }, () => random.u32().toString(36).slice(1));
  const lines: string[] = [];
  for (let left = length; left > 0; ) {
    const line = Array.from({ length: 12 }, () => words[random.u32() % words.length]).join(" ");
    lines.push(line);
    left -= line.length + 1;
  }
  return lines.join("\n").slice(0, length);
}

test.each([
  {
    what: "JSON",
    type: "application/json",
    // No multiple of a block, so that its end is one as well.
    body: () => Buffer.from(JSON.stringify({ text: makeText(100_000) })),
  },
  {
    what: "A text of several chunks",
    type: "text/plain; charset=utf-8",
    body: () => Buffer.from(makeText(20_000_000)),
  },
])("$what is stored smaller, and comes back bit for bit, whole and in ranges", async (row) => {
  const body = row.body();
  const before = await storedBytes();
  const headers = { "content-type": row.type };
  expect((await call("PUT", "/photos/squeezed", { body, headers })).status).toBe(200);
  const added = (await storedBytes()) - before;
  expect(added).toBeGreaterThan(0);
  expect(added).toBeLessThan((body.length * 3) / 4);

  const whole = await get("/photos/squeezed");
  expect(whole.headers).toMatchObject({
    "content-length": String(body.length),
    "content-type": row.type,
    etag: `"${md5(body)}"`,
  });
  expect(whole.headers["content-encoding"]).toBeUndefined();
  expect(whole.body.equals(body)).toBe(true);

  const chunk = 8 * 1_048_576;
  const edges = [0, 1, 16_384, body.length - 1, body.length, chunk - 1, chunk, 2 * chunk + 1];
  for (const start of edges) {
    for (const end of edges) {
      if (start >= end || end > body.length) continue;
      const answer = await get("/photos/squeezed", { range: `bytes=${start}-${end - 1}` });
      expect(answer.status).toBe(206);
      expect(answer.headers).toMatchObject({
        "content-length": String(end - start),
        "content-range": `bytes ${start}-${end - 1}/${body.length}`,
      });
      expect(answer.body.equals(body.subarray(start, end)), `${start}-${end}`).toBe(true);
    }
  }
});

test("A bucket with durability memory waits for no sync, unless a request wants it", async () => {
  await call("PUT", "/hasty");
  const set = (settings: object) =>
    call("PATCH", "/hasty?settings", { body: JSON.stringify(settings) });
  const settings = async () =>
    JSON.parse((await call("GET", "/hasty?settings")).body.toString()) as { durability: string };
  expect((await settings()).durability).toBe("disk");

  const uploads = 40;
  /** How many syncs the store made for uploads that came one after the other. */
  const countSyncs = async (headers: Headers, upload = put): Promise<number> => {
    // Until the sync that the last uploads may have left to be done is over.
    await sleep(1_200);
    const before = await cluster.metric("store", "hayloft_store_syncs_total");
    for (let at = 0; at < uploads; at++) expect((await upload(at, headers)).status).toBe(200);
    return (await cluster.metric("store", "hayloft_store_syncs_total")) - before;
  };
  const put = (at: number, headers: Headers) =>
    call("PUT", `/hasty/${at}`, { body: `${at}`, headers });
  const post = (at: number, headers: Headers) => {
    const disposition = `form-data; name="file"; filename="${at}"`;
    return call("POST", "/hasty", {
      body: `--b\r\ncontent-disposition: ${disposition}\r\n\r\n${at}\r\n--b--\r\n`,
      headers: { ...headers, "content-type": "multipart/form-data; boundary=b" },
    });
  };

  const disk = { "x-hayloft-durability": "disk" };
  const memory = { "x-hayloft-durability": "memory" };
  expect(await countSyncs({})).toBeGreaterThanOrEqual(uploads);
  expect((await set({ durability: "memory" })).status).toBe(200);
  expect((await settings()).durability).toBe("memory");
  for (const upload of [put, post]) {
    expect(await countSyncs({}, upload)).toBeLessThan(uploads / 2);
    expect(await countSyncs(memory, upload)).toBeLessThan(uploads / 2);
    expect(await countSyncs(disk, upload)).toBeGreaterThanOrEqual(uploads);
  }
  for (let at = 0; at < uploads; at++) {
    expect((await call("GET", `/hasty/${at}`)).body.toString()).toBe(`${at}`);
  }
  // The end of the process alone takes nothing: the kernel has the bytes.
  const body = random.bytes(50_000);
  expect((await call("PUT", "/hasty/last", { body })).status).toBe(200);
  await cluster.kill("store");
  await cluster.untilReady();
  expect((await call("GET", "/hasty/last")).body.equals(body)).toBe(true);

  await set({ durability: "disk" });
  expect((await put(0, memory)).status).toBe(400);
}, 60_000);

test("Of many who would create one key, one does", async () => {
  const answers = await Promise.all(
    Array.from({ length: 16 }, (_, at) =>
      call("PUT", "/photos/contested", { body: `${at}`, headers: { "if-none-match": "*" } }),
    ),
  );
  const winners = answers.flatMap(({ status }, at) => (status === 200 ? [at] : []));
  expect(winners).toHaveLength(1);
  expect(answers.filter(({ status }) => status === 412)).toHaveLength(15);
  expect((await get("/photos/contested")).body.toString()).toBe(String(winners[0]));
});

test("A bucket with versioning on keeps what was replaced and deleted", async () => {
  await call("PUT", "/versioned");
  await call("PATCH", "/versioned?settings", { body: JSON.stringify({ versioning: "on" }) });
  const first = await call("PUT", "/versioned/key", { body: "first" });
  const second = await call("PUT", "/versioned/key", { body: "second" });
  const ids = [first, second].map(({ headers }) => String(headers["x-amz-version-id"]));
  expect(new Set(ids).size).toBe(2);
  expect((await call("GET", "/versioned/key")).body.toString()).toBe("second");
  const read = (id = "") => call("GET", `/versioned/key?versionId=${id}`);
  expect((await read(ids[0])).body.toString()).toBe("first");
  const deleted = await call("DELETE", "/versioned/key");
  expect(deleted.status).toBe(204);
  expect(deleted.headers["x-amz-delete-marker"]).toBe("true");
  const gone = await call("GET", "/versioned/key");
  expect(gone.status).toBe(404);
  expect(gone.headers["x-amz-delete-marker"]).toBe("true");
  expect((await read(ids[1])).body.toString()).toBe("second");
  const marker = String(deleted.headers["x-amz-version-id"]);
  expect((await read(marker)).status).toBe(405);
  expect((await call("DELETE", `/versioned/key?versionId=${marker}`)).status).toBe(204);
  expect((await call("GET", "/versioned/key")).body.toString()).toBe("second");
  expect((await call("DELETE", "/versioned")).status).toBe(409);
});

test("A form stores its files and says what each one is", async () => {
  const photo = await makePhoto({ seed: 3, width: 200, height: 100 });
  const turned = await sharp(photo).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  const form = new FormData();
  form.append("prefix", "album/");
  form.append("one", new Blob([photo], { type: "image/jpeg" }), "photo.jpg");
  form.append("two", new Blob([turned]), "gedreht é.jpg");
  form.append("three", new Blob(["words"], { type: "text/plain" }), "note.txt");
  const answer = await fetch(`http://${cluster.gatewayAddress}/photos`, {
    method: "POST",
    body: form,
    headers: { authorization: basicAuth(cluster.credentials) },
  });
  expect(answer.status).toBe(200);
  const { files } = (await answer.json()) as { files: Record<string, unknown>[] };
  expect(files).toMatchObject([
    { name: "photo.jpg", key: "album/photo.jpg", size: photo.length, width: 200, height: 100 },
    { key: "album/gedreht é.jpg", type: "image/jpeg", width: 100, height: 200 },
    { key: "album/note.txt", type: "text/plain", etag: md5(Buffer.from("words")) },
  ]);
  for (const { url, size } of files) {
    const read = await fetch(String(url));
    expect((await read.arrayBuffer()).byteLength).toBe(size);
  }
});

test("A picture's conditions are answered before anything is rendered", async () => {
  const body = await makePhoto({ seed: 4, width: 800, height: 600 });
  await call("PUT", "/photos/picture.jpg", { body });
  const renders = () => cluster.metric("gateway", "hayloft_image_renders_total");
  const before = await renders();
  const head = await call("HEAD", "/photos/picture.jpg?w=300&f=webp");
  expect(head.status).toBe(200);
  expect(head.headers["content-type"]).toBe("image/webp");
  const etag = String(head.headers.etag);
  const same = await get("/photos/picture.jpg?f=webp&w=300", { "if-none-match": etag });
  expect(same.status).toBe(304);
  expect(await renders()).toBe(before);
  const picture = await get("/photos/picture.jpg?w=300&f=webp");
  expect(picture.headers.etag).toBe(etag);
  expect(await sharp(picture.body).metadata()).toMatchObject({ format: "webp", width: 384 });
  expect(await renders()).toBe(before + 1);
});

test("f=auto answers what the Accept header takes, and says that it looked", async () => {
  await call("PUT", "/photos/auto.jpg", {
    body: await makePhoto({ seed: 5, width: 80, height: 60 }),
  });
  const webp = await get("/photos/auto.jpg?w=64&f=auto", { accept: "image/webp,*/*" });
  const jpeg = await get("/photos/auto.jpg?w=64&f=auto", { accept: "image/png,*/*;q=0.1" });
  expect([webp, jpeg].map(({ headers }) => headers["content-type"])).toEqual([
    "image/webp",
    "image/jpeg",
  ]);
  expect([webp, jpeg].map(({ headers }) => headers.vary)).toEqual(["Accept", "Accept"]);
  expect((await get("/photos/auto.jpg?w=64")).headers.vary).toBeUndefined();
});

test("A listing pages through folders and keys, in XML and JSON", async () => {
  await call("PUT", "/listed");
  const keys = ["a", "b/1", "b/2", "c/1", "d", "e/ä"];
  for (const key of keys) await call("PUT", `/listed/${encodeURI(key)}`, { body: key });
  const seen: string[] = [];
  let token = "";
  do {
    const answer = await call("GET", `/listed?delimiter=/&max-keys=2${token}`, {
      headers: { accept: "application/json" },
    });
    const page = JSON.parse(answer.body.toString());
    seen.push(...[...page.objects.map(({ key }: { key: string }) => key), ...page.prefixes].sort());
    token = page.isTruncated ? `&continuation-token=${page.nextContinuationToken}` : "";
  } while (token !== "");
  expect(seen).toEqual(["a", "b/", "c/", "d", "e/"]);
  const xml = (await call("GET", "/listed?list-type=2&prefix=b/")).body.toString();
  expect([...xml.matchAll(/<Key>([^<]*)<\/Key>/g)].map(([, key]) => key)).toEqual(["b/1", "b/2"]);
  expect((await get("/listed")).status).toBe(403);
});

test("What was deleted is gone at once by name, and later from the volume", async () => {
  const deletedCount = () => cluster.metric("store", "hayloft_store_volume_deleted");
  // What the tests before replaced goes first.
  let before = -1;
  for (let count = await deletedCount(); count !== before; count = await deletedCount()) {
    before = count;
    await sleep(2_500);
  }
  await call("PUT", "/photos/doomed", { body: random.bytes(2_000) });
  await get("/photos/doomed");
  expect((await call("DELETE", "/photos/doomed")).status).toBe(204);
  expect((await get("/photos/doomed")).status).toBe(404);
  expect((await call("DELETE", "/photos/doomed")).status).toBe(204);
  for (let tries = 0; (await deletedCount()) === before && tries < 100; tries++) await sleep(100);
  expect(await deletedCount()).toBe(before + 1);
});

test("A form that is cut off within a file leaves nothing, not even bytes", async () => {
  const deletedCount = () => cluster.metric("store", "hayloft_store_volume_deleted");
  const before = await deletedCount();
  const { hostname, port } = new URL(`http://${cluster.gatewayAddress}`);
  const socket = connect(Number(port), hostname);
  const head = [
    "POST /photos HTTP/1.1",
    "host: hayloft",
    `authorization: ${basicAuth(cluster.credentials)}`,
    "content-type: multipart/form-data; boundary=b",
    "content-length: 20000000",
    "",
    "--b",
    'content-disposition: form-data; name="f"; filename="cut.bin"',
    "",
    "",
  ];
  socket.write(head.join("\r\n"));
  // Over a chunk, so that something is in a volume when the rest does not come.
  socket.write(Buffer.alloc(9_000_000, 7));
  await sleep(1_000);
  socket.destroy();
  for (let tries = 0; (await deletedCount()) === before && tries < 100; tries++) await sleep(100);
  expect(await deletedCount()).toBe(before + 1);
  expect((await get("/photos/cut.bin")).status).toBe(404);
});

test("Readers that leave early hold up nobody", async () => {
  await call("PUT", "/photos/left.bin", { body: Buffer.alloc(12_000_000, 3) });
  const { hostname, port } = new URL(`http://${cluster.gatewayAddress}`);
  for (let round = 0; round < 40; round++) {
    const sockets = Array.from({ length: 20 }, () => connect(Number(port), hostname));
    for (const socket of sockets) {
      socket.on("error", () => undefined);
      socket.write("GET /photos/left.bin HTTP/1.1\r\nhost: hayloft\r\n\r\n");
    }
    await sleep(round % 4);
    for (const socket of sockets) socket.destroy();
  }
  expect((await call("PUT", "/photos/after.bin", { body: "after" })).status).toBe(200);
  const read = await get("/photos/left.bin");
  expect(read.body).toHaveLength(12_000_000);
}, 60_000);

test("A restart keeps it all, and a byte that rots on the disk is never served", async () => {
  const bodies = Array.from({ length: 8 }, () => random.bytes(30_000));
  for (const [at, body] of bodies.entries()) await call("PUT", `/photos/rot-${at}`, { body });
  await cluster.stop();
  const needle = bodies[3]?.subarray(20_000, 20_100) ?? Buffer.alloc(0);
  const folder = path.join(cluster.folder, "store");
  for (const name of readdirSync(folder).filter((each) => each.endsWith(".volume"))) {
    const bytes = readFileSync(path.join(folder, name));
    const at = bytes.indexOf(needle);
    if (at < 0) continue;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path.join(folder, name), bytes);
  }
  await cluster.start();
  for (const [at, body] of bodies.entries()) {
    const answer = await get(`/photos/rot-${at}`);
    if (at !== 3) expect(answer.body.equals(body), `rot-${at}`).toBe(true);
    else expect(answer.status).toBe(500);
  }
  expect((await get("/photos/rot-3", { range: "bytes=0-99" })).status).toBe(500);
}, 60_000);

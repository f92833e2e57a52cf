/**
 * What must never happen: each row sends something wrong to a real `hayloft up` and names the status
 * and the code that have to come back, as JSON and as XML; and nothing stays behind.
 */

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { crc32, deflateSync } from "node:zlib";
import { XMLParser } from "fast-xml-parser";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";
import { contentOf } from "./content.ts";
import { makePhoto } from "./photo.ts";
import { encodeChunked, type RawAnswer, type RawRequest, sendCut, sendRaw } from "./raw-http.ts";
import { type Answer, basicAuth, encodeKey, request } from "./request.ts";

const errorBytesMax = 2_048;
const seed = 11;

let cluster: Cluster;
let authorization: string;

interface Row extends Partial<RawRequest> {
  name: string;
  method: string;
  target: string | Buffer;
  /** Credentials are sent unless the row has its own or says `anybody`. */
  as?: "root" | "anybody";
  status: number | number[];
  code?: string;
}

const photo = "/photos/photo.jpg";
const tooLong = "k".repeat(1_025);
const sixGibibytes = String(6 * 2 ** 30);

const credentialRows: Row[] = [
  { name: "PUT", method: "PUT", target: "/photos/new", body: "x" },
  { name: "DELETE", method: "DELETE", target: photo },
  { name: "a form", ...formOf("new", "x"), target: "/photos" },
  { name: "a listing, though the bucket may be read by all", method: "GET", target: "/photos" },
  { name: "the list of buckets", method: "GET", target: "/" },
  { name: "making a bucket", method: "PUT", target: "/new-bucket" },
  { name: "removing a bucket", method: "DELETE", target: "/photos" },
  { name: "reading settings", method: "GET", target: "/photos?settings" },
  { name: "settings", method: "PATCH", target: "/photos?settings", body: '{"publicRead":false}' },
  { name: "GET in a bucket that is not public", method: "GET", target: "/private/object" },
  { name: "HEAD in a bucket that is not public", method: "HEAD", target: "/private/object" },
].map((row) => ({
  ...row,
  name: `${row.name}, without credentials`,
  as: "anybody",
  status: 403,
  code: "AccessDenied",
}));

const wrongCredentialRows: Row[] = [
  { name: "a wrong secret", login: "root", code: "SignatureDoesNotMatch" },
  { name: "a key that there is not", login: "nobody:secret", code: "InvalidAccessKeyId" },
  { name: "an empty key", login: ":", code: "InvalidAccessKeyId" },
].flatMap(({ name, login, code }) =>
  [
    { method: "PUT", target: "/photos/new", body: "x" },
    { method: "GET", target: photo },
  ].map((each) => ({
    ...each,
    name: `${each.method} with ${name}`,
    // The real key is known only when the server runs.
    headers: { Authorization: login === "root" ? "wrong secret" : basic(login) },
    status: 403,
    code,
  })),
);

const transformRows: Row[] = [
  ...[
    "w=64&blur=3",
    "w=64&W=64",
    "w=abc",
    "w=",
    "w=-5",
    "w=0",
    "w=1.5",
    "w=1e3",
    "w=0x40",
    "w=%2064",
    "w=9999",
    "h=99999999999999999999",
    "h=0",
    "q=0",
    "q=101",
    "q=high",
    "f=bmp",
    "f=",
    "fit=squash",
    "w=64&w=128",
    `f=${"x".repeat(500)}`,
  ].map((query) => ({
    name: `the transform ${query.slice(0, 40)}`,
    method: "GET",
    target: `${photo}?${query}`,
    as: "anybody" as const,
    status: 400,
  })),
  ...[
    ["text", "/photos/text.txt"],
    ["an empty object", "/photos/empty.jpg"],
    ["random bytes that say they are a JPEG", "/photos/random.jpg"],
    ["a JPEG that is cut off", "/photos/truncated.jpg"],
    ["a JPEG that is a head and no more", "/photos/head.jpg"],
    ["a PNG with damaged data", "/photos/damaged.png"],
  ].map(([name, target = ""]) => ({
    name: `a transform of ${name}`,
    method: "GET",
    target: `${target}?w=64`,
    status: 422,
  })),
  ...["heic", "mif1"].map((brand) => ({
    name: `a transform of HEIC (${brand})`,
    method: "GET",
    target: `/photos/${brand}.heic?w=64`,
    status: 415,
  })),
  {
    name: "a transform of SVG",
    method: "GET",
    target: "/photos/drawing.svg?w=64",
    status: [415, 422],
  },
  {
    name: "a transform of 400 megapixels",
    method: "GET",
    target: "/photos/bomb.png?w=64",
    status: 413,
    code: "EntityTooLarge",
  },
  {
    name: "a transform of what there is not",
    method: "GET",
    target: "/photos/nothing?w=64",
    status: 404,
    code: "NoSuchKey",
  },
  {
    name: "a transform where images are off",
    method: "GET",
    target: "/private/photo.jpg?w=64",
    status: 403,
  },
];

const sizeRows: Row[] = [
  {
    name: "an object over the bucket's limit, announced",
    method: "PUT",
    target: "/small/new",
    body: Buffer.alloc(1_001),
  },
  {
    name: "an object over the bucket's limit, announced and not sent",
    method: "PUT",
    target: "/small/new",
    headers: { "Content-Length": "100000000" },
  },
  {
    name: "an object over the bucket's limit, chunked",
    method: "PUT",
    target: "/small/new",
    headers: { "Transfer-Encoding": "chunked" },
    body: encodeChunked(Buffer.alloc(1_001)),
  },
  {
    name: "a form with a file over the bucket's limit",
    ...formOf("new", "x".repeat(1_001)),
    target: "/small",
  },
  {
    name: "an object over the greatest size there is",
    method: "PUT",
    target: "/photos/new",
    headers: { "Content-Length": sixGibibytes },
  },
].map((row) => ({ ...row, status: 413, code: "EntityTooLarge" }));

const pathRows: Row[] = [
  ...["%zz", "%", "a%2", "%ff%fe", "%c0%af", "%ed%a0%80", "a%f0%9f%8c"].flatMap((key) =>
    ["PUT", "GET", "DELETE"].map((method) => ({
      name: `${method} of the path ${key}, which is no UTF-8`,
      method,
      target: `/photos/${key}`,
      ...(method === "PUT" ? { body: "x" } : {}),
      status: 400,
      code: "InvalidURI",
    })),
  ),
  { name: "a bucket that is no UTF-8", method: "GET", target: "/%ff/key", status: 400 },
  {
    name: "PUT of a key of 1,025 bytes",
    method: "PUT",
    target: `/photos/${tooLong}`,
    body: "x",
    status: 400,
    code: "KeyTooLongError",
  },
  {
    name: "PUT of a key of 1,026 bytes in few characters",
    method: "PUT",
    target: `/photos/${encodeURIComponent("語".repeat(342))}`,
    body: "x",
    status: 400,
    code: "KeyTooLongError",
  },
  {
    name: "a form with a file name of 1,025 bytes",
    ...formOf(tooLong, "x"),
    target: "/photos",
    status: 400,
    code: "KeyTooLongError",
  },
  {
    name: "an object that there is not",
    method: "GET",
    target: "/photos/nothing",
    status: 404,
    code: "NoSuchKey",
  },
  {
    name: "HEAD of an object that there is not",
    method: "HEAD",
    target: "/photos/no",
    status: 404,
  },
  { name: "HEAD of a bad path", method: "HEAD", target: "/photos/%zz", status: 400 },
  { name: "HEAD with a bad transform", method: "HEAD", target: `${photo}?w=abc`, status: 400 },
];

const reserved = [
  ...["_i", "_x", "metrics", "livez", "readyz", "render", "cdn-cgi", "submit", "dir", "vol"],
  ...["col", "cluster"],
];
const unnamable = [
  ...["ab", "Upper", "a..b", "-ab", "ab-", ".ab", "ab.", "a_b", "192.168.0.1", "a b"],
  ...["ü-umlaut", "..", "x".repeat(64), "new\nline", "nul\0"],
];

const bucketRows: Row[] = [
  ...[...reserved, ...unnamable].map((name) => ({
    name: `making the bucket ${JSON.stringify(name.slice(0, 20))}`,
    method: "PUT",
    target: `/${encodeURIComponent(name)}`,
    status: 400,
    code: "InvalidBucketName",
  })),
  ...(
    [
      { name: "GET of an object", method: "GET", target: "/missing/key" },
      { name: "HEAD of an object", method: "HEAD", target: "/missing/key" },
      { name: "PUT of an object", method: "PUT", target: "/missing/key", body: "x" },
      { name: "DELETE of an object", method: "DELETE", target: "/missing/key" },
      { name: "a listing", method: "GET", target: "/missing" },
      { name: "a form", ...formOf("key", "x"), target: "/missing" },
      { name: "settings", method: "GET", target: "/missing?settings" },
      { name: "new settings", method: "PATCH", target: "/missing?settings", body: "{}" },
      { name: "removal", method: "DELETE", target: "/missing" },
    ] satisfies Partial<Row>[]
  ).map((row) => ({
    ...row,
    name: `${row.name}, of a bucket that there is not`,
    status: 404,
    code: "NoSuchBucket",
  })),
  {
    name: "removing a bucket that is not empty",
    method: "DELETE",
    target: "/photos",
    status: 409,
    code: "BucketNotEmpty",
  },
];

const listingRows: Row[] = [
  ...["continuation-token=nonsense", "continuation-token=%00", "continuation-token="].map(
    (query) => ({ query, code: "InvalidArgument" }),
  ),
  ...["max-keys=many", "max-keys=-1", "max-keys=1.5"].map((query) => ({
    query,
    code: "InvalidArgument",
  })),
].map(({ query, code }) => ({
  name: `a listing with ${query}`,
  method: "GET",
  target: `/photos?list-type=2&${query}`,
  status: 400,
  code,
}));

const badVersions = ["nonsense", "%00", "..", "9".repeat(300)];
const versionRows: Row[] = badVersions.flatMap((version) =>
  ["GET", "HEAD"].map((method) => ({
    name: `${method} of the version ${version.slice(0, 20)}`,
    method,
    target: `${photo}?versionId=${version}`,
    status: [400, 404],
  })),
);

const settingRows: Row[] = [
  "",
  "{",
  "null",
  "[]",
  "true",
  '{"publicRead":"yes"}',
  '{"versioning":"maybe"}',
  '{"images":"all"}',
  '{"maxObjectBytes":-1}',
  '{"maxObjectBytes":1.5}',
  '{"maxObjectBytes":"10"}',
  '{"durability":"none"}',
  '{"durability":true}',
  '{"unknown":1}',
  '{"publicRead":true,"images":1}',
  `{"publicRead":true${" ".repeat(2_000_000)}}`,
].map((body) => ({
  name: `the settings ${body.slice(0, 40)}`,
  method: "PATCH",
  target: "/photos?settings",
  headers: { "Content-Type": "application/json" },
  body,
  status: body.length > 1_000 ? [400, 413] : 400,
}));

const durabilityRows: Row[] = ["memory", "none", "DISK", "disk, disk", ""].flatMap((asked) =>
  [
    { method: "PUT", target: "/photos/new", body: "x", headers: {} },
    { ...formOf("new", "x"), target: "/photos" },
  ].map(({ headers, ...row }) => ({
    ...row,
    name: `${row.method} with durability "${asked}" in a bucket with disk`,
    headers: { ...headers, "X-Hayloft-Durability": asked },
    status: 400,
    code: "InvalidRequest",
  })),
);

const methodRows: Row[] = [
  { method: "POST", target: photo },
  { method: "PATCH", target: photo },
  { method: "PATCH", target: "/photos" },
  { method: "PUT", target: "/" },
  { method: "DELETE", target: "/" },
  { method: "POST", target: "/" },
  { method: "TRACE", target: photo },
  { method: "PROPFIND", target: "/photos" },
].map((row) => ({
  ...row,
  name: `${row.method} ${row.target}`,
  status: 405,
  code: "MethodNotAllowed",
}));

const multipart = "multipart/form-data; boundary=limit";
const formRows: Row[] = [
  { name: "without a boundary", type: "multipart/form-data", body: "--x\r\n\r\n--x--\r\n" },
  { name: "of another type", type: "text/plain", body: "hello" },
  { name: "without a type", type: "", body: "hello" },
  { name: "that is empty", type: multipart, body: "" },
  { name: "that is no form inside", type: multipart, body: "hello".repeat(100) },
  { name: "without a file", type: multipart, body: "--limit--\r\n" },
  {
    name: "without its end",
    type: multipart,
    body: '--limit\r\nContent-Disposition: form-data; name="file"; filename="new"\r\n\r\nhalf',
  },
  {
    name: "without the end of its second file",
    type: multipart,
    body:
      '--limit\r\nContent-Disposition: form-data; name="file"; filename="new"\r\n\r\nwhole\r\n' +
      '--limit\r\nContent-Disposition: form-data; name="file"; filename="other"\r\n\r\nhalf',
  },
].map(({ name, type, body }) => ({
  name: `a form ${name}`,
  method: "POST",
  target: "/photos",
  headers: type === "" ? {} : { "Content-Type": type },
  body,
  status: [400, 415],
}));

const conditionRows: Row[] = [
  {
    name: "PUT with the digest of something else",
    method: "PUT",
    target: "/photos/new",
    headers: { "Content-MD5": createHash("md5").update("y").digest("base64") },
    body: "x",
    status: 400,
    code: "BadDigest",
  },
  {
    name: "PUT with a digest that is none",
    method: "PUT",
    target: "/photos/new",
    headers: { "Content-MD5": "nonsense" },
    body: "x",
    status: 400,
  },
  {
    name: "PUT over an object, if there is none",
    method: "PUT",
    target: photo,
    headers: { "If-None-Match": "*" },
    body: "x",
    status: 412,
    code: "PreconditionFailed",
  },
  {
    name: "PUT over an object, if it is another",
    method: "PUT",
    target: photo,
    headers: { "If-Match": '"0123456789abcdef0123456789abcdef"' },
    body: "x",
    status: 412,
    code: "PreconditionFailed",
  },
  {
    name: "PUT over an object that there is not",
    method: "PUT",
    target: "/photos/new",
    headers: { "If-Match": "*" },
    body: "x",
    status: [404, 412],
  },
  {
    name: "GET, if it is another",
    method: "GET",
    target: photo,
    headers: { "If-Match": '"other"' },
    status: 412,
    code: "PreconditionFailed",
  },
  {
    name: "a range behind the end",
    method: "GET",
    target: photo,
    headers: { Range: "bytes=99999999-" },
    status: 416,
    code: "InvalidRange",
  },
  {
    name: "a range in an empty object",
    method: "GET",
    target: "/photos/empty.jpg",
    headers: { Range: "bytes=0-0" },
    status: 416,
    code: "InvalidRange",
  },
];

beforeAll(async () => {
  cluster = await startCluster();
  authorization = basicAuth(cluster.credentials);
  await prepareObjects();
}, 60_000);

afterAll(() => cluster?.close());

describe.each([
  { of: "Credentials", rows: [...credentialRows, ...wrongCredentialRows] },
  { of: "Transforms", rows: transformRows },
  { of: "Sizes", rows: sizeRows },
  { of: "Paths", rows: pathRows },
  { of: "Buckets", rows: bucketRows },
  { of: "Listings", rows: listingRows },
  { of: "Versions", rows: versionRows },
  { of: "Settings", rows: settingRows },
  { of: "Durability", rows: durabilityRows },
  { of: "Methods", rows: methodRows },
  { of: "Forms", rows: formRows },
  { of: "Conditions", rows: conditionRows },
])("$of:", ({ rows }) => {
  test.each(rows)("$name is refused with $status", async (row) => {
    const before = await takeStock();
    for (const accept of ["application/json", "application/xml"]) {
      checkError(row, await send(row, accept), accept);
    }
    expect(await takeStock()).toEqual(before);
  });
});

test("An upload of 400 megapixels is stored and comes back: it is a blob store", async () => {
  const { status, body } = await get("/photos/bomb.png");
  expect(status).toBe(200);
  expect(body.equals(makePng(20_000, 20_000))).toBe(true);
});

test("An object of just the bucket's limit is stored, announced and chunked", async () => {
  for (const headers of [{}, { "Transfer-Encoding": "chunked" }]) {
    const content = Buffer.alloc(1_000, 7);
    const isChunked = "Transfer-Encoding" in headers;
    const body = isChunked ? encodeChunked(content) : content;
    const row = { method: "PUT", target: "/small/fits", headers, body };
    expect((await send(row, "application/json")).status).toBe(200);
    expect((await get("/small/fits")).body).toHaveLength(1_000);
    expect((await send({ method: "DELETE", target: "/small/fits" }, "*/*")).status).toBe(204);
  }
});

test("Names that mean nothing to a plain read are ignored", async () => {
  const { status, body } = await get(`${photo}?utm_source=x&cache=1`);
  expect(status).toBe(200);
  expect(body.equals((await get(photo)).body)).toBe(true);
});

test("DELETE of a version that there is not takes nothing away", async () => {
  const before = await takeStock();
  for (const version of badVersions) {
    const row = { method: "DELETE", target: `${photo}?versionId=${version}` };
    expect([204, 400, 404]).toContain((await send(row, "*/*")).status);
  }
  expect(await takeStock()).toEqual(before);
});

test("What is no HTTP is refused without a word about the inside", async () => {
  const before = await takeStock();
  // The last one is how Node has it: bytes above 127 have to be escaped.
  for (const target of [
    "/photos/new HTTP/9.9\r\n",
    "\r\n\0\0\0",
    "/ph otos/new",
    "/photos/größe",
  ]) {
    const answer = await sendRaw(cluster.gatewayAddress, { method: "PUT", target, body: "x" });
    expect(answer.status).toBe(400);
    expect(answer.body.length).toBeLessThan(errorBytesMax);
    expectNothingInside(answer.body.toString());
  }
  const headers = { "X-Long": "x".repeat(100_000) };
  const answer = await sendRaw(cluster.gatewayAddress, { method: "GET", target: photo, headers });
  expect(answer.status).toBe(431);
  expect(await takeStock()).toEqual(before);
});

describe("A malformed Range is no range: the whole object comes", () => {
  test.each(["bytes=abc", "bytes=5-2", "bytes=-", "lines=0-1", "bytes=0-1,4-5", "bytes", ""])(
    "Range: %s",
    async (range) => {
      const row = { method: "GET", target: "/photos/text.txt", headers: { Range: range } };
      const { status, body } = await send(row, "*/*");
      expect(status).toBe(200);
      expect(body.toString()).toBe("just text");
    },
  );
});

describe("An upload that is cut off leaves nothing:", () => {
  const half = Buffer.alloc(500, 1);
  const large = Buffer.alloc(9 * 1024 * 1024, 1);
  const rows: (RawRequest & { name: string })[] = [
    {
      name: "half of what was announced",
      method: "PUT",
      target: "/photos/new",
      headers: { "Content-Length": "1000" },
      body: half,
    },
    {
      name: "nothing of what was announced",
      method: "PUT",
      target: "/photos/new",
      headers: { "Content-Length": "1000" },
    },
    {
      name: "chunks without their end",
      method: "PUT",
      target: "/photos/new",
      headers: { "Transfer-Encoding": "chunked" },
      body: encodeChunked(half).subarray(0, -5),
    },
    {
      name: "more than a whole chunk of the store's",
      method: "PUT",
      target: "/photos/new",
      headers: { "Content-Length": String(2 * large.length) },
      body: large,
    },
    {
      name: "half of what was announced, over an object that stays",
      method: "PUT",
      target: photo,
      headers: { "Content-Length": "1000" },
      body: half,
    },
    {
      name: "a form in its second file",
      method: "POST",
      target: "/photos",
      headers: { "Content-Type": multipart, "Content-Length": "10000" },
      body:
        '--limit\r\nContent-Disposition: form-data; name="file"; filename="new"\r\n\r\nwhole\r\n' +
        '--limit\r\nContent-Disposition: form-data; name="file"; filename="other"\r\n\r\nhalf',
    },
  ];

  test.each(rows)("$name", async ({ name: _name, ...row }) => {
    const before = await takeStock();
    const headers = { Authorization: authorization, ...row.headers };
    await sendCut(cluster.gatewayAddress, { ...row, headers });
    expect(await takeStock()).toEqual(before);
    // The server sees the cut a moment after it is made: what it does then must not show either.
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(await takeStock()).toEqual(before);
  });
});

describe("A key is just a key, stored, listed and returned exactly:", () => {
  const keys = [
    ...["..", ".", "../../../../escaped", "a/../b", "./a", "a/./b", "a//b", "//", "/leading"],
    ...["trailing/", "trailing//", "nul\0byte", "100%", "%2F", "%00", "a+b", "a b", " ", "a%20b"],
    ...["🌾/📷.jpg", "größe", "é", "e\u0301", "日本語", "שלום", "\u200b", "\ufeff", "\u2028"],
    ...["tab\there", "line\nbreak", "\x7f", "\x1b[31m", "a?b#c&d=e;f", "<&>\"'`", "back\\slash"],
    ...["CON", "aux.txt", "~", "$HOME", "`id`", "{a,b}", "*", "a:b", "\u{10ffff}", "__proto__"],
    ...["constructor", "settings", "metrics", "_i/w=64/photos/x", "k".repeat(1_024)],
    "🌾".repeat(256),
  ];

  test.each(keys.map((key) => ({ key, shown: JSON.stringify(key).slice(0, 40) })))(
    "$shown",
    async ({ key }) => {
      const target = `/keys/${encodeKey(key)}`;
      const content = contentOf({ seed, id: key.length }, 100);
      expect((await send({ method: "PUT", target, body: content }, "*/*")).status).toBe(200);

      expect((await get(target)).body.equals(content)).toBe(true);
      // Every byte escaped is the same key.
      const escaped = [...Buffer.from(key)].map((byte) => `%${byte.toString(16).padStart(2, "0")}`);
      expect((await get(`/keys/${escaped.join("")}`)).body.equals(content)).toBe(true);
      expect(await listKeys("keys")).toEqual([key]);
      expect(await listKeys("keys", `&prefix=${encodeURIComponent(key)}`)).toEqual([key]);
      expect(await listKeys("keys", "&prefix=something+else")).toEqual([]);
      // XML 1.0 has no way to write most control characters.
      if (!/\p{Cc}/u.test(key)) expect(await listKeysAsXml("keys")).toEqual([key]);

      expect((await send({ method: "DELETE", target }, "*/*")).status).toBe(204);
      expect((await get(target)).status).toBe(404);
      expect(await listKeys("keys")).toEqual([]);
    },
  );

  test("two that look alike are two", async () => {
    for (const key of ["é", "e\u0301", "a/b", "a//b", "A/b", "a+b", "a b"]) {
      const row = { method: "PUT", target: `/keys/${encodeKey(key)}`, body: key };
      expect((await send(row, "*/*")).status).toBe(200);
    }
    const listed = await listKeys("keys");
    expect(listed).toHaveLength(7);
    for (const key of listed) {
      expect((await get(`/keys/${encodeKey(key)}`)).body.toString()).toBe(key);
      await send({ method: "DELETE", target: `/keys/${encodeKey(key)}` }, "*/*");
    }
  });

  test("and never a path", () => {
    for (const folder of [cluster.folder, path.dirname(cluster.folder), "/", process.cwd()]) {
      expect(existsSync(path.join(folder, "escaped"))).toBe(false);
    }
  });
});

/** One file under that name in a form. */
function formOf(name: string, content: string): Pick<Row, "method" | "headers" | "body"> {
  return {
    method: "POST",
    headers: { "Content-Type": "multipart/form-data; boundary=limit" },
    body:
      `--limit\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\n\r\n` +
      `${content}\r\n--limit--\r\n`,
  };
}

function basic(login: string): string {
  return `Basic ${Buffer.from(login).toString("base64")}`;
}

async function send(
  { method, target, headers = {}, body, as = "root" }: Omit<Row, "name" | "status">,
  accept: string,
): Promise<RawAnswer> {
  const own = headers.Authorization;
  const credentials =
    own === "wrong secret"
      ? basic(`${cluster.credentials.accessKey}:wrong`)
      : (own ?? (as === "root" ? authorization : undefined));
  const all = {
    Accept: accept,
    ...headers,
    ...(credentials === undefined ? {} : { Authorization: credentials }),
  };
  return await sendRaw(cluster.gatewayAddress, {
    method,
    target,
    headers: all,
    ...(body === undefined ? {} : { body }),
  });
}

function get(target: string): Promise<RawAnswer> {
  return send({ method: "GET", target }, "*/*");
}

function checkError({ method, status, code }: Row, answer: RawAnswer, accept: string): void {
  const text = answer.body.toString();
  expect([status].flat(), text).toContain(answer.status);
  expect(answer.headers.get("x-request-id")).toMatch(/^[\w.:-]{1,64}$/);
  if (method === "HEAD") {
    expect(answer.body).toHaveLength(0);
    return;
  }
  expect(answer.body.length).toBeLessThan(errorBytesMax);
  expect(answer.headers.get("content-type")).toBe(accept);
  expectNothingInside(text);
  const error = accept === "application/json" ? readJsonError(text) : readXmlError(text);
  if (code !== undefined) expect(error.code, text).toBe(code);
  expect(error.code).toMatch(/^[A-Z][A-Za-z]+$/);
  expect(error.message).toMatch(/^[A-Z].{10,}/s);
  expect(error.requestId).toBe(answer.headers.get("x-request-id"));
}

interface ReadError {
  code: string;
  message: string;
  requestId: string;
}

function readJsonError(text: string): ReadError {
  return (JSON.parse(text) as { error: ReadError }).error;
}

function readXmlError(text: string): ReadError {
  const { Error: error } = new XMLParser({ parseTagValue: false }).parse(text) as {
    Error: { Code: string; Message: string; RequestId: string };
  };
  return { code: error.Code, message: error.Message, requestId: error.RequestId };
}

/** No stack, no file, no folder, no name of what it is built with. */
function expectNothingInside(text: string): void {
  expect(text).not.toMatch(
    /\bat (\/|async |Object\.|new )|node:|\.ts\b|node_modules|SQLITE|sqlite/,
  );
  expect(text).not.toContain(process.cwd());
  expect(text).not.toContain(cluster.folder);
  expect(text).not.toContain(cluster.credentials.secretKey);
  expect(text).not.toContain(readFileSync(cluster.secretFile, "utf8").trim());
}

/** Everything that a user can see: what a refused request must leave as it was. */
async function takeStock(): Promise<Record<string, unknown>> {
  const stock: Record<string, unknown> = { buckets: await getJson("/") };
  for (const bucket of ["photos", "small", "private", "keys"]) {
    stock[bucket] = await getJson(`/${bucket}?list-type=2`);
    stock[`settings of ${bucket}`] = await getJson(`/${bucket}?settings`);
  }
  for (const target of ["/photos/new", "/photos/other", "/small/new", "/photos/key"]) {
    stock[target] = (await request({ address: cluster.gatewayAddress, path: target })).status;
  }
  return stock;
}

async function getJson(target: string): Promise<unknown> {
  const { status, body } = await ask("GET", target);
  expect(status, body.toString()).toBe(200);
  return JSON.parse(body.toString());
}

function ask(method: string, target: string, body?: Buffer | string): Promise<Answer> {
  return request({
    address: cluster.gatewayAddress,
    method,
    path: target,
    headers: { authorization, accept: "application/json" },
    ...(body === undefined ? {} : { body }),
  });
}

async function listKeys(bucket: string, query = ""): Promise<string[]> {
  const { objects } = (await getJson(`/${bucket}?list-type=2${query}`)) as {
    objects: { key: string }[];
  };
  return objects.map(({ key }) => key);
}

async function listKeysAsXml(bucket: string): Promise<string[]> {
  const { status, body } = await send({ method: "GET", target: `/${bucket}` }, "application/xml");
  expect(status).toBe(200);
  const parser = new XMLParser({
    parseTagValue: false,
    trimValues: false,
    htmlEntities: true,
    isArray: (name) => name === "Contents",
  });
  const { ListBucketResult: result } = parser.parse(body.toString()) as {
    ListBucketResult: { Contents?: { Key: string }[] };
  };
  return (result.Contents ?? []).map(({ Key }) => Key);
}

async function prepareObjects(): Promise<void> {
  const put = async (target: string, body: Buffer | string = "") => {
    const { status, body: text } = await ask("PUT", target, body);
    expect(status, `PUT ${target}: ${text}`).toBe(200);
  };
  const set = async (bucket: string, settings: unknown) => {
    const { status, body } = await ask("PATCH", `/${bucket}?settings`, JSON.stringify(settings));
    expect(status, body.toString()).toBe(200);
  };
  for (const bucket of ["/small", "/private", "/keys"]) await put(bucket);
  await set("small", { maxObjectBytes: 1_000 });
  await set("private", { publicRead: false, images: "off" });

  const jpeg = await makePhoto({ seed, width: 640, height: 400 });
  await put(photo, jpeg);
  await put("/private/photo.jpg", jpeg);
  await put("/private/object", "secret");
  await put("/photos/text.txt", "just text");
  await put("/photos/empty.jpg");
  await put("/photos/random.jpg", contentOf({ seed, id: 1 }, 50_000));
  await put("/photos/truncated.jpg", jpeg.subarray(0, jpeg.length / 2));
  await put("/photos/head.jpg", jpeg.subarray(0, 20));
  await put("/photos/damaged.png", damage(makePng(300, 200)));
  await put("/photos/bomb.png", makePng(20_000, 20_000));
  await put(
    "/photos/drawing.svg",
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
  );
  for (const brand of ["heic", "mif1"]) await put(`/photos/${brand}.heic`, makeHeicHead(brand));
}

/** A PNG that says it has that size, and has data for its first line at most. */
function makePng(width: number, height: number): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 0, 0, 0, 0], 8); // 8 bits of grey
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    pngChunk("IHDR", header),
    pngChunk("IDAT", deflateSync(Buffer.alloc(width + 1))),
    pngChunk("IEND", Buffer.alloc(0)),
  ]);
}

function pngChunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type), data]);
  const chunk = Buffer.alloc(body.length + 8);
  chunk.writeUInt32BE(data.length, 0);
  body.copy(chunk, 4);
  chunk.writeUInt32BE(crc32(body), body.length + 4);
  return chunk;
}

function damage(png: Buffer): Buffer {
  const at = png.indexOf("IDAT") + 6;
  png.writeUInt8(png.readUInt8(at) ^ 0xff, at);
  return png;
}

/** The first box of a HEIC file: enough to know it by. */
function makeHeicHead(brand: string): Buffer {
  const box = Buffer.alloc(28);
  box.writeUInt32BE(28, 0);
  box.write("ftyp", 4, "latin1");
  box.write(brand, 8, "latin1");
  box.write("mif1heicmiaf".slice(0, 12), 16, "latin1");
  return Buffer.concat([box, Buffer.alloc(100)]);
}

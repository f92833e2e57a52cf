/**
 * A client of SeaweedFS, at a real directory and a real store: assign, store, read, delete, shape by shape
 * as such clients do it.
 */

import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";
import { contentOf } from "./content.ts";
import { type Answer, type RequestOptions, request } from "./request.ts";
import { SignedCalls } from "./signed-calls.ts";

let cluster: Cluster;
const limitMs = 60_000;

beforeAll(async () => {
  cluster = await startCluster();
}, limitMs);

afterAll(async () => await cluster?.destroy());

interface Assigned {
  fid: string;
  url: string;
  publicUrl: string;
  count: number;
}

async function assign(query = ""): Promise<Assigned> {
  const answer = await request({
    address: cluster.place("directory").address,
    path: `/dir/assign${query}`,
  });
  expect(answer.status, answer.body.toString()).toBe(200);
  return JSON.parse(answer.body.toString()) as Assigned;
}

async function at(
  { url }: { url: string },
  options: Omit<RequestOptions, "address">,
): Promise<Answer> {
  return await request({ address: url, ...options });
}

const json = ({ body }: Answer): Record<string, unknown> => JSON.parse(body.toString());

/** As curl -F sends it. */
function form(
  name: string,
  type: string,
  content: Buffer,
): { headers: Record<string, string>; body: Buffer } {
  const boundary = "hay-1790000000";
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\nContent-Type: ${type}\r\n\r\n`;
  return {
    headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
    body: Buffer.concat([Buffer.from(head), content, Buffer.from(`\r\n--${boundary}--\r\n`)]),
  };
}

test("Assign, PUT, GET, ranges, HEAD, DELETE", { timeout: limitMs }, async () => {
  const content = contentOf({ seed: 1, id: 1 }, 43_234);
  const assigned = await assign();
  expect(assigned).toMatchObject({
    count: 1,
    url: cluster.storeAddress,
    publicUrl: cluster.storeAddress,
  });
  expect(assigned.fid).toMatch(/^[0-9]+,[0-9a-f]{10,16}$/);
  const path = `/${assigned.fid}`;

  const stored = await at(assigned, {
    method: "PUT",
    path,
    body: content,
    headers: { "content-type": "image/jpeg" },
  });
  expect(stored.status, stored.body.toString()).toBe(201);
  expect(json(stored)).toMatchObject({ size: content.length, mime: "image/jpeg" });
  const etag = `"${json(stored).eTag}"`;
  expect(stored.headers.etag).toBe(etag);

  const [volume = "", key = ""] = assigned.fid.split(",");
  for (const form of [
    path,
    `${path}.jpg`,
    `/${volume}/${key}`,
    `/${volume}/${key}.jpg`,
    `/${volume}/${key}/my.jpg`,
  ]) {
    const read = await at(assigned, { path: form });
    expect(read.status, form).toBe(200);
    expect(read.body.equals(content), form).toBe(true);
    expect(read.headers).toMatchObject({
      etag,
      "content-type": "image/jpeg",
      "content-length": String(content.length),
      "accept-ranges": "bytes",
    });
    expect(Date.parse(read.headers["last-modified"] ?? "")).toBeGreaterThan(Date.now() - 60_000);
  }

  const head = await at(assigned, { method: "HEAD", path });
  expect(head.status).toBe(200);
  expect(head.headers["content-length"]).toBe(String(content.length));
  expect(head.body).toHaveLength(0);

  const part = await at(assigned, { path, headers: { range: "bytes=100-199" } });
  expect(part.status).toBe(206);
  expect(part.headers["content-range"]).toBe(`bytes 100-199/${content.length}`);
  expect(part.body.equals(content.subarray(100, 200))).toBe(true);
  const tail = await at(assigned, { path, headers: { range: "bytes=-10" } });
  expect(tail.body.equals(content.subarray(-10))).toBe(true);
  const beyond = await at(assigned, { path, headers: { range: `bytes=${content.length}-` } });
  expect(beyond.status).toBe(416);
  expect(beyond.headers["content-range"]).toBe(`bytes */${content.length}`);
  expect((await at(assigned, { path, headers: { "if-none-match": etag } })).status).toBe(304);

  // Written once: the same bytes are answered alike, others are refused and change nothing.
  const again = await at(assigned, {
    method: "PUT",
    path,
    body: content,
    headers: { "content-type": "image/jpeg" },
  });
  expect(again.status).toBe(201);
  expect(json(again)).toEqual(json(stored));
  const other = await at(assigned, { method: "PUT", path, body: "other" });
  expect(other.status).toBe(409);
  expect(json(other)).toHaveProperty("error");
  expect((await at(assigned, { path })).body.equals(content)).toBe(true);

  const wrong = `${path.slice(0, -1)}${path.endsWith("0") ? "1" : "0"}`;
  expect((await at(assigned, { path: wrong })).status).toBe(404);
  expect((await at(assigned, { method: "DELETE", path: wrong })).status).toBe(404);
  const deleted = await at(assigned, { method: "DELETE", path });
  expect(deleted.status).toBe(202);
  expect(json(deleted)).toEqual({ size: content.length });
  expect((await at(assigned, { path })).status).toBe(404);
  const twice = await at(assigned, { method: "DELETE", path });
  expect(twice.status).toBe(404);
  expect(json(twice)).toEqual({ size: 0 });
});

test("Several fids of one assign, by _1 and so on, posted as forms", {
  timeout: limitMs,
}, async () => {
  const assigned = await assign("?count=3");
  expect(assigned.count).toBe(3);
  for (const delta of ["", "_1", "_2"]) {
    const content = Buffer.from(`photo ${delta}`);
    const path = `/${assigned.fid}${delta}`;
    const stored = await at(assigned, {
      method: "POST",
      path,
      ...form(`my${delta}.txt`, "text/plain", content),
    });
    expect(stored.status, stored.body.toString()).toBe(201);
    expect(json(stored)).toMatchObject({ name: `my${delta}.txt`, size: content.length });
    const read = await at(assigned, { path });
    expect(read.body.equals(content)).toBe(true);
    expect(read.headers["content-disposition"]).toContain(`my${delta}.txt`);
  }
});

test("Lookup finds the volume by id and by fid, and says so when there is none", {
  timeout: limitMs,
}, async () => {
  const { fid } = await assign();
  const [volumeId = ""] = fid.split(",");
  const address = cluster.place("directory").address;
  for (const query of [`volumeId=${volumeId}`, `volumeId=${fid}`, `fileId=${fid}`]) {
    const found = await request({ address, path: `/dir/lookup?${query}` });
    expect(found.status).toBe(200);
    expect(json(found)).toMatchObject({
      locations: [{ url: cluster.storeAddress, publicUrl: cluster.storeAddress }],
    });
  }
  const missing = await request({ address, path: "/dir/lookup?volumeId=9999" });
  expect(missing.status).toBe(404);
  expect(json(missing)).toMatchObject({
    volumeOrFileId: "9999",
    error: "volume id 9999 not found",
  });
  const redirected = await request({ address, path: `/${fid}?x=1` });
  expect(redirected.status).toBe(308);
  expect(redirected.headers.location).toBe(`http://${cluster.storeAddress}/${fid}?x=1`);
});

test("Keys that nobody was given are refused, and those of tenants are not there", {
  timeout: limitMs,
}, async () => {
  const assigned = await assign();
  const [volume] = assigned.fid.split(",");
  for (const key of ["ffffffff00000000", "ffffffffffffffff00000000", "0fffff637037d6"]) {
    const refused = await at(assigned, { method: "PUT", path: `/${volume},${key}`, body: "x" });
    expect(refused.status, key).toBe(404);
  }
  const huge = await request({
    address: cluster.place("directory").address,
    path: "/dir/assign?count=1000000000",
  });
  expect(huge.status).toBe(406);
  expect(json(huge)).toHaveProperty("error");
  const status = await request({ address: cluster.storeAddress, path: "/status" });
  expect(status.status).toBe(200);
  const { Volumes } = json(status) as { Volumes: { Id: number }[] };
  expect(Volumes.map(({ Id }) => String(Id))).toContain(volume);
  const all = await new SignedCalls(cluster).request({
    address: cluster.storeAddress,
    path: "/volumes",
  });
  const { volumes } = json(all) as { volumes: { volume: number; class: string }[] };
  const originals = volumes.filter((each) => each.class === "original");
  expect(originals.length).toBeGreaterThan(0);
  for (const { volume: id } of originals) expect(Volumes.some(({ Id }) => Id === id)).toBe(false);
});

test("A blob with a TTL goes to a volume of its kind and says when it ends", {
  timeout: limitMs,
}, async () => {
  const forever = await assign();
  const brief = await assign("?ttl=3m");
  expect(brief.fid.split(",")[0]).not.toBe(forever.fid.split(",")[0]);
  const stored = await at(brief, {
    method: "PUT",
    path: `/${brief.fid}?ttl=3m`,
    body: "soon gone",
  });
  expect(stored.status, stored.body.toString()).toBe(201);
  expect((await at(brief, { path: `/${brief.fid}` })).body.toString()).toBe("soon gone");
  const tooLong = await at(await assign("?ttl=3m"), {
    method: "PUT",
    path: `/${brief.fid}_1?ttl=5y`,
    body: "x",
  });
  expect(tooLong.status).toBeGreaterThanOrEqual(400);
});

test("Submit goes by way of a gateway, which answers with the fid", {
  timeout: limitMs,
}, async () => {
  const content = contentOf({ seed: 5, id: 1 }, 30_000);
  const { headers, body } = form("hay.jpg", "image/jpeg", content);
  const address = cluster.place("directory").address;
  const post = { method: "POST", path: "/submit?ttl=5h", headers, body };
  const sent = await request({ address, ...post });
  expect(sent.status, sent.body.toString()).toBe(307);
  expect(sent.headers.location).toBe(`http://${cluster.gatewayAddress}/submit?ttl=5h`);
  const stored = await request({ address: cluster.gatewayAddress, ...post });
  expect(stored.status, stored.body.toString()).toBe(201);
  const { fid, fileUrl, ...rest } = json(stored);
  expect(rest).toEqual({ fileName: "hay.jpg", size: content.length, eTag: expect.any(String) });
  expect(fileUrl).toBe(`${cluster.storeAddress}/${fid}`);
  const read = await request({ address: cluster.storeAddress, path: `/${fid}` });
  expect(read.body.equals(content)).toBe(true);
  expect(read.headers["content-type"]).toBe("image/jpeg");

  const plain = { ...post, headers: { "content-type": "image/jpeg" } };
  const rows: [Omit<RequestOptions, "address">, number, string][] = [
    [plain, 400, "multipart/form-data"],
    [{ ...post, path: "/submit?replication=001" }, 400, "one copy"],
    [{ ...post, headers: { ...headers, authorization: "Bearer wrong" } }, 403, "Cannot"],
    [{ method: "GET", path: "/submit" }, 405, "POST"],
  ];
  for (const [options, status, words] of rows) {
    const answer = await request({ address: cluster.gatewayAddress, ...options });
    expect(answer.status, answer.body.toString()).toBe(status);
    expect(json(answer).error).toContain(words);
  }
});

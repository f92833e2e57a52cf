/** What `explain` says of an object at a real `hayloft up`: where it is, what is in memory, what is damaged. */

import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Explanation } from "../gateway/client.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { makePhoto } from "./photo.ts";
import { basicAuth, request } from "./request.ts";

let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster();
}, 60_000);

afterAll(() => cluster?.close());

const main = path.join(import.meta.dirname, "..", "main.ts");

async function hayloft(...args: string[]): Promise<string> {
  const options = ["--data", cluster.folder];
  return (await promisify(execFile)(process.execPath, [main, ...args, ...options])).stdout;
}

function call(method: string, target: string, body?: Buffer) {
  const headers = { authorization: basicAuth(cluster.credentials) };
  const address = cluster.gatewayAddress;
  return request({
    address,
    method,
    path: target,
    headers,
    ...(body === undefined ? {} : { body }),
  });
}

async function explain(key: string): Promise<Explanation> {
  return JSON.parse(await hayloft("explain", `photos/${key}`, "--json"));
}

test("An object is explained: its chunk, the copy's place in the file, and what is in memory", async () => {
  const photo = await makePhoto({ seed: 1, width: 900, height: 600 });
  await call("PUT", "/photos/at%20the%20farm.jpg", photo);
  const cold = await explain("at the farm.jpg");
  const [chunk] = cold.chunks;
  const [copy] = chunk?.copies ?? [];
  expect(cold).toMatchObject({ size: photo.length, isLatest: true, chunkCount: 1 });
  expect(chunk).toMatchObject({ isInMemory: false, length: photo.length });
  expect(chunk?.volume).toMatchObject({ class: "original", state: "open", missingCount: 0 });
  expect(chunk?.copies.length).toBe(1);
  expect(copy).toMatchObject({ address: cluster.storeAddress, role: "member" });
  expect(copy?.facts).toMatchObject({ generation: 0, isServing: true, damagedBytes: 0 });
  expect(copy?.facts?.needle).toMatchObject({ isVerified: true, contentLength: photo.length });

  const file = path.join(cluster.folder, "store", `${chunk?.volume?.volume}.g0.volume`);
  const { offset = 0, length = 0 } = copy?.facts?.needle ?? {};
  expect(
    readFileSync(file)
      .subarray(offset, offset + length)
      .includes(photo),
  ).toBe(true);
  expect(cold.variantsInMemory).toEqual([]);

  await call("GET", "/photos/at%20the%20farm.jpg?w=640&f=webp");
  await call("GET", "/photos/at%20the%20farm.jpg");
  const warm = await explain("at the farm.jpg");
  expect(warm.chunks[0]?.isInMemory).toBe(true);
  expect(warm.variantsInMemory).toEqual(["w=640&f=webp"]);
});

test("Damage is told where it is, by the bytes and not by what is remembered of them", async () => {
  await call("PUT", "/photos/damaged", Buffer.alloc(50_000, 7));
  const [chunk] = (await explain("damaged")).chunks;
  const file = path.join(cluster.folder, "store", `${chunk?.volume?.volume}.g0.volume`);
  const bytes = readFileSync(file);
  const at = (chunk?.copies[0]?.facts?.needle?.offset ?? 0) + 30_000;
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  writeFileSync(file, bytes);
  const facts = (await explain("damaged")).chunks[0]?.copies[0]?.facts;
  expect(facts?.needle?.isVerified).toBe(false);
  expect(facts?.problem).toContain("a checksum does not match");
  const text = await hayloft("explain", "photos/damaged");
  expect(text).toContain("a checksum does not match");
  expect(text).not.toContain("verified now");
});

test("Only the root user may ask, and what is not there is 404", async () => {
  const address = cluster.gatewayAddress;
  const anonymous = await request({ address, path: "/photos/damaged?explain" });
  expect(anonymous.status).toBe(403);
  expect((await call("GET", "/photos/nothing?explain")).status).toBe(404);
  expect((await call("GET", "/nowhere/nothing?explain")).status).toBe(404);
  await expect(hayloft("explain", "photos")).rejects.toThrow("an object is BUCKET/KEY");
});

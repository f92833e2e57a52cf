/** A crowd asks for one photo in several sizes at the same moment: each size is rendered once. */

import sharp from "sharp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";
import { makePhoto } from "./photo.ts";
import { basicAuth, request } from "./request.ts";

let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster();
}, 60_000);

afterAll(() => cluster?.close());

/** Seven pictures; those in one line are the same one, asked for in several ways. */
const pictures = [
  ["w=64"],
  ["w=128", "w=100", "w=128&f=jpeg", "f=jpg&w=128", "w=128&q=80"],
  ["w=256"],
  ["w=512"],
  ["w=640&f=webp", "f=webp&w=600"],
  ["w=256&h=256&fit=cover", "h=256&w=256"],
  ["w=1920", "w=2048"], // both wider than the photo, which is never enlarged
];
const requests = 200;

function countRenders(): Promise<number> {
  return cluster.metric("gateway", "hayloft_image_renders_total");
}

test(`${requests} requests for ${pictures.length} pictures of one photo render ${pictures.length}`, async () => {
  const address = cluster.gatewayAddress;
  const uploaded = await request({
    address,
    method: "PUT",
    path: "/photos/crowd.jpg",
    headers: { authorization: basicAuth(cluster.credentials) },
    body: await makePhoto({ seed: 5, width: 1_280, height: 800 }),
  });
  expect(uploaded.status).toBe(200);

  const rendersBefore = await countRenders();
  const answers = await Promise.all(
    Array.from({ length: requests }, async (_, at) => {
      const picture = at % pictures.length;
      const ways = pictures[picture] ?? [];
      const query = ways[Math.floor(at / pictures.length) % ways.length];
      const answer = await request({ address, path: `/photos/crowd.jpg?${query}` });
      return { picture, ...answer };
    }),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array(requests).fill(200));
  expect((await countRenders()) - rendersBefore).toBe(pictures.length);

  for (const [picture] of pictures.entries()) {
    const same = answers.filter((answer) => answer.picture === picture);
    expect(new Set(same.map(({ body }) => body.toString("base64"))).size).toBe(1);
    expect(new Set(same.map(({ headers }) => headers.etag)).size).toBe(1);
  }
  expect(new Set(answers.map(({ headers }) => headers.etag)).size).toBe(pictures.length);
  const { width, height, format } = await sharp(answers[1]?.body).metadata();
  expect({ width, height, format }).toEqual({ width: 128, height: 80, format: "jpeg" });

  // A second crowd costs nothing but reading.
  await Promise.all(
    pictures.flat().map((query) => request({ address, path: `/photos/crowd.jpg?${query}` })),
  );
  expect((await countRenders()) - rendersBefore).toBe(pictures.length);
}, 60_000);

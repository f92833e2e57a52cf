/** `hayloft volume …` against a real `hayloft up`, and on its folder when it has stopped. */

import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { seededRandom } from "../base/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { basicAuth, request } from "./request.ts";

// Each command is a process of its own.
vi.setConfig({ testTimeout: 60_000 });

const main = path.join(import.meta.dirname, "..", "main.ts");
const random = seededRandom(31);
const photos = new Map<string, Buffer>();
let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster({ flags: ["--delete-delay", "0", "--reserve", "0"] });
  for (let at = 0; at < 40; at++) {
    const body = random.bytes(20_000);
    await call("PUT", `/photos/hay-${at}.jpg`, body);
    photos.set(`hay-${at}.jpg`, body);
  }
  for (let at = 0; at < 40; at += 2) {
    await call("DELETE", `/photos/hay-${at}.jpg`);
    photos.delete(`hay-${at}.jpg`);
  }
}, 60_000);

afterAll(() => cluster?.close());

async function call(method: string, target: string, body?: Buffer): Promise<Buffer> {
  const answer = await request({
    ...{ address: cluster.gatewayAddress, method, path: target },
    headers: { authorization: basicAuth(cluster.credentials), "content-type": "image/jpeg" },
    ...(body === undefined ? {} : { body }),
  });
  expect(answer.status).toBeLessThan(300);
  return answer.body;
}

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function hayloft(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const all = [main, "volume", ...args];
    execFile(process.execPath, all, { cwd: cluster.folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

const running = () => ["--data", cluster.folder];
const stopped = () => ["--folder", path.join(cluster.folder, "store")];

interface ListedVolume {
  volume: number;
  class: string;
  state: string;
  generation: number;
  needleCount: number;
  deletedCount: number;
  deadBytes: number;
}

async function originals(where: string[]): Promise<ListedVolume[]> {
  const { stdout, stderr } = await hayloft("ls", "--json", ...where);
  expect(stderr).toBe("");
  const volumes = JSON.parse(stdout) as ListedVolume[];
  return volumes.filter((each) => each.class === "original" && each.needleCount > 0);
}

async function expectPhotos(): Promise<void> {
  for (const [name, body] of photos) expect(await call("GET", `/photos/${name}`)).toEqual(body);
}

test("Volumes of a Hayloft that runs are looked at, verified and compacted while they serve", async () => {
  let volumes = await originals(running());
  // Deletes by name reach the volumes a little later.
  for (let tries = 0; tries < 100; tries++) {
    if (volumes.reduce((sum, { deletedCount }) => sum + deletedCount, 0) === 20) break;
    await sleep(200);
    volumes = await originals(running());
  }
  expect(volumes.reduce((sum, { needleCount }) => sum + needleCount, 0)).toBe(40);
  const ids = volumes.map(({ volume }) => String(volume));

  const verified = await hayloft("verify", ...ids, "--json", ...running());
  expect(verified.code).toBe(0);
  expect(JSON.parse(verified.stdout)).toMatchObject(ids.map(() => ({ findings: [] })));

  const dumped = await hayloft("dump", ids[0] ?? "", ...running());
  expect(dumped.stdout).toMatch(/photos\/hay-[0-9]+\.jpg {2}image\/jpeg/);

  const compacted = await hayloft("compact", ...ids, "--rate", "0", "--purge", ...running());
  expect(compacted.code).toBe(0);
  expect(compacted.stderr).toContain(`volume ${ids[0]} is open, and sealed first`);
  const after = await originals(running());
  for (const volume of after.filter(({ needleCount }) => needleCount > 0)) {
    expect(volume).toMatchObject({ state: "sealed", generation: 1, deadBytes: 0 });
  }
  await expectPhotos();
});

test("An export of a Hayloft that runs has all that lives", async () => {
  let files = 0;
  for (const { volume } of await originals(running())) {
    const output = path.join(cluster.folder, `${volume}.tar`);
    const { stdout, code } = await hayloft(
      ...["export", String(volume), "--output", output, "--json", ...running()],
    );
    expect(code).toBe(0);
    files += (JSON.parse(stdout) as { files: number }).files;
  }
  expect(files).toBe(photos.size);
});

test("What is not there, and what does not answer, is said in a sentence", async () => {
  const unknown = await hayloft("info", "4000", ...running());
  expect(unknown).toMatchObject({ code: 1, stdout: "" });
  expect(unknown.stderr).toBe("hayloft: Cannot find volume 4000: no store has it\n");
  const used = await hayloft("ls", ...stopped());
  expect(used.stderr).toContain("a store runs on it");
  const address = [
    "--directory",
    "127.0.0.1:9",
    "--token-file",
    path.join(cluster.folder, "token"),
  ];
  const away = await hayloft("ls", ...address);
  expect(away.stderr).toMatch(/^hayloft: Cannot reach the directory at 127\.0\.0\.1:9: .*--folder/);
});

test("What was done to the folder by hand is taken up at the next start", async () => {
  const before = await originals(running());
  await call("PUT", "/photos/late.jpg", random.bytes(5_000));
  await cluster.stop();
  expect((await hayloft("ls", ...running())).code).toBe(1);

  const open = (await originals(stopped())).find(({ state }) => state === "open");
  expect(open).toBeDefined();
  const ids = [...before.map(({ volume }) => String(volume)), String(open?.volume)];
  const compacted = await hayloft("compact", ...ids, "--seal", ...stopped());
  expect(compacted.code).toBe(0);
  expect(compacted.stdout.split("\n").filter((line) => line !== "")).toHaveLength(ids.length);

  await cluster.start();
  await expectPhotos();
  expect(await call("GET", "/photos/late.jpg")).toHaveLength(5_000);
  await call("PUT", "/photos/next.jpg", random.bytes(5_000));
});

test("Damage under a store that runs is found and named", async () => {
  const [volume] = await originals(running());
  const { generation = 0, volume: id = 0 } = volume ?? {};
  const file = path.join(cluster.folder, "store", `${id}.g${generation}.volume`);
  const { stdout } = await hayloft("dump", String(id), "--json", ...running());
  const record = JSON.parse(stdout.split("\n")[1] ?? "{}") as { ordinal: number; offset: number };
  const bytes = readFileSync(file);
  bytes.write("rotten", record.offset + 2_000);
  writeFileSync(file, bytes);
  const { code, stdout: found } = await hayloft("verify", String(id), ...running());
  expect(code).toBe(1);
  expect(found).toContain(`needle ${record.ordinal} at `);
});

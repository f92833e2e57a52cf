/**
 * A disk that fills up: uploads end with 507, reads go on, nothing half-done shows, and when there is
 * space again uploads go on without a restart. On a small file system in memory, which only root on
 * Linux can mount.
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";
import { contentOf } from "./content.ts";
import { type Answer, basicAuth, request } from "./request.ts";

const mebibyte = 1024 * 1024;
const seed = 7;
const diskBytes = 96 * mebibyte;
const reserveBytes = 32 * mebibyte;
const objectBytes = mebibyte;
/** More than the disk has: the loop that fills it ends. */
const objectsMax = 2 * (diskBytes / objectBytes);

const mountPoint = mkdtempSync(path.join(tmpdir(), "hayloft-full-"));
const canMount =
  process.platform === "linux" &&
  process.getuid?.() === 0 &&
  run("mount", "-t", "tmpfs", "-o", `size=${diskBytes}`, "tmpfs", mountPoint);
// A test file may be ended from outside; nobody else would know of the mount.
process.on("exit", unmount);

function run(command: string, ...args: string[]): boolean {
  return spawnSync(command, args, { stdio: "ignore" }).status === 0;
}

function unmount(): void {
  if (canMount) run("umount", "--lazy", mountPoint);
  rmSync(mountPoint, { recursive: true, force: true });
}

describe.skipIf(!canMount)("On a full disk (needs root on Linux, to mount a small one)", () => {
  let cluster: Cluster;
  const stored: string[] = [];

  beforeAll(async () => {
    cluster = await startCluster({
      folder: path.join(mountPoint, "data"),
      log: path.join(mountPoint, "up.log"),
      flags: ["--reserve", String(reserveBytes), "--cache-bytes", "0", "--log-level", "error"],
    });
  }, 60_000);

  afterAll(async () => {
    await cluster?.close();
    unmount();
    process.off("exit", unmount);
  }, 60_000);

  function ask(method: string, key: string, body?: Buffer): Promise<Answer> {
    return request({
      address: cluster.gatewayAddress,
      method,
      path: `/photos${key}`,
      headers: { authorization: basicAuth(cluster.credentials), accept: "application/json" },
      ...(body === undefined ? {} : { body }),
    });
  }

  async function listKeys(): Promise<string[]> {
    const { status, body } = await ask("GET", "?list-type=2&max-keys=1000");
    expect(status).toBe(200);
    const { objects } = JSON.parse(body.toString()) as { objects: { key: string }[] };
    return objects.map(({ key }) => `/${key}`);
  }

  test("uploads go on until there is only the reserve, and then are refused with 507", async () => {
    let refused: Answer | undefined;
    for (let id = 0; id < objectsMax && refused === undefined; id++) {
      const key = `/${String(id).padStart(4, "0")}`;
      const answer = await ask("PUT", key, contentOf({ seed, id }, objectBytes));
      if (answer.status === 200) stored.push(key);
      else refused = answer;
    }
    expect(refused?.status, refused?.body.toString()).toBe(507);
    const { error } = JSON.parse(refused?.body.toString() ?? "") as {
      error: { code: string; message: string };
    };
    expect(error.code).toBe("InsufficientStorage");
    expect(refused?.body.length).toBeLessThan(2_048);
    // It filled what it may, and not much less.
    const usedMax = diskBytes - reserveBytes;
    expect(stored.length * objectBytes).toBeLessThanOrEqual(usedMax);
    expect(stored.length * objectBytes).toBeGreaterThan(usedMax * 0.6);
  }, 60_000);

  test("every upload is refused alike, small, large and as a form, and nothing of it shows", async () => {
    const answers = [
      await ask("PUT", "/small", Buffer.from("x")),
      await ask("PUT", "/large", contentOf({ seed, id: 1 }, 20 * mebibyte)),
      await request({
        address: cluster.gatewayAddress,
        method: "POST",
        path: "/photos",
        headers: {
          authorization: basicAuth(cluster.credentials),
          "content-type": "multipart/form-data; boundary=limit",
        },
        body: '--limit\r\nContent-Disposition: form-data; name="file"; filename="form"\r\n\r\nx\r\n--limit--\r\n',
      }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([507, 507, 507]);
    for (const key of ["/small", "/large", "/form"]) {
      expect((await ask("GET", key)).status).toBe(404);
    }
    expect(await listKeys()).toEqual(stored);
  });

  test("reads go on, bit for bit", async () => {
    for (const [id, key] of stored.entries()) {
      const { status, body } = await ask("GET", key);
      expect(status).toBe(200);
      expect(hash(body)).toBe(hash(contentOf({ seed, id }, objectBytes)));
    }
  }, 60_000);

  test("deletes go on, and hold", async () => {
    const [key = ""] = stored.splice(0, 1);
    expect((await ask("DELETE", key)).status).toBe(204);
    expect((await ask("GET", key)).status).toBe(404);
    expect(await listKeys()).toEqual(stored);
  });

  test("a restart on the full disk serves what is there, and still refuses", async () => {
    await cluster.restart();
    expect(await listKeys()).toEqual(stored);
    expect((await ask("GET", stored[0] ?? "")).status).toBe(200);
    // A stop tidies up a little, so something small may fit again.
    const content = contentOf({ seed, id: 2 }, 20 * mebibyte);
    expect((await ask("PUT", "/large", content)).status).toBe(507);
    expect((await ask("GET", "/large")).status).toBe(404);
    expect(await listKeys()).toEqual(stored);
  }, 60_000);

  test("when there is space again, uploads go on without a restart", async () => {
    expect(run("mount", "-o", `remount,size=${2 * diskBytes}`, mountPoint)).toBe(true);
    const giveUpAtMs = performance.now() + 15_000;
    let status = 0;
    while (status !== 200 && performance.now() < giveUpAtMs) {
      ({ status } = await ask("PUT", "/small", Buffer.from("x")));
      if (status !== 200) await sleep(250);
    }
    expect(status).toBe(200);
    expect((await ask("GET", "/small")).body.toString()).toBe("x");
  }, 30_000);
});

function hash(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

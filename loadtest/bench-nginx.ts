/** The benchmark's small GET beside nginx, which serves the same blobs as files. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { userInfo } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../base/failure.ts";
import { hasTool, toolEnvironment } from "./bench-engine.ts";
import { pinPrefix, pinTo } from "./bench-process.ts";
import { type Bench, medianLatency, type Side, takeTurns } from "./bench-report.ts";
import { expectStatus, storeSmallBlobs } from "./bench-requests.ts";
import { request } from "./request.ts";
import { SignedCalls } from "./signed-calls.ts";

const connections = 64;
const aim = 0.5;
const stretch = 0.8;
const readyLimitMs = 10_000;

export async function benchNginx(bench: Bench): Promise<void> {
  const { cluster, report, rounds, seconds, tool, serverCore } = bench;
  report.heading(
    "nginx: 1 KiB GET by fid at the store (page cache) / nginx with the same blobs as files",
  );
  if (!(await hasTool("nginx", ["-v"]))) {
    report.skip("nginx is not installed", `at least ${aim}`);
    return;
  }
  const blobs = await storeSmallBlobs(bench);
  const nginx = await Nginx.start(path.join(bench.scratch, "nginx-server"), blobs, serverCore);
  try {
    pinTo(serverCore, cluster.place("store").pid);
    const signed = new SignedCalls(cluster);
    await checkAnswers([cluster.storeAddress, nginx.address], blobs, signed);
    const paths = blobs.map((blob) => blob.path);
    let command = "";
    const side = (name: string, address: string): Side => ({
      name,
      run: async () => {
        const spec = { address, method: "GET", paths, headers: {}, connections, seconds } as const;
        const result = await tool.run({ ...spec, signed });
        command = result.command;
        return result;
      },
    });
    const sides = [side("store", cluster.storeAddress), side("nginx", nginx.address)];
    const taken = await takeTurns(sides, rounds);
    const ratio = report.compare(taken, { unit: "requests", aim });
    report.note(`stretch at least ${stretch}: ${ratio >= stretch ? "reached" : "not reached"}`);
    const [ours, theirs] = taken.map((each) => medianLatency(each, "latencyMsP99"));
    if (ours !== undefined && theirs !== undefined) {
      report.note(`p99 ${ours.toFixed(2)} ms beside nginx's ${theirs.toFixed(2)} ms`);
    }
    const pinned =
      serverCore === undefined ? "" : `, store and nginx's one worker on core ${serverCore}`;
    report.note(`${command}, ${rounds} rounds each${pinned}`);
  } finally {
    await nginx.close();
  }
}

interface Served {
  path: string;
  content: Buffer;
}

async function checkAnswers(
  addresses: string[],
  blobs: Served[],
  signed: SignedCalls,
): Promise<void> {
  for (const address of addresses) {
    for (const { path, content } of blobs) {
      const { body } = await expectStatus(200, { address, path }, signed);
      if (!body.equals(content)) {
        throw new Failure("corrupt", `Cannot compare: ${address} answers ${path} with other bytes`);
      }
    }
  }
}

/**
 * In the foreground behind a shell that ends it when its own input ends: that also happens when this
 * process ends in any way.
 */
const nginxScript = `nginx -p "$1" -c nginx.conf -e error.log &
while read -r line; do :; done
kill $!
wait`;

class Nginx {
  readonly address: string;
  readonly #shell: ChildProcess;

  private constructor(shell: ChildProcess, address: string) {
    this.#shell = shell;
    this.address = address;
  }

  static async start(
    folder: string,
    blobs: readonly Served[],
    core: number | undefined,
  ): Promise<Nginx> {
    await mkdir(path.join(folder, "files"), { recursive: true });
    for (const blob of blobs) {
      await writeFile(path.join(folder, "files", blob.path), blob.content);
    }
    const port = await findFreePort();
    await writeFile(path.join(folder, "nginx.conf"), configuration(port));
    const [file = "", ...args] = [...pinPrefix(core), "sh", "-c", nginxScript, "sh", folder];
    const shell = spawn(file, args, { env: toolEnvironment, stdio: ["pipe", "ignore", "inherit"] });
    const nginx = new Nginx(shell, `127.0.0.1:${port}`);
    try {
      await nginx.#untilReady(blobs[0]?.path ?? "/");
    } catch (error) {
      await nginx.close();
      const log = await readFile(path.join(folder, "error.log"), "utf8").catch(() => "");
      throw new Failure("unavailable", `Cannot start nginx: ${log}`, { cause: error });
    }
    return nginx;
  }

  async #untilReady(path: string): Promise<void> {
    const giveUpAtMs = performance.now() + readyLimitMs;
    for (;;) {
      try {
        await request({ address: this.address, path, timeoutMs: 1_000 });
        return;
      } catch (error) {
        if (performance.now() > giveUpAtMs || this.#shell.exitCode !== null) throw error;
        await sleep(20);
      }
    }
  }

  async close(): Promise<void> {
    if (this.#shell.exitCode !== null) return;
    this.#shell.stdin?.end();
    await once(this.#shell, "exit");
  }
}

async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** What nginx is at its best with: one worker, no log, files kept open, connections kept for good. */
function configuration(port: number): string {
  const { username } = userInfo();
  // Only root may give a worker another user, and then the worker could not read the folder.
  const user = process.getuid?.() === 0 ? `user ${username};` : "";
  return `
${user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log error;
events {
  worker_connections 1024;
}
http {
  access_log off;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 60s;
  keepalive_requests 1000000000;
  open_file_cache max=4096 inactive=600s;
  open_file_cache_valid 600s;
  open_file_cache_min_uses 1;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {
    listen 127.0.0.1:${port};
    root files;
  }
}
`;
}

/**
 * A cluster of many processes for a run, each on a host of its own where that is possible: started, killed,
 * stopped for a while, started again.
 *
 * Invariants:
 * - A process keeps its host, its ports and its folder over its lives.
 * - Only processes that were started here are ever signalled, and none outlives this one.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../base/failure.ts";
import type { NetworkHosts } from "./network-hosts.ts";
import { request } from "./request.ts";

export type ManyRole = "directory" | "store" | "gateway";

export interface ManyProcessOptions {
  role: ManyRole;
  /** Of the process and of its host. */
  name: string;
  folder: string;
  /** Where there are none, all are on loopback, each on ports of its own. */
  hosts: NetworkHosts | undefined;
  port: number;
  args: readonly string[];
  env?: Record<string, string>;
}

const main = path.join(import.meta.dirname, "..", "main.ts");
const pollMs = 25;

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export class ManyProcess {
  readonly options: ManyProcessOptions;
  readonly logFile: string;
  #child: ChildProcess | undefined;
  #isStopped = false;

  constructor(options: ManyProcessOptions) {
    this.options = options;
    this.logFile = path.join(options.folder, `${options.name}.log`);
    mkdirSync(this.dataFolder, { recursive: true });
  }

  get name(): string {
    return this.options.name;
  }

  get host(): string {
    const { hosts, name } = this.options;
    return hosts?.addressOf(name) ?? "127.0.0.1";
  }

  get address(): string {
    return `${this.host}:${this.options.port}`;
  }

  get opsAddress(): string {
    return `${this.host}:${this.options.port + 1}`;
  }

  get dataFolder(): string {
    return path.join(this.options.folder, this.options.name);
  }

  /** Of its present life. */
  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined)
      throw new Failure("unavailable", `Cannot tell: ${this.name} is not running`);
    return pid;
  }

  get isRunning(): boolean {
    return this.#child !== undefined;
  }

  start(): void {
    if (this.#child !== undefined) return;
    const { role, hosts, name, port, args, env = {} } = this.options;
    const [program, ...before] = hosts?.command(name) ?? [];
    const command = [
      ...before,
      ...(program === undefined ? [] : [process.execPath]),
      ...[main, role, "--data", this.dataFolder, "--host", this.host, "--port", String(port)],
      ...["--ops-host", this.host, "--ops-port", String(port + 1), ...args],
    ];
    const log = openSync(this.logFile, "a");
    const child = spawn(program ?? process.execPath, command, {
      cwd: path.dirname(main),
      env: { ...process.env, ...env },
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#child = child;
    this.#isStopped = false;
    running.add(child);
    child.once("exit", () => {
      running.delete(child);
      if (this.#child === child) this.#child = undefined;
    });
  }

  /** SIGKILL; returns when it is gone. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** The stop in good order; one that does not come to its end is killed. */
  async stop(limitMs = 16_000): Promise<void> {
    this.resume();
    const late = setTimeout(() => this.#child?.kill("SIGKILL"), limitMs);
    await this.#end("SIGTERM");
    clearTimeout(late);
  }

  /** SIGSTOP: it is there, and does nothing. */
  freeze(): void {
    this.#isStopped = true;
    this.#child?.kill("SIGSTOP");
  }

  resume(): void {
    if (!this.#isStopped) return;
    this.#isStopped = false;
    this.#child?.kill("SIGCONT");
  }

  /** Waits until it says that it is ready, starting it again where it has ended. */
  async untilReady(limitMs = 60_000): Promise<void> {
    const giveUpAtMs = performance.now() + limitMs;
    let why = "it did not answer";
    while (performance.now() < giveUpAtMs) {
      this.start();
      try {
        const { status, body } = await request({
          address: this.opsAddress,
          path: "/readyz",
          timeoutMs: 2_000,
        });
        if (status === 200) return;
        why = body.toString().slice(0, 200);
      } catch {
        // Not yet.
      }
      await sleep(pollMs * 4);
    }
    throw new Failure("timeout", `Cannot see ${this.name} ready: ${why}\n${this.logTail()}`);
  }

  logTail(lines = 15): string {
    try {
      return readFileSync(this.logFile, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
    } catch {
      return "";
    }
  }

  async #end(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }
}

/** A small file system in memory, for a disk that can be filled. */
export class SmallDisk {
  readonly folder: string;

  constructor(folder: string, sizeBytes: number) {
    mkdirSync(folder, { recursive: true });
    this.folder = folder;
    const options = ["-t", "tmpfs", "-o", `size=${sizeBytes}`, "tmpfs", folder];
    if (spawnSync("mount", options).status !== 0) {
      throw new Failure("unsupported", `Cannot mount a small disk at ${folder}: root is needed`);
    }
    process.once("exit", () => this.unmount());
  }

  unmount(): void {
    spawnSync("umount", ["--lazy", this.folder]);
  }
}

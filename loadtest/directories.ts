/**
 * Several real directories on one PostgreSQL, each a process of its own, with stores and a gateway where a run
 * wants them: to be killed, frozen and started again.
 *
 * Invariant: nothing of it is left when this process has ended, but for a SIGKILL.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import { PostgresServer } from "../base/postgres-server.ts";
import { makeToken } from "../base/token.ts";
import { DirectoryClient, type LeaderStatus } from "../directory/client.ts";
import type { Credentials } from "./request.ts";

const main = path.join(import.meta.dirname, "..", "main.ts");
const readyLimitMs = 60_000;
const pollMs = 20;

/** One process of the cluster. */
export class Process {
  readonly name: string;
  readonly #args: readonly string[];
  readonly #logFile: string;
  readonly #env: Record<string, string>;
  #child: ChildProcess | undefined;
  #address: string | undefined;

  constructor(name: string, args: readonly string[], env: Record<string, string>, logFile: string) {
    this.name = name;
    this.#args = args;
    this.#env = env;
    this.#logFile = logFile;
  }

  get address(): string {
    if (this.#address === undefined) {
      throw new Failure("unavailable", `Cannot tell: ${this.name} was never ready`);
    }
    return this.#address;
  }

  get isRunning(): boolean {
    return this.#child !== undefined;
  }

  /** Starts it, on the address that it had, and waits until it is ready. */
  async start(): Promise<void> {
    const output = openSync(this.#logFile, "a");
    const port = this.#address?.split(":").at(-1) ?? "0";
    // With a channel to this process, it says when it is ready, and ends when this one has.
    const child = spawn(process.execPath, [main, ...this.#args, "--port", port], {
      env: { ...process.env, ...this.#env },
      stdio: ["ignore", output, output, "ipc"],
    });
    closeSync(output);
    this.#child = child;
    child.once("exit", () => {
      if (this.#child === child) this.#child = undefined;
    });
    const limit = AbortSignal.timeout(readyLimitMs);
    while (this.isRunning) {
      const [message] = (await Promise.race([
        once(child, "message", { signal: limit }),
        once(child, "exit").then(() => [{}]),
      ])) as [{ ready?: { address: string }; failed?: string }];
      if (message.failed !== undefined) throw new Failure("unavailable", message.failed);
      if (message.ready === undefined) continue;
      this.#address = message.ready.address;
      return;
    }
    throw new Failure("unavailable", `Cannot start ${this.name}: it ended; see ${this.#logFile}`);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** The drained stop. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const ended = once(child, "exit");
    child.send({ stop: true });
    await ended;
  }

  freeze(): void {
    this.#child?.kill("SIGSTOP");
  }

  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  killNow(): void {
    this.#child?.kill("SIGKILL");
  }
}

export class Directories {
  readonly folder: string;
  readonly postgres: PostgresServer;
  readonly all: Process[];
  readonly caller: Caller;
  readonly credentials: Credentials = { accessKey: "test", secretKey: "test-secret-of-a-run" };
  readonly #others: Process[] = [];
  readonly #end = () => this.#destroyNow();

  private constructor(
    folder: string,
    postgres: PostgresServer,
    databaseUrl: string,
    count: number,
  ) {
    this.folder = folder;
    this.postgres = postgres;
    this.caller = new Caller(makeToken(this.#tokenFile));
    this.all = Array.from({ length: count }, (_, at) =>
      this.#makeProcess(`directory-${at + 1}`, ["directory", "--native", "open"], {
        HAYLOFT_DIRECTORY_DATABASE: databaseUrl,
      }),
    );
    process.on("exit", this.#end);
  }

  static async start(count = 3): Promise<Directories> {
    const folder = mkdtempSync(path.join(tmpdir(), "hayloft-directories-"));
    const postgres = await PostgresServer.start();
    const made = new Directories(folder, postgres, await postgres.freshDatabase(), count);
    try {
      // At once: they meet over the empty database.
      await Promise.all(made.all.map((each) => each.start()));
      return made;
    } catch (error) {
      await made.destroy();
      throw error;
    }
  }

  /** All addresses, as stores and gateways are given them. */
  get addresses(): string {
    return this.all.map(({ address }) => address).join(",");
  }

  client(addresses: string = this.addresses): DirectoryClient {
    return new DirectoryClient(this.caller, addresses);
  }

  async startStore(): Promise<Process> {
    const name = `store-${this.#others.length + 1}`;
    const size = ["--reserve", "1MB", "--volume-size", "64MiB"];
    const data = path.join(this.folder, name);
    const store = this.#makeProcess(name, [
      ...["store", "--data", data, "--directory", this.addresses, "--native", "open", ...size],
    ]);
    this.#others.push(store);
    await store.start();
    return store;
  }

  async startGateway(): Promise<Process> {
    const name = `gateway-${this.#others.length + 1}`;
    const credentials = path.join(this.folder, "credentials.json");
    writeFileSync(credentials, JSON.stringify(this.credentials), { mode: 0o600 });
    const data = path.join(this.folder, name);
    mkdirSync(data);
    const gateway = this.#makeProcess(name, [
      ...["gateway", "--data", data, "--directory", this.addresses, "--credentials", credentials],
    ]);
    this.#others.push(gateway);
    await gateway.start();
    return gateway;
  }

  /** Waits until one says that it leads; never one of `but`. */
  async untilLed({ but, limitMs = 30_000 }: { but?: Process; limitMs?: number } = {}): Promise<{
    process: Process;
    status: LeaderStatus;
  }> {
    const giveUpAtMs = performance.now() + limitMs;
    while (performance.now() < giveUpAtMs) {
      for (const each of this.all) {
        if (each === but || !each.isRunning) continue;
        const status = await this.client(each.address)
          .leader()
          .catch(() => undefined);
        if (status?.isLeader === true) return { process: each, status };
      }
      await sleep(pollMs);
    }
    throw new Failure("timeout", `Cannot find a leader within ${limitMs} ms: see ${this.folder}`);
  }

  async destroy(): Promise<void> {
    for (const each of [...this.#others, ...this.all]) await each.kill();
    await this.caller.close();
    await this.postgres.destroy();
    process.off("exit", this.#end);
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }

  get #tokenFile(): string {
    return path.join(this.folder, "token");
  }

  #makeProcess(name: string, args: string[], env: Record<string, string> = {}): Process {
    const log = path.join(this.folder, `${name}.log`);
    return new Process(name, [...args, "--token-file", this.#tokenFile], env, log);
  }

  #destroyNow(): void {
    for (const each of [...this.#others, ...this.all]) each.killNow();
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

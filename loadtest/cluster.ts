/**
 * A real `hayloft up` for a run: started in a folder of its own, killed in parts or whole, started again.
 *
 * Invariants:
 * - All processes of a cluster are in one process group, which no process of the harness is in: whoever
 *   is left after a supervisor's death is still found, and nothing else is ever hit.
 * - When this process ends, by a signal or an exception too, the group is gone before it.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, closeSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, systemErrorCode } from "../base/failure.ts";
import { type Credentials, request, sumMetric } from "./request.ts";

export const roles = ["store", "gateway", "directory"] as const;
export type Role = (typeof roles)[number];

/** What a run may kill: one role, the supervisor alone, or everything at once. */
export type Victim = Role | "up" | "all";

export interface RolePlace {
  pid: number;
  address: string;
  opsAddress: string;
}

/** The content of `run.json`; it grows as the roles get ready. */
type RunFile = { pid: number } & Partial<Record<Role, RolePlace>>;

export interface ClusterOptions {
  /** The data folder; a temporary one, removed at the end, if none is given. */
  folder?: string;
  flags?: readonly string[];
  env?: Record<string, string>;
  /** The file that everything the processes print is appended to; beside the data if none is given. */
  log?: string;
}

const main = path.join(import.meta.dirname, "..", "main.ts");
const readyLimitMs = 30_000;
// The 15 s that a user may count on, and a little for the machine.
const stopLimitMs = 17_000;
const pollMs = 20;

export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const isTemporary = options.folder === undefined;
  const folder = options.folder ?? (await mkdtemp(path.join(tmpdir(), "hayloft-run-")));
  await mkdir(folder, { recursive: true });
  const cluster = new Cluster(folder, options, isTemporary);
  try {
    await cluster.start();
  } catch (error) {
    await cluster.destroy();
    throw error;
  }
  return cluster;
}

export class Cluster {
  readonly folder: string;
  readonly logFile: string;
  readonly #env: Record<string, string>;
  readonly #isTemporary: boolean;
  readonly #isOwnLog: boolean;
  #flags: readonly string[];
  #up: ChildProcess | undefined;
  /** Process groups that somebody may be left in: of the running `up`, and of those before it. */
  readonly #groups = new Set<number>();
  #run: RunFile | undefined;
  #killed = new Set<number>();

  constructor(folder: string, { flags = [], env = {}, log }: ClusterOptions, isTemporary: boolean) {
    this.folder = folder;
    this.logFile = log ?? `${folder}.log`;
    this.#isOwnLog = log === undefined;
    this.#flags = flags;
    this.#env = env;
    this.#isTemporary = isTemporary;
    guard(this);
  }

  get gatewayAddress(): string {
    return this.place("gateway").address;
  }

  get storeAddress(): string {
    return this.place("store").address;
  }

  /** Where a role was when `run.json` was last read. */
  place(role: Role): RolePlace {
    const place = this.#run?.[role];
    if (place === undefined)
      throw new Failure("unavailable", `Cannot tell: no ${role} was ready yet`);
    return place;
  }

  get credentials(): Credentials {
    return JSON.parse(readFileSync(path.join(this.folder, "credentials.json"), "utf8"));
  }

  get secretFile(): string {
    return path.join(this.folder, "token");
  }

  /** What the processes sign their calls with. */
  get secret(): ClusterSecret {
    return ClusterSecret.read(this.secretFile);
  }

  /** The sum of a role's metric over all samples that have these labels. */
  async metric(role: Role, name: string, labels: Record<string, string> = {}): Promise<number> {
    const { body } = await request({ address: this.place(role).opsAddress, path: "/metrics" });
    return sumMetric(body.toString(), name, labels);
  }

  pids(): Record<Role | "up", number> {
    const { pid: up, store, gateway, directory } = this.#readRun() ?? {};
    if (!up || !store || !gateway || !directory) {
      throw new Failure("unavailable", `Cannot tell the pids: ${this.folder}/run.json lacks some`);
    }
    return { up, store: store.pid, gateway: gateway.pid, directory: directory.pid };
  }

  /** Starts `up` and waits for its banner, and until every role is ready. */
  async start(flags?: readonly string[]): Promise<void> {
    if (this.#up !== undefined) throw new Failure("conflict", "Cannot start: it runs already");
    if (flags !== undefined) this.#flags = flags;
    const output = openSync(this.logFile, "a");
    const up = spawn(
      process.execPath,
      [main, "up", "--data", this.folder, "--port", "0", ...this.#flags],
      {
        cwd: path.dirname(main),
        env: { ...process.env, ...this.#env },
        stdio: ["ignore", "pipe", output],
        detached: true,
      },
    );
    closeSync(output);
    let hasBanner = false;
    up.stdout?.on("data", (text: Buffer) => {
      hasBanner = true;
      appendFileSync(this.logFile, text);
    });
    this.#up = up;
    if (up.pid !== undefined) this.#groups.add(up.pid);
    up.on("exit", () => {
      if (this.#up === up) this.#up = undefined;
    });
    const giveUpAtMs = performance.now() + readyLimitMs;
    await this.untilReady();
    // The banner comes last: after the first bucket.
    while (!hasBanner && this.#up === up && performance.now() < giveUpAtMs) await sleep(pollMs);
    if (!hasBanner) throw await this.#failure("see the banner");
  }

  /**
   * Starts `up` again after it was killed. What is left of the last one may still hold the folder, and
   * `up` may say so and end: whoever restarts it tries again. Returns how often that took.
   */
  async startAgain(flags?: readonly string[]): Promise<number> {
    const giveUpAtMs = performance.now() + stopLimitMs;
    for (let tries = 1; ; tries++) {
      try {
        await this.start(flags);
        return tries;
      } catch (error) {
        if (this.#up !== undefined || performance.now() > giveUpAtMs) throw error;
        await sleep(200);
      }
    }
  }

  /** Waits until all roles that `run.json` names are new since the last kill, and ready. */
  async untilReady(limitMs: number = readyLimitMs): Promise<void> {
    const giveUpAtMs = performance.now() + limitMs;
    let missing = "run.json";
    while (performance.now() < giveUpAtMs) {
      const up = this.#up;
      if (up === undefined) throw await this.#failure("start hayloft: up ended");
      const run = this.#readRun();
      if (run !== undefined && run.pid === up.pid) {
        missing = await this.#findMissing(run);
        if (missing === "") {
          this.#run = run;
          this.#forgetEmptyGroups();
          return;
        }
      }
      await sleep(pollMs);
    }
    throw await this.#failure(`reach ${missing} within ${limitMs} ms`);
  }

  async #failure(what: string): Promise<Failure> {
    const tail = await this.logTail();
    return new Failure("unavailable", `Cannot ${what}, with the data in ${this.folder}\n${tail}`);
  }

  async #findMissing(run: RunFile): Promise<string> {
    for (const role of roles) {
      const place = run[role];
      if (place === undefined || this.#killed.has(place.pid)) return role;
      try {
        const { status } = await request({
          address: place.opsAddress,
          path: "/readyz",
          timeoutMs: 2_000,
        });
        if (status !== 200) return role;
      } catch {
        return role;
      }
    }
    return "";
  }

  /** SIGKILL, at once. The supervisor restarts a role; `up` and `all` are started with `startAgain`. */
  async kill(victim: Victim): Promise<void> {
    const up = this.#up;
    if (up?.pid === undefined) {
      throw new Failure("unavailable", `Cannot kill ${victim}: nothing runs`);
    }
    if (victim === "all" || victim === "up") {
      const ended = new Promise<void>((resolve) => up.once("exit", () => resolve()));
      if (victim === "all") this.#killGroups();
      else up.kill("SIGKILL");
      await ended;
      return;
    }
    const pid = this.#readRun()?.[victim]?.pid;
    if (pid === undefined || !membersOf(up.pid).includes(pid)) {
      throw new Failure("unavailable", `Cannot kill ${victim}: its process is not there`);
    }
    this.#killed.add(pid);
    process.kill(pid, "SIGKILL");
  }

  /** The drained stop that a user gets. Fails if anyone is left after the limit, and ends them. */
  async stop(): Promise<void> {
    this.#up?.kill("SIGTERM");
    const giveUpAtMs = performance.now() + stopLimitMs;
    for (;;) {
      const left = [...this.#groups].flatMap(membersOf);
      if (left.length === 0 && this.#up === undefined) break;
      if (performance.now() > giveUpAtMs) {
        this.destroySync();
        throw new Failure(
          "timeout",
          `Cannot stop hayloft: after ${stopLimitMs} ms there still ran ${left.join(", ")}`,
        );
      }
      await sleep(pollMs);
    }
    this.#groups.clear();
  }

  async restart(flags?: readonly string[]): Promise<void> {
    await this.stop();
    await this.start(flags);
  }

  /** A stop, and the end of a temporary folder. */
  async close(): Promise<void> {
    try {
      await this.stop();
    } finally {
      await this.destroy();
    }
  }

  /** Ends everything at once, and removes a temporary folder. */
  async destroy(): Promise<void> {
    this.destroySync();
    clusters.delete(this);
    if (!this.#isTemporary) return;
    // Those who were just killed may still be writing for a moment.
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
    if (this.#isOwnLog) await rm(this.logFile, { force: true });
  }

  /** For the end of this process, when nothing can be waited for any more. */
  destroySync(): void {
    this.#killGroups();
    this.#groups.clear();
  }

  /** A number that nobody answers to any more may be given to strangers. */
  #forgetEmptyGroups(): void {
    for (const group of this.#groups) {
      if (membersOf(group).length === 0) this.#groups.delete(group);
    }
  }

  #killGroups(): void {
    for (const group of this.#groups) {
      try {
        process.kill(-group, "SIGKILL");
      } catch (error) {
        if (systemErrorCode(error) !== "ESRCH") throw error;
        this.#groups.delete(group);
      }
    }
  }

  removeSync(): void {
    if (!this.#isTemporary) return;
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
    if (this.#isOwnLog) rmSync(this.logFile, { force: true });
  }

  async logTail(): Promise<string> {
    const text = await readFile(this.logFile, "utf8").catch(() => "");
    const lines = text.trimEnd().split("\n").slice(-12);
    return lines.map((line) => line.slice(0, 400)).join("\n");
  }

  #readRun(): RunFile | undefined {
    try {
      return JSON.parse(readFileSync(path.join(this.folder, "run.json"), "utf8"));
    } catch {
      return undefined; // not written yet
    }
  }
}

/** The pids of a process group, without those that ended and were not yet collected. */
function membersOf(group: number): number[] {
  if (process.platform !== "linux") {
    try {
      process.kill(-group, 0);
      return [group];
    } catch {
      return [];
    }
  }
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const stat = readProcStat(pid);
      return stat !== undefined && stat.group === group && stat.state !== "Z";
    });
}

function readProcStat(pid: number): { state: string; group: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold anything, parentheses too.
    const [state = "", , group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { state, group: Number(group) };
  } catch {
    return undefined; // ended while we looked
  }
}

const clusters = new Set<Cluster>();
let isGuarding = false;

/** Sees to it that this process does not end before the cluster does. */
function guard(cluster: Cluster): void {
  clusters.add(cluster);
  if (isGuarding) return;
  isGuarding = true;
  // First of all that listen: nobody may remove folders under processes that still run.
  process.prependListener("exit", () => {
    for (const left of clusters) {
      left.destroySync();
      left.removeSync();
    }
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => process.exit(130));
  }
}

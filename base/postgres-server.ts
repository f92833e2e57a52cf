/**
 * For tests: a real PostgreSQL server of one's own, in a temporary folder, on a free port of loopback.
 *
 * Invariants:
 * - It is gone with the process that started it, however that ends but by SIGKILL, and its folder too.
 * - PostgreSQL refuses to run as root: there, it runs as the system's user `postgres`.
 */

import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  accessSync,
  appendFileSync,
  chmodSync,
  constants,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { Failure, messageOf } from "./failure.ts";
import { listen } from "./http-serve.ts";

export interface PostgresServerOptions {
  /** Lines of postgresql.conf by name, such as `{ wal_level: "replica" }`. */
  settings?: Record<string, string | number>;
}

/** Without these a test server would be slow, or not found. What a test sets comes after them. */
const settingsOfTests = {
  fsync: "off",
  full_page_writes: "off",
  listen_addresses: "127.0.0.1",
  max_connections: 100,
  shared_buffers: "16MB",
  unix_socket_directories: "",
} as const;

const startLimitMs = 30_000;
const pollMs = 20;

/** The folder of initdb, postgres and pg_basebackup, or undefined where there is none. */
function findPostgres(): string | undefined {
  const versions = (folder: string) => {
    try {
      return readdirSync(folder).sort((left, right) => Number(right) - Number(left));
    } catch {
      return [];
    }
  };
  const debian = "/usr/lib/postgresql";
  const folders = [
    ...(process.env.PATH ?? "").split(path.delimiter),
    ...versions(debian).map((version) => path.join(debian, version, "bin")),
  ];
  return folders.find((folder) =>
    ["initdb", "postgres", "pg_basebackup"].every((name) => isProgram(path.join(folder, name))),
  );
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export const postgresPrograms: string | undefined = findPostgres();

/**
 * Whether tests with a PostgreSQL have to be left out, since there is none here. Where all has to be tested
 * (`CI=true`), it is never so: they fail then, by the server's own sentence.
 */
export const lacksPostgres: boolean = postgresPrograms === undefined && process.env.CI !== "true";

/** Words for the name of a test, so that leaving it out is seen. */
export const needsPostgres = "(needs PostgreSQL: Debian's package postgresql)";

export class PostgresServer {
  readonly folder: string;
  readonly port: number;
  readonly #settings: Record<string, string | number>;
  readonly #ends = new Set<() => void>();
  #process: ChildProcess | undefined;
  #databases = 0;

  private constructor(folder: string, port: number, settings: Record<string, string | number>) {
    this.folder = folder;
    this.port = port;
    this.#settings = settings;
    const end = () => this.#destroyNow();
    process.on("exit", end);
    this.#ends.add(() => process.off("exit", end));
  }

  /** Makes a server and starts it. */
  static async start({ settings = {} }: PostgresServerOptions = {}): Promise<PostgresServer> {
    const server = await PostgresServer.#make(settings);
    await server.#prepare("initdb", [
      ...["--pgdata", server.#data, "--username", "postgres", "--auth", "trust"],
      ...["--encoding", "UTF8", "--no-locale", "--no-sync"],
    ]);
    await server.restart();
    return server;
  }

  /** A standby of this server, by streaming replication; it takes no writes until `promote`. */
  async startStandby({
    settings = {},
    name = "standby",
  }: PostgresServerOptions & {
    /** What `synchronous_standby_names` of the primary calls it. */
    name?: string;
  } = {}): Promise<PostgresServer> {
    const primary = `host=127.0.0.1 port=${this.port} user=postgres application_name=${name}`;
    const standby = await PostgresServer.#make({ ...this.#settings, ...settings });
    await standby.#prepare("pg_basebackup", [
      ...["--pgdata", standby.#data, "--dbname", primary],
      ...["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"],
    ]);
    await standby.restart();
    return standby;
  }

  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /** Its first process. */
  get pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Failure("unavailable", "Cannot tell: PostgreSQL is stopped");
    return pid;
  }

  url(database = "postgres"): string {
    return `postgres://postgres@127.0.0.1:${this.port}/${database}`;
  }

  /** An empty database that nobody else uses; returns its URL. */
  async freshDatabase(): Promise<string> {
    this.#databases += 1;
    const name = `test_${this.#databases}`;
    await this.query(`create database ${name}`);
    return this.url(name);
  }

  /** One statement, on a connection of its own. */
  async query(sql: string, database?: string): Promise<Record<string, unknown>[]> {
    const client = new pg.Client({
      connectionString: this.url(database),
      connectionTimeoutMillis: 2_000,
    });
    client.on("error", () => undefined); // its end is told by the query
    await client.connect();
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  }

  /** Starts it, on the port that it had, and waits until it answers. Its databases are as they were left. */
  async restart(): Promise<void> {
    if (this.#process !== undefined) throw new Failure("conflict", "Cannot start: it runs already");
    const child = spawn(...asServerUser(program("postgres"), ["-D", this.#data]), {
      cwd: this.folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (part: Buffer) => {
        output = (output + part.toString()).slice(-4_000);
      });
    }
    this.#process = child;
    child.once("exit", () => {
      if (this.#process === child) this.#process = undefined;
    });
    const deadlineMs = performance.now() + startLimitMs;
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Failure("unavailable", `Cannot start PostgreSQL: ${output}`);
      }
      const reason = await this.query("select 1").then(() => undefined, messageOf);
      if (reason === undefined) return;
      if (performance.now() > deadlineMs) {
        throw new Failure("timeout", `Cannot start PostgreSQL: ${reason}`);
      }
      await sleep(pollMs);
    }
  }

  /** Stops it in order, cutting off who is connected. */
  async stop(): Promise<void> {
    await this.#end("SIGINT");
  }

  /** Kills all its processes at once, as when its machine dies. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (child?.pid === undefined) return;
    // Frozen first, so that none of the others sees another's end and tells its client a reason.
    const pids = [child.pid, ...childrenOf(child.pid)];
    for (const pid of pids) signal(pid, "SIGSTOP");
    for (const pid of pids) signal(pid, "SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }

  /** Freezes all its processes, as when its machine hangs. */
  freeze(): void {
    for (const pid of [this.pid, ...childrenOf(this.pid)]) signal(pid, "SIGSTOP");
  }

  thaw(): void {
    for (const pid of [this.pid, ...childrenOf(this.pid)]) signal(pid, "SIGCONT");
  }

  /** Makes a standby the primary. */
  async promote(): Promise<void> {
    await this.query("select pg_promote(true, 30)");
  }

  /** Ends it, and removes its folder. */
  async destroy(): Promise<void> {
    await this.#end("SIGQUIT");
    for (const end of this.#ends) end();
    rmSync(this.folder, { recursive: true, force: true });
  }

  static async #make(settings: Record<string, string | number>): Promise<PostgresServer> {
    const folder = mkdtempSync(path.join(tmpdir(), "hayloft-postgres-"));
    if (isRoot) {
      chmodSync(folder, 0o755);
      spawnSync("chown", ["postgres:", folder]);
    }
    return new PostgresServer(folder, await freePort(), settings);
  }

  get #data(): string {
    return path.join(this.folder, "data");
  }

  /** Makes the data folder with a program, and says in it what this server's settings are. */
  async #prepare(name: string, args: string[]): Promise<void> {
    const [file, allArgs] = asServerUser(program(name), args);
    try {
      await promisify(execFile)(file, allArgs, { cwd: this.folder });
    } catch (error) {
      await this.destroy();
      throw new Failure("unavailable", `Cannot make a PostgreSQL: ${messageOf(error)}`);
    }
    const settings = { ...settingsOfTests, ...this.#settings, port: this.port };
    const lines = Object.entries(settings).map(([key, value]) => `${key} = '${value}'\n`);
    appendFileSync(path.join(this.#data, "postgresql.conf"), lines.join(""));
  }

  async #end(how: "SIGINT" | "SIGQUIT"): Promise<void> {
    const child = this.#process;
    if (child?.pid === undefined) return;
    const pids = [child.pid, ...childrenOf(child.pid)];
    signal(child.pid, how);
    for (const pid of pids) signal(pid, "SIGCONT"); // a frozen one can't end
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }

  #destroyNow(): void {
    const pid = this.#process?.pid;
    if (pid !== undefined) for (const each of [pid, ...childrenOf(pid)]) signal(each, "SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const isRoot = process.getuid?.() === 0;

function program(name: string): string {
  if (postgresPrograms === undefined) {
    throw new Failure(
      "unavailable",
      "Cannot find PostgreSQL, neither on PATH nor in /usr/lib/postgresql: install Debian's package postgresql",
    );
  }
  return path.join(postgresPrograms, name);
}

/** A program and its arguments, as they are run by a user that PostgreSQL accepts. */
function asServerUser(file: string, args: string[]): [string, string[]] {
  if (!isRoot) return [file, args];
  const user = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
  return ["setpriv", [...user, file, ...args]];
}

/** Processes that a process has started; PostgreSQL's start none of their own. */
function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    return text.split(" ").filter(Boolean).map(Number);
  } catch {
    return []; // gone, or not a Linux: then the first process's end is that of the others
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended by itself.
  }
}

async function freePort(): Promise<number> {
  const holder = createServer();
  const { port } = await listen(holder, { host: "127.0.0.1", port: 0 });
  holder.close();
  await once(holder, "close");
  return port;
}

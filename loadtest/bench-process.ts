/** Helper processes of the benchmark: a script of this folder that speaks in lines, and pinning. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { Failure } from "../base/failure.ts";

/** What keeps a process on a core, where the machine has it. */
export const pinner = "taskset";

/** What Linux counts processor time in, on every machine that Node runs on. */
const ticksPerSecond = 100;

export interface LineProcessOptions {
  env?: Record<string, string>;
  /** Flags for Node itself. */
  nodeFlags?: readonly string[];
  /** Where all its threads are kept, if anywhere. */
  core?: number | undefined;
}

export class LineProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #name: string;

  constructor(
    script: string,
    args: string[],
    { env = {}, nodeFlags = [], core }: LineProcessOptions = {},
  ) {
    this.#name = script;
    const command = [
      ...pinPrefix(core),
      ...[process.execPath, ...nodeFlags, path.join(import.meta.dirname, script), ...args],
    ];
    this.#child = spawn(command[0] ?? "", command.slice(1), {
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    endWithUs(this.#child);
    const { stdin, stdout } = this.#child;
    if (stdout === null) throw new Failure("internal", `Cannot read from ${script}`);
    stdin?.on("error", () => undefined); // that it ended is told by the line that does not come
    this.#lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async readLine(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Failure("internal", `Cannot go on: ${this.#name} ended`);
    return value;
  }

  async ask(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    return await this.readLine();
  }

  /** It ends with its input, which also happens when this process ends in any way. */
  async close(): Promise<void> {
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) return;
    const ended = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.stdin?.end();
    await ended;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}

/** Keeps all threads of a process on one core; does nothing where there is no pinning. */
export function pinTo(core: number | undefined, pid: number): void {
  if (core !== undefined) execFileSync(pinner, ["-acp", String(core), String(pid)]);
}

/** What a process has used of processors so far, all threads together; NaN where the system does not tell. */
export function processorSeconds(pid: number): number {
  if (process.platform !== "linux") return Number.NaN;
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The name in parentheses may hold anything, parentheses too.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [user, system] = [fields[11], fields[12]].map(Number);
  return ((user ?? Number.NaN) + (system ?? Number.NaN)) / ticksPerSecond;
}

/** What stands before a command that is to be kept on a core. */
export function pinPrefix(core: number | undefined): string[] {
  return core === undefined ? [] : [pinner, "-c", String(core)];
}

const children = new Set<ChildProcess>();
let isGuarding = false;

/** Ends the child before this process ends: what it writes is about to be removed. */
function endWithUs(child: ChildProcess): void {
  children.add(child);
  child.once("exit", () => children.delete(child));
  if (isGuarding) return;
  isGuarding = true;
  process.prependListener("exit", () => {
    for (const left of children) left.kill("SIGKILL");
  });
}

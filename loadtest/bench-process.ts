/** Helper processes of the benchmark: a script of this folder that speaks in lines, and pinning. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import path from "node:path";
import { createInterface } from "node:readline";
import { Failure } from "../base/failure.ts";

/** What keeps a process on a core, where the machine has it. */
export const pinner = "taskset";

export class LineProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #name: string;

  constructor(script: string, args: string[], env: Record<string, string> = {}) {
    this.#name = script;
    this.#child = spawn(process.execPath, [path.join(import.meta.dirname, script), ...args], {
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const { stdout } = this.#child;
    if (stdout === null) throw new Failure("internal", `Cannot read from ${script}`);
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
    const ended = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    this.#child.stdin?.end();
    await ended;
  }
}

/** Keeps all threads of a process on one core; does nothing where there is no pinning. */
export function pinTo(core: number | undefined, pid: number): void {
  if (core !== undefined) execFileSync(pinner, ["-acp", String(core), String(pid)]);
}

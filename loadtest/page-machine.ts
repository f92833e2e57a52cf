/**
 * A machine on which the commands of a page run as they are: a network namespace with an address of its own,
 * and a /srv and an /etc/hosts that no other has. Linux and root only.
 *
 * Invariants:
 * - A command has a limit, and what it leaves running ends with the machine.
 * - Nothing outside the given folder and the namespace is written.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Failure } from "../base/failure.ts";

const root = path.join(import.meta.dirname, "..");
const commandLimitMs = 90_000;
const readyLimitMs = 60_000;

// Mounts are this process's alone: `ip netns exec` has given it a mount namespace.
const enter = `
mount --bind "$MACHINE/srv" /srv
mount --bind "$MACHINE/hosts" /etc/hosts
if [ -f /srv/hayloft/environment ]; then set -a; . /srv/hayloft/environment; set +a; fi
if [ -n "$AS" ]; then exec setpriv --reuid="$AS" --regid="$AS" --init-groups -- bash -euo pipefail -c "$SCRIPT"; fi
exec bash -euo pipefail -c "$SCRIPT"
`;

export class PageMachine {
  readonly address: string;
  readonly #folder: string;
  readonly #inside: readonly [string, ...string[]];
  readonly #tools: string;
  #running: ChildProcess[] = [];

  /** `inside` runs a program in the machine's namespace; `tools` are folders to be found on its PATH. */
  constructor({
    address,
    folder,
    inside,
    tools,
  }: {
    address: string;
    folder: string;
    inside: readonly [string, ...string[]];
    tools: readonly string[];
  }) {
    this.address = address;
    this.#folder = folder;
    this.#inside = inside;
    this.#tools = [...tools, process.env.PATH ?? ""].join(path.delimiter);
    mkdirSync(this.srv, { recursive: true });
    for (const each of [folder, this.srv]) chmodSync(each, 0o755);
    writeFileSync(path.join(folder, "hosts"), "127.0.0.1 localhost\n");
  }

  get srv(): string {
    return path.join(this.#folder, "srv");
  }

  /** Everything that commands and processes have printed. */
  get log(): string {
    return readFileSync(this.#logFile, { encoding: "utf8", flag: "a+" });
  }

  /** Runs a script to its end, which has to be a good one; returns what it printed. */
  async run(script: string, as = ""): Promise<string> {
    const child = this.#spawn(script, as);
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (data: Buffer) => {
        printed += data.toString();
      });
    }
    const limit = setTimeout(() => child.kill("SIGKILL"), commandLimitMs);
    // Not "close": what goes on in the background keeps the pipes.
    const [code] = (await once(child, "exit")) as [number | null];
    clearTimeout(limit);
    appendFileSync(this.#logFile, `[${this.address}] ${script}${printed}`);
    if (code === 0) return printed;
    throw new Failure(
      "unavailable",
      `Cannot run this on ${this.address} (${code}):\n${script}${printed}`,
    );
  }

  /** Starts what keeps running, and waits until it says that it is ready. */
  async start(script: string): Promise<void> {
    const child = this.#spawn(script, "");
    this.#running.push(child);
    let printed = "";
    const ready = new Promise<boolean>((resolve) => {
      for (const stream of [child.stdout, child.stderr]) {
        stream?.on("data", (data: Buffer) => {
          appendFileSync(this.#logFile, data);
          printed = (printed + data.toString()).slice(-20_000);
          if (printed.includes('"msg":"ready"')) resolve(true);
        });
      }
      child.once("exit", () => resolve(false));
      setTimeout(() => resolve(false), readyLimitMs).unref();
    });
    if (!(await ready)) {
      throw new Failure("unavailable", `Cannot start on ${this.address}:\n${script}${printed}`);
    }
  }

  /** At once, with everything on it. */
  async kill(): Promise<void> {
    const [, , , namespace = ""] = this.#inside;
    const { stdout } = spawnSync("ip", ["netns", "pids", namespace], { encoding: "utf8" });
    for (const pid of stdout.split("\n").filter(Boolean)) {
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
    const left = this.#running.filter((each) => each.exitCode === null && each.signalCode === null);
    await Promise.all(left.map((child) => once(child, "exit")));
    this.#running = [];
  }

  get #logFile(): string {
    return path.join(this.#folder, "log");
  }

  #spawn(script: string, as: string): ChildProcess {
    const [program, ...args] = this.#inside;
    return spawn(program, [...args, "bash", "-euc", enter], {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, PATH: this.#tools, MACHINE: this.#folder, AS: as, SCRIPT: script },
    });
  }
}

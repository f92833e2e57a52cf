/**
 * Keeps one child process running: starts it, learns its address when it is ready, starts it again
 * when it dies, waiting a little longer each time, and ends it in good time.
 *
 * Invariants:
 * - At most one child runs at a time; after `stop` none does.
 * - Giving up is final and told once, with the reason.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { EventEmitter } from "node:events";
import { Failure, messageOf } from "./failure.ts";
import type { Log } from "./log.ts";
import { exitCodeHopeless, type SupervisorMessage } from "./role.ts";

export interface SupervisedProcess<Ready> {
  name: string;
  /** Arguments of Node: a script and what it takes. `last` is what the previous run was ready with. */
  args: (last: Ready | undefined) => string[];
  env?: Record<string, string>;
  log: Log;
  /** How long a start may take before it counts as failed. */
  readyLimitMs?: number;
  /** From the stop signal to SIGKILL. */
  stopLimitMs?: number;
}

/** What a child says to its supervisor: one message, `ready` or `failed`. */
interface ChildMessage {
  ready?: unknown;
  failed?: string;
}

interface SupervisorEvents<Ready> {
  ready: [Ready];
  /** The child ended unasked; another start follows unless `gaveUp` does. */
  died: [string];
  gaveUp: [Failure];
}

const backoffMs = { first: 100, last: 5_000 };
/** A child that ran this long was all right: what kills it next starts a new count. */
const steadyMs = 60_000;
const startsMax = 12;

export class Supervisor<Ready> extends EventEmitter<SupervisorEvents<Ready>> {
  readonly #options: SupervisedProcess<Ready>;
  #child: ChildProcess | undefined;
  #ready: Ready | undefined;
  #last: Ready | undefined;
  #failures = 0;
  #restarts = 0;
  #stopping = false;
  #retry: NodeJS.Timeout | undefined;

  constructor(options: SupervisedProcess<Ready>) {
    super();
    this.#options = options;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** What the running child is ready with, or undefined while there is none that is ready. */
  get ready(): Ready | undefined {
    return this.#ready;
  }

  /** What the last child that was ready was ready with, whether or not it still runs. */
  get last(): Ready | undefined {
    return this.#last;
  }

  /** How often a child that died was started again. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Starts the child; resolves when it is ready, rejects when it was given up. */
  start(): Promise<Ready> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        this.off("ready", onReady);
        this.off("gaveUp", onGaveUp);
      };
      const onReady = (ready: Ready) => {
        settle();
        resolve(ready);
      };
      const onGaveUp = (failure: Failure) => {
        settle();
        reject(failure);
      };
      this.on("ready", onReady);
      this.on("gaveUp", onGaveUp);
      this.#spawn();
    });
  }

  /** From now on a child that ends is not started again. */
  retire(): void {
    this.#stopping = true;
    clearTimeout(this.#retry);
  }

  /** Asks the child to end and waits for it; ends it by force after the limit. */
  async stop(): Promise<void> {
    this.retire();
    const child = this.#child;
    if (child === undefined) return;
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    // A role goes by the message, any other child by the signal.
    const message: SupervisorMessage = { stop: true };
    if (child.connected) child.send(message);
    child.kill("SIGTERM");
    const force = setTimeout(() => child.kill("SIGKILL"), this.#options.stopLimitMs ?? 13_000);
    await exited;
    clearTimeout(force);
  }

  /** Ends a child that no longer answers; it is started again as after any death. */
  kill(): void {
    this.#child?.kill("SIGKILL");
  }

  #spawn(): void {
    const { name, args, env, log, readyLimitMs = 30_000 } = this.#options;
    const child = spawn(process.execPath, args(this.#last), {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      env: { ...process.env, ...env },
      serialization: "advanced",
    });
    this.#child = child;
    const startedMs = performance.now();
    let failed: string | undefined;
    const tooSlow = setTimeout(() => {
      failed = `not ready within ${readyLimitMs} ms`;
      child.kill("SIGKILL");
    }, readyLimitMs);

    child.on("message", (message: ChildMessage) => {
      if (message.failed !== undefined) failed = message.failed;
      if (message.ready === undefined || this.#stopping) return;
      clearTimeout(tooSlow);
      this.#ready = message.ready as Ready;
      this.#last = this.#ready;
      this.emit("ready", this.#ready);
    });
    child.on("error", (error) => {
      failed = messageOf(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(tooSlow);
      this.#child = undefined;
      this.#ready = undefined;
      if (this.#stopping) return;
      const reason = failed ?? (signal === null ? `exit code ${code}` : `signal ${signal}`);
      this.emit("died", reason);
      if (performance.now() - startedMs > steadyMs) this.#failures = 0;
      this.#failures += 1;
      if (code === exitCodeHopeless || this.#failures >= startsMax) {
        this.#stopping = true;
        this.emit("gaveUp", new Failure("unavailable", `Cannot run ${name}: ${reason}`));
        return;
      }
      log.warn({ child: name, reason }, "a child process ended and is started again");
      this.#restarts += 1;
      const delayMs = Math.min(backoffMs.first * 2 ** (this.#failures - 1), backoffMs.last);
      this.#retry = setTimeout(() => this.#spawn(), delayMs);
    });
  }
}

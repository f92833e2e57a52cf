/**
 * The log of a crash run: what was meant, and what was acknowledged, kept outside the data folder.
 *
 * Invariants:
 * - `append` returns when the records are on the disk. Whoever writes meanwhile shares the next sync.
 * - Records lie in the file in the order of the calls.
 */

import { closeSync, fdatasync, openSync, write } from "node:fs";
import { promisify } from "node:util";
import type { LogRecord } from "./crash-verify.ts";

const writeAsync = promisify(write);
const syncAsync = promisify(fdatasync);

export class CrashLog {
  readonly #descriptor: number;
  #waiting: string[] = [];
  #next: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(file: string) {
    this.#descriptor = openSync(file, "wx", 0o600);
  }

  append(...records: LogRecord[]): Promise<void> {
    for (const record of records) this.#waiting.push(`${JSON.stringify(record)}\n`);
    this.#next ??= this.#running.then(() => this.#flush());
    return this.#next;
  }

  async #flush(): Promise<void> {
    const text = this.#waiting.join("");
    this.#waiting = [];
    this.#running = this.#write(text);
    this.#next = undefined;
    await this.#running;
  }

  async #write(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await writeAsync(this.#descriptor, bytes, done);
      done += bytesWritten;
    }
    await syncAsync(this.#descriptor);
  }

  async close(): Promise<void> {
    await this.#next;
    await this.#running;
    closeSync(this.#descriptor);
  }
}

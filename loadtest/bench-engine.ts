/** What the benchmark's lines of the volume engine share: their children, and the disk without its cache. */

import { execFile } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { Failure, systemErrorCode } from "../base/failure.ts";
import { formatBytes, formatDuration } from "../base/units.ts";
import { LineProcess, type LineProcessOptions } from "./bench-process.ts";
import type { BenchRun } from "./bench-report.ts";
import type { FillAnswer, FillRequest } from "./engine/fill.ts";
import type { RawAnswer, RawRequest } from "./engine/raw.ts";

const execute = promisify(execFile);

const askLimitMs = 600_000;
/** Writing all needles of the largest line, on a slow machine. */
const fillLimitMs = 3_600_000;

/** A child of folder engine/: answers one request after the other (engine/child.ts). */
export class EngineChild<Request> {
  readonly #name: string;
  readonly #process: LineProcess;

  private constructor(name: string, options: LineProcessOptions) {
    this.#name = name;
    this.#process = new LineProcess(`engine/${name}`, [], options);
  }

  static async start<Request>(
    name: string,
    options: LineProcessOptions = {},
  ): Promise<EngineChild<Request>> {
    const child = new EngineChild<Request>(name, options);
    await child.#process.readLine();
    return child;
  }

  async ask<Answer>(request: Request, limitMs: number = askLimitMs): Promise<Answer> {
    let isLate = false;
    const late = setTimeout(() => {
      isLate = true;
      this.kill();
    }, limitMs);
    try {
      return JSON.parse(await this.#process.ask(JSON.stringify(request))) as Answer;
    } catch (error) {
      if (!isLate) throw error;
      throw new Failure("timeout", `Cannot go on: ${this.#name} took over ${limitMs} ms`);
    } finally {
      clearTimeout(late);
    }
  }

  async close(): Promise<void> {
    await this.#process.close();
  }

  kill(): void {
    this.#process.kill();
  }
}

/** Fills a folder of the line's own, and tells what is in it. Remove it with `removeFolder`. */
export async function fillFolder(
  { scratch, seed, report }: BenchRun,
  { name, ...shape }: { name: string } & Omit<FillRequest, "folder" | "seed">,
): Promise<{ folder: string } & FillAnswer> {
  const folder = path.join(scratch, name);
  const child = await EngineChild.start<FillRequest>("fill.ts");
  try {
    const filled = await child.ask<FillAnswer>({ folder, seed, ...shape }, fillLimitMs);
    // Each batch was synced, so this leaves what a crash would.
    if (shape.ending === "cut") child.kill();
    const { volumes, needles, dataBytes } = shape;
    const count = (volumes * needles).toLocaleString("en-US");
    report.note(
      `made: ${count} needles of ${formatBytes(dataBytes)}, ${formatBytes(filled.lengthBytes)} in ` +
        `${volumes === 1 ? "one volume" : `${volumes} volumes`}, in ${formatDuration(filled.seconds * 1_000)}`,
    );
    return { folder, ...filled };
  } finally {
    await child.close();
  }
}

export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** Files of the folder whose names end so. */
export function listFiles(folder: string, ending: string): string[] {
  const names = readdirSync(folder).filter((name) => name.endsWith(ending));
  return names.map((name) => path.join(folder, name));
}

/** One answer of the child that does without the engine. */
export async function doRaw(request: RawRequest, options?: LineProcessOptions): Promise<RawAnswer> {
  const child = await EngineChild.start<RawRequest>("raw.ts", options);
  try {
    return await child.ask<RawAnswer>(request);
  } finally {
    await child.close();
  }
}

export interface CacheDropper {
  how: string;
  drop: (files: readonly string[]) => Promise<void>;
}

/** A way to have the next reads come from the disk, or undefined if this machine has none for us. */
export async function findCacheDropper(): Promise<CacheDropper | undefined> {
  const file = "/proc/sys/vm/drop_caches";
  const dropAll = async () => {
    await execute("sync"); // what is not written yet can't be dropped
    writeFileSync(file, "3\n");
  };
  try {
    await dropAll();
    return { how: `echo 3 > ${file}`, drop: dropAll };
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
  }
  // posix_fadvise for whoever is not root: dd has it.
  const args = (name: string) => [`if=${name}`, "iflag=nocache", "count=0"];
  try {
    await execute("dd", args(import.meta.filename));
  } catch {
    return undefined;
  }
  return {
    how: "dd iflag=nocache count=0",
    drop: async (files) => {
      await execute("sync");
      for (const name of files) await execute("dd", args(name));
    },
  };
}

/** Whether a tool is there; told by whether it can be run at all. */
export async function hasTool(name: string, args: readonly string[]): Promise<boolean> {
  try {
    await execute(name, [...args], { env: toolEnvironment });
    return true;
  } catch (error) {
    return systemErrorCode(error) !== "ENOENT";
  }
}

/** Servers are often installed where only root's path leads. */
export const toolEnvironment: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`,
};

export const mebibyte: number = 2 ** 20;

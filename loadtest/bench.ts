/**
 * How fast a real `hayloft up` is, beside the same work done by next to nothing on the same machine.
 *
 *     npm run bench [-- --strict] [--only get|put|name|photo|large]... [--rounds N] [--seconds N]
 *                   [--size 2GiB] [--seed N] [--no-pin]
 *
 * Absolute numbers tell about the machine, so each line is a ratio: the two sides take turns, A B A B,
 * and medians are compared. A line with an answer that is not 2xx is no measurement: the run fails.
 * An aim that is missed is said, and ends `--strict` with 1. Pictures: PHOTOS names a folder of
 * photos of 2560x1600; without it they are made by code.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { mkdtemp, rm, statfs } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure } from "../base/failure.ts";
import { parseBytes } from "../base/units.ts";
import { benchLarge } from "./bench-large.ts";
import { findLoadTool } from "./bench-load.ts";
import { benchPhoto } from "./bench-photo.ts";
import { pinner } from "./bench-process.ts";
import { type Bench, Report } from "./bench-report.ts";
import { benchGet, benchName, benchPut } from "./bench-requests.ts";
import { startCluster } from "./cluster.ts";

const lines = {
  get: benchGet,
  put: benchPut,
  name: benchName,
  photo: benchPhoto,
  large: benchLarge,
} as const;
type LineName = keyof typeof lines;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      strict: { type: "boolean", default: false },
      only: { type: "string", multiple: true, default: [] },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "3" },
      size: { type: "string", default: "2GiB" },
      seed: { type: "string", default: "1" },
      "no-pin": { type: "boolean", default: false },
      folder: { type: "string", default: tmpdir() },
    },
  });
  const names = readNames(values.only);
  const largeBytes = parseBytes(values.size);
  if (largeBytes === undefined) throw unusable("size", values.size);
  const rounds = wholeNumber("rounds", values.rounds);
  const seconds = wholeNumber("seconds", values.seconds);
  const seed = wholeNumber("seed", values.seed);

  const scratch = await mkdtemp(path.join(values.folder, "hayloft-bench-"));
  const removeScratch = () => rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
  process.on("exit", removeScratch); // a signal ends the run through here
  const cores = pinnedCores(values["no-pin"]);
  const tool = await findLoadTool(scratch, cores?.load);
  const report = new Report();
  await printMachine(scratch, { tool: tool.name, seed, cores });

  for (const name of names) {
    // Each line on a server of its own: none inherits another's caches, memory or backlog.
    const cluster = await startCluster({
      folder: path.join(scratch, name),
      log: path.join(scratch, `${name}.log`),
    });
    try {
      const bench: Bench = {
        cluster,
        tool,
        report,
        scratch,
        rounds,
        seconds,
        seed,
        largeBytes,
        serverCore: cores?.server,
      };
      await lines[name](bench);
      await cluster.stop();
    } finally {
      await cluster.destroy();
      await rm(cluster.folder, { recursive: true, force: true, maxRetries: 5 });
    }
  }
  console.log(`\n${report.met} aims met, ${report.missed} missed`);
  return values.strict && report.missed > 0 ? 1 : 0;
}

function readNames(only: string[]): LineName[] {
  const all = Object.keys(lines) as LineName[];
  for (const name of only) {
    if (!all.some((known) => known === name)) {
      throw new Failure("bad-request", `Cannot run --only ${name}: there are ${all.join(", ")}`);
    }
  }
  return only.length === 0 ? all : all.filter((name) => only.includes(name));
}

interface PinnedCores {
  server: number;
  load: number;
}

/**
 * The server on one core and the load on another, so that neither is measured waiting for the other.
 * It is the same for both sides, and only where there are two cores and a `taskset`.
 */
function pinnedCores(isOff: boolean): PinnedCores | undefined {
  if (isOff || cpus().length < 2) return undefined;
  if (spawnSync(pinner, ["--version"]).status !== 0) return undefined;
  return { server: 0, load: 1 };
}

async function printMachine(
  folder: string,
  { tool, seed, cores }: { tool: string; seed: number; cores: PinnedCores | undefined },
): Promise<void> {
  const [cpu] = cpus();
  const { type } = await statfs(folder);
  const isInMemory = type === 0x0102_1994;
  console.log(`npm run bench -- ${process.argv.slice(2).join(" ")}`.trimEnd());
  console.log(`commit ${commit()}, seed ${seed}, Node ${process.version}, ${tool}`);
  console.log(`${cpus().length} x ${cpu?.model ?? "unknown CPU"}`);
  console.log(
    cores === undefined
      ? "not pinned: server and load share all cores, on both sides"
      : `pinned where a line says so: server on core ${cores.server}, load on core ${cores.load}, on both sides alike`,
  );
  if (isInMemory) {
    console.log(`${folder} is in memory: syncs cost nothing there, so take --folder on a disk`);
  }
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: import.meta.dirname,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    const isChanged = git("status", "--porcelain", "--untracked-files=no") !== "";
    return `${git("rev-parse", "--short", "HEAD")}${isChanged ? " and changes" : ""}`;
  } catch {
    return "unknown";
  }
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw unusable(name, text);
}

function unusable(name: string, text: string): Failure {
  return new Failure("bad-request", `Cannot use --${name} ${text}`);
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Failure ? error.message : error);
  process.exitCode = 1;
}

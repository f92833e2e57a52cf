/**
 * How fast Hayloft is, beside the same work done by next to nothing on the same machine.
 *
 *     npm run bench [-- photo|store|cluster] [--strict] [--only LINE]... [--rounds N] [--seconds N] [--seed N]
 *                   [--size 2GiB] [--needles 20000000] [--rebuild-size 2GiB] [--cold-size 4GiB]
 *                   [--compaction-size 1GiB] [--scrub-size 1GiB] [--volume-copies 3000000]
 *                   [--no-pin] [--folder F]
 *
 * `photo` are the lines of a whole `hayloft up`, `store` those of the volume engine, `cluster` those of
 * several machines; all without a name.
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
import { benchCold } from "./bench-cold.ts";
import { benchCompaction } from "./bench-compaction.ts";
import { benchDurable } from "./bench-durable.ts";
import { benchLarge } from "./bench-large.ts";
import { findLoadTool } from "./bench-load.ts";
import { benchMemory } from "./bench-memory.ts";
import { benchNginx } from "./bench-nginx.ts";
import { benchPhoto } from "./bench-photo.ts";
import { benchBalance, benchPlanner } from "./bench-planner.ts";
import { pinner } from "./bench-process.ts";
import { benchRebuild } from "./bench-rebuild.ts";
import { benchReplicasGet, benchReplicasPut } from "./bench-replicas.ts";
import { type Bench, type BenchRun, Report } from "./bench-report.ts";
import { benchGet, benchName, benchPut } from "./bench-requests.ts";
import { benchScrub } from "./bench-scrub.ts";
import { startCluster } from "./cluster.ts";

type Line = { group: Group } & (
  | { onServer: (bench: Bench) => Promise<void> }
  | { alone: (bench: BenchRun) => Promise<void> }
);
type Group = (typeof groups)[number];
const groups = ["photo", "store", "cluster"] as const;

const lines: Record<string, Line> = {
  get: { group: "photo", onServer: benchGet },
  put: { group: "photo", onServer: benchPut },
  name: { group: "photo", onServer: benchName },
  photo: { group: "photo", onServer: benchPhoto },
  large: { group: "photo", onServer: benchLarge },
  nginx: { group: "store", onServer: benchNginx },
  durable: { group: "store", onServer: benchDurable },
  memory: { group: "store", alone: benchMemory },
  rebuild: { group: "store", alone: benchRebuild },
  cold: { group: "store", alone: benchCold },
  compaction: { group: "store", onServer: benchCompaction },
  scrub: { group: "store", alone: benchScrub },
  "replicas-put": { group: "cluster", alone: benchReplicasPut },
  "replicas-get": { group: "cluster", alone: benchReplicasGet },
  planner: { group: "cluster", alone: benchPlanner },
  balance: { group: "cluster", alone: benchBalance },
};

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      strict: { type: "boolean", default: false },
      only: { type: "string", multiple: true, default: [] },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "3" },
      size: { type: "string", default: "2GiB" },
      needles: { type: "string", default: "20000000" },
      "volume-copies": { type: "string", default: "3000000" },
      "rebuild-size": { type: "string", default: "2GiB" },
      "cold-size": { type: "string", default: "4GiB" },
      "compaction-size": { type: "string", default: "1GiB" },
      "scrub-size": { type: "string", default: "1GiB" },
      seed: { type: "string", default: "1" },
      "no-pin": { type: "boolean", default: false },
      folder: { type: "string", default: tmpdir() },
    },
  });
  const names = chooseLines(positionals, values.only);
  const size = (name: "size" | "rebuild-size" | "cold-size" | "compaction-size" | "scrub-size") => {
    const bytes = parseBytes(values[name]);
    if (bytes === undefined || bytes === 0) throw unusable(name, values[name]);
    return bytes;
  };
  const numbers = {
    rounds: wholeNumber("rounds", values.rounds),
    seconds: wholeNumber("seconds", values.seconds),
    seed: wholeNumber("seed", values.seed),
    needles: wholeNumber("needles", values.needles),
    volumeCopies: wholeNumber("volume-copies", values["volume-copies"]),
    largeBytes: size("size"),
    rebuildBytes: size("rebuild-size"),
    coldBytes: size("cold-size"),
    compactionBytes: size("compaction-size"),
    scrubBytes: size("scrub-size"),
  };

  const scratch = await mkdtemp(path.join(values.folder, "hayloft-bench-"));
  const removeScratch = () => rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
  process.on("exit", removeScratch); // a signal ends the run through here
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => process.exit(130));
  }
  const cores = pinnedCores(values["no-pin"]);
  const tool = await findLoadTool(scratch, cores?.load);
  const report = new Report();
  await printMachine(scratch, { tool: tool.name, seed: numbers.seed, cores });

  const run: BenchRun = { tool, report, scratch, ...numbers, serverCore: cores?.server };
  for (const name of names) {
    const line = lines[name];
    if (line === undefined) continue;
    if ("alone" in line) await line.alone(run);
    else await runOnServer(name, run, line.onServer);
  }
  const skipped = report.skipped > 0 ? `, ${report.skipped} SKIPPED` : "";
  console.log(`\n${report.met} aims met, ${report.missed} missed${skipped}`);
  return values.strict && report.missed + report.skipped > 0 ? 1 : 0;
}

/** Each line on a server of its own: none inherits another's caches, memory or backlog. */
async function runOnServer(
  name: string,
  run: BenchRun,
  line: (bench: Bench) => Promise<void>,
): Promise<void> {
  const cluster = await startCluster({
    folder: path.join(run.scratch, name),
    log: path.join(run.scratch, `${name}.log`),
  });
  try {
    await line({ ...run, cluster });
    await cluster.stop();
  } finally {
    await cluster.destroy();
    await rm(cluster.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** The lines of the groups that are named, or of all; of these only those asked for, if any are. */
function chooseLines(wanted: string[], only: string[]): string[] {
  for (const group of wanted) {
    if (!groups.some((known) => known === group)) {
      throw new Failure("bad-request", `Cannot run group ${group}: there are ${groups.join(", ")}`);
    }
  }
  const all = Object.entries(lines)
    .filter(([, { group }]) => wanted.length === 0 || wanted.includes(group))
    .map(([name]) => name);
  for (const name of only) {
    if (!all.includes(name)) {
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
  const value = Number(text.replaceAll("_", ""));
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

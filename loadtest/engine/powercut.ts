/**
 * Cuts the power under the engine at its work, lets it recover and looks whether it has kept what it
 * promised, many times over.
 *
 *     npm run powercut -- --cycles 1000 [--seed N] [--fs ext4] [--simulated] [--lives N]
 *
 * The disk is ext4 on a loop device, shut down by an ioctl. Where there can be none, that is said, and the
 * power of the simulated file system is cut instead. Exits with 1 if anything was lost, came back or is torn.
 */

import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { cpus, release, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure, messageOf } from "../../base/failure.ts";
import type { EngineViolation } from "./engine-ledger.ts";
import { Ext4Disk } from "./ext4-disk.ts";
import { type Life, PowerCuts, type PowerCutsOptions } from "./power-cuts.ts";
import type { PowerDisk } from "./power-disk.ts";
import { SimulatedDisk } from "./simulated-disk.ts";

/** A disk that fails again and again has been understood by then. */
const failuresMax = 5;
const progressMs = 10_000;

/** What a run has come to so far. */
interface Run {
  disk: PowerDisk;
  cuts: PowerCuts;
  /** Of the logs, and of what a failed life has left. */
  folder: string;
  isRepeatable: boolean;
  passed: number;
  failed: number;
  violations: EngineViolation[];
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      cycles: { type: "string", default: "1000" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      fs: { type: "string", default: "ext4" },
      simulated: { type: "boolean", default: false },
      lives: { type: "string", default: "20" },
    },
  });
  const cycles = wholeNumber("cycles", values.cycles);
  const seed = wholeNumber("seed", values.seed);
  const livesPerImage = wholeNumber("lives", values.lives);
  if (values.fs !== "ext4") {
    throw new Failure("bad-request", `Cannot use --fs ${values.fs}: there is ext4`);
  }
  // What has to be cleaned up is, by those who listen for the exit.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => process.exit(130));
  }
  const { disk, skipped } = await findDisk(values.simulated);
  const kind = values.simulated ? "--simulated" : "--fs ext4";
  const [cpu] = cpus();
  console.log(
    `npm run powercut -- --cycles ${cycles} --seed ${seed} ${kind} --lives ${livesPerImage}\n` +
      `${cpu?.model.trim()}, ${cpus().length} cores, Linux ${release()}, Node ${process.version}; ${disk.name}`,
  );

  // Among the system's temporary files: not on the disk whose power is cut.
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-powercut-log-"));
  const run: Run = {
    disk,
    cuts: new PowerCuts({ disk, seed, livesPerImage, log: ackLog(folder, () => run.failed) }),
    folder,
    isRepeatable: values.simulated || skipped !== undefined,
    passed: 0,
    failed: 0,
    violations: [],
  };
  process.once("exit", () => {
    if (run.failed === 0) rmSync(folder, { recursive: true, force: true });
  });
  const startedMs = performance.now();
  try {
    await runCycles(run, cycles);
  } catch (error) {
    run.failed += 1;
    console.log(`FAIL: ${error instanceof Error ? error.stack : messageOf(error)}`);
  } finally {
    disk.destroySync();
  }

  printTotals(run, (performance.now() - startedMs) / 1_000);
  if (skipped !== undefined) console.log(`skipped: ext4: ${skipped}`);
  console.log(`${run.passed} passed, ${run.failed} failed`);
  return run.failed === 0 ? 0 : 1;
}

async function runCycles(run: Run, cycles: number): Promise<void> {
  const { disk, cuts, folder, violations } = run;
  let toldMs = performance.now();
  for (let cycle = 1; cycle <= cycles && run.failed < failuresMax; cycle++) {
    const life = await cuts.next();
    if (life.violations.length === 0) run.passed += 1;
    else {
      run.failed += 1;
      violations.push(...life.violations);
      tellFailure(life, run.isRepeatable);
      await keepDisk(disk, path.join(folder, `failure-${run.failed}`));
    }
    if (performance.now() - toldMs < progressMs) continue;
    toldMs = performance.now();
    const { disk: onDisk, memory, deletes } = cuts.count;
    console.log(
      `${cycle}/${cycles}: acknowledged ${onDisk} blobs on disk, ${memory} in memory, ${deletes} deletes`,
    );
  }
}

/** A file for each disk, and none of a disk that has kept its promises to the end. */
function ackLog(folder: string, failures: () => number): PowerCutsOptions["log"] {
  let last = { file: "", failures: 0 };
  return (records, seed) => {
    const file = path.join(folder, `acks-${seed}.log`);
    if (file !== last.file) {
      if (last.file !== "" && last.failures === failures()) rmSync(last.file, { force: true });
      last = { file, failures: failures() };
    }
    appendFileSync(file, `${records.join("\n")}\n`);
  };
}

async function findDisk(
  isSimulated: boolean,
): Promise<{ disk: PowerDisk; skipped: string | undefined }> {
  if (isSimulated) return { disk: new SimulatedDisk(), skipped: undefined };
  try {
    return { disk: await Ext4Disk.open(), skipped: undefined };
  } catch (error) {
    if (!(error instanceof Failure) || error.kind !== "unsupported") throw error;
    console.log(`skipped: ${error.message}; the simulated file system takes its place`);
    return { disk: new SimulatedDisk(), skipped: error.message };
  }
}

function tellFailure({ violations, how, seed, number }: Life, isSimulated: boolean): void {
  console.log(`FAIL in life ${number} of the disk with seed ${seed}, after ${how}:`);
  for (const { kind, text } of violations.slice(0, 20)) console.log(`  ${kind}: ${text}`);
  if (violations.length > 20) console.log(`  and ${violations.length - 20} more`);
  const again = `npm run powercut -- --seed ${seed} --cycles ${number}`;
  console.log(
    isSimulated ? `  again: ${again} --simulated` : `  alike, if not the same: ${again} --fs ext4`,
  );
}

/** Copies what is on the disk to where it can be looked at. */
async function keepDisk(disk: PowerDisk, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const name of await disk.files.list(disk.folder)) {
    const content = await disk.files.readWhole(path.join(disk.folder, name));
    if (content !== undefined) await writeFile(path.join(folder, name), content);
  }
}

function printTotals({ cuts, passed, failed, violations, folder }: Run, seconds: number): void {
  const { count, ends, images, refusals } = cuts;
  const cycles = passed + failed;
  const list = (each: Iterable<[string, number]>) =>
    [...each].map(([name, times]) => `${name} ${times}`).join(", ");
  const rate = (cycles / seconds).toFixed(1);
  console.log(
    `${cycles} cycles in ${Math.round(seconds)} s, ${rate} a second, on ${images} blank disks`,
  );
  console.log(`cuts: ${list([...ends].sort())}`);
  console.log(
    `acknowledged: ${count.disk} blobs on disk, ${count.memory} in memory (${count.lostMemory} of them lost, as may be), ` +
      `${count.deletes} deletes; ${count.late} answers came too late to count`,
  );
  console.log(`done: ${list(Object.entries(count.done))}`);
  console.log(`under way when the power went: ${list(Object.entries(count.underWay))}`);
  console.log(`${count.blobsRead} blobs read back, ${count.refused} times refused:`);
  const often = [...refusals].sort(([, left], [, right]) => right - left).slice(0, 5);
  for (const [text, times] of often) console.log(`  ${times} times ${text}`);
  console.log(countKinds(violations));
  if (failed > 0) console.log(`kept: ${folder} (what was told, and each failed life's files)`);
}

function countKinds(violations: readonly EngineViolation[]): string {
  const count = { lost: 0, ghost: 0, torn: 0, unreadable: 0, wrong: 0 };
  for (const { kind } of violations) count[kind] += 1;
  const { lost, ghost, torn, unreadable, wrong } = count;
  return `${lost} lost, ${ghost} ghosts, ${torn} torn, ${unreadable} unreadable, ${wrong} otherwise wrong`;
}

function wholeNumber(name: string, text: string): number {
  if (!/^[0-9]{1,9}$/.test(text) || Number(text) === 0) {
    throw new Failure("bad-request", `Cannot use --${name} ${text}: it is a number from 1 on`);
  }
  return Number(text);
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(messageOf(error));
  process.exitCode = 2;
}

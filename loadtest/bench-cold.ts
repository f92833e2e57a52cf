/** The benchmark's cold reads: needles in random order from the disk, beside fio on the same file. */

import { execFile } from "node:child_process";
import { stat } from "node:fs/promises";
import { promisify } from "node:util";
import { Failure } from "../base/failure.ts";
import { formatBytes } from "../base/units.ts";
import {
  EngineChild,
  fillFolder,
  findCacheDropper,
  hasTool,
  listFiles,
  mebibyte,
  removeFolder,
} from "./bench-engine.ts";
import { type BenchRun, type Measured, medianRate, takeTurns } from "./bench-report.ts";
import type { ColdOpened, ColdRead, ColdRequest } from "./engine/cold.ts";

const execute = promisify(execFile);

const dataBytes = 65_536;
const depth = 16;
const aim = 0.85;
/** A round of this is long enough, and short enough that all rounds together read a part of the file. */
const readsMax = 8_192;
const limitMs = 600_000;

export async function benchCold(bench: BenchRun): Promise<void> {
  const { report, rounds, coldBytes, seed } = bench;
  report.heading(
    `cold: 64 KiB needles in random order from the disk, verified, ${depth} at once / fio on the same file`,
  );
  const dropper = await findCacheDropper();
  if (dropper === undefined || !(await hasTool("fio", ["--version"]))) {
    const why = dropper === undefined ? "the page cache can't be dropped here" : "fio is not there";
    report.skip(why, `at least ${aim}`);
    return;
  }
  const { folder } = await fillFolder(bench, {
    name: "cold",
    ...{ volumes: 1, needles: Math.ceil(coldBytes / dataBytes), dataBytes, ending: "sealed" },
  });
  const [file = ""] = listFiles(folder, ".volume");
  const child = await EngineChild.start<ColdRequest>("cold.ts", {
    env: { UV_THREADPOOL_SIZE: String(depth) },
  });
  try {
    const { needles, indexBytes } = await child.ask<ColdOpened>({ kind: "open", folder, seed });
    // Each needle once in all rounds: one that was read before is not cold to the store, dropped or not.
    const reads = alignedReads(Math.min(readsMax, needles / (rounds + 2)));
    let round = 0;
    const readNeedles = async (): Promise<Measured> => {
      await dropper.drop([file]);
      const answer = await child.ask<ColdRead>({ kind: "read", count: reads, depth });
      if (answer.dataBytes !== reads * dataBytes) {
        throw new Failure("corrupt", `Cannot count a round: it read ${answer.dataBytes} bytes`);
      }
      return { ...answer, perSecond: answer.dataBytes / mebibyte / answer.seconds };
    };
    const readBlocks = (job: FioJob) => async (): Promise<Measured> => {
      await dropper.drop([file]);
      round += 1;
      return await runFio(file, { ...job, reads, seed: seed + round });
    };
    const taken = await takeTurns(
      [
        { name: "store", run: readNeedles },
        ...fioJobs.map((job) => ({ name: job.name, run: readBlocks(job) })),
      ],
      rounds,
    );
    // Both are fair: the same file, as many bytes, in as large pieces, as many at once. The store could as well
    // have read past the page cache, so it is held against whichever of the two is faster.
    const [ours, ...theirs] = taken;
    const byRate = theirs.toSorted((left, right) => medianRate(right) - medianRate(left));
    if (ours !== undefined) report.compare([ours, ...byRate], { unit: "MiB", aim });
    report.note(
      `the ratio is against ${byRate[0]?.name}, the faster of the two; ${formatBytes(reads * dataBytes)} of ` +
        `${formatBytes(needles * dataBytes)} a round, ${rounds} rounds each, no needle twice`,
    );
    report.note(
      `the volume is sealed: its index takes ${(indexBytes / needles).toFixed(2)} B a needle`,
    );
    report.note(`the page cache dropped before each: ${dropper.how}; not pinned`);
    for (const job of fioJobs) {
      report.note(`fio --rw=randread --bs=${dataBytes} ${job.args.join(" ")}`);
    }
  } finally {
    await child.close();
  }
  await removeFolder(folder);
}

interface FioJob {
  name: string;
  jobs: number;
  args: readonly string[];
}

const fioJobs: readonly FioJob[] = [
  {
    name: "fio buffered",
    jobs: depth,
    args: ["--ioengine=psync", `--numjobs=${depth}`, "--thread", "--direct=0", "--invalidate=1"],
  },
  {
    name: "fio direct",
    jobs: 1,
    args: ["--ioengine=libaio", `--iodepth=${depth}`, "--direct=1"],
  },
];

/** As many for each of fio's jobs. */
function alignedReads(count: number): number {
  return Math.max(Math.floor(count / depth), 1) * depth;
}

interface FioReport {
  jobs: {
    read: {
      io_bytes: number;
      bw_bytes: number;
      runtime: number;
      clat_ns: { percentile?: Record<string, number> };
    };
  }[];
}

async function runFio(
  file: string,
  { jobs, args, reads, seed }: FioJob & { reads: number; seed: number },
): Promise<Measured> {
  // A part of the file for each job: no two of them read the same block, so none finds it in the cache.
  const { size } = await stat(file);
  const partBytes = Math.floor(size / dataBytes / jobs) * dataBytes;
  const ownPart = [`--size=${partBytes}`, `--offset_increment=${partBytes}`];
  const { stdout } = await execute(
    "fio",
    [
      ...["--name=cold", `--filename=${file}`, "--readonly", "--rw=randread", `--bs=${dataBytes}`],
      ...[`--io_size=${(reads / jobs) * dataBytes}`, `--randseed=${seed}`, "--group_reporting"],
      ...[...args, ...ownPart, "--output-format=json"],
    ],
    { timeout: limitMs, maxBuffer: 16 * mebibyte },
  );
  return readFioReport(stdout, reads * dataBytes);
}

/** `bytes` is what it was to read. */
export function readFioReport(output: string, bytes: number): Measured {
  // It may say something before.
  const { jobs } = JSON.parse(output.slice(output.indexOf("{"))) as FioReport;
  const [job, ...others] = jobs;
  if (job === undefined || others.length > 0 || job.read.io_bytes !== bytes) {
    throw new Failure(
      "internal",
      `Cannot count a run of fio that did not read ${bytes} bytes once`,
    );
  }
  const { bw_bytes, clat_ns } = job.read;
  const latencyMs = (name: string) => (clat_ns.percentile?.[name] ?? Number.NaN) / 1e6;
  return {
    perSecond: bw_bytes / mebibyte,
    latencyMsP50: latencyMs("50.000000"),
    latencyMsP99: latencyMs("99.000000"),
  };
}

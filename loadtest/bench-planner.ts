/** The benchmark's lines of the directory alone, in memory: planning at size, and how much balancing moves. */

import { formatBytes, formatDuration } from "../base/units.ts";
import { LineProcess } from "./bench-process.ts";
import type { BenchRun } from "./bench-report.ts";
import type { BalanceResult } from "./engine/balance.ts";
import type { PlannerResult } from "./engine/planner.ts";

const storeCount = 10_000;
const copiesOfVolume = 3;
const lostStoreMsMax = 1_000;
const heartbeatsPerSecondMin = 5_000;
const movedMax = 1.1;

const count = (value: number): string => Math.round(value).toLocaleString("en-US");

export async function benchPlanner({ report, volumeCopies, serverCore }: BenchRun): Promise<void> {
  report.heading(
    `planner: the directory with ${count(volumeCopies)} copies, ${copiesOfVolume} of each volume, on ${count(storeCount)} stores, in memory`,
  );
  const copiesOfStore = Math.ceil(volumeCopies / storeCount);
  const result = await lineOf<PlannerResult>(
    "engine/planner.ts",
    [storeCount, copiesOfStore],
    serverCore,
  );
  const { lostStoreMs, heartbeatsPerSecond } = result;
  const lost = report.judge(lostStoreMs < lostStoreMsMax, `under ${lostStoreMsMax} ms`);
  report.note(
    `a store is lost: places for ${count(result.plannedCount)} copies in ${lostStoreMs} ms (${result.lostStoreCpuMs} ms of processor), ${lost}`,
  );
  const isQuick = heartbeatsPerSecond >= heartbeatsPerSecondMin;
  const beats = report.judge(isQuick, `at least ${count(heartbeatsPerSecondMin)}/s`);
  report.note(`${count(heartbeatsPerSecond)} heartbeats/s, ${beats}`);
  report.note(
    `${count(result.heartbeatsPerCpuSecond)} for each second that it had a processor, ${count(result.heartbeatCount)} in all`,
  );
  report.note(
    `memory ${formatBytes(result.memoryBytes)}, ${Math.round(result.memoryBytes / result.copyCount)} bytes for each of ${count(result.copyCount)} copies`,
  );
  report.note(
    `read from the database in ${formatDuration(result.loadMs)}, all stores joined in ${formatDuration(result.joinMs)}`,
  );
}

export async function benchBalance({ report, seed, serverCore }: BenchRun): Promise<void> {
  report.heading(
    "balance: an empty store beside four full ones, moves planned to the end / the bytes that it has to get",
  );
  const result = await lineOf<BalanceResult>("engine/balance.ts", [seed], serverCore);
  const { movedBytes, idealBytes, movedAgainCount } = result;
  const ratio = movedBytes / idealBytes;
  report.note(
    `${formatBytes(movedBytes)} moved of ${formatBytes(result.storedBytes)}, ${formatBytes(idealBytes)} would be ideal; ` +
      `${result.moveCount} moves, ${movedAgainCount} of what had been moved before`,
  );
  report.note(
    `ratio ${ratio.toFixed(3)}, ${report.judge(ratio <= movedMax && ratio > 0, `at most ${movedMax}`)}`,
  );
  report.note(
    `fullest and emptiest in the end: ${(result.gapLeft * 100).toFixed(1)} % of a disk apart`,
  );
}

/** What a script prints as its one line. */
async function lineOf<Result>(
  script: string,
  args: readonly number[],
  core: number | undefined,
): Promise<Result> {
  const child = new LineProcess(script, args.map(String), {
    nodeFlags: ["--max-old-space-size=16000"],
    core,
  });
  try {
    return JSON.parse(await child.readLine()) as Result;
  } finally {
    await child.close();
  }
}

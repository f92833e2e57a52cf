/** The benchmark's index: what finding a needle takes in memory, and how soon a store is back. */

import { formatBytes } from "../base/units.ts";
import {
  doRaw,
  EngineChild,
  fillFolder,
  findCacheDropper,
  listFiles,
  mebibyte,
  removeFolder,
} from "./bench-engine.ts";
import { type BenchRun, median, takeTurns } from "./bench-report.ts";
import type { OpenAnswer, OpenRequest } from "./engine/open.ts";

const volumes = 4;
/** Small, so that there are many: only their number matters here. */
const dataBytes = 16;
const aims = { openBytes: 5, sealedBytes: 3, openSeconds: 2 };

export async function benchMemory(bench: BenchRun): Promise<void> {
  const { report, needles } = bench;
  const count = needles.toLocaleString("en-US");
  report.heading(`memory: ${count} needles in one folder, in a fresh process`);
  const each = Math.ceil(needles / volumes);
  const warm = await fillFolder(bench, {
    name: "memory-warm",
    ...{ volumes: 2, needles: 10_000, dataBytes, ending: "closed" },
  });
  const { folder } = await fillFolder(bench, {
    name: "memory-volumes",
    ...{ volumes, needles: each, dataBytes, ending: "closed" },
  });
  const line = { bench, folder, warmFolder: warm.folder };
  await measureState({ ...line, name: "open", bytesMax: aims.openBytes });
  await seal(folder);
  await measureState({ ...line, name: "sealed", bytesMax: aims.sealedBytes });
  await removeFolder(folder);
  await removeFolder(warm.folder);
}

interface MemoryLine {
  bench: BenchRun;
  folder: string;
  warmFolder: string;
  name: string;
  bytesMax: number;
}

/** Opens the folder from its checkpoints, in turns with nothing but reading the same files. */
async function measureState({
  bench,
  folder,
  warmFolder,
  name,
  bytesMax,
}: MemoryLine): Promise<void> {
  const { report, rounds } = bench;
  const dropper = await findCacheDropper();
  const checkpoints = listFiles(folder, ".index");
  const drop = async () => await dropper?.drop(checkpoints);
  const answers: OpenAnswer[] = [];
  const rawSeconds: number[] = [];
  const openIt = async () => {
    const answer = await openFresh({ folder, warmFolder, drop });
    answers.push(answer);
    return { perSecond: checkpointBytes / mebibyte / answer.seconds };
  };
  let checkpointBytes = (await doRaw({ kind: "read", files: checkpoints })).count;
  const readThem = async () => {
    await drop();
    const { seconds, count } = await doRaw({ kind: "read", files: checkpoints });
    checkpointBytes = count;
    rawSeconds.push(seconds);
    return { perSecond: count / mebibyte / seconds };
  };
  report.heading(
    `memory, ${name}: reopening from ${formatBytes(checkpointBytes)} of checkpoints / reading them with fs.readFile`,
  );
  const sides = [
    { name: "store", run: openIt },
    { name: "fs.readFile", run: readThem },
  ];
  report.compare(await takeTurns(sides, rounds), { unit: "MiB" });
  const seconds = median(answers.map((answer) => answer.seconds));
  report.note(
    `reopened in ${seconds.toFixed(2)} s, the files alone in ${median(rawSeconds).toFixed(2)} s, ` +
      report.judge(seconds < aims.openSeconds, `under ${aims.openSeconds} s`),
  );
  report.note(
    dropper === undefined
      ? "files in the page cache, on both sides: it can't be dropped here"
      : `files not in the page cache, on both sides: ${dropper.how}`,
  );
  const perNeedle = (pick: (answer: OpenAnswer) => number) =>
    median(answers.map((answer) => pick(answer) / answer.needles));
  const resident = perNeedle(({ residentBytes }) => residentBytes);
  report.note(
    `${name}: ${resident.toFixed(2)} B a needle by the growth of the process (RSS), ` +
      `${perNeedle(({ arrayBufferBytes }) => arrayBufferBytes).toFixed(2)} by that of its buffers, ` +
      `${perNeedle(({ indexBytes }) => indexBytes).toFixed(2)} as the index counts itself, ` +
      report.judge(resident <= bytesMax, `at most ${bytesMax} B by RSS`),
  );
}

async function openFresh({
  folder,
  warmFolder,
  drop,
}: {
  folder: string;
  warmFolder: string;
  drop: () => Promise<void>;
}): Promise<OpenAnswer> {
  const child = await EngineChild.start<OpenRequest>("open.ts", {
    nodeFlags: ["--expose-gc"],
  });
  try {
    await child.ask({ kind: "warm", folder: warmFolder });
    await drop();
    return await child.ask<OpenAnswer>({ kind: "open", folder });
  } finally {
    await child.close();
  }
}

async function seal(folder: string): Promise<void> {
  const child = await EngineChild.start<OpenRequest>("open.ts");
  try {
    await child.ask({ kind: "open", folder });
    await child.ask({ kind: "seal" });
  } finally {
    await child.close();
  }
}

/** The benchmark's reopening without checkpoints: all that the volumes say is read again. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { Failure } from "../base/failure.ts";
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

const large = { dataBytes: 65_536, aim: 0.5 };
const small = { dataBytes: 16, needlesMax: 2_000_000, aimPerSecond: 500_000 };

export async function benchRebuild(bench: BenchRun): Promise<void> {
  await rebuildLarge(bench);
  await rebuildSmall(bench);
}

async function rebuildLarge(bench: BenchRun): Promise<void> {
  const { report, rounds, rebuildBytes } = bench;
  report.heading(
    "rebuild: reopening 64 KiB needles without a checkpoint / cat, both from the disk",
  );
  const dropper = await findCacheDropper();
  if (dropper === undefined) {
    report.skip("the page cache can't be dropped here", `at least ${large.aim}`);
    return;
  }
  const { folder, lengthBytes } = await fillFolder(bench, {
    name: "rebuild-large",
    volumes: 1,
    needles: Math.ceil(rebuildBytes / large.dataBytes),
    dataBytes: large.dataBytes,
    ending: "cut",
  });
  const [file = ""] = listFiles(folder, ".volume");
  const drop = () => dropper.drop([file]);
  const sides = [
    {
      name: "store",
      run: async () => {
        const { seconds } = await reopen(folder, drop);
        return { perSecond: lengthBytes / mebibyte / seconds };
      },
    },
    {
      name: "cat",
      run: async () => {
        await drop();
        return { perSecond: lengthBytes / mebibyte / (await timeCat(file)) };
      },
    },
  ];
  report.compare(await takeTurns(sides, rounds), { unit: "MiB", aim: large.aim });
  report.note(`cat ${path.basename(file)} > /dev/null, ${rounds} rounds each`);
  report.note(`the page cache dropped before each: ${dropper.how}; not pinned`);
  await removeFolder(folder);
}

async function rebuildSmall(bench: BenchRun): Promise<void> {
  const { report, rounds, needles } = bench;
  report.heading("rebuild, small needles without a checkpoint / CRC-32 over the same bytes");
  const { folder } = await fillFolder(bench, {
    name: "rebuild-small",
    volumes: 1,
    needles: Math.min(needles, small.needlesMax),
    dataBytes: small.dataBytes,
    ending: "cut",
  });
  const files = listFiles(folder, ".volume");
  const perSecond: number[] = [];
  const sides = [
    {
      name: "store",
      run: async () => {
        const { seconds, lengthBytes, needles } = await reopen(folder, async () => {});
        perSecond.push(needles / seconds);
        return { perSecond: lengthBytes / mebibyte / seconds };
      },
    },
    {
      name: "CRC-32",
      run: async () => {
        const { seconds, count } = await doRaw({ kind: "crc", files });
        return { perSecond: count / mebibyte / seconds };
      },
    },
  ];
  report.compare(await takeTurns(sides, rounds), { unit: "MiB" });
  const rate = median(perSecond);
  report.note(
    `${Math.round(rate).toLocaleString("en-US")} needles/s, ` +
      report.judge(
        rate >= small.aimPerSecond,
        `at least ${small.aimPerSecond.toLocaleString("en-US")}/s`,
      ),
  );
  report.note(`${rounds} rounds each, page cache warm; not pinned`);
  await removeFolder(folder);
}

async function reopen(folder: string, drop: () => Promise<void>): Promise<OpenAnswer> {
  for (const file of listFiles(folder, ".index")) await removeFolder(file);
  const child = await EngineChild.start<OpenRequest>("open.ts");
  try {
    await drop();
    return await child.ask<OpenAnswer>({ kind: "open", folder });
  } finally {
    await child.close();
  }
}

async function timeCat(file: string): Promise<number> {
  const startedMs = performance.now();
  const cat = spawn("sh", ["-c", 'exec cat "$1" > /dev/null', "sh", file], { stdio: "inherit" });
  const [code] = (await once(cat, "exit")) as [number | null];
  if (code !== 0) throw new Failure("internal", `Cannot read ${file}: cat ended with ${code}`);
  return (performance.now() - startedMs) / 1_000;
}

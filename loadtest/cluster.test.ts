/** Whatever becomes of a run, none of the processes that it started is left. */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";

const limitMs = 60_000;
const module = path.join(import.meta.dirname, "cluster.ts");

interface Started {
  folder: string;
  pids: Record<string, number>;
}

/** Runs a harness of a few lines that starts a cluster, tells of it, and then comes to its end. */
async function runHarness(end: string, signal?: NodeJS.Signals): Promise<Started> {
  const script = `
    const { startCluster } = await import(${JSON.stringify(module)});
    const cluster = await startCluster();
    console.log(JSON.stringify({ folder: cluster.folder, pids: cluster.pids() }));
    ${end}`;
  const harness = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = new Promise<void>((resolve) => harness.once("exit", () => resolve()));
  let started: Started | undefined;
  for await (const line of createInterface({ input: harness.stdout })) {
    started = JSON.parse(line) as Started;
    if (signal !== undefined) harness.kill(signal);
  }
  await ended;
  if (started === undefined) throw new Error("the harness ended before its cluster was up");
  return started;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function expectNothingLeft({ folder, pids }: Started): Promise<void> {
  const giveUpAtMs = performance.now() + 2_000;
  const left = () => Object.entries(pids).filter(([, pid]) => isAlive(pid));
  while (left().length > 0 && performance.now() < giveUpAtMs) await sleep(20);
  expect(left()).toEqual([]);
  expect(existsSync(folder)).toBe(false);
}

test.each([
  { name: "throws", end: 'throw new Error("a mistake");' },
  { name: "ends without a stop", end: "process.exit(3);" },
  { name: "gets SIGINT", end: "setInterval(() => {}, 1_000);", signal: "SIGINT" as const },
  { name: "gets SIGTERM", end: "setInterval(() => {}, 1_000);", signal: "SIGTERM" as const },
])(
  "A harness that $name leaves no process and no folder",
  async ({ end, signal }) => {
    await expectNothingLeft(await runHarness(end, signal));
  },
  limitMs,
);

let cluster: Cluster | undefined;

afterEach(() => cluster?.destroy());

test(
  "What is killed comes back: a role by its supervisor, the supervisor by a new start",
  async () => {
    cluster = await startCluster();
    const first = cluster.pids();
    await cluster.kill("store");
    await cluster.untilReady();
    const second = cluster.pids();
    expect(second.up).toBe(first.up);
    expect(second.store).not.toBe(first.store);

    await cluster.kill("up");
    await cluster.startAgain();
    const third = cluster.pids();
    expect(third.up).not.toBe(second.up);
    expect(Object.values(second).filter(isAlive)).toEqual([]);

    await cluster.close();
    expect(Object.values(third).filter(isAlive)).toEqual([]);
    expect(existsSync(cluster.folder)).toBe(false);
  },
  limitMs,
);

/**
 * A cluster of real processes on hosts of their own, under load, while everything goes wrong that the seed draws:
 * killed and frozen processes, cut networks, full disks, wrong clocks, a database that fails over.
 *
 *     npm run chaos -- [--minutes 10] [--seed N] [--stores 4] [--gateways 2] [--directories 3] [--copies 2]
 *                      [--fault NAME]... [--folder F] [--keep]
 *
 * Afterwards all is mended, and everything that was acknowledged has to be there: the history of every key
 * has to be that of one register (linearizable.ts), every byte right, and all copies of a volume the same. Exits
 * with 1 if anything is not.
 */

import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Failure, messageOf } from "../base/failure.ts";
import { seededRandom } from "../base/random.ts";
import { ChaosCluster } from "./chaos-cluster.ts";
import { drawFault, type Fault, faultNames } from "./chaos-faults.ts";
import { type ChaosCount, ChaosLoad } from "./chaos-load.ts";
import { checkRegister } from "./linearizable.ts";
import { NetworkHosts } from "./network-hosts.ts";
import { basicAuth } from "./request.ts";

const calmMs = { min: 500, max: 4_000 };
/** A second fault strikes while one lasts. */
const doubleShare = 0.2;
/** Until all copies are back and equal. */
const mendLimitMs = 240_000;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "10" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      stores: { type: "string", default: "4" },
      gateways: { type: "string", default: "2" },
      directories: { type: "string", default: "3" },
      copies: { type: "string", default: "2" },
      fault: { type: "string", multiple: true, default: [] },
      folder: { type: "string" },
      keep: { type: "boolean", default: false },
    },
  });
  const seed = Number(values.seed);
  const minutes = Number(values.minutes);
  for (const name of values.fault) {
    if (!faultNames.includes(name)) {
      throw new Failure("bad-request", `Cannot ${name}: there are ${faultNames.join(", ")}`);
    }
  }
  const names = values.fault.length > 0 ? values.fault : faultNames;
  const folder = values.folder ?? (await mkdtemp(path.join(tmpdir(), "hayloft-chaos-")));
  await mkdir(folder, { recursive: true });
  const obstacle = NetworkHosts.obstacle();
  if (obstacle !== undefined) console.log(`all on loopback, no cuts: ${obstacle}`);
  console.log(`seed ${seed}, ${minutes} minutes, in ${folder}`);

  const random = seededRandom(seed);
  const cluster = await ChaosCluster.start({
    folder,
    stores: Number(values.stores),
    gateways: Number(values.gateways),
    directories: Number(values.directories),
    token: randomBytes(32).toString("hex"),
    withHosts: obstacle === undefined,
    random,
  });
  let isFine = false;
  try {
    await cluster.makeBucket("chaos", { copies: Number(values.copies) });
    const load = new ChaosLoad({
      seed,
      bucket: "chaos",
      authorization: basicAuth(cluster.credentials),
      gateways: cluster.gateways.map(({ address }) => address),
      clients: 12,
    });
    const byFault = new Map<string, ChaosCount & { times: number }>();
    const ended = load.run();
    await strike({ cluster, load, names, byFault, untilMs: performance.now() + minutes * 60_000 });
    load.stop();
    await ended;
    console.log("the load has ended; all is mended");
    const mendedMs = await cluster.mend(mendLimitMs);
    console.log(`full copies after ${Math.round(mendedMs / 1_000)} s`);
    await load.readAll();
    printCounts(load, byFault);
    const areCopiesEqual = await cluster.compareCopies();
    isFine = judge(load) && areCopiesEqual;
    await writeFile(path.join(folder, "history.json"), JSON.stringify([...load.history.entries()]));
  } catch (error) {
    console.log(`FAIL: ${messageOf(error)}`);
  } finally {
    await cluster.destroy();
  }
  if (isFine && !values.keep && values.folder === undefined) {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  } else {
    console.log(`kept: ${folder}`);
  }
  console.log(`seed ${seed}: ${isFine ? "1 passed, 0 failed" : "0 passed, 1 failed"}`);
  return isFine ? 0 : 1;
}

async function strike({
  cluster,
  load,
  names,
  byFault,
  untilMs,
}: {
  cluster: ChaosCluster;
  load: ChaosLoad;
  names: readonly string[];
  byFault: Map<string, ChaosCount & { times: number }>;
  untilMs: number;
}): Promise<void> {
  const { random } = cluster;
  const startedMs = performance.now();
  await measured("nothing", () => sleep(5_000));
  while (performance.now() < untilMs) {
    const faults = [drawFault(cluster, names)];
    if (random.fraction() < doubleShare) faults.push(drawFault(cluster, names));
    const drawn = faults.filter((fault): fault is Fault => fault !== undefined);
    if (drawn.length === 0) throw new Failure("unsupported", "Cannot strike: no fault can be had");
    const seconds = ((performance.now() - startedMs) / 1_000).toFixed(0);
    console.log(`${seconds} s: ${drawn.map(({ text }) => text).join(", and ")}`);
    await measured(drawn.map(({ kind }) => kind).join(" + "), async () => {
      for (const fault of drawn) await fault.begin();
      await sleep(Math.max(...drawn.map(({ lastsMs }) => lastsMs)));
      for (const fault of drawn) await fault.end();
    });
    cluster.startEnded();
    const calm = calmMs.min + random.fraction() * (calmMs.max - calmMs.min);
    await measured("just after", () => sleep(calm));
  }

  async function measured(kind: string, work: () => Promise<void>): Promise<void> {
    const before = { ...load.count };
    await work();
    const sum = byFault.get(kind) ?? { ...emptyCount, times: 0 };
    sum.times += 1;
    for (const name of Object.keys(emptyCount) as (keyof ChaosCount)[]) {
      sum[name] += load.count[name] - before[name];
    }
    byFault.set(kind, sum);
  }
}

const emptyCount: ChaosCount = {
  reads: 0,
  readErrors: 0,
  writes: 0,
  writeErrors: 0,
  wrongBytes: 0,
};

function printCounts(
  load: ChaosLoad,
  byFault: ReadonlyMap<string, ChaosCount & { times: number }>,
): void {
  const share = (errors: number, all: number) =>
    all === 0 ? "-" : `${errors} of ${all} (${((100 * errors) / all).toFixed(2)} %)`;
  for (const [kind, { times, reads, readErrors, writes, writeErrors }] of byFault) {
    console.log(
      `${kind}, ${times} times: failed reads ${share(readErrors, reads)}, failed writes ${share(writeErrors, writes)}`,
    );
  }
  for (const [text, times] of load.errors) console.log(`  ${times} times ${text}`);
  const { reads, readErrors, writes, writeErrors } = load.count;
  console.log(
    `in all: failed reads ${share(readErrors, reads)}, failed writes ${share(writeErrors, writes)}, ${load.history.size} keys`,
  );
}

/** Whether every key's history is that of one register, and all bytes were right. */
function judge(load: ChaosLoad): boolean {
  let wrong = 0;
  let undecided = 0;
  for (const [key, history] of load.history) {
    const { isLinearizable, isDecided, stuckAt, fitted } = checkRegister(history);
    if (isLinearizable) continue;
    if (isDecided) wrong += 1;
    else undecided += 1;
    const text = JSON.stringify(stuckAt);
    console.log(`${isDecided ? "WRONG" : "undecided"}: ${key}: ${fitted} fit, then ${text}`);
    const order = [...history].sort((one, other) => one.calledMs - other.calledMs);
    for (const each of isDecided ? order : []) console.log(`    ${JSON.stringify(each)}`);
  }
  for (const { text } of load.oddities) console.log(`WRONG: ${text}`);
  const { wrongBytes } = load.count;
  console.log(
    `${load.history.size} histories: ${wrong} not linearizable, ${undecided} undecided; ${wrongBytes} answers with wrong bytes`,
  );
  return wrong + undecided + wrongBytes === 0;
}

// With the process go its processes, hosts and disks, whatever ends it.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => process.exit(130));
}
try {
  process.exitCode = await main();
  process.exit();
} catch (error) {
  console.error(error instanceof Failure ? error.message : error);
  process.exit(1);
}

/**
 * Kills a random process of a real `hayloft up` under mixed load, and while an operator seals, compacts and
 * verifies its volumes; lets it start again and verifies all that was acknowledged; many times over.
 *
 *     npm run crash -- --cycles 50 [--seed N] [--victim up]... [--folder F] [--keep]
 *
 * The log of intents and acknowledgements lies beside the data folder, not in it; the last word has the
 * verifier, in a process of its own, on that log and a freshly started server. Exits with 1 on any loss.
 */

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Failure, messageOf } from "../base/failure.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { type Cluster, startCluster, type Victim } from "./cluster.ts";
import { CrashLoad } from "./crash-load.ts";
import { CrashLog } from "./crash-log.ts";
import { CrashOperator, type UnderWay } from "./crash-operator.ts";
import { countKinds, Ledger, type Violation, verify } from "./crash-verify.ts";
import { basicAuth, request } from "./request.ts";

const bucket = "crash";
const allVictims: readonly Victim[] = ["store", "gateway", "directory", "up", "all"];
/** In each round, in an order of its own. The store is the one that has something to lose. */
const roundOfVictims: readonly Victim[] = ["store", ...allVictims];

/** From the start of a cycle's load to the kill, and from there to the end of the load. */
const loadMs = { min: 200, max: 1_000 };
const afterKillMs = { min: 0, max: 500 };
/** Keys of earlier cycles that each cycle verifies besides those that it touched. */
const sampleKeys = 60;
/** In so many cycles the kill waits for a compaction to be at work, if one begins in time. */
const compactingShare = 0.5;
const compactingLimitMs = 500;
/** What an order may fail with while processes die and others have orders too. */
const ordinaryFailure = /it runs |is stopping|is not sealed|is in generation|until it frees any/;
const damagePattern = /is damaged|can't be opened|reaches beyond its volume/;

interface Totals {
  /** How often each was killed, and how many of those kills met something under way. */
  kills: Record<Victim, { times: number } & UnderWay>;
  passed: number;
  failed: number;
  retries: number;
  /** Starts of `up` that were refused because the one before still held the folder. */
  startsRefused: number;
  violations: Violation[];
}

interface Run {
  cluster: Cluster;
  log: CrashLog;
  ledger: Ledger;
  load: CrashLoad;
  operator: CrashOperator;
  random: Random;
  victims: readonly Victim[];
  /** Those of the round whose turn is still to come. */
  waiting: Victim[];
  totals: Totals;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      cycles: { type: "string", default: "50" },
      victim: { type: "string", multiple: true, default: [] },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      folder: { type: "string" },
      keep: { type: "boolean", default: false },
    },
  });
  const cycles = wholeNumber("cycles", values.cycles);
  const seed = wholeNumber("seed", values.seed);
  const victims = readVictims(values.victim);

  const folder = values.folder ?? (await mkdtemp(path.join(tmpdir(), "hayloft-crash-")));
  await mkdir(folder, { recursive: true });
  const logFile = path.join(folder, "acks.log");
  console.log(`seed ${seed}, ${cycles} cycles, in ${folder}`);
  const startedMs = performance.now();

  const random = seededRandom(seed);
  const log = new CrashLog(logFile);
  const ledger = new Ledger();
  const cluster = await startCluster({
    folder: path.join(folder, "data"),
    flags: flagsOf(random),
    log: path.join(folder, "up.log"),
  });
  const authorization = basicAuth(cluster.credentials);
  const target = () => ({ address: cluster.gatewayAddress, authorization });
  const load = new CrashLoad({ seed, bucket, log, ledger, target });
  const totals: Totals = {
    kills: {
      store: noKills(),
      gateway: noKills(),
      directory: noKills(),
      up: noKills(),
      all: noKills(),
    },
    passed: 0,
    failed: 0,
    retries: 0,
    startsRefused: 0,
    violations: [],
  };
  const operator = new CrashOperator({ cluster, log, random: seededRandom(seed + 1) });
  const run: Run = { cluster, log, ledger, load, operator, random, victims, waiting: [], totals };

  let isWhole = false;
  try {
    await log.append({ type: "run", seed, bucket });
    await makeBucket(cluster);
    for (let cycle = 1; cycle <= cycles; cycle++) await runCycle(run, cycle, cycles);
    await operator.compactAll();
    // Without the cache, and after an orderly stop: everything has to come from the disk.
    await cluster.restart([...baseFlags, "--cache-bytes", "0"]);
    const areVolumesWhole = await verifyVolumes(run);
    await log.close();
    isWhole = (await verifyApart(logFile, cluster)) && areVolumesWhole;
    await cluster.stop();
  } catch (error) {
    totals.failed += 1;
    console.log(`FAIL: ${messageOf(error)}`);
  } finally {
    cluster.destroySync();
    printTotals(run, { seed, cycles, seconds: (performance.now() - startedMs) / 1_000 });
  }

  const isFine = isWhole && totals.failed === 0;
  if (isFine && !values.keep && values.folder === undefined) {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  } else {
    console.log(`kept: ${folder} (acks.log, up.log, data/)`);
  }
  // What only the last look found is of no cycle: it counts as one more.
  const failed = isFine ? 0 : Math.max(totals.failed, 1);
  console.log(`${totals.passed} passed, ${failed} failed`);
  return isFine ? 0 : 1;
}

// Needles are deleted a second after their names, so that their deletion is hit by kills as well. Volumes are
// so small that they fill and are sealed by themselves, each with a checkpoint of its index.
const baseFlags = [
  ...["--delete-delay", "1", "--volume-size", "32MiB", "--log-level", "info"],
  ...["--checkpoint-needles", "40"],
];

/** Mostly no cache, so that reads are of the disk; sometimes one, which then has to be right. */
function flagsOf(random: Random): string[] {
  return [...baseFlags, "--cache-bytes", random.fraction() < 0.7 ? "0" : "33554432"];
}

async function makeBucket(cluster: Cluster): Promise<void> {
  const { status, body } = await request({
    address: cluster.gatewayAddress,
    method: "PUT",
    path: `/${bucket}`,
    headers: { authorization: basicAuth(cluster.credentials) },
  });
  if (status !== 200) {
    throw new Failure("unavailable", `Cannot make the bucket: status ${status} ${body}`);
  }
}

async function runCycle(run: Run, cycle: number, cycles: number): Promise<void> {
  const { cluster, log, ledger, load, operator, random, totals } = run;
  const startedMs = performance.now();
  const victim = nextVictim(run);
  const killAfterMs = between(random, loadMs);
  const stopAfterMs = between(random, afterKillMs);
  const operationsBefore = load.count.operations;
  const unknownBefore = load.count.unknown;

  const ended = Promise.all([load.run(), operator.run()]);
  await sleep(killAfterMs);
  if (random.fraction() < compactingShare) await operator.untilCompacting(compactingLimitMs);
  load.endPeace();
  await cluster.kill(victim);
  const killedMs = performance.now();
  const underWay = await operator.underWay();
  countKill(totals.kills[victim], underWay);
  await log.append({ type: "kill", cycle, victim, underWay: { ...underWay } });

  const isUpGone = victim === "up" || victim === "all";
  const recovered = isUpGone
    ? cluster.startAgain(flagsOf(random)).then((tries) => {
        totals.startsRefused += tries - 1;
      })
    : cluster.untilReady();
  const recoveredMs = recovered.then(() => performance.now() - killedMs);
  recoveredMs.catch(() => undefined); // thrown where it is awaited, after the load has ended
  await sleep(stopAfterMs);
  load.stop();
  operator.stop();
  await ended;
  const recoveryMs = await recoveredMs;

  const violations = load.takeViolations();
  const touched = new Set(load.takeTouched());
  const rest = ledger.keys().filter((key) => !touched.has(key));
  const sample = Array.from({ length: Math.min(sampleKeys, rest.length) }, () => {
    const [key = ""] = rest.splice(Math.floor(random.fraction() * rest.length), 1);
    return key;
  });
  const result = await verify(ledger, targetOf(cluster), [...touched, ...sample]);
  totals.retries += result.retries;
  await log.append(...result.seen);
  for (const violation of result.violations) {
    ledger.apply({ type: "violation", ...violation });
    await log.append({ type: "violation", ...violation });
  }
  violations.push(...result.violations);

  for (const { kind, key, text } of violations) {
    console.log(`  ${kind}: ${JSON.stringify(key)}: ${text}`);
  }
  totals.violations.push(...violations);
  if (violations.length === 0) totals.passed += 1;
  else totals.failed += 1;
  console.log(
    `${violations.length === 0 ? "ok  " : "FAIL"} ${cycle}/${cycles}: killed ${victim}, ` +
      `ready again after ${Math.round(recoveryMs)} ms, ` +
      `${load.count.operations - operationsBefore} operations, ` +
      `${load.count.unknown - unknownBefore} cut off, ${result.keys} keys verified, ` +
      `${((performance.now() - startedMs) / 1_000).toFixed(1)} s`,
  );
}

function targetOf(cluster: Cluster): { url: string; login: string } {
  const { accessKey, secretKey } = cluster.credentials;
  return { url: `http://${cluster.gatewayAddress}/${bucket}`, login: `${accessKey}:${secretKey}` };
}

/** Every volume to its last byte, by the store that has it. */
async function verifyVolumes({ cluster, operator, totals }: Run): Promise<boolean> {
  const { volumes, violations } = await operator.verifyAll();
  // A store that finds damage says so, even if it finds none the next time: then it was wrong before.
  for (const line of (await readFile(cluster.logFile, "utf8")).split("\n")) {
    if (!damagePattern.test(line)) continue;
    violations.push({ key: "the store's log", kind: "torn", text: line.slice(0, 400) });
  }
  for (const { kind, key, text } of violations) console.log(`${kind}: ${key}: ${text}`);
  console.log(`${volumes} volumes verified, ${countKinds(violations)}`);
  totals.violations.push(...violations);
  const odd = [...operator.failures.keys()].filter((text) => !ordinaryFailure.test(text));
  for (const text of odd) console.log(`an order failed that no kill explains: ${text}`);
  return violations.length + odd.length === 0;
}

/** The last look at everything, by the verifier alone with the log. */
function verifyApart(logFile: string, cluster: Cluster): Promise<boolean> {
  const script = path.join(import.meta.dirname, "crash-verify.ts");
  const credentials = path.join(cluster.folder, "credentials.json");
  const args = [script, logFile, targetOf(cluster).url, "--credentials", credentials];
  console.log(`node ${path.relative(process.cwd(), script)} ${args.slice(1).join(" ")}`);
  const child = spawn(process.execPath, args, { stdio: "inherit" });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => resolve(code === 0));
  });
}

function printTotals(
  { load, operator, totals }: Run,
  { seed, cycles, seconds }: { seed: number; cycles: number; seconds: number },
): void {
  const { count, oddities } = load;
  for (const [text, times] of oddities) console.log(`unasked for, ${times} times: ${text}`);
  const kills = allVictims.map((victim) => describeKills(victim, totals.kills[victim])).join(", ");
  console.log(`seed ${seed}, ${cycles} cycles in ${Math.round(seconds)} s`);
  console.log(`kills: ${kills}`);
  console.log(
    `${count.operations} operations: ${count.writes} writes and ${count.deletes} deletes acknowledged, ` +
      `${count.reads} reads, ${count.listings} listings, ${count.refused} refused by a condition, ` +
      `${count.unsent} not sent, ${count.unknown} outcomes unknown`,
  );
  const { given, done, failed, forgotten } = operator.count;
  const orders = (["seal", "compact", "verify"] as const).map(
    (kind) => `${kind} ${given[kind]} (${done[kind]} done, ${failed[kind]} failed)`,
  );
  console.log(`orders: ${orders.join(", ")}; ${forgotten} ended unheard`);
  for (const [text, times] of operator.failures) console.log(`  ${times} times ${text}`);
  console.log(
    `${count.failedInPeace} failed with nothing killed, ${totals.retries} verifying reads tried again, ` +
      `${totals.startsRefused} starts refused`,
  );
  console.log(countKinds(totals.violations));
}

function nextVictim({ victims, waiting, random }: Run): Victim {
  if (waiting.length === 0) waiting.push(...victims);
  const [victim = "all"] = waiting.splice(Math.floor(random.fraction() * waiting.length), 1);
  return victim;
}

function noKills(): Totals["kills"][Victim] {
  return { times: 0, compactions: 0, checkpoints: 0, seals: 0 };
}

function countKill(kills: Totals["kills"][Victim], met: UnderWay): void {
  kills.times += 1;
  if (met.compactions > 0) kills.compactions += 1;
  if (met.checkpoints > 0) kills.checkpoints += 1;
  if (met.seals > 0) kills.seals += 1;
}

function describeKills(
  victim: Victim,
  { times, compactions, checkpoints, seals }: Totals["kills"][Victim],
): string {
  const met = [
    compactions > 0 ? `${compactions} during a compaction` : "",
    checkpoints > 0 ? `${checkpoints} during a checkpoint` : "",
    seals > 0 ? `${seals} during a seal` : "",
  ].filter((text) => text !== "");
  return `${victim} ${times}${met.length === 0 ? "" : ` (${met.join(", ")})`}`;
}

function between(random: Random, { min, max }: { min: number; max: number }): number {
  return min + random.fraction() * (max - min);
}

function readVictims(names: string[]): readonly Victim[] {
  for (const name of names) {
    if (!allVictims.some((victim) => victim === name)) {
      throw new Failure("bad-request", `Cannot kill ${name}: there are ${allVictims.join(", ")}`);
    }
  }
  return names.length === 0
    ? roundOfVictims
    : allVictims.filter((victim) => names.includes(victim));
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new Failure("bad-request", `Cannot use --${name} ${text}: it is not a whole number`);
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof Failure ? error.message : error);
  process.exitCode = 1;
}

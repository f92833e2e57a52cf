/**
 * Simulates clusters, one for each seed, and tells of those that broke a promise.
 *
 *     npm run sim -- --seeds 1000 [--from 1]
 *     npm run sim -- --seed N [--trace]
 *
 * A seed replays exactly. Exits with 1 if a promise was broken.
 */

import { parseArgs } from "node:util";
import { Failure, messageOf } from "../../base/failure.ts";
import { type SimulationOutcome, simulate } from "./simulation.ts";

/** What fails again and again has been understood by then. */
const failuresMax = 5;
const progressMs = 10_000;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: "1000" },
      from: { type: "string", default: "1" },
      seed: { type: "string" },
      trace: { type: "boolean", default: false },
      hasty: { type: "boolean", default: false },
    },
  });
  const first = wholeNumber(values.seed ?? values.from);
  const count = values.seed === undefined ? wholeNumber(values.seeds) : 1;
  const print = values.trace ? (text: string) => console.log(text) : undefined;
  const startedMs = performance.now();
  let toldMs = startedMs;
  let simulatedMs = 0;
  let failed = 0;
  const total = { puts: 0, refusedPuts: 0, reads: 0, deletes: 0 };
  let seed = first;
  for (; seed < first + count && failed < failuresMax; seed++) {
    const outcome = await simulate({ seed, print, isHasty: values.hasty });
    simulatedMs += outcome.simulatedMs;
    for (const name of Object.keys(total) as (keyof typeof total)[]) {
      total[name] += outcome.counts[name];
    }
    if (outcome.violations.length > 0) {
      failed += 1;
      tellFailure(seed, outcome, values.trace);
    }
    if (performance.now() - toldMs < progressMs) continue;
    toldMs = performance.now();
    console.log(`${seed - first + 1}/${count} seeds`);
  }
  const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1);
  const done = seed - first;
  console.log(
    `seeds ${first} to ${seed - 1}: ${Math.round(simulatedMs / 60_000)} simulated minutes in ${seconds} s; ` +
      `${total.puts} blobs put (${total.refusedPuts} puts failed), ${total.reads} read, ${total.deletes} deleted`,
  );
  console.log(`${done - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

function tellFailure(seed: number, outcome: SimulationOutcome, isTraced: boolean): void {
  const { violations, excerpt } = outcome;
  console.log(`FAIL seed ${seed}:`);
  if (!isTraced) for (const line of excerpt) console.log(`  ${line}`);
  for (const { kind, text } of violations) console.log(`  ${kind}: ${text}`);
  console.log(`  again: npm run sim -- --seed ${seed} --trace`);
}

function wholeNumber(text: string): number {
  if (!/^[0-9]{1,9}$/.test(text) || Number(text) === 0) {
    throw new Failure("bad-request", `Cannot use ${text}: it is a number from 1 on`);
  }
  return Number(text);
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(messageOf(error));
  process.exitCode = 2;
}

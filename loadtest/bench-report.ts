/** What the benchmark's lines share: what they run on, how two sides take turns, how it is printed. */

import { Failure } from "../base/failure.ts";
import type { LoadResult, LoadTool } from "./bench-load.ts";
import type { Cluster } from "./cluster.ts";

export interface Bench {
  cluster: Cluster;
  tool: LoadTool;
  report: Report;
  /** A folder for whatever a line needs. */
  scratch: string;
  rounds: number;
  seconds: number;
  seed: number;
  largeBytes: number;
  /** The core that a server is pinned to where that is fairer, or undefined for no pinning. */
  serverCore: number | undefined;
}

export interface Side {
  name: string;
  /** One round; a rate of more is better. */
  run: () => Promise<LoadResult>;
}

/** Rates of one side, in the order of the rounds. */
interface Rounds {
  name: string;
  results: LoadResult[];
}

/** A warm-up of each side, then round after round, each side in turn. */
export async function takeTurns(sides: readonly Side[], rounds: number): Promise<Rounds[]> {
  const taken = sides.map(({ name }): Rounds => ({ name, results: [] }));
  for (const { run } of sides) await run();
  for (let round = 0; round < rounds; round++) {
    for (const [at, { name, run }] of sides.entries()) {
      const result = await run();
      if (result.bad > 0) {
        throw new Failure(
          "internal",
          `Cannot count a round of "${name}": ${result.bad} of its requests failed or were not answered with 2xx (${result.command})`,
        );
      }
      taken[at]?.results.push(result);
    }
  }
  return taken;
}

export class Report {
  met = 0;
  missed = 0;

  heading(text: string): void {
    console.log(`\n${text}`);
  }

  note(text: string): void {
    console.log(`    ${text}`);
  }

  /** The sides' rates; the first one over the second as a ratio, held against its aim if it has one. */
  compare(sides: readonly Rounds[], { unit, aim }: { unit: string; aim?: number }): void {
    for (const { name, results } of sides) {
      const rates = results.map(({ perSecond }) => perSecond);
      const p50 = median(results.map(({ latencyMsP50 }) => latencyMsP50));
      const p99 = median(results.map(({ latencyMsP99 }) => latencyMsP99));
      this.note(
        `${name.padEnd(16)} ${formatRate(median(rates)).padStart(8)} ${unit}/s  ` +
          `(${formatRate(Math.min(...rates))} … ${formatRate(Math.max(...rates))})  ` +
          `latency p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`,
      );
    }
    const [ours, bare] = sides;
    if (ours === undefined || bare === undefined) return;
    const ratio =
      median(ours.results.map(({ perSecond }) => perSecond)) /
      median(bare.results.map(({ perSecond }) => perSecond));
    const pairs = ours.results.map(
      ({ perSecond }, at) => perSecond / (bare.results[at]?.perSecond ?? Number.NaN),
    );
    const spread = `(${Math.min(...pairs).toFixed(2)} … ${Math.max(...pairs).toFixed(2)})`;
    const verdict = aim === undefined ? "" : `, ${this.judge(ratio >= aim, `at least ${aim}`)}`;
    this.note(`ratio ${ratio.toFixed(3)} ${spread}${verdict}`);
  }

  judge(isMet: boolean, aim: string): string {
    if (isMet) this.met += 1;
    else this.missed += 1;
    return `aim ${aim}: ${isMet ? "met" : "AIM MISSED"}`;
  }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

function formatRate(rate: number): string {
  return rate >= 1_000 ? Math.round(rate).toLocaleString("en-US") : rate.toPrecision(3);
}

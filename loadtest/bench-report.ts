/** What the benchmark's lines share: what they run on, how two sides take turns, how it is printed. */

import { Failure } from "../base/failure.ts";
import type { LoadTool } from "./bench-load.ts";
import type { Cluster } from "./cluster.ts";

/** What every line has. */
export interface BenchRun {
  tool: LoadTool;
  report: Report;
  /** A folder for whatever a line needs. */
  scratch: string;
  rounds: number;
  seconds: number;
  seed: number;
  /** The core that a server is pinned to where that is fairer, or undefined for no pinning. */
  serverCore: number | undefined;
  /** How large the data of a line is, for those that let one choose. */
  largeBytes: number;
  needles: number;
  rebuildBytes: number;
  coldBytes: number;
  compactionBytes: number;
  scrubBytes: number;
  /** How many copies of volumes the directory plans for. */
  volumeCopies: number;
}

/** What a line has that runs on a server. */
export interface Bench extends BenchRun {
  cluster: Cluster;
}

/** What one round found. */
export interface Measured {
  /** A rate of more is better. */
  perSecond: number;
  latencyMsP50?: number;
  latencyMsP99?: number;
  /** Requests that failed or were not answered with 2xx. */
  bad?: number;
  command?: string;
}

export interface Side {
  name: string;
  /** One round. */
  run: () => Promise<Measured>;
}

/** What one side found, in the order of the rounds. */
export interface Rounds {
  name: string;
  results: Measured[];
}

/** A warm-up of each side, then round after round, each side in turn. */
export async function takeTurns(sides: readonly Side[], rounds: number): Promise<Rounds[]> {
  const taken = sides.map(({ name }): Rounds => ({ name, results: [] }));
  for (const { run } of sides) await run();
  for (let round = 0; round < rounds; round++) {
    for (const [at, { name, run }] of sides.entries()) {
      const result = await run();
      const { bad = 0, command = name } = result;
      if (bad > 0) {
        throw new Failure(
          "internal",
          `Cannot count a round of "${name}": ${bad} of its requests failed or were not answered with 2xx (${command})`,
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
  skipped = 0;

  heading(text: string): void {
    console.log(`\n${text}`);
  }

  note(text: string): void {
    console.log(`    ${text}`);
  }

  /** The sides' rates, and latencies where there are any. */
  show(sides: readonly Rounds[], unit: string): void {
    for (const { name, results } of sides) {
      const rates = results.map(({ perSecond }) => perSecond);
      this.note(
        `${name.padEnd(16)} ${formatRate(median(rates)).padStart(8)} ${unit}/s  ` +
          `(${formatRate(Math.min(...rates))} … ${formatRate(Math.max(...rates))})${formatLatencies(results)}`,
      );
    }
  }

  /**
   * The sides' rates; the first one over the second as a ratio, held against its aim if it has one. Returns
   * the ratio.
   */
  compare(sides: readonly Rounds[], { unit, aim }: { unit: string; aim?: number }): number {
    this.show(sides, unit);
    const [ours, bare] = sides;
    if (ours === undefined || bare === undefined) return Number.NaN;
    const ratio = medianRate(ours) / medianRate(bare);
    const pairs = ours.results.map(
      ({ perSecond }, at) => perSecond / (bare.results[at]?.perSecond ?? Number.NaN),
    );
    const spread = `(${Math.min(...pairs).toFixed(2)} … ${Math.max(...pairs).toFixed(2)})`;
    const verdict = aim === undefined ? "" : `, ${this.judge(ratio >= aim, `at least ${aim}`)}`;
    this.note(`ratio ${ratio.toFixed(3)} ${spread}${verdict}`);
    return ratio;
  }

  judge(isMet: boolean, aim: string): string {
    if (isMet) this.met += 1;
    else this.missed += 1;
    return `aim ${aim}: ${isMet ? "met" : "AIM MISSED"}`;
  }

  /** What can't be measured here is not met either, and that is said aloud. */
  skip(why: string, aim: string): void {
    this.skipped += 1;
    this.note(`SKIPPED, so not met: ${why} (aim ${aim})`);
  }
}

export function medianRate({ results }: Rounds): number {
  return median(results.map(({ perSecond }) => perSecond));
}

/** The median over the rounds of a latency; NaN where none was measured. */
export function medianLatency({ results }: Rounds, name: "latencyMsP50" | "latencyMsP99"): number {
  return median(results.map((result) => result[name] ?? Number.NaN));
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** The value that `share` of all lie below; NaN if there are none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  return sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
}

function formatLatencies(results: Measured[]): string {
  const p50 = median(results.map(({ latencyMsP50 = Number.NaN }) => latencyMsP50));
  const p99 = median(results.map(({ latencyMsP99 = Number.NaN }) => latencyMsP99));
  if (Number.isNaN(p50)) return "";
  return `  latency p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`;
}

export function formatRate(rate: number): string {
  return rate >= 1_000 ? Math.round(rate).toLocaleString("en-US") : rate.toPrecision(3);
}

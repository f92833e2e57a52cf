/** How far something is, on standard error: a bar where somebody watches, a line now and then elsewhere. */

import { SingleBar } from "cli-progress";
import { formatBytes, formatDuration } from "./base/units.ts";

const lineEveryMs = 5_000;

export class ProgressDisplay {
  readonly #label: string;
  readonly #format: (count: number) => string;
  readonly #isQuiet: boolean;
  readonly #startedMs: number = performance.now();
  #linedMs: number = performance.now();
  #bar: SingleBar | undefined;

  constructor(
    label: string,
    {
      isQuiet,
      format = formatBytes,
    }: { isQuiet: boolean; format?: ((count: number) => string) | undefined },
  ) {
    this.#label = label;
    this.#isQuiet = isQuiet;
    this.#format = format;
  }

  #update(done: number, total: number): void {
    if (this.#isQuiet || total === 0) return;
    const share = Math.floor((done / total) * 100);
    const rate = `${this.#format(done / (this.elapsedMs / 1_000))}/s`;
    if (process.stderr.isTTY) {
      const leftMs = done === 0 ? 0 : (this.elapsedMs / done) * (total - done);
      const left = leftMs < 1_000 ? "" : `  ${formatDuration(leftMs)} left`;
      const shown = { done: this.#format(done), whole: this.#format(total), rate, left };
      this.#makeBar(total, shown).update(done, shown);
    } else if (performance.now() - this.#linedMs >= lineEveryMs) {
      this.#linedMs = performance.now();
      const text = `${this.#format(done)} of ${this.#format(total)} (${share}%), ${rate}`;
      process.stderr.write(`${this.#label}: ${text}\n`);
    }
  }

  get elapsedMs(): number {
    return performance.now() - this.#startedMs;
  }

  /** Shows how far `work` is, for as long as it runs. */
  async during<Result>(
    work: (progress: (done: number, total: number) => void) => Promise<Result>,
  ): Promise<Result> {
    try {
      return await work((done, total) => this.#update(done, total));
    } finally {
      this.#stop();
    }
  }

  /** Takes the bar away: what comes next says how it ended. */
  #stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  #makeBar(total: number, shown: object): SingleBar {
    if (this.#bar === undefined) {
      this.#bar = new SingleBar({
        format: `${this.#label} [{bar}] {percentage}%  {done} of {whole}  {rate}{left}`,
        barsize: 24,
        clearOnComplete: true,
        stream: process.stderr,
      });
      this.#bar.start(total, 0, shown);
    }
    return this.#bar;
  }
}

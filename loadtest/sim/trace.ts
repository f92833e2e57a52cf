/**
 * What happened in a run, line by line, and a digest of all of it: two runs of one seed have the same.
 *
 * Invariant: memory is bounded; of a long run only its end is kept.
 */

import { createHash } from "node:crypto";
import { Writable } from "node:stream";
import { pino } from "pino";
import type { Log } from "../../base/log.ts";

const keptMax = 40_000;

interface Line {
  text: string;
  /** What processes say of themselves: of less use than what was done to them. */
  isLog: boolean;
}

export class Trace {
  readonly #hash = createHash("sha256");
  readonly #nowMs: () => number;
  readonly #print: ((text: string) => void) | undefined;
  #lines: Line[] = [];

  /** `print` is given each line at once. */
  constructor(nowMs: () => number, print?: (text: string) => void) {
    this.#nowMs = nowMs;
    this.#print = print;
  }

  add(who: string, what: string, { isLog = false }: { isLog?: boolean } = {}): void {
    const text = `${(this.#nowMs() / 1_000).toFixed(3).padStart(8)} ${who.padEnd(10)} ${what}`;
    this.#hash.update(`${text}\n`);
    this.#print?.(text);
    this.#lines.push({ text, isLog });
    if (this.#lines.length > keptMax) this.#lines = this.#lines.slice(keptMax / 2);
  }

  /** A log whose lines come here. */
  logOf(who: string): Log {
    const stream = new Writable({
      decodeStrings: false,
      write: (line: string, _, done) => {
        const { level, msg, ...rest } = JSON.parse(line) as { level: string; msg: string };
        const details = JSON.stringify(rest);
        this.add(who, `${level}: ${msg}${details === "{}" ? "" : ` ${details}`}`, { isLog: true });
        done();
      },
    });
    return pino(
      {
        level: "info",
        base: null,
        timestamp: false,
        formatters: { level: (label) => ({ level: label }) },
        serializers: { err: (error: unknown) => describeError(error) },
      },
      stream,
    );
  }

  digest(): string {
    return this.#hash.copy().digest("hex");
  }

  /** The last lines that concern `words`, and the very last of all. */
  excerpt(words: readonly string[], linesMax: number): string[] {
    const patterns = words.map((word) => new RegExp(`(?<![0-9a-z])${word}(?![0-9a-z])`));
    const picked = this.#lines.filter(
      ({ text }, at) =>
        at >= this.#lines.length - 10 || patterns.some((pattern) => pattern.test(text)),
    );
    return picked.slice(-linesMax).map(({ text }) => text);
  }
}

function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const isOurs = error.name === "Failure";
  const cause = error.cause === undefined ? "" : `; because: ${describeError(error.cause)}`;
  return isOurs ? error.message + cause : `${error.stack ?? error.message}${cause}`;
}

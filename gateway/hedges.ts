/**
 * When a second copy is asked while the first has not answered: after the time in which 95 of 100 reads of
 * that size have lately begun to answer.
 *
 * Invariants:
 * - Second reads for slowness alone are at most one in twenty of the reads.
 * - A copy that is silent does not need to be paid for: that is about one store, not about load, and its
 *   number at any moment is limited instead.
 */

const share = 0.05;

/** Saved up for one bad moment, and no more: a burst of second reads is load just when there is too much. */
const savedMax = 10;

/**
 * What is silence: far over what stores need when they work, and at first, where that is not known, far under
 * what a reader notices as a fault. Stores that are slow by nature must not seem silent.
 */
const silentMs = { min: 250, max: 2_000, perP95: 3 };

/** In flight at once: those that a store which was stopped holds back at a time, and not all of an overload. */
const silentReadsMax = 128;

/** A timer is not finer than that, and sooner it would mostly find answers that lie in the socket. */
const delayMsMin = 1;

const sizeClasses: readonly number[] = [16_384, 131_072, 1_048_576, Number.POSITIVE_INFINITY];
const samplesKept = 256;
/** Fewer say nothing about one in twenty. */
const samplesMin = 64;
/** Sorting at every read would cost more than the reads do. */
const samplesPerSort = 32;

export class Hedges {
  readonly #latencies: readonly Latencies[] = sizeClasses.map(() => new Latencies());
  #saved = 0;
  #silentReads = 0;

  /** Counts a read that may have a second one; returns when to ask for that, and what is silence. */
  begin(lengthBytes: number): { hedgeMs: number; silentMs: number } {
    this.#saved = Math.min(this.#saved + share, savedMax);
    const { p95 } = this.#of(lengthBytes);
    if (p95 === undefined) return { hedgeMs: silentMs.min, silentMs: silentMs.min };
    const silent = Math.min(Math.max(p95 * silentMs.perP95, silentMs.min), silentMs.max);
    return { hedgeMs: Math.min(Math.max(p95, delayMsMin), silent), silentMs: silent };
  }

  /** How long the first answer of a read took, or at least took. */
  observe(lengthBytes: number, tookMs: number): void {
    this.#of(lengthBytes).add(tookMs);
  }

  /** Whether a second read may be made because the first is slow. */
  take(): boolean {
    if (this.#saved < 1) return false;
    this.#saved -= 1;
    return true;
  }

  /** Whether one may be made because the first is silent; what is returned says that it is over. */
  takeSilent(): (() => void) | undefined {
    if (this.#silentReads >= silentReadsMax) return undefined;
    this.#silentReads += 1;
    return () => {
      this.#silentReads -= 1;
    };
  }

  #of(lengthBytes: number): Latencies {
    const at = sizeClasses.findIndex((max) => lengthBytes <= max);
    return this.#latencies[at] as Latencies;
  }
}

/** The last times of one kind of read. */
class Latencies {
  readonly #samples = new Float64Array(samplesKept);
  #count = 0;
  #p95: number | undefined;

  /** Undefined until enough were measured. */
  get p95(): number | undefined {
    return this.#p95;
  }

  add(tookMs: number): void {
    this.#samples[this.#count % samplesKept] = tookMs;
    this.#count += 1;
    if (this.#count < samplesMin || this.#count % samplesPerSort !== 0) return;
    const sorted = this.#samples.slice(0, Math.min(this.#count, samplesKept)).sort();
    this.#p95 = sorted[Math.floor(sorted.length * 0.95)];
  }
}

/** Time as a seam: whoever needs it takes a `Clock`, so that a test or a replay can give another. */

export interface Clock {
  /** Milliseconds since 1970, by the machine's wall clock: may jump. */
  nowMs(): number;
  /** Milliseconds since some fixed moment: never runs backwards. For durations and deadlines. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};

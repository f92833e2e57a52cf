/**
 * Which calls of which caller were taken: each is taken once.
 *
 * Callers number their calls, so what was taken is a few bits for each caller and not a list of what came.
 *
 * Invariants:
 * - Memory is bounded: `callersMax` callers, `windowCalls` bits for each.
 * - No caller is forgotten before the last of its calls has grown too old to be accepted anyway. When there
 *   are too many, new ones are turned away: forgetting an old one would let its calls come again.
 */

export type Taken = "fresh" | "seen" | "behind" | "full";

export interface ReplayWindowOptions {
  /** After so long without a call, no call of a caller is young enough to be accepted. */
  forgetMs: number;
  callersMax?: number;
}

/** How far a call may be overtaken by later ones of its caller: more than can be under way at once. */
const windowCalls = 8_192;

interface Caller {
  highest: number;
  /** Of the last `windowCalls` numbers up to the highest, by their remainder. */
  seen: Uint32Array;
  lastMs: number;
}

export class ReplayWindow {
  readonly #forgetMs: number;
  readonly #callersMax: number;
  readonly #callers = new Map<string, Caller>();

  constructor({ forgetMs, callersMax = 4_096 }: ReplayWindowOptions) {
    this.#forgetMs = forgetMs;
    this.#callersMax = callersMax;
  }

  /** Takes the call with this number, from 1 on, unless it was taken before or is too far behind. */
  take(name: string, count: number, nowMs: number): Taken {
    const caller = this.#callers.get(name) ?? this.#add(name, nowMs);
    if (caller === undefined) return "full";
    if (count <= caller.highest - windowCalls) return "behind";
    if (count > caller.highest) this.#advance(caller, count);
    const at = (count % windowCalls) >>> 5;
    const bit = 1 << (count & 31);
    const word = caller.seen[at] ?? 0;
    if ((word & bit) !== 0) return "seen";
    caller.seen[at] = word | bit;
    caller.lastMs = nowMs;
    return "fresh";
  }

  /** Makes room for the numbers up to `count`. */
  #advance(caller: Caller, count: number): void {
    const steps = count - caller.highest;
    if (steps >= windowCalls) caller.seen.fill(0);
    else {
      for (let each = caller.highest + 1; each <= count; each++) {
        const at = (each % windowCalls) >>> 5;
        caller.seen[at] = (caller.seen[at] ?? 0) & ~(1 << (each & 31));
      }
    }
    caller.highest = count;
  }

  #add(name: string, nowMs: number): Caller | undefined {
    if (this.#callers.size >= this.#callersMax) {
      for (const [other, { lastMs }] of this.#callers) {
        if (nowMs - lastMs > this.#forgetMs) this.#callers.delete(other);
      }
      if (this.#callers.size >= this.#callersMax) return undefined;
    }
    const caller = { highest: 0, seen: new Uint32Array(windowCalls / 32), lastMs: nowMs };
    this.#callers.set(name, caller);
    return caller;
  }
}

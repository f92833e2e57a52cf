/**
 * Whether what clients saw of one key could have been seen of one register that does one thing at a time: the
 * algorithm of Wing and Gong (1993), with the memory of Lowe (2017) of what was tried before.
 *
 * An operation takes effect once, at some moment between its call and its answer. One without an answer may
 * have taken effect at any time after its call, or never: each of these doubles what there is to try, so many
 * short histories are worth more than a long one.
 */

/** A value is named by whatever tells it from all others: the id of a put. Absent is `undefined`. */
export type Value = number | undefined;

export type RegisterOperation =
  | { kind: "put"; value: number }
  /** Refused where the key is there (`If-None-Match: *`). */
  | { kind: "put-if-absent"; value: number; isRefused: boolean }
  /** Refused where the key has another value (`If-Match`). */
  | { kind: "put-if-match"; expected: number; value: number; isRefused: boolean }
  | { kind: "delete" }
  | { kind: "get"; value: Value }
  /** As a listing shows it: whether the key is there. */
  | { kind: "list"; isThere: boolean };

export interface Recorded {
  operation: RegisterOperation;
  /** By one clock for all clients of the history. */
  calledMs: number;
  /** Undefined if no answer ever came, or one that leaves open what was done. */
  answeredMs: number | undefined;
}

/** What the register is after the operation; "impossible" where its answer can't be that of this register. */
function apply(
  before: Value,
  operation: RegisterOperation,
  isKnown: boolean,
): Value | "impossible" {
  switch (operation.kind) {
    case "put":
      return operation.value;
    case "put-if-absent": {
      const isAbsent = before === undefined;
      if (isKnown && operation.isRefused === isAbsent) return "impossible";
      return isAbsent ? operation.value : before;
    }
    case "put-if-match": {
      const isMatch = before === operation.expected;
      if (isKnown && operation.isRefused === isMatch) return "impossible";
      return isMatch ? operation.value : before;
    }
    case "delete":
      return undefined;
    case "get":
      return before === operation.value ? before : "impossible";
    case "list":
      return (before !== undefined) === operation.isThere ? before : "impossible";
  }
}

/** A call or an answer in a list that operations are taken out of and put back into. */
interface Entry {
  /** Of the operation. */
  number: number;
  isCall: boolean;
  answer: Entry | undefined;
  previous: Entry | undefined;
  next: Entry | undefined;
}

export interface Verdict {
  isLinearizable: boolean;
  /** Not where there was too much to try. */
  isDecided: boolean;
  /** Where not: as many operations as could be put in an order, at best, and one that could not. */
  fitted: number;
  stuckAt: Recorded | undefined;
}

/** So many orders are tried. */
const triesMax = 2_000_000;

/** Of one key, which was `initial` before; in any order. */
export function checkRegister(history: readonly Recorded[], initial: Value = undefined): Verdict {
  // A read without an answer says nothing, and one refused has changed nothing that is not known.
  const records = history.filter(
    ({ operation, answeredMs }) =>
      answeredMs !== undefined || !(operation.kind === "get" || operation.kind === "list"),
  );
  const head = listOf(records);
  const known = records.filter(({ answeredMs }) => answeredMs !== undefined).length;
  const done = new Bits(records.length);
  const tried = new Set<string>();
  const stack: { call: Entry; before: Value; isKnown: boolean }[] = [];
  let state = initial;
  let knownDone = 0;
  let best = { fitted: 0, stuckAt: undefined as Recorded | undefined };
  let entry = head.next;
  while (knownDone < known) {
    if (entry?.isCall === true) {
      const record = records[entry.number];
      const isKnown = record?.answeredMs !== undefined;
      const after = record === undefined ? "impossible" : apply(state, record.operation, isKnown);
      if (after !== "impossible") {
        done.set(entry.number);
        const key = `${done.key()}/${after ?? ""}`;
        if (!tried.has(key)) {
          tried.add(key);
          stack.push({ call: entry, before: state, isKnown });
          state = after;
          if (isKnown) knownDone += 1;
          takeOut(entry);
          entry = head.next;
          continue;
        }
        done.clear(entry.number);
      }
      entry = entry.next;
      continue;
    }
    // The answer of an operation that has found no place: one before it has to give up its own.
    if (knownDone >= best.fitted && entry !== undefined) {
      best = { fitted: knownDone, stuckAt: records[entry.number] };
    }
    const last = stack.pop();
    const isDecided = last === undefined;
    if (last === undefined || tried.size > triesMax) {
      return { isLinearizable: false, isDecided, ...best };
    }
    state = last.before;
    if (last.isKnown) knownDone -= 1;
    done.clear(last.call.number);
    putBack(last.call);
    entry = last.call.next;
  }
  return { isLinearizable: true, isDecided: true, fitted: known, stuckAt: undefined };
}

/** Calls and answers in the order of their time; of what happens at once, calls first. */
function listOf(records: readonly Recorded[]): Entry {
  const entries = records.flatMap(({ calledMs, answeredMs = Number.POSITIVE_INFINITY }, number) => {
    const blank = { number, answer: undefined, previous: undefined, next: undefined };
    const answer: Entry = { ...blank, isCall: false };
    const call: Entry = { ...blank, isCall: true, answer };
    return [
      { atMs: calledMs, entry: call },
      { atMs: answeredMs, entry: answer },
    ];
  });
  const rank = ({ entry }: { entry: Entry }) => (entry.isCall ? 0 : 1);
  entries.sort((one, other) =>
    one.atMs === other.atMs ? rank(one) - rank(other) : one.atMs - other.atMs,
  );
  const none = { answer: undefined, previous: undefined, next: undefined };
  const head: Entry = { number: -1, isCall: false, ...none };
  let last = head;
  for (const { entry } of entries) {
    last.next = entry;
    entry.previous = last;
    last = entry;
  }
  return head;
}

function takeOut(call: Entry): void {
  for (const entry of [call, call.answer]) {
    if (entry?.previous !== undefined) entry.previous.next = entry.next;
    if (entry?.next !== undefined) entry.next.previous = entry.previous;
  }
}

function putBack(call: Entry): void {
  for (const entry of [call.answer, call]) {
    if (entry?.next !== undefined) entry.next.previous = entry;
    if (entry?.previous !== undefined) entry.previous.next = entry;
  }
}

class Bits {
  readonly #words: Uint32Array;
  /** All before it are set: most histories are long, and what is open in them is near one place. */
  #from = 0;

  constructor(count: number) {
    this.#words = new Uint32Array(Math.ceil(count / 32) + 1);
  }

  set(number: number): void {
    this.#words[number >>> 5] = (this.#words[number >>> 5] ?? 0) | (1 << (number & 31));
    while (this.#words[this.#from] === 0xffff_ffff) this.#from += 1;
  }

  clear(number: number): void {
    this.#words[number >>> 5] = (this.#words[number >>> 5] ?? 0) & ~(1 << (number & 31));
    this.#from = Math.min(this.#from, number >>> 5);
  }

  key(): string {
    let end = this.#words.length;
    while (end > this.#from && this.#words[end - 1] === 0) end -= 1;
    return `${this.#from}:${this.#words.subarray(this.#from, end).join(",")}`;
  }
}

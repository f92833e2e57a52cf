/**
 * Copies a sealed volume from stores that have it, MiB by verified MiB, and finds out what was deleted.
 *
 * Invariants:
 * - Nothing is believed because somebody says it: the leaves are held against the root that was ordered, or
 *   the one that most sources name; each MiB against its leaf; and the whole is read again at the end.
 * - One source that is away, slow or wrong costs a deadline, not the copy: the next one is asked, and the
 *   first comes after all others from then on.
 * - Two windows are in memory at most. Whatever waits has a limit, after which the order fails; what is
 *   there by then is kept for the next one.
 */

import type { Clock } from "../base/clock.ts";
import { Failure, messageOf, systemErrorCode } from "../base/failure.ts";
import type { FileHandle } from "../base/files.ts";
import { RateLimit } from "../base/rate-limit.ts";
import { pause, type Runtime, systemRuntime } from "../base/runtime.ts";
import type { CopySource } from "./copy-source.ts";
import { type FinishedCopy, IncomingCopy } from "./volume/incoming-copy.ts";
import { OrdinalSet } from "./volume/ordinal-set.ts";
import { hashBytes, leafBytes, rootOfLeaves } from "./volume/volume-digest.ts";
import type { VolumeEnvironment } from "./volume/volume-environment.ts";

/** A store that has the volume. */
interface Holder {
  store: string;
  address: string;
}

export interface CopyTerms {
  volume: number;
  /** 32 hex digits. */
  uuid: string;
  generation: number;
  lengthBytes: number;
  /** Merkle root, where it is known: hex. */
  digest?: string | undefined;
  /** The best first. */
  from: readonly Holder[];
  /** Bytes a second, 0 for no limit. */
  rateBytes: number;
}

export interface CopyWork {
  environment: VolumeEnvironment;
  source: CopySource;
  /** Files of this store with what may be most of it, such as a damaged copy: looked at first. */
  nearby: readonly string[];
  signal: AbortSignal;
  progress: (doneBytes: number, totalBytes: number) => void;
}

/** One call of a source; at 4 MiB that is half a MiB a second at least. */
const callMs = 8_000;
const windowCount = 4;
/** How long to go on while no source has anything to give. */
const patienceMs = 60_000;
/** A source that reads its volume to make the leaves takes minutes for it. */
const busyPatienceMs = 3_600_000;
const retryMs = 500;

/** Returns once the copy is all there and verified; it is not a volume yet. */
export async function fetchCopy(terms: CopyTerms, work: CopyWork): Promise<FinishedCopy> {
  return await new Fetch(terms, work).run();
}

/** What the sources have deleted, all together, of those that can be reached: one at least. */
export async function gatherDeletes(
  { volume, from }: Pick<CopyTerms, "volume" | "from">,
  {
    environment,
    source,
    signal,
  }: { environment: VolumeEnvironment; source: CopySource; signal: AbortSignal },
): Promise<OrdinalSet> {
  const { runtime = systemRuntime, note } = environment;
  const all = new OrdinalSet();
  const unreachable: string[] = [];
  for (const { address } of from) {
    try {
      const deleted = await limited({ runtime, signal, delayMs: callMs }, (inner) =>
        source.deletes({ address, volume, signal: inner }),
      );
      for (const ordinal of deleted) all.add(ordinal);
    } catch (error) {
      signal.throwIfAborted();
      if (!isUnreachable(error)) throw error;
      note?.("a copy can't be asked for its deletes", { volume, address, why: messageOf(error) });
      unreachable.push(address);
    }
  }
  if (from.length > 0 && unreachable.length === from.length) {
    throw new Failure(
      "unavailable",
      `Cannot tell what is deleted in volume ${volume}: nobody answers at ${unreachable.join(", ")}`,
    );
  }
  return all;
}

interface Rank {
  holder: Holder;
  /** Sent bytes that are not what its leaf says. */
  isDamaged: boolean;
  /** Calls that failed since the last that did not. */
  strikes: number;
}

interface Window {
  first: number;
  count: number;
}

class Fetch {
  readonly #terms: CopyTerms;
  readonly #work: CopyWork;
  readonly #clock: Clock;
  readonly #runtime: Runtime;
  readonly #limit: RateLimit;
  readonly #ranks: Rank[];
  /** Nothing is asked any more when the copy has failed. */
  readonly #ended = new AbortController();
  readonly #signal: AbortSignal;

  constructor(terms: CopyTerms, work: CopyWork) {
    const { clock, runtime = systemRuntime } = work.environment;
    this.#terms = terms;
    this.#work = work;
    this.#signal = AbortSignal.any([work.signal, this.#ended.signal]);
    this.#clock = clock;
    this.#runtime = runtime;
    this.#limit = new RateLimit(clock, terms.rateBytes, runtime);
    this.#ranks = terms.from.map((holder) => ({ holder, isDamaged: false, strikes: 0 }));
  }

  async run(): Promise<FinishedCopy> {
    const { environment, nearby, progress } = this.#work;
    const signal = this.#signal;
    const leaves = await this.#agreeOnLeaves();
    const copy = await IncomingCopy.begin(environment, {
      ...this.#terms,
      leaves,
      signal,
      progress,
    });
    try {
      for (const file of nearby) await this.#takeNearby(copy, file);
      await this.#fetchMissing(copy);
      return await copy.finish();
    } catch (error) {
      await copy.end(error);
      throw error;
    }
  }

  /** Those to ask, the best first. */
  #ranked(): Rank[] {
    return this.#ranks.toSorted(
      (left, right) =>
        Number(left.isDamaged) - Number(right.isDamaged) || left.strikes - right.strikes,
    );
  }

  async #agreeOnLeaves(): Promise<Buffer> {
    const { volume, digest, lengthBytes } = this.#terms;
    const startedMs = this.#clock.monotonicMs();
    for (;;) {
      const asked = await Promise.all(this.#ranked().map((rank) => this.#leavesOf(rank)));
      const found = asked.flatMap((each) => (each.leaves === undefined ? [] : [each.leaves]));
      const isBusy = asked.some((each) => each.isBusy);
      const right = digest === undefined ? undefined : found.find(({ root }) => root === digest);
      // Without a root to go by it takes all who can say: one alone might be the one that is wrong.
      const chosen = right ?? (digest === undefined && !isBusy ? mostNamed(found) : undefined);
      if (chosen !== undefined) {
        for (const { rank, root } of found) {
          if (root !== chosen.root) this.#mark(rank, "its digest is another");
        }
        return chosen.leaves;
      }
      const waitedMs = this.#clock.monotonicMs() - startedMs;
      if (waitedMs > (isBusy ? busyPatienceMs : patienceMs)) {
        const why =
          found.length > 0 ? "no source has leaves of that digest" : "no source gives its leaves";
        throw new Failure("unavailable", `Cannot copy volume ${volume} (${lengthBytes} B): ${why}`);
      }
      await this.#pause();
    }
  }

  async #leavesOf(rank: Rank): Promise<{
    leaves?: { rank: Rank; leaves: Buffer; root: string };
    isBusy: boolean;
  }> {
    const { volume, generation, lengthBytes } = this.#terms;
    const { address } = rank.holder;
    try {
      const leaves = await this.#call((signal) =>
        this.#work.source.leaves({ address, volume, generation, signal }),
      );
      rank.strikes = 0;
      if (leaves.length === Math.ceil(lengthBytes / leafBytes) * hashBytes) {
        return { leaves: { rank, leaves, root: rootOfLeaves(leaves) }, isBusy: false };
      }
      this.#mark(rank, "its length is another");
    } catch (error) {
      const isBusy = error instanceof Failure && error.kind === "busy";
      if (!isBusy) this.#strike(rank, error);
      return { isBusy };
    }
    return { isBusy: false };
  }

  async #takeNearby(copy: IncomingCopy, name: string): Promise<void> {
    let file: FileHandle;
    try {
      file = await this.#work.environment.files.open(name, "read");
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
      return; // not there, or not to be opened: others have it
    }
    try {
      await copy.takeFrom(file);
    } finally {
      await file.close();
    }
  }

  async #fetchMissing(copy: IncomingCopy): Promise<void> {
    const fetch = (window: Window | undefined) => {
      const fetching = window === undefined ? undefined : this.#fetch(copy, window);
      fetching?.catch(() => undefined); // told to whoever waits for it
      return fetching;
    };
    let window = copy.missing(0, windowCount);
    let coming = fetch(window);
    try {
      while (window !== undefined && coming !== undefined) {
        const { rank, bytes } = await coming;
        const { first, count } = window;
        window = copy.missing(first + count, windowCount);
        coming = fetch(window);
        for (let at = 0; at < count; at++) {
          const block = bytes.subarray(at * leafBytes, (at + 1) * leafBytes);
          if (await copy.take(first + at, block)) continue;
          this.#mark(rank, `MiB ${first + at} is not what its leaf says`);
          await this.#fetchElsewhere(copy, first + at, rank);
        }
      }
    } catch (error) {
      this.#ended.abort(new Failure("unavailable", "Cannot go on: the copy has ended"));
      await coming?.catch(() => undefined);
      throw error;
    }
  }

  /** From the first who has it; what it is worth is not known yet. */
  async #fetch(copy: IncomingCopy, window: Window): Promise<{ rank: Rank; bytes: Buffer }> {
    const range = copy.rangeOf(window);
    await this.#limit.spend(range.end - range.start, this.#signal);
    const startedMs = this.#clock.monotonicMs();
    for (;;) {
      let last: unknown;
      for (const rank of this.#ranked()) {
        try {
          return { rank, bytes: await this.#read(rank, range) };
        } catch (error) {
          last = error;
        }
      }
      await this.#retry(startedMs, last);
    }
  }

  /** From anybody but those who sent it wrong. */
  async #fetchElsewhere(copy: IncomingCopy, number: number, wrong: Rank): Promise<void> {
    const { volume } = this.#terms;
    const range = copy.rangeOf({ first: number, count: 1 });
    const startedMs = this.#clock.monotonicMs();
    const tried = new Set([wrong]);
    for (;;) {
      let last: unknown;
      for (const rank of this.#ranked()) {
        if (tried.has(rank)) continue;
        let bytes: Buffer;
        try {
          bytes = await this.#read(rank, range);
        } catch (error) {
          last = error;
          continue;
        }
        if (await copy.take(number, bytes)) return;
        this.#mark(rank, `MiB ${number} is not what its leaf says`);
        tried.add(rank);
      }
      if (tried.size === this.#ranks.length) {
        // What is there is right; it stays for an order that names others.
        throw new Failure(
          "unavailable",
          `Cannot copy volume ${volume}: MiB ${number} is damaged in every copy`,
        );
      }
      await this.#retry(startedMs, last);
    }
  }

  async #read(rank: Rank, range: { start: number; end: number }): Promise<Buffer> {
    const { volume, generation } = this.#terms;
    const { address } = rank.holder;
    const wantedBytes = range.end - range.start;
    try {
      const bytes = await this.#call((signal) =>
        this.#work.source.readFile({ address, volume, generation, signal }, range),
      );
      if (bytes.length !== wantedBytes) {
        const why = `${bytes.length} bytes came for ${wantedBytes}`;
        throw new Failure("unavailable", `Cannot read volume ${volume} at ${address}: ${why}`);
      }
      rank.strikes = 0;
      return bytes;
    } catch (error) {
      this.#strike(rank, error);
      throw error;
    }
  }

  async #retry(startedMs: number, cause: unknown): Promise<void> {
    if (this.#clock.monotonicMs() - startedMs > patienceMs) {
      const { volume } = this.#terms;
      throw new Failure("unavailable", `Cannot copy volume ${volume}: ${messageOf(cause)}`, {
        cause,
      });
    }
    await this.#pause();
  }

  async #pause(): Promise<void> {
    await pause(this.#runtime, retryMs);
    this.#signal.throwIfAborted();
  }

  async #call<Answer>(make: (signal: AbortSignal) => Promise<Answer>): Promise<Answer> {
    const options = { runtime: this.#runtime, signal: this.#signal, delayMs: callMs };
    return await limited(options, make);
  }

  #strike(rank: Rank, error: unknown): void {
    this.#signal.throwIfAborted();
    if (!(error instanceof Failure)) throw error;
    rank.strikes += 1;
  }

  #mark(rank: Rank, why: string): void {
    const { volume } = this.#terms;
    const { store, address } = rank.holder;
    const message = "a source of a copy is damaged";
    if (!rank.isDamaged) this.#work.environment.note?.(message, { volume, store, address, why });
    rank.isDamaged = true;
  }
}

/** What the most name; of two that as many name, what the better source does. */
function mostNamed<Found extends { root: string }>(found: readonly Found[]): Found | undefined {
  const votes = (root: string) => found.filter((each) => each.root === root).length;
  return found.toSorted((left, right) => votes(right.root) - votes(left.root))[0];
}

function isUnreachable(error: unknown): boolean {
  return error instanceof Failure && (error.kind === "unavailable" || error.kind === "timeout");
}

/** What `make` returns if it does so in time; it is told when nobody waits for it any more. */
async function limited<Answer>(
  { runtime, signal, delayMs }: { runtime: Runtime; signal: AbortSignal; delayMs: number },
  make: (signal: AbortSignal) => Promise<Answer>,
): Promise<Answer> {
  signal.throwIfAborted();
  const inner = new AbortController();
  const ended = Promise.withResolvers<never>();
  const end = (reason: unknown) => {
    ended.reject(reason);
    inner.abort(reason);
  };
  const onAbort = () => end(signal.reason);
  signal.addEventListener("abort", onAbort);
  const cancel = runtime.after(delayMs, () => {
    end(new Failure("timeout", `Cannot go on: no answer came in ${delayMs} ms`));
  });
  ended.promise.catch(() => undefined);
  try {
    const making = make(inner.signal);
    making.catch(() => undefined); // it may end after nobody waits for it
    return await Promise.race([making, ended.promise]);
  } finally {
    cancel();
    signal.removeEventListener("abort", onAbort);
  }
}

/**
 * The map of volumes as a gateway holds it: which stores have a volume, and which volumes take appends. It is
 * kept fresh by a long poll, which also tells the directory what placements are asked for here.
 *
 * Invariants:
 * - What was readable stays readable while the directory is away, or has just started and does not know yet.
 * - Nothing is written to a volume that the newest map does not call writable.
 */

import { type Clock, systemClock } from "../base/clock.ts";
import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import { chooseWeighted } from "./plan.ts";
import type { MapVolume, VolumeClass, VolumeMap } from "./protocol.ts";

/** A placement that is asked for and that the directory can't make volumes of. */
interface UnmetWant {
  want: string;
  reason: string;
}

/** Where maps come from. */
export interface MapSource {
  /** The map once its version is another than `after`, or after `waitMs`; `want` are placements in use. */
  map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    want: readonly string[],
    gateways?: readonly string[],
  ): Promise<VolumeMap>;
}

export interface VolumeDirectoryOptions {
  source: MapSource;
  log: Log;
  clock?: Clock;
  runtime?: Runtime;
}

/** A volume that takes appends. */
export interface WritableVolume {
  volume: number;
  /** The primary's. */
  address: string;
  freeBytes: number;
}

export interface WritableChoice {
  class: VolumeClass;
  placement: string;
  avoid: ReadonlySet<number>;
  /** Only those with the lowest are considered. */
  rankOf: (choice: WritableVolume) => number;
  /** How many appends wait there: of two that were drawn the one with fewer is chosen. */
  queueOf: (choice: WritableVolume) => number;
}

const mapWaitMs = 20_000;
const retryMs = { first: 100, last: 2_000 };

/** A blob that is asked for and is nowhere must not have the whole map sent for each time. */
const refreshEveryMs = 1_000;

/** Far longer than any upload waits; a bucket that comes back to a placement names it anew. */
const wantedMs = 3_600_000;

export class VolumeDirectory {
  readonly #source: MapSource;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #runtime: Runtime;
  readonly #changeWaiters = new Set<() => void>();
  readonly #answerWaiters = new Set<() => void>();
  /** Placements, and when each was named last. */
  readonly #wanted = new Map<string, number>();
  #volumes = new Map<number, MapVolume>();
  /** By class and placement, so that a put does not look through millions. */
  #writable = new Map<string, WritableVolume[]>();
  #unmet: readonly UnmetWant[] = [];
  #version = "";
  #poll: AbortController | undefined;
  #isHurried = false;
  /** Whether the last poll failed. */
  #isAway = false;
  #refreshedMs = Number.NEGATIVE_INFINITY;
  #isClosing = false;
  #announced: string[] = [];
  #following: Promise<void> | undefined;

  constructor({
    source,
    log,
    clock = systemClock,
    runtime = systemRuntime,
  }: VolumeDirectoryOptions) {
    this.#source = source;
    this.#log = log;
    this.#clock = clock;
    this.#runtime = runtime;
  }

  /** Whether a map has ever come. */
  get isReady(): boolean {
    return this.#version !== "";
  }

  start(): void {
    this.#following ??= this.#follow();
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    this.#poll?.abort();
    settle(this.#changeWaiters);
    settle(this.#answerWaiters);
    await this.#following;
  }

  /** `host:port` of each store with a copy of the volume that may be read, the primary first. */
  addressesOf(volume: number): readonly string[] {
    return this.#volumes.get(volume)?.addresses ?? [];
  }

  /** `host:port` of each store with a copy of the volume, whether it answers reads or not. */
  memberAddressesOf(volume: number): readonly string[] {
    return this.#volumes.get(volume)?.memberAddresses ?? [];
  }

  /** From now on the directory is told that clients reach this gateway at that address (`host:port`). */
  announce(address: string): void {
    this.#announced = [address];
    this.#poll?.abort();
  }

  /** Has the directory keep volumes of that placement open for us; heard at once if it is a new one. */
  want(placement: string): void {
    const isNew = !this.#wanted.has(placement);
    this.#wanted.set(placement, this.#clock.monotonicMs());
    if (isNew) this.#poll?.abort();
  }

  /** Why there are no volumes of a placement that was asked for, where the directory can't make any. */
  whyNone(placement: string): string | undefined {
    return this.#unmet.find(({ want }) => want === placement)?.reason;
  }

  /** A volume that takes appends: the lowest rank, then free space by chance, then the shorter queue. */
  chooseWritable(choice: WritableChoice, random: Random): WritableVolume | undefined {
    const { avoid, rankOf, queueOf } = choice;
    let lowest = Number.POSITIVE_INFINITY;
    let choices: WritableVolume[] = [];
    for (const each of this.#writable.get(keyOf(choice)) ?? []) {
      if (avoid.has(each.volume)) continue;
      const rank = rankOf(each);
      if (rank < lowest) choices = [];
      lowest = Math.min(lowest, rank);
      if (rank === lowest) choices.push(each);
    }
    // Two draws and a look at both spread a burst nearly as well as a look at all, and the emptier disk
    // still gets more.
    const draw = () => chooseWeighted(choices, ({ freeBytes }) => freeBytes + 1, random.fraction());
    const [one, other] = [draw(), draw()];
    return one !== undefined && other !== undefined && queueOf(other) < queueOf(one) ? other : one;
  }

  /** Whether any volume of the class takes appends. */
  isWritable(volumeClass: VolumeClass): boolean {
    return [...this.#volumes.values()].some(
      (entry) => entry.class === volumeClass && entry.isWritable,
    );
  }

  /** Whether volumes of the class, and of the placement if it is said, are there that only lack space. */
  isFull(volumeClass: VolumeClass, placement?: string): boolean {
    return [...this.#volumes.values()].some(
      (entry) =>
        entry.class === volumeClass &&
        entry.isFull &&
        (placement === undefined || entry.placement === placement),
    );
  }

  /** Resolves at the next change of the map, or after `limitMs`. */
  change(limitMs: number): Promise<void> {
    return this.#wait(this.#changeWaiters, limitMs);
  }

  /**
   * Asks for the map now, for somebody who has found it wrong; resolves when it came, or after `limitMs`. While
   * the directory is away there is nothing to wait for.
   */
  async refresh(limitMs: number): Promise<void> {
    if (this.#isAway) return;
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#refreshedMs >= refreshEveryMs) {
      this.#refreshedMs = nowMs;
      this.#isHurried = true;
      this.#poll?.abort();
    } else if (!this.#isHurried) {
      return;
    }
    await this.#wait(this.#answerWaiters, limitMs);
  }

  async #follow(): Promise<void> {
    let delayMs = retryMs.first;
    while (!this.#isClosing) {
      const poll = new AbortController();
      this.#poll = poll;
      try {
        const waitMs = this.#isHurried || this.#isAway ? 0 : mapWaitMs;
        const want = this.#placements();
        const map = await this.#source.map(
          this.#version,
          waitMs,
          poll.signal,
          want,
          this.#announced,
        );
        delayMs = retryMs.first;
        this.#isAway = false;
        this.#unmet = map.unmet;
        if (map.version !== this.#version) {
          this.#version = map.version;
          this.#takeIn(map);
        }
        if (waitMs === 0) this.#settleHurry();
      } catch (error) {
        if (poll.signal.aborted) continue; // to be asked anew, or closing
        this.#log.warn(
          { reason: messageOf(error) },
          "the directory does not answer; its last map stands",
        );
        this.#isAway = true;
        this.#settleHurry();
        await this.change(delayMs);
        delayMs = Math.min(delayMs * 2, retryMs.last);
      }
    }
  }

  /** Whoever waits for an answer has got it, or gets none. */
  #settleHurry(): void {
    this.#isHurried = false;
    settle(this.#answerWaiters);
  }

  #placements(): string[] {
    const sinceMs = this.#clock.monotonicMs() - wantedMs;
    for (const [placement, namedMs] of this.#wanted) {
      if (namedMs < sinceMs) this.#wanted.delete(placement);
    }
    return [...this.#wanted.keys()];
  }

  #takeIn({ volumes, isOnRecord }: VolumeMap): void {
    const next = new Map(volumes.map((entry) => [entry.volume, entry]));
    // What a leader has said is worth more than what a directory finds that has just started.
    if (isOnRecord === true) for (const [volume, entry] of this.#volumes) next.set(volume, entry);
    // A directory that has just started knows only the stores that have called since. What it does not
    // mention, or knows no store for, stays readable where it was; nothing is written there.
    for (const [volume, known] of this.#volumes) {
      const entry = next.get(volume);
      if (entry === undefined) {
        next.set(volume, { ...known, isWritable: false });
      } else if (entry.addresses.length === 0 || entry.memberAddresses.length === 0) {
        next.set(volume, { ...entry, ...lastAddresses(entry, known) });
      }
    }
    this.#volumes = next;
    this.#writable = new Map();
    for (const entry of next.values()) {
      const [address] = entry.addresses;
      if (!entry.isWritable || address === undefined) continue;
      const { volume, freeBytes } = entry;
      const key = keyOf(entry);
      const group = this.#writable.get(key) ?? [];
      this.#writable.set(key, group);
      group.push({ volume, address, freeBytes });
    }
    settle(this.#changeWaiters);
  }

  #wait(waiters: Set<() => void>, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        cancel();
        waiters.delete(wake);
        resolve();
      };
      const cancel = this.#runtime.after(limitMs, wake);
      waiters.add(wake);
      if (this.#isClosing) wake();
    });
  }
}

function settle(waiters: Set<() => void>): void {
  for (const wake of [...waiters]) wake();
}

function keyOf({
  class: volumeClass,
  placement,
}: {
  class: VolumeClass;
  placement: string;
}): string {
  return `${volumeClass} ${placement}`;
}

/** The addresses of a volume, with the last known ones where the new map has none. */
function lastAddresses(
  { addresses, memberAddresses }: MapVolume,
  known: MapVolume,
): Pick<MapVolume, "addresses" | "memberAddresses"> {
  return {
    addresses: addresses.length > 0 ? addresses : known.addresses,
    memberAddresses: memberAddresses.length > 0 ? memberAddresses : known.memberAddresses,
  };
}

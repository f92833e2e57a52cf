/**
 * Which fids of native volumes are free to be given out (`/dir/assign`).
 *
 * Stores set ranges of ordinals aside when this asks for them (a wish, in the reply to a heartbeat); what is
 * left of the ranges is in memory alone, and lost with this run of the directory: an ordinal that nobody
 * uses costs nothing but its number. The cookies are made as base/reserved-cookie.ts tells.
 *
 * Invariants:
 * - An ordinal is given out once. A grant counts only if this run of the directory asked for it, and only
 *   beyond all that was granted of its volume before.
 * - A run of fids is consecutive, from one range.
 * - Whoever waits has a deadline, and there is a limit to how many do.
 */

import type { Clock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { formatFid } from "../base/fid.ts";
import type { Random } from "../base/random.ts";
import { reservedCookie } from "../base/reserved-cookie.ts";
import type { Runtime } from "../base/runtime.ts";
import { Bell } from "./bell.ts";
import { chooseWeighted } from "./plan.ts";
import type { Grant } from "./protocol.ts";

/** A volume that fids may be assigned of. */
export interface NativeVolume {
  volume: number;
  uuid: Buffer;
  recordMagic: Buffer;
  ttlSeconds: number;
  isWritable: boolean;
  /** When it is about to be sealed: what is assigned later would not find it open. */
  assignableUntilMs: number;
}

export interface NativeStore {
  store: string;
  address: string;
  isLive: boolean;
  freeBytes: number;
}

export interface AssignRequest {
  /** How many consecutive fids. */
  count: number;
  /** 0, or a bucket of ttl-bucket.ts. */
  ttlSeconds: number;
  /** How much is to be stored under each; 0 if that is not known. */
  dataBytes: number;
  /** Only at the store with this address. */
  address?: string | undefined;
  /** Only at these stores. */
  within?: ReadonlySet<string> | undefined;
}

export interface Assignment {
  /** The first. */
  fid: string;
  address: string;
  count: number;
}

export interface AssignerOptions {
  clock: Clock;
  random: Random;
  runtime: Runtime;
  /** This run of the directory. */
  boot: string;
  /** All that have called. */
  stores(): NativeStore[];
  /** Has the store make a volume. */
  grow(store: string, ttlSeconds: number): void;
  /** A wish has come up that the store should hear of. */
  wake(store: string): void;
  waitMsMax?: number;
}

interface Range {
  next: number;
  end: number;
}

interface Place extends NativeVolume {
  store: string;
  ranges: Range[];
  /** How many ordinals to ask for. */
  rangeCount: number;
  grantedMs: number;
  /** How many are asked for and have not come; 0 if none are. */
  wish: number;
}

const rangeCounts = { min: 1_024, max: 65_536 };

// A range that is used up faster than this should have been larger, one that lasts longer smaller: few
// ordinals are lost when a directory restarts, and few heartbeats are needed while it runs.
const rangeMs = { fast: 10_000, slow: 60_000 };

/** Remnants of ranges that were too short for someone. */
const rangesMax = 8;

/** How long a store has for making a volume before it is asked again. */
const growMs = 2_000;

const waitersMax = 10_000;

export class Assigner {
  readonly #options: Required<AssignerOptions>;
  readonly #places = new Map<number, Place>();
  /** Per volume, the end of what was ever granted. Kept longer than the volume itself: grants are repeated. */
  readonly #grantedEnds = new Map<number, number>();
  /** When a store was last asked for a volume, by store and TTL. */
  readonly #grownMs = new Map<string, number>();
  readonly #changes: Bell;
  #waiterCount = 0;

  constructor(options: AssignerOptions) {
    this.#options = { waitMsMax: 10_000, ...options };
    this.#changes = new Bell(options.runtime);
  }

  /** Takes in what a store reports: all volumes of it that are open, and its grants. */
  takeIn(store: string, volumes: readonly NativeVolume[], grants: readonly Grant[]): void {
    const reported = new Set(volumes.map(({ volume }) => volume));
    for (const place of [...this.#places.values()]) {
      if (place.store === store && !reported.has(place.volume)) this.#places.delete(place.volume);
    }
    for (const volume of volumes) {
      const place = this.#places.get(volume.volume);
      if (place === undefined) {
        const fresh = { ranges: [], rangeCount: rangeCounts.min, grantedMs: 0, wish: 0 };
        this.#places.set(volume.volume, { ...volume, store, ...fresh });
      } else {
        Object.assign(place, volume);
      }
    }
    for (const grant of grants) this.#takeGrant(store, grant);
    this.#changes.ring();
  }

  /** Ranges that the store is asked for. */
  wishesOf(store: string): { volume: number; count: number }[] {
    return [...this.#places.values()]
      .filter((place) => place.store === store && place.wish > 0)
      .map(({ volume, wish }) => ({ volume, count: wish }));
  }

  /**
   * Fids that nobody has. Waits while a store makes room for them. Fails with `unavailable` while no store
   * is there, `full` where none has the space, `timeout` if no volume gets ready.
   */
  async assign(request: AssignRequest, signal?: AbortSignal): Promise<Assignment> {
    const { clock, waitMsMax } = this.#options;
    const deadlineMs = clock.monotonicMs() + waitMsMax;
    for (;;) {
      const rings = this.#changes.rings;
      const assignment = this.#tryAssign(request);
      if (assignment !== undefined) return assignment;
      this.#demand(request);
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs <= 0 || signal?.aborted === true) {
        throw new Failure("timeout", "Cannot assign a fid: no volume got ready in time");
      }
      if (this.#waiterCount >= waitersMax) {
        throw new Failure("busy", "Cannot assign a fid: too many wait", { retryAfterSeconds: 1 });
      }
      // Looked at anew now and then, because a store falls silent without saying so.
      this.#waiterCount += 1;
      if (this.#changes.rings === rings) await this.#changes.next(Math.min(leftMs, 500), signal);
      this.#waiterCount -= 1;
    }
  }

  #tryAssign(request: AssignRequest): Assignment | undefined {
    const stores = this.#storesFor(request);
    const { count } = request;
    const choices = [...this.#places.values()].flatMap((place) => {
      const store = stores.get(place.store);
      const range = place.ranges.find(({ next, end }) => end - next >= count);
      const isChoice = store !== undefined && range !== undefined && this.#isOpen(place, request);
      return isChoice ? [{ place, store, range }] : [];
    });
    const { random } = this.#options;
    const choice = chooseWeighted(choices, ({ store }) => store.freeBytes, random.fraction());
    if (choice === undefined) return undefined;
    const { place, store, range } = choice;
    const ordinal = range.next;
    range.next += count;
    place.ranges = place.ranges.filter(({ next, end }) => next < end);
    this.#keepAhead(place);
    this.#spread(request, stores);
    const cookie = reservedCookie({ ...place, ordinal });
    const fid = formatFid({ volume: place.volume, ordinal, cookie });
    return { fid, address: store.address, count };
  }

  /** Live stores that have the space, by id. */
  #storesFor({ address, within, count, dataBytes }: AssignRequest): Map<string, NativeStore> {
    const all = this.#options.stores();
    const live = all.filter(({ isLive }) => isLive);
    if (live.length === 0) {
      throw new Failure("unavailable", "Cannot assign a fid: no store has called yet", {
        retryAfterSeconds: 1,
      });
    }
    const named = all.filter(
      (store) =>
        (address === undefined || store.address === address) && within?.has(store.store) !== false,
    );
    if (named.length === 0) {
      throw new Failure(
        "bad-request",
        `Cannot assign a fid: no store has the address ${address} there`,
      );
    }
    const spacious = named.filter(
      ({ isLive, freeBytes }) => isLive && freeBytes >= Math.max(count * dataBytes, 1),
    );
    if (spacious.length === 0 && named.some(({ isLive }) => isLive)) {
      throw new Failure("full", "Cannot assign a fid: no store has space left");
    }
    return new Map(spacious.map((store) => [store.store, store]));
  }

  #isOpen(place: Place, { ttlSeconds }: AssignRequest): boolean {
    const isYoung = this.#options.clock.nowMs() < place.assignableUntilMs;
    return place.ttlSeconds === ttlSeconds && place.isWritable && isYoung;
  }

  /** Asks for a range where there is a volume, and for a volume where there is none. */
  #demand(request: AssignRequest): void {
    const stores = this.#storesFor(request);
    const open = [...this.#places.values()].filter(
      (place) => stores.has(place.store) && this.#isOpen(place, request),
    );
    for (const place of open) {
      // One that holds a single request would be used up at once, and remnants of it hide that it is short.
      const rangeCount = Math.max(place.rangeCount, 2 * request.count);
      place.rangeCount = Math.min(rangeCount, rangeCounts.max);
      this.#wish(place, request.count);
    }
    if (open.length > 0) return;
    // Asked already is asked: another store would make a second volume for the same demand.
    const isGrowing = [...stores.keys()].some((store) => this.#isGrowing(store, request));
    const { random } = this.#options;
    const weightOf = ({ freeBytes }: NativeStore) => freeBytes;
    const store = chooseWeighted([...stores.values()], weightOf, random.fraction());
    if (!isGrowing && store !== undefined) this.#grow(store.store, request);
  }

  /** Every store gets a volume for what lives for ever, so that no disk has all the work. */
  #spread(request: AssignRequest, stores: ReadonlyMap<string, NativeStore>): void {
    if (request.ttlSeconds !== 0 || stores.size < 2) return;
    const supplied = new Set<string>();
    for (const place of this.#places.values()) {
      if (!this.#isOpen(place, request)) continue;
      supplied.add(place.store);
      if (place.ranges.length === 0) this.#wish(place, request.count);
    }
    for (const store of stores.keys()) {
      if (!supplied.has(store) && !this.#isGrowing(store, request)) this.#grow(store, request);
    }
  }

  #isGrowing(store: string, { ttlSeconds }: AssignRequest): boolean {
    const grownMs = this.#grownMs.get(`${store}/${ttlSeconds}`);
    return grownMs !== undefined && this.#options.clock.monotonicMs() - grownMs < growMs;
  }

  #grow(store: string, { ttlSeconds }: AssignRequest): void {
    this.#grownMs.set(`${store}/${ttlSeconds}`, this.#options.clock.monotonicMs());
    this.#options.grow(store, ttlSeconds);
  }

  /** Asks for the next range while half of one is left, so that nobody waits for it. */
  #keepAhead(place: Place): void {
    const left = place.ranges.reduce((sum, { next, end }) => sum + end - next, 0);
    if (place.wish > 0 || left >= place.rangeCount / 2) return;
    const lastedMs = this.#options.clock.monotonicMs() - place.grantedMs;
    if (lastedMs < rangeMs.fast) place.rangeCount *= 2;
    if (lastedMs > rangeMs.slow) place.rangeCount /= 2;
    place.rangeCount = Math.min(Math.max(place.rangeCount, rangeCounts.min), rangeCounts.max);
    this.#wish(place, 0);
  }

  #wish(place: Place, count: number): void {
    const wish = Math.max(place.rangeCount, count);
    if (wish <= place.wish) return;
    place.wish = wish;
    this.#options.wake(place.store);
  }

  #takeGrant(store: string, { volume, first, count, boot }: Grant): void {
    const place = this.#places.get(volume);
    if (place?.store !== store || boot !== this.#options.boot) return;
    if (first < (this.#grantedEnds.get(volume) ?? 0)) return; // the same again
    this.#grantedEnds.set(volume, first + count);
    place.grantedMs = this.#options.clock.monotonicMs();
    place.wish = 0;
    place.ranges.push({ next: first, end: first + count });
    if (place.ranges.length > rangesMax) {
      const lengthOf = ({ next, end }: Range) => end - next;
      place.ranges.sort((left, right) => lengthOf(left) - lengthOf(right)).shift();
    }
  }
}

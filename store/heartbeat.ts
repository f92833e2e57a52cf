/**
 * The store's side of its talk with the directory: report, get orders, carry them out, report again.
 *
 * A heartbeat is a long poll: the directory holds the reply until it has something to say, a second at
 * most, and the next heartbeat follows at once. News of the store (`hurry`: a volume closed, an order
 * ended) does not wait for a held reply: that call is given up, and another sent which is answered at once.
 * While the directory is away the store serves on.
 *
 * Invariants:
 * - Short orders are carried out one after the other, in the order of the reply.
 * - An order that takes long runs in the background, once however often it comes. So does a reservation:
 *   a replica that does not answer must not make this store look silent as well.
 * - The end of an order is reported until a heartbeat with it was answered.
 */

import { Failure, type FailureKind, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import {
  type DirectoryClient,
  type Grant,
  type HeartbeatReply,
  isLongOrder,
  type Order,
  type VolumeStatus,
} from "../directory/client.ts";

const heldMs = 1_000;

/** While the directory is away, look for it more often: nothing can be stored until it is back. */
const awayMs = 100;

/** Should a directory not hold its replies, this is what keeps the two from talking without end. */
const emptyMs = 10;

/** Between two tries of an order that takes long and may go well the next time. */
const retryMs = 1_000;

/** What of a store this needs. */
export interface HeartbeatStore {
  readonly id: string;
  /** Ids of volumes that are there and can't be opened. */
  readonly unreadable: readonly number[];
  space(): { freeBytes: number; totalBytes: number };
  measureSpace(): Promise<void>;
  reports(): VolumeStatus[];
  /** Resolves when the order's effect is durable. */
  carryOut(order: Order): Promise<void>;
  /** Sets ordinals of a native volume aside, durably: no append and no other range gets them. */
  reserve(volume: number, count: number): Promise<{ first: number; count: number }>;
}

export interface HeartbeatOptions {
  store: HeartbeatStore;
  directory: Pick<DirectoryClient, "heartbeat">;
  /** Random for this process: 16 hex digits. */
  run: string;
  /** `host:port` under which gateways reach the store. */
  address: string;
  /** Where it stands; a machine of its own if it is not said. */
  place?: { machine: string; rack: string; dataCentre: string };
  /** The process's own where none is given. */
  runtime?: Runtime | undefined;
  log: Log;
}

/** Failures that the same order would meet again. */
const finalKinds: ReadonlySet<FailureKind> = new Set<FailureKind>([
  "bad-request",
  "conflict",
  "not-found",
  "corrupt",
  "unsupported",
]);

export class HeartbeatLoop {
  readonly #options: HeartbeatOptions;
  readonly #runtime: Runtime;
  /** How orders ended: the reason if they failed. Kept until that is reported. */
  readonly #ended = new Map<number, string | undefined>();
  /** Orders that run in the background. */
  readonly #background = new Map<number, Promise<void>>();
  /** The last range of each volume that was granted to the directory that runs now. */
  readonly #grants = new Map<number, Grant>();
  /** Volumes of which a range is being reserved. */
  readonly #granting = new Set<number>();
  /** Those of which a range was, and no answered heartbeat has told of it. */
  readonly #untold = new Set<number>();
  /** Hangs up a heartbeat whose reply may be held. */
  #held: AbortController | undefined;
  #hasNews = false;
  /** Heartbeats sent, so that one which is overtaken on its way is known. */
  #beat = 0;
  #isStopping = false;
  #isAnswered = false;
  #endPause: (() => void) | undefined;
  #running: Promise<void> | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    this.#runtime = options.runtime ?? systemRuntime;
  }

  /** Whether the directory answered the last heartbeat. */
  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Sends the next heartbeat now. */
  hurry(): void {
    this.#hasNews = true;
    this.#held?.abort();
  }

  /** Ends the talk. Orders in the background are the store's to end. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#held?.abort();
    this.#endPause?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isStopping) {
      // One that brings news is not held, and so never given up: whatever comes meanwhile goes with the
      // next, and some heartbeat is always answered, however often there is news.
      const isUrgent = this.#hasNews;
      this.#hasNews = false;
      const reply = await this.#send(isUrgent ? 0 : heldMs);
      if (reply === undefined) {
        if (!this.#hasNews || !this.#isAnswered) await this.#pause(awayMs);
        continue;
      }
      await this.#obey(reply);
      const isEmpty = reply.orders.length === 0 && reply.reserve.length === 0;
      if (!isUrgent && isEmpty && !this.#hasNews) await this.#pause(emptyMs);
    }
  }

  /** The reply, or undefined if there was none. */
  async #send(waitMs: number): Promise<HeartbeatReply | undefined> {
    const { store, directory, run, address, log } = this.#options;
    const { place = { machine: store.id, rack: "rack", dataCentre: "data-centre" } } =
      this.#options;
    const held = waitMs === 0 ? undefined : new AbortController();
    const reported = new Map(this.#ended);
    this.#beat += 1;
    try {
      await store.measureSpace();
      this.#held = held;
      if (this.#hasNews || this.#isStopping) held?.abort();
      const volumes = store.reports();
      this.#forgetGrants(volumes);
      const grants = [...this.#grants.values()];
      const reply = await directory.heartbeat(
        {
          store: store.id,
          run,
          address,
          ...place,
          isWhole: true,
          gone: [],
          ...store.space(),
          volumes,
          unreadable: [...store.unreadable],
          done: [...reported].flatMap(([order, reason]) => (reason === undefined ? [order] : [])),
          failed: [...reported].flatMap(([order, reason]) =>
            reason === undefined ? [] : [{ order, reason }],
          ),
          grants,
          beat: this.#beat,
          waitMs,
        },
        held?.signal,
      );
      for (const order of reported.keys()) this.#ended.delete(order);
      for (const grant of grants) {
        if (this.#grants.get(grant.volume) === grant) this.#untold.delete(grant.volume);
      }
      this.#isAnswered = true;
      return reply;
    } catch (error) {
      if (held?.signal.aborted === true) return undefined; // by ourselves: the directory may be well
      if (this.#isAnswered) log.warn({ reason: messageOf(error) }, "the directory does not answer");
      this.#isAnswered = false;
      return undefined;
    } finally {
      this.#held = undefined;
    }
  }

  async #obey({ orders, reserve, boot }: HeartbeatReply): Promise<void> {
    for (const [volume, grant] of this.#grants) {
      if (grant.boot !== boot) this.#grants.delete(volume);
    }
    for (const order of orders) {
      // Sent again before its end could be reported.
      if (this.#ended.has(order.order) || this.#background.has(order.order)) continue;
      if (isLong(order)) this.#startInBackground(order);
      else await this.#carryOut(order);
    }
    for (const wish of reserve) {
      // A wish that was made before the directory knew of a range is no wish for another.
      const isUntold = this.#untold.has(wish.volume) && this.#grants.has(wish.volume);
      if (this.#granting.has(wish.volume) || isUntold) continue;
      this.#granting.add(wish.volume);
      void this.#grant(wish, boot).finally(() => this.#granting.delete(wish.volume));
    }
  }

  async #carryOut(order: Order): Promise<void> {
    const { store, log } = this.#options;
    try {
      await store.carryOut(order);
      this.#end(order, undefined);
    } catch (error) {
      log.error({ err: error }, describeFailure(order, error));
      // Anything else may go well the next time: the directory sends it until it is ended.
      if (isFinal(error)) this.#end(order, messageOf(error));
    }
  }

  #startInBackground(order: Order): void {
    const { store, log } = this.#options;
    const running = store.carryOut(order).then(
      () => this.#end(order, undefined),
      (error: unknown) => {
        log.error({ err: error }, describeFailure(order, error));
        // A seal is never given up because somebody else is away: it comes again, a little later.
        if (isFinal(error) || order.kind !== "seal") this.#end(order, messageOf(error));
        else this.#runtime.after(retryMs, () => this.#background.delete(order.order));
      },
    );
    this.#background.set(order.order, running);
  }

  #end({ order }: Order, reason: string | undefined): void {
    // Out of the one before into the other, so that the order is in either at any time.
    this.#ended.set(order, reason?.slice(0, 1_000));
    this.#background.delete(order);
    this.hurry();
  }

  async #grant(wish: { volume: number; count: number }, boot: string): Promise<void> {
    const { store, log } = this.#options;
    const { volume } = wish;
    try {
      const { first, count } = await store.reserve(volume, wish.count);
      this.#grants.set(volume, { volume, first, count, boot });
      this.#untold.add(volume);
      this.hurry();
    } catch (error) {
      // The directory asks again, unless the volume's report tells it better.
      this.#grants.delete(volume);
      log.warn({ volume, reason: messageOf(error) }, "a range can't be reserved");
    }
  }

  /** Nothing is assigned of a volume that takes no more. */
  #forgetGrants(volumes: VolumeStatus[]): void {
    const open = new Set(
      volumes.filter(({ state }) => state === "open").map(({ volume }) => volume),
    );
    for (const volume of [...this.#grants.keys()]) {
      if (!open.has(volume)) this.#grants.delete(volume);
    }
  }

  #pause(ms: number): Promise<void> {
    if (this.#isStopping) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => {
        cancel();
        this.#endPause = undefined;
        resolve();
      };
      const cancel = this.#runtime.after(ms, end);
      this.#endPause = end;
    });
  }
}

/** What waits for other stores is not waited for: a copy that has to be filled first takes long to seal. */
function isLong(order: Order): boolean {
  const isAmongStores =
    order.kind === "copy" ||
    order.kind === "rejoin" ||
    (order.kind === "seal" && order.at !== undefined);
  return isLongOrder(order) || isAmongStores;
}

function isFinal(error: unknown): boolean {
  return error instanceof Failure && finalKinds.has(error.kind);
}

function describeFailure({ order, kind, volume }: Order, error: unknown): string {
  return `Cannot carry out order ${order} (${kind} volume ${volume}): ${messageOf(error)}`;
}

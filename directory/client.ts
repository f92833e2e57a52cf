/**
 * How others call the directory: stores send heartbeats, gateways keep a map of volumes, operators order.
 *
 * Where several directories share a database, the one that leads is found among their addresses
 * (addresses.ts); the map is had from any of them.
 *
 * Invariant: a gateway reads on from the last map it got while the directory is away.
 */

import { type Clock, systemClock } from "../base/clock.ts";
import { messageOf } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import type { Log } from "../base/log.ts";
import { DirectoryAddresses } from "./addresses.ts";
import { chooseWeighted } from "./plan.ts";
import type {
  CompactAllAnswer,
  CompactAllRequest,
  CompactVolumeRequest,
  DirectoryStatus,
  Heartbeat,
  HeartbeatReply,
  ImportVolumeRequest,
  LeaderStatus,
  MapVolume,
  OrderStatus,
  OrdersAnswer,
  VerifyVolumeRequest,
  VolumeClass,
  VolumeMap,
} from "./protocol.ts";

export { isLongOrder } from "./plan.ts";
export type {
  CompactAllAnswer,
  DirectoryStatus,
  Grant,
  Heartbeat,
  HeartbeatReply,
  LeaderStatus,
  MapVolume,
  Order,
  OrderStatus,
  StoreStatus,
  VolumeClass,
  VolumeStatus,
} from "./protocol.ts";

const callTimeoutMs = 5_000;
const mapWaitMs = 20_000;

/** With another directory to turn to, one that hangs is left sooner, and a poll of the map is shorter. */
const severalTimeoutMs = 2_000;
const severalMapWaitMs = 2_000;

const retryMs = { first: 100, last: 2_000 };

export class DirectoryClient {
  readonly #caller: Caller;
  /** Who leads, and who tells the map. */
  readonly #leaders: DirectoryAddresses;
  readonly #tellers: DirectoryAddresses;

  /** `addresses` is `host:port` of the directory, or of several with commas between. */
  constructor(caller: Caller, addresses: string, clock: Clock = systemClock) {
    this.#caller = caller;
    this.#leaders = new DirectoryAddresses(addresses, clock);
    this.#tellers = new DirectoryAddresses(addresses, clock);
  }

  /** `signal` hangs up, while the directory holds the reply for example. */
  async heartbeat(heartbeat: Heartbeat, signal?: AbortSignal): Promise<HeartbeatReply> {
    const call = { method: "POST", path: "/heartbeat", body: heartbeat, signal } as const;
    const timeoutMs = this.#hangMs + (heartbeat.waitMs ?? 0);
    return await this.#leaders.ask(
      (address) => this.#caller.callJson<HeartbeatReply>({ ...call, address, timeoutMs }),
      { signal },
    );
  }

  async map(after: string, waitMs: number, signal: AbortSignal): Promise<VolumeMap> {
    const heldMs = this.#tellers.areSeveral ? Math.min(waitMs, severalMapWaitMs) : waitMs;
    const path = `/map?after=${encodeURIComponent(after)}&wait=${heldMs}`;
    const timeoutMs = this.#hangMs + heldMs;
    return await this.#tellers.ask(
      (address) =>
        this.#caller.callJson<VolumeMap>({ method: "GET", address, path, timeoutMs, signal }),
      { signal },
    );
  }

  async status(requestId?: string): Promise<DirectoryStatus> {
    return await this.#get("/status", requestId);
  }

  /** Who leads, as the directory says that answers first. */
  async leader(): Promise<LeaderStatus> {
    const call = { method: "GET", path: "/leader", timeoutMs: this.#hangMs } as const;
    return await this.#tellers.ask((address) =>
      this.#caller.callJson<LeaderStatus>({ ...call, address }),
    );
  }

  /** Has a volume rewritten without what is dead in it; an open one is sealed first. */
  async compactVolume(
    volume: number,
    request: Partial<CompactVolumeRequest> = {},
  ): Promise<OrdersAnswer> {
    return await this.#post(`/volumes/${volume}/compact`, request);
  }

  /** Has all compacted that is worth it; with `dryRun` only tells what that would be. */
  async compactAll(request: Partial<CompactAllRequest> = {}): Promise<CompactAllAnswer> {
    return await this.#post("/compact", request);
  }

  async verifyVolume(
    volume: number,
    request: Partial<VerifyVolumeRequest> = {},
  ): Promise<OrdersAnswer> {
    return await this.#post(`/volumes/${volume}/verify`, request);
  }

  async sealVolume(volume: number): Promise<OrdersAnswer> {
    return await this.#post(`/volumes/${volume}/seal`, {});
  }

  async importVolume(request: ImportVolumeRequest): Promise<OrdersAnswer> {
    return await this.#post("/volumes/import", request);
  }

  /** Fails with `not-found` if the order ended too long ago, or before the directory's last start. */
  async order(number: number): Promise<OrderStatus> {
    return await this.#get(`/orders/${number}`);
  }

  /** How long a directory may be silent. */
  get #hangMs(): number {
    return this.#leaders.areSeveral ? severalTimeoutMs : callTimeoutMs;
  }

  async #get<Answer>(path: string, requestId?: string): Promise<Answer> {
    const call = { method: "GET", path, timeoutMs: this.#hangMs, requestId } as const;
    return await this.#leaders.ask((address) =>
      this.#caller.callJson<Answer>({ ...call, address }),
    );
  }

  async #post<Answer>(path: string, body: unknown): Promise<Answer> {
    const call = { method: "POST", path, body, timeoutMs: callTimeoutMs } as const;
    return await this.#leaders.ask(
      (address) => this.#caller.callJson<Answer>({ ...call, address }),
      // It may have been ordered, just not answered.
      { canRepeat: false },
    );
  }
}

/** The volume map as a gateway holds it, kept fresh in the background. */
export class VolumeDirectory {
  readonly #client: DirectoryClient;
  readonly #log: Log;
  readonly #stopping = new AbortController();
  readonly #changeWaiters = new Set<() => void>();
  #volumes = new Map<number, MapVolume>();
  #version = "";
  #following: Promise<void> | undefined;

  constructor(client: DirectoryClient, log: Log) {
    this.#client = client;
    this.#log = log;
  }

  /** Whether a map has ever come. */
  get isReady(): boolean {
    return this.#version !== "";
  }

  start(): void {
    this.#following ??= this.#follow();
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#following;
  }

  /** `host:port` of each store that has the volume. */
  addressesOf(volume: number): readonly string[] {
    return this.#volumes.get(volume)?.addresses ?? [];
  }

  /** A volume that takes appends, the emptier its disk the likelier; none of `avoid`. */
  chooseWritable(
    volumeClass: VolumeClass,
    avoid: ReadonlySet<number>,
    fraction: number,
  ): { volume: number; address: string } | undefined {
    const choices = [...this.#volumes.values()].filter(
      (entry) => entry.class === volumeClass && entry.isWritable && !avoid.has(entry.volume),
    );
    const chosen = chooseWeighted(choices, ({ freeBytes }) => freeBytes + 1, fraction);
    const address = chosen?.addresses[0];
    if (chosen === undefined || address === undefined) return undefined;
    return { volume: chosen.volume, address };
  }

  /** Whether volumes of the class are there that only lack space. */
  isFull(volumeClass: VolumeClass): boolean {
    return [...this.#volumes.values()].some((entry) => entry.class === volumeClass && entry.isFull);
  }

  /** Resolves at the next change of the map, or after `limitMs`. */
  change(limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const settle = () => {
        clearTimeout(timer);
        this.#changeWaiters.delete(settle);
        resolve();
      };
      const timer = setTimeout(settle, limitMs);
      this.#changeWaiters.add(settle);
    });
  }

  async #follow(): Promise<void> {
    let delayMs = retryMs.first;
    while (!this.#stopping.signal.aborted) {
      try {
        const map = await this.#client.map(this.#version, mapWaitMs, this.#stopping.signal);
        delayMs = retryMs.first;
        if (map.version === this.#version) continue;
        this.#version = map.version;
        this.#takeIn(map);
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        this.#log.warn(
          { reason: messageOf(error) },
          "the directory does not answer; its last map stands",
        );
        await this.change(delayMs);
        delayMs = Math.min(delayMs * 2, retryMs.last);
      }
    }
  }

  #takeIn({ volumes, isOnRecord }: VolumeMap): void {
    const next = new Map(volumes.map((entry) => [entry.volume, entry]));
    // What a leader has said is worth more than what a directory finds that has just started.
    if (isOnRecord === true) for (const [volume, entry] of this.#volumes) next.set(volume, entry);
    // A directory that has just started knows only the stores that have called since. What it does not
    // mention stays readable where it was; nothing is written there.
    for (const [volume, entry] of this.#volumes) {
      if (!next.has(volume)) next.set(volume, { ...entry, isWritable: false });
    }
    this.#volumes = next;
    for (const settle of [...this.#changeWaiters]) settle();
  }
}

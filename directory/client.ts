/**
 * How others call the directory: stores send heartbeats, gateways keep a map of volumes, operators order.
 *
 * Invariant: a gateway reads on from the last map it got while the directory is away.
 */

import { messageOf } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import type { Log } from "../base/log.ts";
import { chooseWeighted } from "./plan.ts";
import type {
  CompactAllAnswer,
  CompactAllRequest,
  CompactVolumeRequest,
  DirectoryStatus,
  DrainStoreRequest,
  Heartbeat,
  HeartbeatReply,
  ImportVolumeRequest,
  MapVolume,
  MoveVolumeRequest,
  OrderStatus,
  OrdersAnswer,
  UnmetWant,
  VerifyVolumeRequest,
  VolumeClass,
  VolumeMap,
} from "./protocol.ts";
import { onePlacementText } from "./records.ts";
import { wantText } from "./wants.ts";

export { isLongOrder } from "./plan.ts";
export type {
  CompactAllAnswer,
  DirectoryStatus,
  Grant,
  Heartbeat,
  HeartbeatReply,
  MapVolume,
  Order,
  OrderStatus,
  StoreStatus,
  VolumeClass,
  VolumeStatus,
} from "./protocol.ts";

const callTimeoutMs = 5_000;
const mapWaitMs = 20_000;
const retryMs = { first: 100, last: 2_000 };

export class DirectoryClient {
  readonly #caller: Caller;
  readonly #address: string;

  constructor(caller: Caller, address: string) {
    this.#caller = caller;
    this.#address = address;
  }

  /** `signal` hangs up, while the directory holds the reply for example. */
  async heartbeat(heartbeat: Heartbeat, signal?: AbortSignal): Promise<HeartbeatReply> {
    return await this.#caller.callJson<HeartbeatReply>({
      method: "POST",
      address: this.#address,
      path: "/heartbeat",
      body: heartbeat,
      timeoutMs: callTimeoutMs + (heartbeat.waitMs ?? 0),
      signal,
    });
  }

  /** `wants` are kinds of volumes that the caller writes to (wants.ts). */
  async map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    wants: readonly string[] = [],
  ): Promise<VolumeMap> {
    const query = new URLSearchParams({ after, wait: `${waitMs}` });
    for (const want of wants) query.append("want", want);
    return await this.#caller.callJson<VolumeMap>({
      method: "GET",
      address: this.#address,
      path: `/map?${query}`,
      timeoutMs: waitMs + callTimeoutMs,
      signal,
    });
  }

  async status(requestId?: string): Promise<DirectoryStatus> {
    return await this.#caller.callJson<DirectoryStatus>({
      method: "GET",
      address: this.#address,
      path: "/status",
      timeoutMs: callTimeoutMs,
      requestId,
    });
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

  /** Has all copies moved away from a store, by its id or address; or takes that back. */
  async drainStore(store: string, request: Partial<DrainStoreRequest> = {}): Promise<void> {
    await this.#post(`/stores/${encodeURIComponent(store)}/drain`, request);
  }

  async moveVolume(volume: number, request: MoveVolumeRequest): Promise<void> {
    await this.#post(`/volumes/${volume}/move`, request);
  }

  /** Fails with `not-found` if the order ended too long ago, or before the directory's last start. */
  async order(number: number): Promise<OrderStatus> {
    return await this.#caller.callJson<OrderStatus>({
      method: "GET",
      address: this.#address,
      path: `/orders/${number}`,
      timeoutMs: callTimeoutMs,
    });
  }

  async #post<Answer>(path: string, body: unknown): Promise<Answer> {
    return await this.#caller.callJson<Answer>({
      method: "POST",
      address: this.#address,
      path,
      body,
      timeoutMs: callTimeoutMs,
    });
  }
}

/** The volume map as a gateway holds it, kept fresh in the background. */
export class VolumeDirectory {
  readonly #client: DirectoryClient;
  readonly #log: Log;
  readonly #stopping = new AbortController();
  readonly #changeWaiters = new Set<() => void>();
  #volumes = new Map<number, MapVolume>();
  #unmet: UnmetWant[] = [];
  #wants: readonly string[] = [];
  /** Hangs up the call that waits for the next map. */
  #asking: AbortController | undefined;
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

  /**
   * Says which kinds of volumes this gateway writes to, all of them (wants.ts has the form): the directory
   * makes them ahead of demand. What is new is asked for at once.
   */
  wants(list: readonly string[]): void {
    const isNews = list.some((want) => !this.#wants.includes(want));
    this.#wants = [...list];
    if (isNews) this.#asking?.abort();
  }

  /** Why there are no volumes of a kind that was wanted, if the directory can't make any. */
  whyNone(volumeClass: VolumeClass, placement: string = onePlacementText): string | undefined {
    const text = wantText({ class: volumeClass, placement });
    return this.#unmet.find(({ want }) => want === text)?.reason;
  }

  /** `host:port` of each store that has the volume and may be read from, the best first. */
  addressesOf(volume: number): readonly string[] {
    return this.#volumes.get(volume)?.addresses ?? [];
  }

  /** `host:port` of each store that has a copy: a delete has to reach all of them. */
  memberAddressesOf(volume: number): readonly string[] {
    return this.#volumes.get(volume)?.memberAddresses ?? [];
  }

  /**
   * A volume of a class and placement that takes appends, the emptier its disk the likelier; none of `avoid`.
   * The address is the primary's.
   */
  chooseWritable(
    volumeClass: VolumeClass,
    avoid: ReadonlySet<number>,
    fraction: number,
    placement: string = onePlacementText,
  ): { volume: number; address: string } | undefined {
    const choices = [...this.#volumes.values()].filter(
      (entry) =>
        entry.class === volumeClass &&
        entry.placement === placement &&
        entry.isWritable &&
        !avoid.has(entry.volume),
    );
    const chosen = chooseWeighted(choices, ({ freeBytes }) => freeBytes + 1, fraction);
    const address = chosen?.addresses[0];
    if (chosen === undefined || address === undefined) return undefined;
    return { volume: chosen.volume, address };
  }

  /** Whether volumes of the class and placement are there that only lack space. */
  isFull(volumeClass: VolumeClass, placement: string = onePlacementText): boolean {
    return [...this.#volumes.values()].some(
      (entry) => entry.class === volumeClass && entry.placement === placement && entry.isFull,
    );
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
      const asking = new AbortController();
      this.#asking = asking;
      const signal = AbortSignal.any([asking.signal, this.#stopping.signal]);
      try {
        const map = await this.#client.map(this.#version, mapWaitMs, signal, this.#wants);
        delayMs = retryMs.first;
        this.#unmet = map.unmet;
        if (map.version === this.#version) continue;
        this.#version = map.version;
        this.#takeIn(map.volumes);
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        if (asking.signal.aborted) continue; // there is something else to ask for
        this.#log.warn(
          { reason: messageOf(error) },
          "the directory does not answer; its last map stands",
        );
        await this.change(delayMs);
        delayMs = Math.min(delayMs * 2, retryMs.last);
      }
    }
  }

  #takeIn(volumes: MapVolume[]): void {
    const next = new Map(volumes.map((entry) => [entry.volume, entry]));
    // A directory that has just started knows only the stores that have called since. What it does not
    // mention stays readable where it was; nothing is written there.
    for (const [volume, entry] of this.#volumes) {
      if (!next.has(volume)) next.set(volume, { ...entry, isWritable: false });
    }
    this.#volumes = next;
    for (const settle of [...this.#changeWaiters]) settle();
  }
}

/**
 * How others call the directory: stores send heartbeats, gateways keep a map of volumes, operators order.
 *
 * Where several directories share a database, the one that leads is found among their addresses
 * (addresses.ts); the map is had from any of them.
 */

import { type Clock, systemClock } from "../base/clock.ts";
import type { Caller } from "../base/http-call.ts";
import { DirectoryAddresses } from "./addresses.ts";
import type {
  CompactAllAnswer,
  CompactAllRequest,
  CompactVolumeRequest,
  DirectoryStatus,
  DrainStoreRequest,
  Heartbeat,
  HeartbeatReply,
  ImportVolumeRequest,
  LeaderStatus,
  MoveVolumeRequest,
  OrderStatus,
  OrdersAnswer,
  VerifyVolumeRequest,
  VolumeDetails,
  VolumeMap,
} from "./protocol.ts";

export { copiesMax, placementText, type Spread } from "./placement.ts";
export { isLongOrder } from "./plan.ts";
export type {
  CompactAllAnswer,
  CopyDetails,
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
  VolumeDetails,
  VolumeStatus,
} from "./protocol.ts";
export { VolumeDirectory, type WritableVolume } from "./volume-directory.ts";

/** The answer of /dir/assign. */
interface NativeAssignment {
  fid: string;
  url: string;
  publicUrl: string;
  count: number;
}

const callTimeoutMs = 5_000;

/** With another directory to turn to, one that hangs is left sooner, and a poll of the map is shorter. */
const severalTimeoutMs = 2_000;
const severalMapWaitMs = 2_000;

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

  /**
   * `wants` are kinds of volumes that the caller writes to (wants.ts), `gateways` the addresses under which clients
   * reach it, or those that it speaks for.
   */
  async map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    wants: readonly string[] = [],
    gateways: readonly string[] = [],
  ): Promise<VolumeMap> {
    const heldMs = this.#tellers.areSeveral ? Math.min(waitMs, severalMapWaitMs) : waitMs;
    const query = new URLSearchParams({ after, wait: String(heldMs) });
    for (const want of wants) query.append("want", want);
    for (const gateway of gateways) query.append("gateway", gateway);
    const path = `/map?${query}`;
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

  /** One volume with its copies. */
  async volume(id: number, requestId?: string): Promise<VolumeDetails> {
    return await this.#get(`/volumes/${id}`, requestId);
  }

  /** Who leads, as the directory says that answers first. */
  async leader(): Promise<LeaderStatus> {
    const call = { method: "GET", path: "/leader", timeoutMs: this.#hangMs } as const;
    return await this.#tellers.ask((address) =>
      this.#caller.callJson<LeaderStatus>({ ...call, address }),
    );
  }

  /** A fid of a native volume, with the parameters of /dir/assign. */
  async assign(parameters: URLSearchParams, requestId?: string): Promise<NativeAssignment> {
    return await this.#get(`/dir/assign?${parameters}`, requestId);
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

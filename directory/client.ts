/**
 * How others call the directory: stores send heartbeats, gateways keep a map of volumes, operators order.
 */

import type { Caller } from "../base/http-call.ts";
import type {
  CompactAllAnswer,
  CompactAllRequest,
  CompactVolumeRequest,
  DirectoryStatus,
  Heartbeat,
  HeartbeatReply,
  ImportVolumeRequest,
  OrderStatus,
  OrdersAnswer,
  VerifyVolumeRequest,
  VolumeMap,
} from "./protocol.ts";

export { placementText, type Spread } from "./placement.ts";
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
export { VolumeDirectory, type WritableVolume } from "./volume-directory.ts";

const callTimeoutMs = 5_000;

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

  /** `want` are the placements that the gateway's buckets use: `placementText` of each. */
  async map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    want: readonly string[] = [],
  ): Promise<VolumeMap> {
    const query = new URLSearchParams({ after, wait: String(waitMs) });
    for (const placement of want) query.append("want", placement);
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

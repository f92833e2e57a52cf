/** For tests: a store that does as it is told, without any disk. */

import type { Directory } from "./directory.ts";
import type {
  FailedOrder,
  Grant,
  Heartbeat,
  HeartbeatReply,
  Member,
  Order,
  VolumeStatus,
} from "./protocol.ts";

export const emptyStatus: VolumeStatus = {
  volume: 1,
  class: "original",
  uuid: "0".repeat(32),
  generation: 0,
  epoch: 1,
  state: "open",
  isWritable: true,
  isServing: true,
  members: [],
  lengthBytes: 8_192,
  lastDigest: "0".repeat(16),
  dataBytes: 0,
  needleCount: 0,
  deletedCount: 0,
  deletesDigest: "0".repeat(16),
  damagedBytes: 0,
  deadBytes: 0,
  ttlSeconds: 0,
  expiresMs: 0,
  scrubbedMs: 0,
  createdMs: 0,
  trashBytes: 0,
  hasSparseKeys: false,
};

export class FakeStore {
  readonly id: string;
  run: string = "1".repeat(16);
  address = "127.0.0.1:8080";
  freeBytes = 1e12;
  volumes: Map<number, VolumeStatus> = new Map();
  unreadable: number[] = [];
  done: number[] = [];
  failed: FailedOrder[] = [];
  grants: Map<number, Grant> = new Map();
  /** Order kinds that fail, with the reason. */
  failures: Map<Order["kind"], string> = new Map();
  /** Whether compactions and the like only begin, and show that they run. */
  isSlow = false;
  /** Where it stands; a machine of its own if it is not said. */
  machine: string | undefined;
  rack = "rack";
  /** The other stores, by id: copies come from them. */
  peers: ReadonlyMap<string, FakeStore> = new Map();
  isUp = true;
  /** Every range that was ever set aside: the end of the last, by volume. */
  readonly #ends = new Map<number, number>();

  constructor(id: string) {
    this.id = id.padStart(16, "0");
  }

  report(waitMs?: number): Heartbeat {
    return {
      store: this.id,
      run: this.run,
      address: this.address,
      machine: this.machine ?? this.id,
      rack: this.rack,
      dataCentre: "data-centre",
      freeBytes: this.freeBytes,
      totalBytes: 2e12,
      volumes: [...this.volumes.values()],
      isWhole: true,
      gone: [],
      unreadable: this.unreadable,
      done: this.done,
      failed: this.failed,
      grants: [...this.grants.values()],
      waitMs,
    };
  }

  obey({ orders, reserve, boot }: HeartbeatReply): void {
    this.carryOut(orders);
    for (const { volume, count } of reserve) {
      const first = this.reserve(volume, count);
      this.grants.set(volume, { volume, first, count, boot });
    }
  }

  carryOut(orders: Order[]): void {
    this.done = [];
    this.failed = [];
    for (const order of orders) {
      const reason = this.failures.get(order.kind);
      if (reason !== undefined) this.failed.push({ order: order.order, reason });
      else if (this.apply(order)) this.done.push(order.order);
    }
  }

  /** Returns the first of the ordinals that were set aside. */
  reserve(volume: number, count: number): number {
    const first = this.#ends.get(volume) ?? 0;
    this.#ends.set(volume, first + count);
    return first;
  }

  /** Changes a volume's report. */
  set(volume: number, change: Partial<VolumeStatus>): void {
    const status = this.volumes.get(volume) ?? { ...emptyStatus, volume };
    this.volumes.set(volume, { ...status, ...change });
  }

  /** Returns whether the order is done with. */
  apply(order: Order): boolean {
    const { volume } = order;
    if (order.kind === "create") {
      const { class: volumeClass, uuid, generation, epoch, createdMs, ttlSeconds } = order;
      const members = order.members.map(({ store }) => store);
      this.set(volume, {
        ...{ class: volumeClass, uuid, generation, epoch, createdMs, ttlSeconds, members },
        isWritable: members[0] === this.id,
      });
      return true;
    }
    if (order.kind === "import") {
      const { uuid, createdMs } = order;
      this.set(volume, { class: "native", state: "sealed", isWritable: false, uuid, createdMs });
      return true;
    }
    if (order.kind === "copy") return this.#copy(order);
    const status = this.volumes.get(volume);
    if (status === undefined) return true;
    switch (order.kind) {
      case "begin-epoch": {
        const { epoch } = order;
        // One that is late: this copy was fenced since.
        if (epoch < status.epoch) break;
        const members = order.members.map(({ store }) => store);
        const isWritable = members[0] === this.id;
        this.set(volume, { epoch, members, isWritable, isServing: true, closedBecause: undefined });
        break;
      }
      case "fence":
        if (order.epoch <= status.epoch) break;
        this.set(volume, { epoch: order.epoch, isWritable: false });
        break;
      case "seal":
        this.#seal(order, status);
        break;
      case "rejoin":
        this.#rejoin(order, status);
        break;
      case "delete-copy":
      case "drop":
        if (status.uuid === order.uuid) this.volumes.delete(volume);
        break;
      case "compact":
      case "verify": {
        const { kind } = order;
        const { lengthBytes, deadBytes } = status;
        if (this.isSlow) {
          this.set(volume, { operation: { kind, doneBytes: 1, totalBytes: lengthBytes } });
          return false;
        }
        this.set(volume, { operation: undefined });
        if (order.kind === "compact") {
          const { generation } = order;
          this.set(volume, { generation, deadBytes: 0, lengthBytes: lengthBytes - deadBytes });
        }
        break;
      }
    }
    return true;
  }

  restart(run: string): void {
    this.run = run.repeat(16).slice(0, 16);
    this.done = [];
    this.failed = [];
    for (const [id, volume] of this.volumes) {
      // One of several copies does not know what was deleted, or appended, meanwhile.
      const isServing = volume.members.length < 2;
      const { closedBecause: _, ...rest } = volume;
      this.volumes.set(id, { ...rest, isWritable: false, isServing });
    }
  }

  /** At the primary, and at those of the others that get it: bytes whose content `digest` stands for. */
  append(volume: number, digest: string, replicas: readonly FakeStore[], bytes = 1_024): void {
    for (const store of [this, ...replicas]) {
      const status = store.volumes.get(volume);
      if (status === undefined) continue;
      const lengthBytes = status.lengthBytes + bytes;
      store.set(volume, { lengthBytes, lastDigest: digest.padStart(16, "0") });
    }
  }

  #seal(order: Order & { kind: "seal" }, status: VolumeStatus): void {
    const { at } = order;
    const { volume } = order;
    if (at === undefined) {
      this.set(volume, { state: "sealed", isWritable: false });
      return;
    }
    this.set(volume, {
      ...{ state: "sealed", isWritable: false, isServing: true },
      ...{ lengthBytes: at.lengthBytes, lastDigest: at.lastDigest },
      epoch: Math.max(status.epoch, at.epoch),
      members: at.members.map(({ store }) => store),
    });
    this.#merge(volume, at.from);
  }

  #rejoin(order: Order & { kind: "rejoin" }, status: VolumeStatus): void {
    const { volume, lengthBytes, members } = order;
    if (status.lengthBytes !== lengthBytes) return;
    this.#merge(volume, order.from);
    this.set(volume, { isServing: true, members: members.map(({ store }) => store) });
  }

  /** As with real stores, it is their business whether the others are there. */
  #merge(volume: number, from: readonly Member[]): void {
    const others = from.map(({ store }) => this.#peer(store)?.volumes.get(volume));
    const all = [this.volumes.get(volume), ...others].filter((status) => status !== undefined);
    const [most] = all.sort((left, right) => right.deletedCount - left.deletedCount);
    if (most === undefined) return;
    const { deletedCount, deletesDigest } = most;
    this.set(volume, { deletedCount, deletesDigest });
  }

  #peer(store: string): FakeStore | undefined {
    const peer = this.peers.get(store);
    return peer?.isUp === true ? peer : undefined;
  }

  #copy(order: Order & { kind: "copy" }): boolean {
    const { volume, uuid, generation, epoch, lengthBytes, members } = order;
    const source = order.from
      .map(({ store }) => this.#peer(store)?.volumes.get(volume))
      .find((status) => status !== undefined && status.lengthBytes === lengthBytes);
    if (source === undefined || this.isSlow) return false;
    this.set(volume, {
      ...source,
      ...{ uuid, generation, epoch, damagedBytes: 0, isServing: true, isWritable: false },
      members: members.map(({ store }) => store),
    });
    return true;
  }

  async beat(directory: Directory, waitMs?: number): Promise<Order[]> {
    const reply = await directory.heartbeat(this.report(waitMs));
    this.obey(reply);
    return reply.orders;
  }

  /** Beats as a real store does, over long polls, until `isOver`. */
  async beatUntil(directory: Directory, isOver: () => boolean): Promise<void> {
    while (!isOver()) await this.beat(directory, 20);
  }
}

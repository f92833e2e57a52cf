/** For tests: a store that does as it is told, without any disk. */

import type { Directory } from "./directory.ts";
import type {
  FailedOrder,
  Grant,
  Heartbeat,
  HeartbeatReply,
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
      machine: this.id,
      rack: "rack",
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
      this.set(volume, {
        class: volumeClass,
        ...{ uuid, generation, epoch, createdMs, ttlSeconds },
      });
      return true;
    }
    if (order.kind === "import") {
      const { uuid, createdMs } = order;
      this.set(volume, { class: "native", state: "sealed", isWritable: false, uuid, createdMs });
      return true;
    }
    const status = this.volumes.get(volume);
    if (status === undefined) return true;
    switch (order.kind) {
      case "begin-epoch":
        this.set(volume, { epoch: order.epoch, isWritable: true });
        break;
      case "seal":
        this.set(volume, { state: "sealed", isWritable: false });
        break;
      case "drop":
        this.volumes.delete(volume);
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
    this.run = run.repeat(16);
    this.done = [];
    this.failed = [];
    for (const [id, volume] of this.volumes) this.volumes.set(id, { ...volume, isWritable: false });
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

/**
 * What the directory decides, as pure functions: given what it has on record and what a store reports,
 * which changes to make. The directory commits them, and then they are orders.
 */

import type { Order, OrderKind, VolumeClass, VolumeStatus } from "./protocol.ts";
import { openMsOf } from "./ttl-bucket.ts";

/** `dropped`: its needles have expired and it is gone; its id is used for ever all the same. */
export type VolumeState = "importing" | "open" | "sealing" | "sealed" | "dropping" | "dropped";

/** A volume as the directory has it on record. */
export interface VolumeRecord {
  volume: number;
  uuid: string;
  class: VolumeClass;
  generation: number;
  epoch: number;
  state: VolumeState;
  store: string;
  ttlSeconds: number;
}

export interface OrderRecord {
  order: number;
  store: string;
  volume: number;
  kind: OrderKind;
}

export type Change =
  /** Give the store's new run an epoch of its own. */
  | { kind: "begin-epoch"; volume: number; epoch: number }
  /** End the open life of a volume. */
  | { kind: "seal"; volume: number; reason: string }
  | { kind: "sealed"; volume: number; lengthBytes: number }
  /** The store has compacted it. */
  | { kind: "compacted"; volume: number; generation: number }
  /** Nothing in it lives any more: remove it. */
  | { kind: "drop"; volume: number; uuid: string }
  | { kind: "create"; class: VolumeClass }
  /** A volume that nothing is on record of: it is read, and never written again. */
  | { kind: "adopt"; status: VolumeStatus }
  /** Two volumes claim one id, or one that was dropped is back: it is served to nobody. */
  | { kind: "refuse"; volume: number; reason: string };

/** Classes that are kept open ahead of demand, and how many of each at a store. */
const openPerClass: readonly { class: VolumeClass; count: number }[] = [
  { class: "original", count: 2 },
];

/** How long a needle is kept beyond its life, for clocks that differ. */
const expiryMarginMs = 60_000;

interface StoreView {
  /** Of this store. */
  records: readonly VolumeRecord[];
  reports: readonly VolumeStatus[];
  /** Orders of this store that are not done, and those that failed and are not to be tried again yet. */
  pending: readonly OrderRecord[];
  isNewRun: boolean;
  /** Whether the store has room for more. */
  hasSpace: boolean;
  nowMs: number;
}

/** Changes that a report calls for. `isNewRun` is true for the first report of a store's process. */
export function planStore(view: StoreView): Change[] {
  const recordOf = new Map(view.records.map((record) => [record.volume, record]));
  const changes = view.reports.flatMap((status): Change[] => {
    const record = recordOf.get(status.volume);
    return record === undefined ? [{ kind: "adopt", status }] : planVolume(record, status, view);
  });
  return view.hasSpace ? [...changes, ...planCreations(changes, view)] : changes;
}

function planVolume(
  record: VolumeRecord,
  status: VolumeStatus,
  { pending, isNewRun, nowMs }: StoreView,
): Change[] {
  const { volume, uuid } = status;
  const isPending = (kind: OrderKind) => hasOrder(pending, volume, kind);
  if (record.uuid !== uuid) {
    return [{ kind: "refuse", volume, reason: `its uuid is ${uuid}, on record is ${record.uuid}` }];
  }
  const changes: Change[] = [];
  if (status.generation > record.generation) {
    changes.push({ kind: "compacted", volume, generation: status.generation });
  }
  switch (record.state) {
    case "dropped":
      return [{ kind: "refuse", volume, reason: "it was dropped when its needles had expired" }];
    case "dropping":
      if (!isPending("drop")) changes.push({ kind: "drop", volume, uuid });
      break;
    case "sealed":
      if (isExpired(record, status, nowMs) && !isPending("drop")) {
        changes.push({ kind: "drop", volume, uuid });
      }
      break;
    case "importing":
    case "sealing":
      if (status.state === "sealed") {
        changes.push({ kind: "sealed", volume, lengthBytes: status.lengthBytes });
      } else if (!isPending("seal") && !isPending("import")) {
        changes.push({ kind: "seal", volume, reason: "the seal was not done" });
      }
      break;
    case "open":
      if (status.state === "sealed") {
        changes.push({ kind: "sealed", volume, lengthBytes: status.lengthBytes });
      } else if (status.closedBecause !== undefined) {
        changes.push({ kind: "seal", volume, reason: status.closedBecause });
      } else if (record.ttlSeconds > 0 && nowMs >= status.createdMs + openMsOf(record.ttlSeconds)) {
        const reason = "it has taken needles for long enough: they are to expire together";
        changes.push({ kind: "seal", volume, reason });
      } else if (isNewRun) {
        const epoch = Math.max(record.epoch, status.epoch) + 1;
        changes.push({ kind: "begin-epoch", volume, epoch });
      }
      break;
  }
  return changes;
}

function isExpired({ ttlSeconds }: VolumeRecord, status: VolumeStatus, nowMs: number): boolean {
  if (ttlSeconds === 0 || status.operation !== undefined) return false;
  if (status.state !== "sealed" || status.damagedBytes > 0) return false;
  if (status.needleCount === 0) return true;
  if (status.expiresMs === 0) return false;
  // No needle can be older than its volume, whatever a report says.
  const expiresMs = Math.max(status.expiresMs, status.createdMs + ttlSeconds * 1_000);
  return nowMs > expiresMs + expiryMarginMs;
}

function planCreations(changes: readonly Change[], view: StoreView): Change[] {
  const { records, reports, pending } = view;
  const closing = new Set(
    changes.flatMap((change) =>
      change.kind === "seal" || change.kind === "sealed" ? [change.volume] : [],
    ),
  );
  // One that is on record and neither reported nor about to be made takes nothing.
  const reported = new Set(reports.map(({ volume }) => volume));
  return openPerClass.flatMap(({ class: volumeClass, count }) => {
    const open = records.filter(
      ({ class: other, state, volume }) =>
        other === volumeClass &&
        state === "open" &&
        !closing.has(volume) &&
        (reported.has(volume) || hasOrder(pending, volume, "create")),
    );
    const missing = Math.max(count - open.length, 0);
    return Array.from({ length: missing }, (): Change => ({ kind: "create", class: volumeClass }));
  });
}

function hasOrder(orders: readonly OrderRecord[], volume: number, kind: OrderKind): boolean {
  return orders.some((order) => order.volume === volume && order.kind === kind);
}

/** Kinds that run in the background of a store for minutes or hours. */
const longKinds: ReadonlySet<OrderKind> = new Set<OrderKind>(["compact", "verify", "import"]);

export function isLongOrder({ kind }: { kind: OrderKind }): boolean {
  return longKinds.has(kind);
}

/**
 * The orders of one store that it is to hear of now. Of those that take long: one of a kind, so that its
 * disk has time for readers, one for a volume, and a compaction once the volume is sealed. What runs
 * already comes first.
 */
export function ordersToSend(
  pending: readonly { order: Order; volumeState: VolumeState | undefined }[],
  isRunning: (order: Order) => boolean,
): Order[] {
  const byNumber = [...pending].sort((left, right) => left.order.order - right.order.order);
  const long = byNumber.filter(({ order }) => isLongOrder(order));
  const chosen = new Set<Order>();
  const busyKinds = new Set<OrderKind>();
  const busyVolumes = new Set<number>();
  for (const { order, volumeState } of [
    ...long.filter(({ order }) => isRunning(order)),
    ...long.filter(({ order }) => !isRunning(order)),
  ]) {
    if (order.kind === "compact" && volumeState !== "sealed") continue;
    if (busyKinds.has(order.kind) || busyVolumes.has(order.volume)) continue;
    busyKinds.add(order.kind);
    busyVolumes.add(order.volume);
    chosen.add(order);
  }
  return byNumber.flatMap(({ order }) => (isLongOrder(order) && !chosen.has(order) ? [] : [order]));
}

/** Whether a store that was silent for so long may still be asked. */
export function storeState(
  silentMs: number,
  { suspectMs, lostMs }: { suspectMs: number; lostMs: number },
): "live" | "suspect" | "lost" {
  if (silentMs < suspectMs) return "live";
  return silentMs < lostMs ? "suspect" : "lost";
}

/** One of `choices`, with a chance in proportion to its weight; undefined if there are none. */
export function chooseWeighted<Choice>(
  choices: readonly Choice[],
  weightOf: (choice: Choice) => number,
  fraction: number,
): Choice | undefined {
  const total = choices.reduce((sum, choice) => sum + weightOf(choice), 0);
  let left = fraction * total;
  for (const choice of choices) {
    left -= weightOf(choice);
    if (left < 0) return choice;
  }
  return choices.at(-1);
}

/**
 * What the directory decides, as pure functions: given what it has on record and what a store reports,
 * which changes to make. The directory commits them, and then they are orders.
 */

import type { VolumeClass, VolumeStatus } from "./protocol.ts";

/** A volume as the directory has it on record. */
export interface VolumeRecord {
  volume: number;
  uuid: string;
  class: VolumeClass;
  generation: number;
  epoch: number;
  state: "open" | "sealing" | "sealed";
  store: string;
}

export interface OrderRecord {
  order: number;
  store: string;
  volume: number;
  kind: "create" | "begin-epoch" | "seal";
}

export type Change =
  /** Give the store's new run an epoch of its own. */
  | { kind: "begin-epoch"; volume: number; epoch: number }
  /** End the open life of a volume. */
  | { kind: "seal"; volume: number; reason: string }
  | { kind: "sealed"; volume: number; lengthBytes: number }
  | { kind: "create"; class: VolumeClass }
  /** A volume that nothing is on record of: it is read, and never written again. */
  | { kind: "adopt"; status: VolumeStatus }
  /** Two volumes claim one id: the reported one is served to nobody. */
  | { kind: "refuse"; volume: number; reason: string };

/** Classes that are kept open ahead of demand, and how many of each at a store. */
const openPerClass: readonly { class: VolumeClass; count: number }[] = [
  { class: "original", count: 2 },
];

/** Changes that a report calls for. `isNewRun` is true for the first report of a store's process. */
export function planStore({
  records,
  reports,
  pending,
  isNewRun,
  hasSpace,
}: {
  /** Of this store. */
  records: readonly VolumeRecord[];
  reports: readonly VolumeStatus[];
  /** Orders of this store that are not done. */
  pending: readonly OrderRecord[];
  isNewRun: boolean;
  /** Whether the store has room for more. */
  hasSpace: boolean;
}): Change[] {
  const changes: Change[] = [];
  const recordOf = new Map(records.map((record) => [record.volume, record]));
  const isPending = (volume: number, kind: OrderRecord["kind"]) =>
    pending.some((order) => order.volume === volume && order.kind === kind);

  for (const status of reports) {
    const record = recordOf.get(status.volume);
    if (record === undefined) {
      changes.push({ kind: "adopt", status });
    } else if (record.uuid !== status.uuid) {
      const reason = `its uuid is ${status.uuid}, on record is ${record.uuid}`;
      changes.push({ kind: "refuse", volume: status.volume, reason });
    } else if (record.state === "open" && status.state === "open") {
      if (status.closedBecause !== undefined) {
        changes.push({ kind: "seal", volume: status.volume, reason: status.closedBecause });
      } else if (isNewRun) {
        const epoch = Math.max(record.epoch, status.epoch) + 1;
        changes.push({ kind: "begin-epoch", volume: status.volume, epoch });
      }
    } else if (record.state !== "sealed" && status.state === "sealed") {
      changes.push({ kind: "sealed", volume: status.volume, lengthBytes: status.lengthBytes });
    } else if (record.state === "sealing" && !isPending(status.volume, "seal")) {
      changes.push({ kind: "seal", volume: status.volume, reason: "the seal was not done" });
    }
  }

  if (hasSpace) {
    const sealing = new Set(
      changes.flatMap((change) =>
        change.kind === "seal" || change.kind === "sealed" ? [change.volume] : [],
      ),
    );
    for (const { class: volumeClass, count } of openPerClass) {
      // One that is on record and neither reported nor about to be made takes nothing.
      const reported = new Set(reports.map(({ volume }) => volume));
      const open = records.filter(
        ({ class: other, state, volume }) =>
          other === volumeClass &&
          state === "open" &&
          !sealing.has(volume) &&
          (reported.has(volume) || isPending(volume, "create")),
      );
      for (let missing = count - open.length; missing > 0; missing--) {
        changes.push({ kind: "create", class: volumeClass });
      }
    }
  }
  return changes;
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

import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { emptyStatus } from "./fake-store.ts";
import {
  chooseWeighted,
  ordersToSend,
  planStore,
  storeState,
  type VolumeRecord,
  type VolumeState,
} from "./plan.ts";
import type { Order, VolumeStatus } from "./protocol.ts";

const record = (volume: number, other: Partial<VolumeRecord> = {}): VolumeRecord => ({
  volume,
  uuid: `${volume}`.padStart(32, "0"),
  class: "original",
  generation: 0,
  epoch: 4,
  state: "open",
  store: "a".repeat(16),
  ttlSeconds: 0,
  ...other,
});

const status = (volume: number, other: Partial<VolumeStatus> = {}): VolumeStatus => ({
  ...emptyStatus,
  volume,
  uuid: `${volume}`.padStart(32, "0"),
  epoch: 4,
  lengthBytes: 9_000,
  needleCount: 1,
  ...other,
});

const calm = { pending: [], isNewRun: false, hasSpace: true, nowMs: 1_000_000 };

test("A store that is as it should be is left alone", () => {
  const records = [record(1), record(2)];
  expect(planStore({ ...calm, records, reports: [status(1), status(2)] })).toEqual([]);
});

test("A new store gets two open volumes, one without space none", () => {
  const create = { kind: "create", class: "original" };
  expect(planStore({ ...calm, records: [], reports: [] })).toEqual([create, create]);
  expect(planStore({ ...calm, records: [], reports: [], hasSpace: false })).toEqual([]);
});

test("A new run gets an epoch above all that was given out or obeyed", () => {
  const changes = planStore({
    ...calm,
    isNewRun: true,
    records: [record(1, { epoch: 4 }), record(2, { epoch: 4 })],
    reports: [status(1, { epoch: 4 }), status(2, { epoch: 9 })],
  });
  expect(changes).toEqual([
    { kind: "begin-epoch", volume: 1, epoch: 5 },
    { kind: "begin-epoch", volume: 2, epoch: 10 },
  ]);
});

test("A volume that will take no more is sealed, and another made in its place", () => {
  const changes = planStore({
    ...calm,
    records: [record(1), record(2)],
    reports: [status(1, { isWritable: false, closedBecause: "it is full" }), status(2)],
  });
  expect(changes).toEqual([
    { kind: "seal", volume: 1, reason: "it is full" },
    { kind: "create", class: "original" },
  ]);
});

test("A seal is ordered until it is reported, then put on record", () => {
  const records = [record(1, { state: "sealing" }), record(2), record(3)];
  const others = [status(2), status(3)];
  const seal = { order: 9, store: "a".repeat(16), volume: 1, kind: "seal" } as const;
  const waiting = { ...calm, records, pending: [seal], reports: [status(1), ...others] };
  expect(planStore(waiting)).toEqual([]);
  expect(planStore({ ...waiting, pending: [] })).toMatchObject([{ kind: "seal", volume: 1 }]);
  const sealed = status(1, { state: "sealed", lengthBytes: 12_345 });
  expect(planStore({ ...waiting, reports: [sealed, ...others] })).toEqual([
    { kind: "sealed", volume: 1, lengthBytes: 12_345 },
  ]);
});

test("A volume of which nothing is known is adopted; one with a uuid not on record is refused", () => {
  const records = [record(1), record(2)];
  const changes = planStore({
    ...calm,
    records,
    reports: [status(1, { uuid: "f".repeat(32) }), status(2), status(7)],
  });
  expect(changes).toMatchObject([
    { kind: "refuse", volume: 1 },
    { kind: "adopt", status: { volume: 7 } },
  ]);
});

test("A new generation is put on record", () => {
  const changes = planStore({
    ...calm,
    records: [record(1), record(2), record(3, { state: "sealed" })],
    reports: [status(1), status(2), status(3, { state: "sealed", generation: 2 })],
  });
  expect(changes).toEqual([{ kind: "compacted", volume: 3, generation: 2 }]);
});

test("An imported volume that is open is sealed, but not while the import runs", () => {
  const importing = record(3, { class: "native", state: "importing" });
  const view = { ...calm, records: [record(1), record(2), importing] };
  const reports = [status(1), status(2), status(3)];
  const order = { order: 9, store: "a".repeat(16), volume: 3, kind: "import" } as const;
  expect(planStore({ ...view, reports, pending: [order] })).toEqual([]);
  expect(planStore({ ...view, reports })).toMatchObject([{ kind: "seal", volume: 3 }]);
});

test("A volume with a TTL is dropped a minute after its last needle expired, and not before it is sealed", () => {
  const view = (state: VolumeState, other: Partial<VolumeStatus>, nowMs: number) =>
    planStore({
      ...calm,
      nowMs,
      records: [record(1), record(2), record(3, { class: "native", ttlSeconds: 60, state })],
      reports: [status(1), status(2), status(3, { state: "sealed", expiresMs: 80_000, ...other })],
    }).map(({ kind }) => kind);
  expect(view("sealed", {}, 140_000)).toEqual([]);
  expect(view("sealed", {}, 140_001)).toEqual(["drop"]);
  expect(view("sealed", { expiresMs: 0 }, 9e12)).toEqual([]);
  expect(view("sealed", { createdMs: 40_000 }, 160_000)).toEqual([]);
  expect(view("sealed", { createdMs: 40_000 }, 160_001)).toEqual(["drop"]);
  expect(view("sealed", { expiresMs: 0, needleCount: 0 }, 140_001)).toEqual(["drop"]);
  expect(view("sealed", { damagedBytes: 8 }, 140_001)).toEqual([]);
  const operation = { kind: "verify", doneBytes: 0, totalBytes: 1 } as const;
  expect(view("sealed", { operation }, 140_001)).toEqual([]);
  expect(view("open", {}, 140_001)).toEqual(["sealed"]);
  expect(view("dropped", {}, 140_001)).toEqual(["refuse"]);
});

const compact = (order: number, volume: number): Order => ({
  ...{ order, kind: "compact", volume, generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: false },
});
const verify = (order: number, volume: number): Order => ({
  ...{ order, kind: "verify", volume, rateBytes: 0 },
});
const sealed = (order: Order) => ({ order, volumeState: "sealed" as const });
const numbersOf = (orders: Order[]) => orders.map(({ order }) => order);

test("Of orders that take long, one of a kind and one for a volume is sent, and all that are short", () => {
  const seal: Order = { order: 9, kind: "seal", volume: 1 };
  const pending = [verify(3, 1), compact(4, 1), compact(5, 2), compact(6, 3), verify(7, 3), seal];
  const send = (isRunning: (order: Order) => boolean) =>
    numbersOf(ordersToSend(pending.map(sealed), isRunning));
  expect(send(() => false)).toEqual([3, 5, 9]);
  expect(send(({ order }) => order === 6)).toEqual([3, 6, 9]);
});

test("A compaction is not sent before its volume is sealed", () => {
  const waiting = { order: compact(1, 1), volumeState: "sealing" as const };
  expect(ordersToSend([waiting], () => true)).toEqual([]);
  expect(numbersOf(ordersToSend([waiting, sealed(compact(2, 2))], () => false))).toEqual([2]);
});

test("A silent store is suspect, then lost", () => {
  const limits = { suspectMs: 3_000, lostMs: 30_000 };
  expect([0, 2_999, 3_000, 29_999, 30_000].map((ms) => storeState(ms, limits))).toEqual([
    "live",
    "live",
    "suspect",
    "suspect",
    "lost",
  ]);
});

test("A weighted choice takes each in proportion to its weight, and none of weight zero", () => {
  const random = seededRandom(3);
  const taken = new Map<number, number>();
  for (let draw = 0; draw < 10_000; draw++) {
    const choice = chooseWeighted([1, 0, 3], (weight) => weight, random.fraction());
    if (choice !== undefined) taken.set(choice, (taken.get(choice) ?? 0) + 1);
  }
  expect(taken.get(0)).toBeUndefined();
  expect((taken.get(3) ?? 0) / (taken.get(1) ?? 1)).toBeGreaterThan(2.7);
  expect((taken.get(3) ?? 0) / (taken.get(1) ?? 1)).toBeLessThan(3.3);
  expect(chooseWeighted([], () => 1, 0.5)).toBeUndefined();
});

import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { chooseWeighted, planStore, storeState, type VolumeRecord } from "./plan.ts";
import type { VolumeStatus } from "./protocol.ts";

const record = (volume: number, other: Partial<VolumeRecord> = {}): VolumeRecord => ({
  volume,
  uuid: `${volume}`.padStart(32, "0"),
  class: "original",
  generation: 0,
  epoch: 4,
  state: "open",
  store: "a".repeat(16),
  ...other,
});

const status = (volume: number, other: Partial<VolumeStatus> = {}): VolumeStatus => ({
  volume,
  class: "original",
  uuid: `${volume}`.padStart(32, "0"),
  generation: 0,
  epoch: 4,
  state: "open",
  isWritable: true,
  lengthBytes: 9_000,
  dataBytes: 500,
  needleCount: 1,
  deletedCount: 0,
  damagedBytes: 0,
  ...other,
});

const calm = { pending: [], isNewRun: false, hasSpace: true };

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

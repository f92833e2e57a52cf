import { expect, test } from "vitest";
import { emptyStatus } from "./fake-store.ts";
import { type CopyView, planVolume, type VolumeView } from "./plan-life.ts";
import type { VolumeStatus } from "./protocol.ts";
import type { VolumeRecord } from "./records.ts";

const record: VolumeRecord = {
  ...{ volume: 1, uuid: "0".repeat(32), class: "native", generation: 0, recordMagic: "aa" },
  ...{ epoch: 4, state: "open", placement: "copies=1 spread=machine", ttlSeconds: 0 },
  ...{ isFinal: false, sealedLength: null, sealedDigest: null },
  replicas: [{ store: "a", state: "member", run: "1" }],
};

function view(
  change: Partial<VolumeRecord>,
  report: Partial<VolumeStatus>,
  other: Partial<VolumeView> = {},
): VolumeView {
  const changed = { ...record, ...change };
  const copies = changed.replicas.map(
    (replica): CopyView => ({
      ...{ replica, place: { machine: replica.store, rack: "r", dataCentre: "d" } },
      ...{ state: "live", silentMs: 0, run: "1", isKnown: true, isDraining: false },
      isUnreadable: false,
      report: { ...emptyStatus, epoch: 4, needleCount: 1, ...report },
    }),
  );
  return {
    ...{ record: changed, copies, pending: [], nowMs: 1_000_000, sealWaitMs: 7_000 },
    ...{ hasFailed: () => false, hasEnded: () => false, surplusMs: 0, differMs: 0 },
    ...other,
  };
}

test("A volume that is as it should be is left alone", () => {
  expect(planVolume(view({}, {}))).toEqual([]);
  expect(planVolume(view({ state: "sealed" }, { state: "sealed" }))).toEqual([]);
});

test("A new run gets an epoch above all that was given out or obeyed", () => {
  const replicas = [{ store: "a", state: "member", run: "0" }] as const;
  expect(planVolume(view({ replicas }, { epoch: 9 }))).toEqual([{ kind: "begin", epoch: 10 }]);
});

test("A begin that was taken for the run before, and ended, is ordered again", () => {
  const order = { kind: "order", store: "a", order: "begin-epoch" };
  expect(planVolume(view({}, { epoch: 3, isWritable: false }))).toEqual([order]);
  const pending = [{ number: 1, store: "a", kind: "begin-epoch" }] as const;
  expect(planVolume(view({}, { epoch: 3 }, { pending }))).toEqual([]);
});

test("A volume whose store was restarted after it was made begins a new epoch before it is open", () => {
  const creating = { state: "creating", epoch: 1 } as const;
  const made = { epoch: 1, needleCount: 0 };
  expect(planVolume(view(creating, made))).toEqual([{ kind: "opened" }]);
  const idle = { ...made, isWritable: false };
  expect(planVolume(view(creating, idle))).toEqual([{ kind: "begin", epoch: 2 }]);
  const pending = [{ number: 1, store: "a", kind: "create" }] as const;
  expect(planVolume(view(creating, idle, { pending }))).toEqual([]);
});

test("A seal is ordered until it is reported, then put on record", () => {
  const sealing = { state: "sealing" } as const;
  expect(planVolume(view({}, { closedBecause: "it is full" }))).toMatchObject([{ kind: "close" }]);
  expect(planVolume(view(sealing, {}))).toEqual([{ kind: "order", store: "a", order: "seal" }]);
  const pending = [{ number: 1, store: "a", kind: "seal" }] as const;
  expect(planVolume(view(sealing, {}, { pending }))).toEqual([]);
  const importing = [{ number: 1, store: "a", kind: "import" }] as const;
  expect(planVolume(view({ state: "importing" }, {}, { pending: importing }))).toEqual([]);
  expect(planVolume(view(sealing, { state: "sealed", lengthBytes: 7 }))).toMatchObject([
    { kind: "sealed", lengthBytes: 7 },
  ]);
});

test("A new generation of a single copy is put on record", () => {
  const sealed = { state: "sealed", generation: 2, lengthBytes: 5 } as const;
  expect(planVolume(view({ state: "sealed" }, sealed))).toMatchObject([
    { kind: "compacted", generation: 2, lengthBytes: 5 },
  ]);
});

test("A volume with a TTL is dropped a minute after its last needle expired, and not before it is sealed", () => {
  const kinds = (
    state: VolumeRecord["state"],
    report: Partial<VolumeStatus>,
    nowMs: number,
  ): string[] =>
    planVolume(
      view({ ttlSeconds: 60, state }, { state: "sealed", expiresMs: 80_000, ...report }, { nowMs }),
    ).map(({ kind }) => kind);
  expect(kinds("sealed", {}, 140_000)).toEqual([]);
  expect(kinds("sealed", {}, 140_001)).toEqual(["drop"]);
  expect(kinds("sealed", { expiresMs: 0 }, 9e12)).toEqual([]);
  expect(kinds("sealed", { createdMs: 40_000 }, 160_000)).toEqual([]);
  expect(kinds("sealed", { createdMs: 40_000 }, 160_001)).toEqual(["drop"]);
  expect(kinds("sealed", { expiresMs: 0, needleCount: 0 }, 140_001)).toEqual(["drop"]);
  expect(kinds("sealed", { damagedBytes: 8 }, 140_001)).toEqual([]);
  const operation = { kind: "verify", doneBytes: 0, totalBytes: 1 } as const;
  expect(kinds("sealed", { operation }, 140_001)).toEqual([]);
  expect(kinds("open", {}, 140_001)).toEqual(["sealed"]);
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { emptyStatus } from "./fake-store.ts";
import { compactionDefaults, planCompaction } from "./plan-compaction.ts";
import type { VolumeStatus } from "./protocol.ts";

const mebibyte = 1_048_576;

const volume = (
  id: number,
  deadShare: number,
  other: Partial<VolumeStatus & { store: string }> = {},
): VolumeStatus & { store: string } => ({
  ...emptyStatus,
  volume: id,
  state: "sealed",
  isWritable: false,
  lengthBytes: 100 * mebibyte,
  deadBytes: Math.round(100 * mebibyte * deadShare),
  store: "a",
  ...other,
});

const idsOf = (
  volumes: (VolumeStatus & { store: string })[],
  options?: { byHand: boolean },
): number[] => planCompaction(volumes, compactionDefaults, options).map((step) => step.volume);

test("The volume that costs least for what it frees goes first, and one of a store at a time", () => {
  const volumes = [
    volume(1, 0.5),
    volume(2, 0.95),
    volume(3, 0.6),
    volume(4, 0.4, { store: "b" }),
    volume(5, 0.1, { store: "c" }),
  ];
  expect(idsOf(volumes)).toEqual([2, 4]);
  expect(idsOf(volumes, { byHand: true })).toEqual([2, 3, 1, 4]);
});

test("A step tells what it copies and what it frees", () => {
  expect(planCompaction([volume(1, 0.5)], compactionDefaults)).toEqual([
    {
      volume: 1,
      store: "a",
      strategy: "garbage",
      copyBytes: 50 * mebibyte,
      freedBytes: 50 * mebibyte,
    },
  ]);
  expect(planCompaction([volume(1, 0.9)], compactionDefaults)).toMatchObject([
    { strategy: "drain" },
  ]);
});

test("What is open, at work, sparse, or goes as a whole anyway, is left alone", () => {
  const operation = { kind: "verify", doneBytes: 0, totalBytes: 1 } as const;
  const volumes = [
    volume(1, 0.9, { state: "open" }),
    volume(2, 0.9, { operation }),
    volume(3, 0.9, { hasSparseKeys: true }),
    volume(4, 0.9, { class: "native", ttlSeconds: 60 }),
  ];
  expect(idsOf(volumes, { byHand: true })).toEqual([]);
  expect(idsOf([...volumes, volume(5, 0.9, { class: "native" })])).toEqual([5]);
});

test("A store that compacts gets no second compaction by itself", () => {
  const operation = { kind: "compact", doneBytes: 0, totalBytes: 1 } as const;
  const volumes = [volume(1, 0.2, { operation }), volume(2, 0.9)];
  expect(idsOf(volumes)).toEqual([]);
  expect(idsOf(volumes, { byHand: true })).toEqual([2]);
});

test("Less than 1 MiB of dead bytes is for whoever asks by hand", () => {
  const small = volume(1, 0, { lengthBytes: mebibyte, deadBytes: mebibyte - 8_192 });
  expect(idsOf([small])).toEqual([]);
  expect(idsOf([small], { byHand: true })).toEqual([1]);
});

test("No plan names a volume twice, or one that is below the shares", () => {
  const volumes = fc.array(
    fc.record({ share: fc.double({ min: 0, max: 1, noNaN: true }), store: fc.nat({ max: 3 }) }),
  );
  fc.assert(
    fc.property(volumes, (drawn) => {
      const all = drawn.map(({ share, store }, at) => volume(at + 1, share, { store: `${store}` }));
      const steps = planCompaction(all, compactionDefaults);
      expect(new Set(steps.map(({ store }) => store)).size).toBe(steps.length);
      for (const { freedBytes, copyBytes } of steps) {
        expect(freedBytes / (freedBytes + copyBytes)).toBeGreaterThanOrEqual(0.3);
      }
    }),
  );
});

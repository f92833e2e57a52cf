import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { planRepair, type RepairStore, type ShortVolume } from "./plan-repair.ts";

const store = (at: number, other: Partial<RepairStore> = {}): RepairStore => ({
  ...{ store: `${at}`, machine: `${at}`, rack: `${at % 4}`, dataCentre: "d" },
  ...{ freeBytes: 1e9, incoming: 0, outgoing: 0, ...other },
});

const short = (volume: number, other: Partial<ShortVolume> = {}): ShortVolume => ({
  ...{ volume, lengthBytes: 1_000, wantedCount: 3, presentCount: 2, spread: "machine" },
  ...{ kept: [store(1), store(2)], sources: ["1", "2"], avoid: new Set(["1", "2"]) },
  ...{ replaceable: [], ...other },
});

const limits = { incomingMax: 2, outgoingMax: 2 };
const random = seededRandom(4);
const plan = (volumes: ShortVolume[], stores: RepairStore[]) =>
  planRepair({ short: volumes, stores, limits, fraction: () => random.fraction() });

test("The most endangered volume is copied first", () => {
  const volumes = [short(1), short(2, { presentCount: 1 }), short(3)];
  expect(plan(volumes, [store(1), store(2), store(3)]).map(({ volume }) => volume)).toEqual([2, 1]);
});

test("Copies come from many stores and go to many, and none does more than it may", () => {
  const stores = Array.from({ length: 20 }, (_, at) => store(at));
  const volumes = Array.from({ length: 200 }, (_, at) => {
    const [first, second] = [at % 20, (at * 7 + 1) % 20];
    const kept = [store(first), store(second)];
    const sources = [`${first}`, `${second}`];
    return short(at, { kept, sources, avoid: new Set(sources) });
  });
  const steps = plan(volumes, stores);
  expect(steps.length).toBeGreaterThan(30);
  for (const { store: id } of stores) {
    expect(steps.filter(({ from }) => from === id).length).toBeLessThanOrEqual(2);
    expect(steps.filter(({ to }) => to === id).length).toBeLessThanOrEqual(2);
  }
  for (const { from, to } of steps) expect(from).not.toBe(to);
});

test("A copy keeps away from the racks of those that stay", () => {
  const stores = Array.from({ length: 8 }, (_, at) => store(at));
  const volumes = Array.from({ length: 10 }, (_, at) => short(at, { spread: "rack" }));
  for (const { to } of plan(volumes, stores)) expect([0, 3]).toContain(Number(to) % 4);
});

test("Without space, a source or another place nothing is copied; a bad copy may be replaced where it is", () => {
  expect(plan([short(1)], [store(1), store(2), store(3, { freeBytes: 500 })])).toEqual([]);
  expect(plan([short(1, { sources: [] })], [store(1), store(3)])).toEqual([]);
  expect(plan([short(1, { replaceable: ["2"], sources: ["1"] })], [store(1), store(2)])).toEqual([
    { volume: 1, from: "1", to: "2", isInPlace: true },
  ]);
});

import fc from "fast-check";
import type { Kysely } from "kysely";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parseFid } from "../base/fid.ts";
import { makeLog } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { reservedCookie } from "../base/reserved-cookie.ts";
import { systemRuntime } from "../base/runtime.ts";
import { Assigner, type NativeVolume } from "./assigner.ts";
import { Directory } from "./directory.ts";
import { FakeStore } from "./fake-store.ts";
import type { DirectoryTables } from "./schema.ts";
import { makeTestDatabase, type TestDatabase } from "./test-database.ts";

const uuid = Buffer.alloc(16, 7);
const recordMagic = Buffer.alloc(8, 9);
const request = { count: 1, ttlSeconds: 0, dataBytes: 0 };

const native = (volume: number, other: Partial<NativeVolume> = {}): NativeVolume => ({
  volume,
  uuid,
  recordMagic,
  ttlSeconds: 0,
  isWritable: true,
  assignableUntilMs: Number.POSITIVE_INFINITY,
  ...other,
});

/** An assigner, what it asks for, and a store that may answer. */
function setUp(waitMsMax = 10_000) {
  const state = {
    nowMs: 0,
    stores: [{ store: "a", address: "a:1", isLive: true, freeBytes: 1e12 }],
    grown: [] as string[],
    woken: [] as string[],
  };
  const assigner = new Assigner({
    clock: { nowMs: () => state.nowMs, monotonicMs: () => state.nowMs },
    random: seededRandom(5),
    runtime: systemRuntime,
    boot: "now",
    stores: () => state.stores,
    grow: (store, ttlSeconds) => void state.grown.push(`${store}/${ttlSeconds}`),
    wake: (store) => void state.woken.push(store),
    waitMsMax,
  });
  return { assigner, state };
}

const grant = (volume: number, first: number, count: number, boot = "now") => ({
  ...{ volume, first, count, boot },
});

const ordinalsOf = (fid: string, count: number): number[] => {
  const first = parseFid(fid)?.ordinal ?? Number.NaN;
  return Array.from({ length: count }, (_, at) => first + at);
};

test("The fids of one call are consecutive and share the cookie of the first", async () => {
  const { assigner } = setUp();
  assigner.takeIn("a", [native(3)], [grant(3, 40, 1_024)]);
  const { fid, address, count } = await assigner.assign({ ...request, count: 5 });
  const cookie = reservedCookie({ recordMagic, uuid, ordinal: 40 });
  expect(parseFid(fid)).toEqual({ volume: 3, ordinal: 40, cookie });
  expect([address, count]).toEqual(["a:1", 5]);
  const next = await assigner.assign(request);
  expect(parseFid(next.fid)?.ordinal).toBe(45);
});

test("A grant counts once, and only if this run of the directory asked for it", async () => {
  const { assigner, state } = setUp(1);
  const grants = [grant(3, 0, 2), grant(3, 100, 2, "another run")];
  assigner.takeIn("a", [native(3)], grants);
  await assigner.assign({ ...request, count: 2 });
  assigner.takeIn("a", [native(3)], grants);
  // Gone from the reports and back: what was granted before stays granted.
  assigner.takeIn("a", [], grants);
  assigner.takeIn("a", [native(3)], grants);
  const waiting = assigner.assign(request);
  state.nowMs += 10;
  assigner.takeIn("a", [native(3)], grants);
  await expect(waiting).rejects.toMatchObject({ kind: "timeout" });
});

test("Nobody waits while ranges are asked for in time, and ranges grow with their use", async () => {
  const { assigner, state } = setUp(0);
  const counts = [1_024];
  let end = 1_024;
  assigner.takeIn("a", [native(3)], [grant(3, 0, end)]);
  const assignOften = async (times: number, pauseMs: number) => {
    for (let at = 0; at < times; at++) {
      state.nowMs += pauseMs;
      await assigner.assign({ ...request, count: 64 });
      const [wish] = assigner.wishesOf("a");
      if (wish === undefined) continue;
      counts.push(wish.count);
      assigner.takeIn("a", [native(3)], [grant(3, end, wish.count)]);
      end += wish.count;
    }
  };
  await assignOften(5_000, 1);
  expect(counts.slice(0, 4)).toEqual([1_024, 2_048, 4_096, 8_192]);
  expect(counts.at(-1)).toBe(65_536);
  // Slow use makes them small again.
  await assignOften(5_000, 70_000);
  expect(counts.at(-1)).toBe(1_024);
  expect(state.grown).toEqual([]);
});

test("Without a volume one is asked for, once, and whoever waits gets it when it is there", async () => {
  const { assigner, state } = setUp();
  const waiting = [assigner.assign(request), assigner.assign({ ...request, count: 2_000 })];
  await Promise.resolve();
  expect(state.grown).toEqual(["a/0"]);
  assigner.takeIn("a", [native(3)], []);
  await new Promise((resolve) => setImmediate(resolve));
  expect(assigner.wishesOf("a")).toEqual([{ volume: 3, count: 4_000 }]);
  expect(state.woken).toContain("a");
  assigner.takeIn("a", [native(3)], [grant(3, 0, 4_000)]);
  const fids = await Promise.all(waiting);
  expect(new Set(fids.map(({ fid }) => fid)).size).toBe(2);
  expect(state.grown).toEqual(["a/0"]);
});

test("A life has volumes of its own, and none is assigned of one that is about to be sealed", async () => {
  const { assigner, state } = setUp();
  const short = native(4, { ttlSeconds: 120, assignableUntilMs: 50 });
  assigner.takeIn("a", [native(3), short], [grant(3, 0, 9), grant(4, 0, 9)]);
  const { fid } = await assigner.assign({ ...request, ttlSeconds: 120 });
  expect(parseFid(fid)?.volume).toBe(4);
  state.nowMs = 50;
  const waiting = assigner.assign({ ...request, ttlSeconds: 120 });
  expect(state.grown).toEqual(["a/120"]);
  state.nowMs = 20_000;
  assigner.takeIn("a", [native(3), short], []);
  await expect(waiting).rejects.toMatchObject({ kind: "timeout" });
});

test("No store, no space and no such address are told apart at once", async () => {
  const { assigner, state } = setUp();
  await expect(assigner.assign({ ...request, address: "b:1" })).rejects.toMatchObject({
    kind: "bad-request",
  });
  await expect(assigner.assign({ ...request, count: 2, dataBytes: 6e11 })).rejects.toMatchObject({
    kind: "full",
  });
  state.stores = [];
  await expect(assigner.assign(request)).rejects.toMatchObject({ kind: "unavailable" });
  expect(state.grown).toEqual([]);
});

test("A store that is silent, or full, is passed over", async () => {
  const { assigner, state } = setUp();
  const store = { isLive: true, freeBytes: 1e12 };
  state.stores = [
    { ...store, store: "a", address: "a:1", freeBytes: 0 },
    { ...store, store: "b", address: "b:1", isLive: false },
    { ...store, store: "c", address: "c:1" },
  ];
  for (const [at, id] of ["a", "b", "c"].entries()) {
    assigner.takeIn(id, [native(at + 1)], [grant(at + 1, 0, 100)]);
  }
  for (let at = 0; at < 20; at++) {
    expect((await assigner.assign(request)).address).toBe("c:1");
  }
});

let made: TestDatabase;
let database: Kysely<DirectoryTables>;

beforeEach(async () => {
  made = await makeTestDatabase();
  database = made.database;
});

afterEach(async () => {
  await made.destroy();
});

type Step =
  | { kind: "assign"; counts: number[]; ttlSeconds: number }
  | { kind: "beat" | "restart-directory" | "restart-store" };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("assign" as const),
      counts: fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 8 }),
      ttlSeconds: fc.constantFrom(0, 0, 0, 7_680),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom("beat", "restart-directory", "restart-store" as const),
    }) as fc.Arbitrary<Step>,
  },
);

test("No ordinal is given out twice, over restarts of directory and stores, however many ask at once", async () => {
  let directorySeed = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      const makeDirectory = () =>
        new Directory({
          database,
          clock: { nowMs: () => 1e12, monotonicMs: () => 0 },
          random: seededRandom(++directorySeed),
          log: makeLog("test", "silent"),
        });
      // Of their own for each run: the database is one for all.
      const stores = ["1", "2"].map((id) => new FakeStore(`${directorySeed.toString(16)}f${id}`));
      let directory = makeDirectory();
      let runs = 1;
      const given = new Set<string>();
      const beat = async () => {
        for (const store of stores) await store.beat(directory);
      };
      await beat();
      for (const each of steps) {
        if (each.kind === "beat") await beat();
        if (each.kind === "restart-directory") {
          directory = makeDirectory();
          await beat();
        }
        if (each.kind === "restart-store") stores[0]?.restart(String(++runs % 10));
        if (each.kind !== "assign") continue;
        let isOver = false;
        const beating = stores.map((store) => store.beatUntil(directory, () => isOver));
        const assigned = await Promise.all(
          each.counts.map((count) =>
            directory.assign({ count, ttlSeconds: each.ttlSeconds, dataBytes: 0 }),
          ),
        );
        isOver = true;
        await Promise.all(beating);
        for (const { fid, count } of assigned) {
          for (const ordinal of ordinalsOf(fid, count)) {
            const name = `${parseFid(fid)?.volume},${ordinal}`;
            expect(given.has(name), name).toBe(false);
            given.add(name);
          }
        }
      }
    }),
    { numRuns: 25, seed: 1 },
  );
}, 60_000);

import { createServer } from "node:http";
import { setImmediate } from "node:timers/promises";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Caller } from "../base/http-call.ts";
import { closeServer, formatAddress, listen } from "../base/http-serve.ts";
import { seededRandom } from "../base/random.ts";
import { systemRuntime } from "../base/runtime.ts";
import { DirectoryClient, VolumeDirectory, type WritableVolume } from "./client.ts";
import type { MapVolume, VolumeMap } from "./protocol.ts";
import type { MapSource } from "./volume-directory.ts";

/** A directory's map, held back as the directory does. */
class HeldMap implements MapSource {
  readonly asked: { after: string; waitMs: number; want: readonly string[] }[] = [];
  isAway = false;
  #map: VolumeMap = { version: "", volumes: [], unmet: [] };
  #wake = Promise.withResolvers<void>();

  give(map: VolumeMap): void {
    this.#map = map;
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  async map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    want: readonly string[],
  ): Promise<VolumeMap> {
    this.asked.push({ after, waitMs, want });
    while (!this.isAway && this.#map.version === after && waitMs > 0) {
      const aborted = Promise.withResolvers<void>();
      signal.addEventListener("abort", () => aborted.reject(new Error("hung up")), { once: true });
      await Promise.race([this.#wake.promise, aborted.promise]);
    }
    if (this.isAway) throw new Error("the directory is away");
    return this.#map;
  }

  leave(): void {
    this.isAway = true;
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}

const two = "copies=2 spread=machine";

function volume(id: number, more: Partial<MapVolume> = {}): MapVolume {
  const addresses = [`10.0.0.${id}:1`, `10.0.1.${id}:1`];
  return {
    volume: id,
    class: "original",
    placement: two,
    isWritable: true,
    addresses,
    memberAddresses: addresses,
    isFull: false,
    freeBytes: 1_000,
    ...more,
  };
}

let source: HeldMap;
let volumes: VolumeDirectory;
let nowMs = 0;
/** Pauses that were asked for, to be ended by hand. */
let pauses: (() => void)[] = [];

beforeEach(() => {
  nowMs = 0;
  pauses = [];
  source = new HeldMap();
  volumes = new VolumeDirectory({
    source,
    log: pino({ level: "silent" }),
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    runtime: {
      ...systemRuntime,
      after(_delayMs, action) {
        pauses.push(action);
        return () => void pauses.splice(pauses.indexOf(action) >>> 0, 1);
      },
    },
  });
  volumes.start();
});

afterEach(async () => {
  await volumes.close();
});

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await setImmediate();
}

async function give(version: string, entries: MapVolume[]): Promise<void> {
  source.give({ version, volumes: entries, unmet: [] });
  await settled();
}

function choose(
  placement: string,
  more: Partial<Parameters<typeof volumes.chooseWritable>[0]> = {},
) {
  const none = { avoid: new Set<number>(), rankOf: () => 0, queueOf: () => 0 };
  return (fraction: number): WritableVolume | undefined => {
    const random = { ...seededRandom(1), fraction: () => fraction };
    return volumes.chooseWritable({ class: "original", placement, ...none, ...more }, random);
  };
}

test("Each poll names the version that is here; stores that moved are found where they are", async () => {
  await give("a", [volume(1)]);
  await give("b", [
    volume(1, { addresses: ["10.9.9.9:1"], memberAddresses: ["10.9.9.9:1", "x:1"] }),
  ]);
  expect(source.asked.map(({ after }) => after)).toEqual(["", "a", "b"]);
  expect(volumes.addressesOf(1)).toEqual(["10.9.9.9:1"]);
  expect(volumes.memberAddressesOf(1)).toEqual(["10.9.9.9:1", "x:1"]);
  expect(volumes.addressesOf(2)).toEqual([]);
});

test("A placement that is new ends the poll, and the next one names it; one that is known does not", async () => {
  await give("a", []);
  expect(source.asked.at(-1)?.want).toEqual([]);
  volumes.want(two);
  await settled();
  expect(source.asked.at(-1)).toMatchObject({ after: "a", want: [two] });
  const polls = source.asked.length;
  volumes.want(two);
  await settled();
  expect(source.asked.length).toBe(polls);
  volumes.want("copies=3 spread=rack");
  await settled();
  expect(source.asked.at(-1)?.want).toEqual([two, "copies=3 spread=rack"]);
  // What nobody has named for long is not asked for any more.
  nowMs += 3_000_000;
  volumes.want(two);
  nowMs += 1_000_000;
  await give("b", []);
  expect(source.asked.at(-1)?.want).toEqual([two]);
});

test("Why a placement can't be had is known from the last map on", async () => {
  const reason = "2 racks are live";
  source.give({ version: "a", volumes: [], unmet: [{ want: two, reason }] });
  await settled();
  expect(volumes.whyNone(two)).toBe(reason);
  expect(volumes.whyNone("copies=3 spread=rack")).toBeUndefined();
  await give("b", []);
  expect(volumes.whyNone(two)).toBeUndefined();
});

test("The last map stands while the directory is away, and what a new one does not know stays readable", async () => {
  await give("a", [volume(1), volume(2), volume(3)]);
  source.leave();
  await settled();
  expect(volumes.addressesOf(1)).toEqual(volume(1).addresses);
  expect(volumes.isWritable("original")).toBe(true);
  // It is back, and has heard of one store only: of volume 2 it knows no address, of 3 nothing.
  source.isAway = false;
  source.give({
    version: "b",
    volumes: [volume(1), volume(2, { isWritable: false, addresses: [], memberAddresses: [] })],
    unmet: [],
  });
  for (const end of [...pauses]) end();
  await settled();
  for (const id of [1, 2, 3]) {
    expect(volumes.addressesOf(id)).toEqual(volume(id).addresses);
    expect(volumes.memberAddressesOf(id)).toEqual(volume(id).addresses);
  }
  for (const fraction of [0, 0.5, 0.99]) expect(choose(two)(fraction)?.volume).toBe(1);
});

test("Who finds the map wrong has it asked for at once, but not over and over", async () => {
  await give("a", [volume(1)]);
  nowMs += 10_000;
  const refreshed = Promise.all([volumes.refresh(500), volumes.refresh(500)]);
  await settled();
  await refreshed;
  expect(source.asked.slice(-2).map(({ waitMs }) => waitMs)).toEqual([0, 20_000]);
  const polls = source.asked.length;
  await volumes.refresh(500);
  expect(source.asked.length).toBe(polls);
  nowMs += 1_000;
  source.leave();
  await settled();
  await volumes.refresh(500); // nobody is there to wait for
});

test("Of the volumes of a placement the emptier is the likelier, and of two that were drawn the less busy", async () => {
  await give("a", [
    volume(1, { freeBytes: 100 }),
    volume(2, { freeBytes: 899 }),
    volume(3, { placement: "copies=1 spread=machine" }),
    volume(4, { class: "native" }),
    volume(5, { isWritable: false }),
  ]);
  const random = seededRandom(7);
  const count = new Map<number, number>();
  const draw = (queueOf: (choice: WritableVolume) => number) => {
    count.clear();
    for (let at = 0; at < 1_000; at++) {
      const choice = { class: "original" as const, placement: two, avoid: new Set<number>() };
      const drawn = volumes.chooseWritable({ ...choice, rankOf: () => 0, queueOf }, random);
      count.set(drawn?.volume ?? 0, (count.get(drawn?.volume ?? 0) ?? 0) + 1);
    }
    return [count.get(1) ?? 0, count.get(2) ?? 0];
  };
  const [few = 0, many = 0] = draw(() => 0);
  expect(few + many).toBe(1_000);
  expect(few).toBeGreaterThan(60);
  expect(few).toBeLessThan(140);
  // Volume 2 is busy: 1 is taken whenever either draw hit it.
  const [more = 0] = draw((choice) => (choice.volume === 2 ? 1 : 0));
  expect(more).toBeGreaterThan(few * 1.5);
  expect(choose(two, { avoid: new Set([2]) })(0.99)?.volume).toBe(1);
  expect(choose(two, { rankOf: ({ volume: id }) => (id === 2 ? 1 : 0) })(0.99)?.volume).toBe(1);
  expect(choose(two, { avoid: new Set([1, 2]) })(0)).toBeUndefined();
  expect(choose("copies=3 spread=rack")(0)).toBeUndefined();
});

test("Full is said by class, and by placement", async () => {
  await give("a", [volume(1), volume(2, { isWritable: false, isFull: true, placement: "p" })]);
  expect(volumes.isFull("original")).toBe(true);
  expect(volumes.isFull("original", "p")).toBe(true);
  expect(volumes.isFull("original", two)).toBe(false);
  expect(volumes.isFull("native")).toBe(false);
});

test("Placements travel to the directory as they are", async () => {
  const asked: URLSearchParams[] = [];
  const server = createServer((request, response) => {
    asked.push(new URL(`http://directory${request.url}`).searchParams);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ version: "v", volumes: [] }));
  });
  const address = formatAddress(await listen(server, { host: "127.0.0.1", port: 0 }));
  const caller = new Caller(ClusterSecret.of("ab".repeat(32)));
  const client = new DirectoryClient(caller, address);
  const want = [two, "copies=3 spread=rack min=2"];
  await client.map("boot 1", 7, new AbortController().signal, want);
  expect(asked[0]?.getAll("want")).toEqual(want);
  expect([asked[0]?.get("after"), asked[0]?.get("wait")]).toEqual(["boot 1", "7"]);
  await caller.close();
  await closeServer(server, 100);
});

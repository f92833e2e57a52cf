/** How reads share their copies, in time that moves by hand. loadtest/engine has them over real stores. */

import { Readable } from "node:stream";
import { expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { BlobCounts } from "./blob-counts.ts";
import { BlobReads, type BlobReadsOptions } from "./blob-reads.ts";
import { CopyHealth } from "./copy-health.ts";
import { HandTime } from "./hand-time.ts";
import { Hedges } from "./hedges.ts";

const addresses = ["a:1", "b:1", "c:1"];

/** Copies that answer after a while, and how often each was asked. */
class SlowStores {
  asked = 0;
  running = 0;
  readonly #time: HandTime;
  readonly #data: Buffer;
  readonly #delayOf: (address: string) => number;

  constructor(time: HandTime, data: Buffer, delayOf: (address: string) => number) {
    this.#time = time;
    this.#data = data;
    this.#delayOf = delayOf;
  }

  async pull({
    address,
    signal,
    onLength,
    onPart,
  }: Parameters<BlobReadsOptions["stores"]["pull"]>[0]): Promise<void> {
    await this.#wait(address, signal);
    onLength?.(this.#data.length);
    onPart(this.#data);
  }

  async stream({
    address,
    range,
    signal,
  }: Parameters<BlobReadsOptions["stores"]["stream"]>[0]): Promise<Readable> {
    await this.#wait(address, signal);
    return Readable.from([this.#data.subarray(range.start, range.end)]);
  }

  #wait(address: string, signal: AbortSignal | undefined): Promise<void> {
    this.asked += 1;
    this.running += 1;
    return new Promise<void>((resolve, reject) => {
      const cancel = this.#time.after(this.#delayOf(address), resolve);
      signal?.addEventListener("abort", () => {
        cancel();
        reject(new Failure("unavailable", "cancelled"));
      });
    }).finally(() => {
      this.running -= 1;
    });
  }
}

function makeReads(
  time: HandTime,
  stores: BlobReadsOptions["stores"],
  copies: readonly string[] = addresses.slice(0, 2),
): { reads: BlobReads; counts: BlobCounts } {
  const counts = new BlobCounts();
  const reads = new BlobReads({
    directory: { addressesOf: () => copies, refresh: async () => undefined },
    stores,
    clock: time,
    runtime: time,
    hedges: new Hedges(),
    health: new CopyHealth(time),
    counts,
  });
  return { reads, counts };
}

const fidOf = (ordinal: number) => `3,${(ordinal + 16).toString(16)}01020304`;

/** Reads one after the other and side by side, all of which have to come through. */
async function readMany(
  count: number,
  { time, reads, data, random }: { time: HandTime; reads: BlobReads; data: Buffer; random: Random },
): Promise<void> {
  const running: Promise<void>[] = [];
  for (let at = 0; at < count; at++) {
    const chunk = { fid: fidOf(random.u32() % 1_000), length: data.length };
    running.push(
      reads.read(chunk, "r").then((got) => {
        if (!got.equals(data)) throw new Error("other bytes came");
      }),
    );
    await time.pass(random.u32() % 3);
  }
  await time.pass(60_000);
  await Promise.all(running);
}

test.each([1, 2, 3])(
  "Second reads for slowness are at most one in twenty, and mostly win (seed %i)",
  async (seed) => {
    const random = seededRandom(seed);
    const time = new HandTime();
    const data = random.bytes(100);
    // One in eight is slow: more than can be paid for.
    const delayOf = () => (random.u32() % 8 === 0 ? 20 + (random.u32() % 100) : 1);
    const stores = new SlowStores(time, data, delayOf);
    const { reads, counts } = makeReads(time, stores);
    const count = 3_000;
    await readMany(count, { time, reads, data, random });
    expect(counts.hedgedReads).toBe(stores.asked - count);
    expect(counts.hedgedReads).toBeGreaterThan(count * 0.02);
    expect(counts.hedgedReads).toBeLessThanOrEqual(count * 0.05);
    expect(counts.hedgeWins).toBeGreaterThan(counts.hedgedReads * 0.5);
    expect(stores.running).toBe(0);
  },
);

test("One store that is silent is asked now and then, and every read is there after a moment", async () => {
  const random = seededRandom(4);
  const time = new HandTime();
  const data = random.bytes(100);
  const stores = new SlowStores(time, data, (address) => (address === "a:1" ? 1e9 : 1));
  const { reads, counts } = makeReads(time, stores);
  const count = 100;
  const started = time.monotonicMs();
  const waits: number[] = [];
  const running = Array.from({ length: count }, async (_, at) => {
    await reads.read({ fid: fidOf(at), length: data.length }, "r");
    waits.push(time.monotonicMs() - started);
  });
  await time.pass(1_000);
  await Promise.all(running);
  expect(Math.max(...waits)).toBeLessThanOrEqual(252);
  expect(counts.hedgedReads).toBe(count / 2);
  // From now on it is tried now and then by one: over a minute that is no more than a handful.
  const askedBefore = stores.asked;
  await readMany(2_000, { time, reads, data, random });
  expect(stores.asked - askedBefore - 2_000).toBeLessThanOrEqual(6);
});

test("When every store is slow the second reads stay few: asking twice would make it worse", async () => {
  const random = seededRandom(5);
  const time = new HandTime();
  const data = random.bytes(100);
  const stores = new SlowStores(time, data, () => 900 + (random.u32() % 200));
  const { reads, counts } = makeReads(time, stores);
  await readMany(500, { time, reads, data, random }); // until that is known
  const before = counts.hedgedReads;
  expect(before).toBeLessThan(400);
  const count = 1_000;
  await readMany(count, { time, reads, data, random });
  expect(counts.hedgedReads - before).toBeLessThanOrEqual(count * 0.05 + 10);
});

test("Two copies that answer at once hand over once, though neither heeds that it was cancelled", async () => {
  const random = seededRandom(6);
  const time = new HandTime();
  const data = random.bytes(1_000);
  const half = data.length / 2;
  const stores: BlobReadsOptions["stores"] = {
    async pull({ address, onLength, onPart }) {
      if (address === "a:1") await new Promise<void>((resolve) => void time.after(300, resolve));
      else await new Promise<void>((resolve) => void time.after(40, resolve));
      onLength?.(data.length);
      onPart(data.subarray(0, half));
      await new Promise<void>((resolve) => void time.after(30, resolve));
      onPart(data.subarray(half));
    },
    stream: () => Promise.reject(new Failure("unavailable", "not asked for")),
  };
  const { reads, counts } = makeReads(time, stores);
  const parts: Buffer[] = [];
  const chunk = { fid: fidOf(0), length: data.length };
  const pulled = reads.pull(chunk, (part) => parts.push(Buffer.from(part)), { requestId: "r" });
  await time.pass(2_000);
  await pulled;
  expect(Buffer.concat(parts).equals(data)).toBe(true);
  expect(counts).toMatchObject({ hedgedReads: 1, hedgeWins: 1 });
});

test("Of three copies two may be silent", async () => {
  const time = new HandTime();
  const data = Buffer.from("hay");
  const stores = new SlowStores(time, data, (address) => (address === "c:1" ? 1 : 1e9));
  const { reads, counts } = makeReads(time, stores, addresses);
  const reading = reads.read({ fid: fidOf(2), length: 3 }, "r"); // ordinal 18: the first copy's turn
  await time.pass(501);
  expect((await reading).equals(data)).toBe(true);
  expect(counts.readsAround.silent).toBe(2);
  expect(stores.running).toBe(0);
});

test("A reader that leaves ends what runs for it", async () => {
  const time = new HandTime();
  const stores = new SlowStores(time, Buffer.from("hay"), () => 1e9);
  const { reads } = makeReads(time, stores);
  const gone = new AbortController();
  const pulled = reads.pull({ fid: fidOf(0), length: 3 }, () => undefined, {
    requestId: "r",
    signal: gone.signal,
  });
  const failed = expect(pulled).rejects.toMatchObject({ kind: "unavailable" });
  await time.pass(260);
  expect(stores.running).toBe(2);
  gone.abort();
  await failed;
  await time.pass(0);
  expect(stores.running).toBe(0);
  expect(stores.asked).toBe(2);
});

test("While no store answers a read is tried until its time is over, and then unavailable", async () => {
  const time = new HandTime();
  let asked = 0;
  const refuse = () => {
    asked += 1;
    return Promise.reject(new Failure("unavailable", "Cannot connect"));
  };
  const { reads } = makeReads(time, { pull: refuse, stream: refuse });
  const reading = reads.read({ fid: fidOf(0), length: 3 }, "r");
  const failed = expect(reading).rejects.toMatchObject({ kind: "unavailable" });
  await time.pass(7_000);
  const before = asked;
  expect(before).toBeGreaterThan(10);
  await time.pass(2_000);
  await failed;
  await time.pass(10_000);
  expect(asked).toBeLessThan(before + 10);
});

import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { SingleFlight } from "./fill.ts";

/** A fill that ends when the test says so. */
function makeFill<Value>() {
  const { promise, resolve, reject } = Promise.withResolvers<Value>();
  const signals: AbortSignal[] = [];
  const start = (signal: AbortSignal) => {
    signals.push(signal);
    return promise;
  };
  return { start, signals, resolve, reject };
}

test("Many who ask for one key get one fill", async () => {
  const flights = new SingleFlight<number>();
  const fill = makeFill<number>();
  const answers = Array.from({ length: 100 }, () => flights.run("key", fill.start));
  fill.resolve(7);
  expect(new Set(await Promise.all(answers))).toEqual(new Set([7]));
  expect(fill.signals).toHaveLength(1);
  expect(flights.size).toBe(0);
});

test("A failure reaches all who wait, and is not kept", async () => {
  const flights = new SingleFlight<number>();
  const fill = makeFill<number>();
  const answers = Promise.allSettled([
    flights.run("key", fill.start),
    flights.run("key", fill.start),
  ]);
  const failure = new Error("no luck");
  fill.reject(failure);
  for (const answer of await answers)
    expect(answer).toEqual({ status: "rejected", reason: failure });
  expect(await flights.run("key", async () => 8)).toBe(8);
});

test("What a fill throws before its first await is a failure like any other", async () => {
  const flights = new SingleFlight<number>();
  const start = (): Promise<number> => {
    throw new Error("at once");
  };
  await expect(flights.run("key", start)).rejects.toThrow("at once");
  expect(flights.size).toBe(0);
});

test("One who leaves takes nothing from those who stay", async () => {
  const flights = new SingleFlight<number>();
  const fill = makeFill<number>();
  const leave = new AbortController();
  const left = flights.run("key", fill.start, leave.signal);
  const stayed = flights.run("key", fill.start);
  leave.abort(new Error("gone"));
  await expect(left).rejects.toThrow("gone");
  expect(fill.signals[0]?.aborted).toBe(false);
  fill.resolve(9);
  expect(await stayed).toBe(9);
});

test("When the last one leaves, the fill is stopped, and the next who asks starts another", async () => {
  const flights = new SingleFlight<number>();
  const first = makeFill<number>();
  const leave = new AbortController();
  const left = [1, 2].map(() => flights.run("key", first.start, leave.signal));
  leave.abort(new Error("gone"));
  for (const answer of left) await expect(answer).rejects.toThrow("gone");
  expect(first.signals[0]?.aborted).toBe(true);

  const second = makeFill<number>();
  const answer = flights.run("key", second.start);
  first.resolve(1); // late, and of no interest
  await setImmediate();
  expect(flights.size).toBe(1);
  second.resolve(2);
  expect(await answer).toBe(2);
});

test("One who has left before asking starts nothing", async () => {
  const flights = new SingleFlight<number>();
  const fill = makeFill<number>();
  await expect(flights.run("key", fill.start, AbortSignal.abort())).rejects.toThrow();
  expect(fill.signals).toHaveLength(0);
});

for (let seed = 1; seed <= 20; seed++) {
  test(`No key is ever filled twice at a time, and every waiter gets its key's value (seed ${seed})`, async () => {
    const random = seededRandom(seed);
    const flights = new SingleFlight<string>();
    const running = new Map<string, number>();
    const answers: Promise<unknown>[] = [];

    for (let step = 0; step < 200; step++) {
      const key = `key-${random.u32() % 5}`;
      const pauses = random.u32() % 6;
      const isLeaving = random.u32() % 4 === 0;
      const isFailing = random.u32() % 5 === 0;
      const leave = new AbortController();
      const start = async (signal: AbortSignal) => {
        // One that was told to stop doesn't count: nobody waits for it.
        const count = (change: number) => running.set(key, (running.get(key) ?? 0) + change);
        const onStop = () => count(-1);
        signal.addEventListener("abort", onStop, { once: true });
        expect(count(1).get(key)).toBe(1);
        for (let pause = 0; pause < pauses; pause++) await setImmediate();
        signal.removeEventListener("abort", onStop);
        if (!signal.aborted) count(-1);
        if (isFailing) throw new Error(key);
        return key;
      };
      const answer = flights.run(key, start, leave.signal).then(
        (value) => expect(value).toBe(key),
        (error: Error) => expect(["gone", key]).toContain(error.message),
      );
      answers.push(answer);
      if (isLeaving) leave.abort(new Error("gone"));
      if (random.u32() % 3 === 0) await setImmediate();
    }
    await Promise.all(answers);
    expect(flights.size).toBe(0);
  });
}

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { seededRandom } from "../../base/random.ts";
import { JobQueue } from "./queue.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const limits = { slots: 2, waitingMax: 3, limitMs: 1_000 };
const stays = new AbortController().signal;

/** Work that takes `ms`, and notes when it began. */
function takes(ms: number, begun: string[] = [], name = "") {
  return (): Promise<string> => {
    begun.push(name);
    return new Promise((resolve) => setTimeout(() => resolve(name), ms));
  };
}

test("What is over the bound is refused at once", async () => {
  const queue = new JobQueue(limits);
  const jobs = Array.from({ length: 5 }, () => queue.run({ work: takes(100), signal: stays }));
  const failure = { kind: "busy", retryAfterSeconds: 1 };
  await expect(queue.run({ work: takes(1), signal: stays })).rejects.toMatchObject(failure);
  await vi.advanceTimersByTimeAsync(300);
  await Promise.all(jobs);
  expect(queue.size).toBe(0);
});

test("Who does not get a turn by the deadline is told that it is busy", async () => {
  const queue = new JobQueue(limits);
  const begun: string[] = [];
  const late = ["a", "b", "c"].map((name) =>
    queue.run({ work: takes(5_000, begun, name), signal: stays }).catch((error) => error.kind),
  );
  await vi.advanceTimersByTimeAsync(1_000);
  // The first two did begin: their pictures are the reason.
  expect(await Promise.all(late)).toEqual(["unprocessable", "unprocessable", "busy"]);
  expect(begun).toEqual(["a", "b"]);
});

test("A slot is free when its work has ended, not when its caller was answered", async () => {
  const queue = new JobQueue(limits);
  const begun: string[] = [];
  for (const name of ["a", "b"]) {
    queue.run({ work: takes(1_500, begun, name), signal: stays }).catch(() => {});
  }
  await vi.advanceTimersByTimeAsync(1_200);
  const next = queue.run({ work: takes(1, begun, "c"), signal: stays });
  expect(begun).toEqual(["a", "b"]);
  await vi.advanceTimersByTimeAsync(400);
  expect(await next).toBe("c");
});

test("Who leaves while waiting is never worked on", async () => {
  const queue = new JobQueue(limits);
  const begun: string[] = [];
  const leave = new AbortController();
  const first = ["a", "b"].map((name) =>
    queue.run({ work: takes(100, begun, name), signal: stays }),
  );
  const left = queue.run({ work: takes(100, begun, "left"), signal: leave.signal });
  const last = queue.run({ work: takes(100, begun, "last"), signal: stays });
  leave.abort();
  await expect(left).rejects.toMatchObject({ kind: "busy" });
  await vi.advanceTimersByTimeAsync(300);
  await Promise.all([...first, last]);
  expect(begun).toEqual(["a", "b", "last"]);
});

for (let seed = 1; seed <= 20; seed++) {
  test(`Jobs begin in their order, at most as many as there are slots, and the queue runs dry (seed ${seed})`, async () => {
    const random = seededRandom(seed);
    const queue = new JobQueue({ slots: 3, waitingMax: 10, limitMs: 500 });
    const begun: number[] = [];
    let working = 0;
    for (let job = 0; job < 200; job++) {
      const leave = new AbortController();
      const ms = random.u32() % 300;
      const work = async () => {
        begun.push(job);
        working += 1;
        expect(working).toBeLessThanOrEqual(3);
        await new Promise((resolve) => setTimeout(resolve, ms));
        working -= 1;
        if (ms % 7 === 0) throw new Error("no luck");
      };
      queue.run({ work, signal: leave.signal }).catch(() => {});
      expect(queue.size).toBeLessThanOrEqual(13);
      if (random.u32() % 5 === 0) setTimeout(() => leave.abort(), random.u32() % 200);
      if (random.u32() % 2 === 0) await vi.advanceTimersByTimeAsync(random.u32() % 100);
    }
    await vi.runAllTimersAsync();
    expect(begun).toEqual(begun.toSorted((left, right) => left - right));
    expect({ working, size: queue.size }).toEqual({ working: 0, size: 0 });
  });
}

import { expect, test } from "vitest";
import { seededRandom } from "./random.ts";
import { pause } from "./runtime.ts";
import { ProcessTime, SimulatedTime } from "./simulated-time.ts";

test("What is due comes in the order of its time, and of its asking", async () => {
  const time = new SimulatedTime();
  const random = seededRandom(3);
  const came: { dueMs: number; number: number }[] = [];
  for (let number = 0; number < 500; number++) {
    const dueMs = random.u32() % 50;
    time.after(dueMs, () => came.push({ dueMs, number }));
  }
  await time.runUntil(100);
  const sorted = [...came].sort(
    (one, other) => one.dueMs - other.dueMs || one.number - other.number,
  );
  expect(came).toHaveLength(500);
  expect(came).toEqual(sorted);
  expect(time.nowMs).toBe(100);
});

test("What is cancelled does not come, and what is asked for meanwhile does", async () => {
  const time = new SimulatedTime();
  const came: string[] = [];
  const cancel = time.after(10, () => came.push("never"));
  time.after(5, () => {
    cancel();
    time.after(5, () => came.push("later"));
  });
  await time.runUntil(20);
  expect(came).toEqual(["later"]);
});

test("Promises settle before the next moment comes", async () => {
  const time = new SimulatedTime();
  const came: string[] = [];
  const work = async (name: string, ms: number) => {
    await pause(time, ms);
    for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    await time.giveWay();
    came.push(`${name} ${time.nowMs}`);
  };
  const all = Promise.all([work("second", 2), work("first", 1), work("third", 2)]);
  await time.runUntil(10);
  await all;
  expect(came).toEqual(["first 1", "second 2", "third 2"]);
});

test("A process that has ended hears of nothing, and its clock is its own", async () => {
  const time = new SimulatedTime();
  const one = new ProcessTime(time, 1_000);
  const other = new ProcessTime(time, -3_600_000);
  const came: number[] = [];
  for (const process of [one, other]) process.after(7, () => came.push(process.nowMs()));
  await time.runUntil(3);
  other.end();
  expect(await time.runUntil(50, () => came.length > 0)).toBe(true);
  await time.runUntil(50);
  expect(came).toEqual([1_007]);
  expect([other.hasEnded, one.hasEnded]).toEqual([true, false]);
});

test("A process that is stopped hears of everything when it goes on", async () => {
  const time = new SimulatedTime();
  const process = new ProcessTime(time, 0);
  const came: string[] = [];
  process.after(5, () => came.push(`five at ${time.nowMs}`));
  const cancel = process.after(6, () => came.push("never"));
  process.after(1, () => process.after(50, () => came.push(`fifty-one at ${time.nowMs}`)));
  await time.runUntil(3);
  process.stop();
  await time.runUntil(20);
  expect(came).toEqual([]);
  cancel();
  process.goOn();
  await time.runUntil(100);
  expect(came).toEqual(["five at 20", "fifty-one at 51"]);
});

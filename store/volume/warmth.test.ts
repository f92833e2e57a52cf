import { expect, test } from "vitest";
import { Warmth } from "./warmth.ts";

function makeWarmth() {
  let nowMs = 1_000;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  let diskReads = 0;
  return {
    warmth: new Warmth(clock, () => diskReads),
    pass: (ms: number) => (nowMs += ms),
    /** A slow read that got its bytes from the disk. */
    learnFromDisk: (warmth: Warmth, tookMs: number) => {
      diskReads += 1;
      warmth.learn(tookMs);
    },
  };
}

test("A needle is warm once it was touched, and others are not", () => {
  const { warmth } = makeWarmth();
  expect(warmth.isWarm(0)).toBe(false);
  warmth.touch(0);
  warmth.touch(4_000_000_000);
  expect([0, 1, 4_000_000_000].map((ordinal) => warmth.isWarm(ordinal))).toEqual([
    true,
    false,
    true,
  ]);
});

test("Guesses that cost more than they save pause guessing, the next time for longer", () => {
  const { warmth, pass, learnFromDisk } = makeWarmth();
  const fail = () => {
    while (warmth.isWarm(1)) learnFromDisk(warmth, 5);
  };
  warmth.touch(1);
  learnFromDisk(warmth, 5);
  expect(warmth.isWarm(1)).toBe(true);
  fail();
  expect(warmth.isWarm(1)).toBe(false);
  pass(1_000);
  expect(warmth.isWarm(1)).toBe(true);
  fail();
  pass(1_000);
  expect(warmth.isWarm(1)).toBe(false);
  pass(1_000);
  expect(warmth.isWarm(1)).toBe(true);
});

test("Now and then a slow read among thousands of fast ones pauses nothing", () => {
  const { warmth, learnFromDisk } = makeWarmth();
  warmth.touch(1);
  for (let read = 0; read < 20_000; read++) {
    if (read % 1_000 === 0) learnFromDisk(warmth, 5);
    else warmth.learn(0.002);
  }
  expect(warmth.isWarm(1)).toBe(true);
});

test("A read that was slow without the disk says nothing of the page cache", () => {
  const { warmth } = makeWarmth();
  warmth.touch(1);
  for (let read = 0; read < 1_000; read++) warmth.learn(5);
  expect(warmth.isWarm(1)).toBe(true);
});

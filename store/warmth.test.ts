import { expect, test } from "vitest";
import { Warmth } from "./warmth.ts";

function makeWarmth() {
  let nowMs = 1_000;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  return { warmth: new Warmth(clock), pass: (ms: number) => (nowMs += ms) };
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
  const { warmth, pass } = makeWarmth();
  const fail = () => {
    while (warmth.isWarm(1)) warmth.learn(5);
  };
  warmth.touch(1);
  warmth.learn(5);
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
  const { warmth } = makeWarmth();
  warmth.touch(1);
  for (let read = 0; read < 20_000; read++) warmth.learn(read % 1_000 === 0 ? 5 : 0.002);
  expect(warmth.isWarm(1)).toBe(true);
});

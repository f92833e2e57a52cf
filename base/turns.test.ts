import { expect, test } from "vitest";
import type { Runtime } from "./runtime.ts";
import { Turns } from "./turns.ts";

/** Time that passes only where the test says so; notes what it was asked for. */
function simulate(turnMs: () => number) {
  const asked: string[] = [];
  let nowMs = 0;
  const runtime: Runtime = {
    after(delayMs, action) {
      asked.push(`rest ${delayMs}`);
      nowMs += delayMs;
      action();
      return () => undefined;
    },
    async giveWay() {
      asked.push("turn");
      nowMs += turnMs();
    },
    sha256: () => Promise.reject(new Error("Cannot hash here")),
  };
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  return { asked, turns: new Turns({ clock, runtime, sliceBytes: 1_000 }) };
}

test("Others have their turn after each slice, however small its parts", async () => {
  const { asked, turns } = simulate(() => 0);
  for (let part = 0; part < 30; part++) await turns.spend(100);
  expect(asked).toEqual(["turn", "turn", "turn"]);
  await turns.spend(5_000);
  expect(asked).toHaveLength(4);
});

test("Work rests as long as it meets others, and goes on at once when they are gone", async () => {
  let turnMs = 0.2;
  const { asked, turns } = simulate(() => turnMs);
  await turns.spend(1_000);
  await turns.spend(1_000);
  turnMs = 0.01;
  await turns.spend(1_000);
  expect(asked).toEqual(["turn", "rest 1", "turn", "rest 1", "turn"]);
});

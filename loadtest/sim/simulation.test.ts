/** Lives of simulated clusters: the protocol keeps its promises, a bug that is put in is found, a seed replays. */

import { expect, test } from "vitest";
import { simulate } from "./simulation.ts";

const runs = 50;
const perTest = 10;

for (let first = 1; first <= runs; first += perTest) {
  const last = first + perTest - 1;
  test(`Simulated clusters keep their promises (seeds ${first} to ${last})`, {
    timeout: 120_000,
  }, async () => {
    let puts = 0;
    for (let seed = first; seed <= last; seed++) {
      const { violations, excerpt, counts } = await simulate({ seed });
      expect(violations, `seed ${seed}\n${excerpt.join("\n")}`).toEqual([]);
      puts += counts.puts;
    }
    expect(puts, "something was done").toBeGreaterThan(perTest);
  });
}

test("A store that acknowledges before its replicas have a batch is found out", {
  timeout: 120_000,
}, async () => {
  const kinds = new Set<string>();
  for (let seed = 1; seed <= 30 && !kinds.has("lost"); seed++) {
    const { violations } = await simulate({ seed, isHasty: true });
    for (const { kind } of violations) kinds.add(kind);
  }
  expect(kinds).toContain("lost");
});

test("The same seed goes the same way, and another seed another", { timeout: 60_000 }, async () => {
  const digests = new Set<string>();
  for (const seed of [7, 8, 9]) {
    const { digest } = await simulate({ seed });
    expect((await simulate({ seed })).digest).toBe(digest);
    digests.add(digest);
  }
  expect(digests.size).toBe(3);
});

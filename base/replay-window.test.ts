import { expect, test } from "vitest";
import { seededRandom } from "./random.ts";
import { ReplayWindow } from "./replay-window.ts";

for (let seed = 1; seed <= 10; seed++) {
  test(`Whatever the order, a call is taken once, and those near the newest are taken (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const window = new ReplayWindow({ forgetMs: 1_000 });
    const taken = new Set<string>(); // the obvious model
    const highest = new Map<string, number>();
    for (let round = 0; round < 20_000; round++) {
      const name = `caller ${random.u32() % 3}`;
      const top = highest.get(name) ?? 0;
      const leap = random.fraction() < 0.001 ? 20_000 : 50;
      const count = Math.max(1, top + 1 + Math.floor((random.fraction() - 0.7) * leap));
      const outcome = window.take(name, count, 0);
      const key = `${name} ${count}`;
      if (outcome === "fresh") expect(taken.has(key)).toBe(false);
      else if (outcome === "seen") expect(taken.has(key)).toBe(true);
      else expect(top - count).toBeGreaterThanOrEqual(8_192);
      if (outcome === "fresh") taken.add(key);
      highest.set(name, Math.max(top, outcome === "behind" ? 0 : count));
    }
  });
}

test("Callers are forgotten only when none of their calls could come again, and new ones wait till then", () => {
  const window = new ReplayWindow({ forgetMs: 1_000, callersMax: 2 });
  expect(window.take("a", 1, 0)).toBe("fresh");
  expect(window.take("b", 1, 600)).toBe("fresh");
  expect(window.take("c", 1, 1_000)).toBe("full");
  expect(window.take("a", 1, 1_000)).toBe("seen");
  expect(window.take("c", 1, 1_001)).toBe("fresh");
  expect(window.take("b", 1, 1_001)).toBe("seen");
  expect(window.take("a", 1, 1_001)).toBe("full");
});

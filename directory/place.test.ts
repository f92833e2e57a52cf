import fc from "fast-check";
import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { domainOf, placeCopies, type Target } from "./place.ts";
import type { Placement, Spread } from "./placement.ts";

const spreads: Spread[] = ["machine", "rack", "data-centre"];

const targets = fc
  .array(
    fc.record({
      machine: fc.integer({ min: 0, max: 5 }).map((at) => `m${at}`),
      rack: fc.integer({ min: 0, max: 3 }).map((at) => `r${at}`),
      dataCentre: fc.integer({ min: 0, max: 2 }).map((at) => `d${at}`),
      freeBytes: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 1e9 })),
    }),
    { maxLength: 20 },
  )
  .map((places) => places.map((place, at): Target => ({ ...place, store: `${at}` })));

const placements = fc
  .record({
    copies: fc.integer({ min: 1, max: 5 }),
    spread: fc.constantFrom(...spreads),
    lacking: fc.integer({ min: 0, max: 4 }),
  })
  .map(({ copies, spread, lacking }): Placement => {
    return { copies, spread, min: Math.max(copies - lacking, 1) };
  });

test("Copies never share a failure domain, lie on stores with space, and are as many as can be", () => {
  fc.assert(
    fc.property(targets, placements, fc.integer(), (all, placement, seed) => {
      const random = seededRandom(seed);
      const roomy = all.filter(({ freeBytes }) => freeBytes > 0);
      const domains = new Set(roomy.map((target) => domainOf(target, placement.spread)));
      const place = () =>
        placeCopies({ placement, targets: all, fraction: () => random.fraction() });
      if (domains.size < placement.min) {
        expect(place).toThrow(/^Cannot place /);
        return;
      }
      const chosen = place();
      expect(chosen).toHaveLength(Math.min(placement.copies, domains.size));
      expect(new Set(chosen.map((target) => domainOf(target, placement.spread))).size).toBe(
        chosen.length,
      );
      expect(new Set(chosen.map((target) => domainOf(target, "machine"))).size).toBe(chosen.length);
      for (const { freeBytes } of chosen) expect(freeBytes).toBeGreaterThan(0);
    }),
  );
});

test("A store with three times the space gets three times the copies", () => {
  const random = seededRandom(7);
  const at = (store: string, freeBytes: number): Target => ({
    ...{ store, machine: store, rack: "r", dataCentre: "d", freeBytes },
  });
  const counts = new Map<string, number>();
  const placement = { copies: 1, spread: "machine", min: 1 } as const;
  for (let draw = 0; draw < 10_000; draw++) {
    const [chosen] = placeCopies({
      placement,
      targets: [at("a", 300), at("b", 100)],
      fraction: () => random.fraction(),
    });
    counts.set(chosen?.store ?? "", (counts.get(chosen?.store ?? "") ?? 0) + 1);
  }
  const ratio = (counts.get("a") ?? 0) / (counts.get("b") ?? 1);
  expect(ratio).toBeGreaterThan(2.7);
  expect(ratio).toBeLessThan(3.3);
});

test("The sentence names what is wanted and what is there", () => {
  const at = (store: string, rack: string, freeBytes = 10): Target => ({
    ...{ store, machine: store, rack, dataCentre: "d", freeBytes },
  });
  const place = (placement: Placement, all: Target[]) => () =>
    placeCopies({ placement, targets: all, fraction: () => 0 });
  const three = { copies: 3, spread: "rack", min: 3 } as const;
  expect(place(three, [at("a", "1"), at("b", "1"), at("c", "2")])).toThrow(
    "Cannot place 3 copies over 3 racks: 2 racks live",
  );
  expect(place(three, [at("a", "1"), at("b", "2"), at("c", "3", 0)])).toThrow(
    "Cannot place 3 copies over 3 racks: 3 racks live, 2 with space",
  );
  expect(place({ ...three, min: 2 }, [at("a", "1")])).toThrow(
    "Cannot place 3 copies over 3 racks, nor 2: 1 rack live",
  );
});

import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { BlobCache } from "./lru.ts";

const entryBytes = 256;

function makeCache(capacityBytes: number, valueBytesMax: number): BlobCache<Buffer> {
  return new BlobCache<Buffer>({ capacityBytes, valueBytesMax, sizeOf: ({ length }) => length });
}

for (let seed = 1; seed <= 20; seed++) {
  test(`BlobCache holds the most recently used within its capacity, and no stale value (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const capacityBytes = 5_000;
    const valueBytesMax = 1_000;
    const cache = makeCache(capacityBytes, valueBytesMax);
    // The obvious model: a map in the order of use, cut from its front.
    const model = new Map<string, Buffer>();
    const weigh = () =>
      [...model.values()].reduce((sum, { length }) => sum + length + entryBytes, 0);
    let hits = 0;
    let misses = 0;

    for (let step = 0; step < 500; step++) {
      const key = `key-${random.u32() % 12}`;
      switch (random.u32() % 4) {
        case 0: {
          const held = model.get(key);
          expect(cache.get(key)).toBe(held);
          if (held === undefined) misses += 1;
          else {
            hits += 1;
            model.delete(key);
            model.set(key, held);
          }
          break;
        }
        case 1:
          cache.delete(key);
          model.delete(key);
          break;
        default: {
          const value = random.bytes(random.u32() % 1_200);
          cache.set(key, value);
          model.delete(key);
          if (value.length <= valueBytesMax) model.set(key, value);
          for (const [oldest] of model) {
            if (weigh() <= capacityBytes) break;
            model.delete(oldest);
          }
        }
      }
      expect(cache.stats).toEqual({ hits, misses, bytes: weigh(), entries: model.size });
      expect(cache.stats.bytes).toBeLessThanOrEqual(capacityBytes);
    }
    for (const [key, value] of model) expect(cache.get(key)).toBe(value);
  });
}

test("A value too big to keep takes the one before it along", () => {
  const cache = makeCache(10_000, 100);
  cache.set("key", Buffer.alloc(100));
  cache.set("key", Buffer.alloc(101));
  expect(cache.get("key")).toBeUndefined();
});

test("A cache without capacity keeps nothing and complains of nothing", () => {
  const cache = makeCache(0, 1_000);
  cache.set("key", Buffer.alloc(0));
  expect(cache.has("key")).toBe(false);
  expect(cache.stats).toEqual({ hits: 0, misses: 0, bytes: 0, entries: 0 });
});

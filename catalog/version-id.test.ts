import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { newVersionId } from "./version-id.ts";

test("A version id is url-safe, short, and sorts by its time", () => {
  const random = seededRandom(1);
  const at = (ms: number) => newVersionId(random, { nowMs: () => ms, monotonicMs: () => 0 });
  const ids = [0, 1, 1.5e12, 1.8e12, 4e12].map(at);
  for (const id of ids) expect(id).toMatch(/^[0-9a-z]{31}$/);
  expect([...ids].sort()).toEqual(ids);
  expect(at(1)).not.toBe(at(1));
});

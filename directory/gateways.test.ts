/** Who is taken for a gateway, and for how long. */

import { expect, test } from "vitest";
import { Gateways } from "./gateways.ts";

test("A gateway is known for as long as it goes on saying so, and what is no address never is", () => {
  let ms = 0;
  const gateways = new Gateways({ nowMs: () => ms, monotonicMs: () => ms });
  gateways.add(["10.0.0.1:8333", "[::1]:8333"]);
  gateways.add(["", "10.0.0.1", "a b:1", "a/b:1", "x@y:1", `a"b:1`]);
  expect(gateways.all()).toEqual(["10.0.0.1:8333", "[::1]:8333"]);
  ms = 50_000;
  gateways.add(["10.0.0.1:8333"]);
  ms = 70_000;
  expect(gateways.all()).toEqual(["10.0.0.1:8333"]);
});

test("More than a thousand are not kept, and those that are gone make room", () => {
  let ms = 0;
  const gateways = new Gateways({ nowMs: () => ms, monotonicMs: () => ms });
  gateways.add(Array.from({ length: 1_001 }, (_, at) => `a:${at}`));
  expect(gateways.all().length).toBe(1_000);
  ms = 70_000;
  gateways.add(["b:1"]);
  expect(gateways.all()).toEqual(["b:1"]);
});

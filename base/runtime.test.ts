import { expect, test } from "vitest";
import { systemRuntime } from "./runtime.ts";

test("Whoever gives way to somebody who works rests for more than one turn", async () => {
  let turns = 0;
  const work = () => {
    const startedMs = performance.now();
    while (performance.now() - startedMs < 1);
    turns += 1;
    if (turns < 3) setImmediate(work);
  };
  setImmediate(work);
  await systemRuntime.giveWay();
  expect(turns).toBeGreaterThan(1);
});

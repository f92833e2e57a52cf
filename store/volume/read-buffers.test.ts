import { expect, test } from "vitest";
import { ReadBuffers } from "./read-buffers.ts";

test("A large buffer that was given back is used again, for whatever fits", () => {
  const buffers = new ReadBuffers();
  const first = buffers.take(500_000);
  expect(first).toHaveLength(500_000);
  const second = buffers.take(500_000);
  expect(second.buffer).not.toBe(first.buffer);
  buffers.giveBack(first);
  const third = buffers.take(300_000);
  expect(third).toHaveLength(300_000);
  expect(third.buffer).toBe(first.buffer);
});

test("Small and very large ones are not kept", () => {
  const buffers = new ReadBuffers();
  for (const size of [10, 65_536, 2_000_000]) {
    const taken = buffers.take(size);
    expect(taken).toHaveLength(size);
    buffers.giveBack(taken);
    if (size > 1_048_576) expect(buffers.take(size).buffer).not.toBe(taken.buffer);
  }
});

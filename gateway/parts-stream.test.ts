import { once } from "node:events";
import { expect, test } from "vitest";
import { PartsStream } from "./parts-stream.ts";

function makeParts(count: number) {
  const state = { isReleased: false };
  async function* generate(): AsyncGenerator<Buffer> {
    try {
      for (let at = 0; at < count; at++) yield Buffer.from(`${at};`);
    } finally {
      state.isReleased = true;
    }
  }
  return { parts: generate(), state };
}

test("All parts come through, the one that was taken before included", async () => {
  const { parts, state } = makeParts(5);
  const stream = new PartsStream(await parts.next(), parts);
  const read = (await stream.toArray()) as Buffer[];
  expect(Buffer.concat(read).toString()).toBe("0;1;2;3;4;");
  expect(state.isReleased).toBe(true);
});

test("A stream that is destroyed before it was read lets go of what it reads from", async () => {
  const { parts, state } = makeParts(5);
  const stream = new PartsStream(await parts.next(), parts);
  stream.destroy();
  await once(stream, "close");
  expect(state.isReleased).toBe(true);
});

test("A failure on the way ends the stream with it", async () => {
  async function* generate(): AsyncGenerator<Buffer> {
    yield Buffer.from("a");
    throw new Error("the disk is gone");
  }
  const parts = generate();
  const stream = new PartsStream(await parts.next(), parts);
  await expect(stream.toArray()).rejects.toThrow("the disk is gone");
});

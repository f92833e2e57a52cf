import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { FileHandle } from "../../base/files.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { simulatedFolder } from "./simulated-volume.ts";
import { askedBytesMax, Window, windowBytes } from "./window.ts";

const name = `${simulatedFolder}/file`;
const fileBytes = 9 * windowBytes + 12_345;

async function filesWith(content: Buffer, seed: number): Promise<SimulatedFiles> {
  const files = new SimulatedFiles({ isDisordered: true, numbersReads: true, seed });
  const file = await files.open(name, "create");
  await file.write([content], 0);
  await file.syncData();
  await file.close();
  return files;
}

/** Mostly onward, as records are read; now and then back to what was just seen, or anywhere. */
function nextOffset(random: Random, offset: number): number {
  const kind = random.u32() % 20;
  if (kind === 0) return random.u32() % fileBytes;
  const step = random.u32() % (kind < 4 ? windowBytes : 40_000);
  return Math.max(kind < 8 ? offset - step : offset + step, 0);
}

for (let seed = 1; seed <= 20; seed++) {
  test(`A window has the bytes of the file, however it is moved, and changes none before it is asked again (seed ${seed})`, async () => {
    const random = seededRandom(seed);
    const content = random.bytes(fileBytes);
    const files = await filesWith(content, seed);
    const file = await files.open(name, "read");
    const window = new Window(file, fileBytes);
    let offset = 0;
    for (let step = 0; step < 300; step++) {
      const length = random.u32() % (step % 3 === 0 ? askedBytesMax + 1 : 2_000);
      const expected = content.subarray(offset, offset + length);
      const bytes = await window.at(offset, length);
      expect(bytes.equals(expected), `${length} at ${offset}`).toBe(true);
      // Whatever is on its way has come by then, and anything that needs no read may be looked at.
      await new Promise((resolve) => setImmediate(resolve));
      const wide = random.u32() % windowBytes;
      const start = Math.max(offset - (random.u32() % windowBytes), 0);
      const near = window.here(start, wide);
      expect(near?.equals(content.subarray(start, start + wide)) ?? true).toBe(true);
      expect(bytes.equals(expected), `still ${length} at ${offset}`).toBe(true);
      offset = nextOffset(random, offset);
      if (offset >= fileBytes) offset = 0;
    }
    await window.close();
    await file.close();
  });
}

test("What lies up to the longest ask before the edge is still there after the window has moved on", async () => {
  const content = seededRandom(1).bytes(fileBytes);
  const files = await filesWith(content, 1);
  const file = await files.open(name, "read");
  const window = new Window(file, fileBytes);
  await window.at(0, 1);
  for (let edge = windowBytes; edge < 9 * windowBytes; edge += windowBytes) {
    await window.at(edge - 8, 16);
    for (const back of [16, 40_000, askedBytesMax]) {
      const across = window.here(edge - back, back + 100);
      expect(across?.equals(content.subarray(edge - back, edge + 100)), `${edge}`).toBe(true);
    }
    const before = window.here(edge - windowBytes + 100, windowBytes - 100);
    expect(before?.equals(content.subarray(edge - windowBytes + 100, edge))).toBe(true);
    expect(window.here(edge - askedBytesMax - 1, askedBytesMax + 2)).toBeUndefined();
  }
  await window.close();
  await file.close();
});

test("A file that ends before it should gives what there is, and nothing beyond", async () => {
  const content = seededRandom(1).bytes(windowBytes + 1_000);
  const files = await filesWith(content, 1);
  const file = await files.open(name, "read");
  const window = new Window(file, fileBytes);
  expect((await window.at(0, 100)).equals(content.subarray(0, 100))).toBe(true);
  const across = await window.at(windowBytes - 100, 5_000);
  expect(across.equals(content.subarray(windowBytes - 100))).toBe(true);
  expect(await window.at(windowBytes + 2_000, 100)).toHaveLength(0);
  expect(await window.rest(windowBytes + 2_000)).toHaveLength(0);
  expect((await window.rest(windowBytes + 10)).equals(content.subarray(windowBytes + 10))).toBe(
    true,
  );
  await window.close();
  await file.close();
});

test("A read ahead that failed is told to whoever asks for it, and can be asked for again", async () => {
  const content = seededRandom(1).bytes(fileBytes);
  const files = await filesWith(content, 1);
  const file = await files.open(name, "read");
  let isFailing = true;
  const flaky = {
    read: (target: Uint8Array, offset: number) =>
      isFailing && offset + target.length > windowBytes
        ? Promise.reject(new Failure("internal", "Cannot read: the disk failed"))
        : file.read(target, offset),
  } as FileHandle;
  const window = new Window(flaky, fileBytes);
  await window.at(0, 100);
  for (let time = 0; time < 3; time++) {
    await expect(async () => await window.at(windowBytes - 8, 16)).rejects.toThrow("disk failed");
  }
  expect(
    (await window.at(windowBytes - 8, 8)).equals(content.subarray(windowBytes - 8, windowBytes)),
  ).toBe(true);
  isFailing = false;
  const bytes = await window.at(windowBytes - 8, 16);
  expect(bytes.equals(content.subarray(windowBytes - 8, windowBytes + 8))).toBe(true);
  await window.close();
  await file.close();
});

import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { afterEach, beforeEach, expect, test } from "vitest";
import { seededRandom } from "../../base/random.ts";
import { Handover } from "./handover.ts";

let handover: Handover;
let restored = 0;

beforeEach(() => {
  restored = 0;
  handover = new Handover(tmpdir(), () => {
    restored += 1;
  });
});

afterEach(() => handover.close());

async function read(file: string): Promise<Buffer> {
  return readFileSync(file);
}

test("A file has the bytes of its picture and no others, whatever was in it before", async () => {
  const random = seededRandom(3);
  for (let round = 0; round < 60; round++) {
    const picture = random.bytes(random.u32() % 200_000);
    const cut = random.u32() % (picture.length + 1);
    const whole = random.u32() % 3;
    const source =
      whole === 0
        ? picture
        : async (onPart: (part: Uint8Array) => void) => {
            onPart(picture.subarray(0, cut));
            // Some are cut off within, and leave a file that is longer than the next one.
            if (whole === 2 && round % 2 === 0) throw new Error("the store is gone");
            onPart(picture.subarray(cut));
          };
    const bytes = await handover.with(source, read).catch((error: Error) => error.message);
    if (typeof bytes === "string") expect(bytes).toBe("the store is gone");
    else expect(bytes.equals(picture)).toBe(true);
  }
});

test("Pictures that are on their way at once have a file each", async () => {
  const pictures = Array.from({ length: 30 }, (_, at) => Buffer.alloc(1_000 + at, at));
  const read = await Promise.all(
    pictures.map((picture) =>
      handover.with(picture, async (file) => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        return readFileSync(file);
      }),
    ),
  );
  for (const [at, bytes] of read.entries()) expect(bytes.equals(pictures[at] ?? bytes)).toBe(true);
});

test("A folder that was swept away is made again", async () => {
  await handover.with(Buffer.from("before"), read);
  rmSync(handover.folder, { recursive: true });
  expect((await handover.with(Buffer.from("after"), read)).toString()).toBe("after");
  expect(restored).toBe(1);
});

import { expect, test } from "vitest";
import { seededRandom } from "../../base/random.ts";
import { decodeContent, encodeContent } from "./codec.ts";
import { codecs } from "./needle.ts";

const random = seededRandom(1);
const text = Buffer.from("All hay is grass, and not all grass is hay. ".repeat(500));

test("Text is stored smaller and comes back as it was, whatever its length", async () => {
  for (const length of [0, 1, 255, 256, 257, 1_000, 20_000]) {
    const content = text.subarray(0, length);
    const { codec, data } = await encodeContent(content, "text/plain; charset=utf-8");
    expect(codec === codecs.none).toBe(length < 256);
    if (codec !== codecs.none) expect(data.length).toBeLessThan(length * (7 / 8));
    expect(await decodeContent(codec, data, content.length)).toEqual(content);
  }
});

test("zstd is taken only where it saves enough more than LZ4", async () => {
  const words = Array.from({ length: 4_000 }, () => `word${random.u32() % 700}`).join(" ");
  expect((await encodeContent(Buffer.from(words), "text/plain")).codec).toBe(codecs.zstd);
  const blanks = Buffer.alloc(300, " ");
  expect((await encodeContent(blanks, "text/plain")).codec).toBe(codecs.lz4);
});

test("Pictures are not touched, nor text that does not get smaller", async () => {
  const noise = random.bytes(10_000);
  expect(await encodeContent(text, "image/jpeg")).toEqual({ codec: codecs.none, data: text });
  expect(await encodeContent(text, "")).toEqual({ codec: codecs.none, data: text });
  expect(await encodeContent(noise, "application/json")).toEqual({
    codec: codecs.none,
    data: noise,
  });
});

test("Bytes that are not what was stored are refused and take no memory", async () => {
  for (const type of ["text/plain", "application/json"]) {
    const { codec, data } = await encodeContent(text, type);
    for (const length of [text.length - 1, text.length + 1, 0]) {
      await expect(decodeContent(codec, data, length)).rejects.toMatchObject({ kind: "corrupt" });
    }
    await expect(
      decodeContent(codec, data.subarray(0, data.length - 5), text.length),
    ).rejects.toMatchObject({ kind: "corrupt" });
  }
  const hostile = Buffer.from("ffffffff0000", "hex");
  await expect(decodeContent(codecs.lz4, hostile, 100)).rejects.toMatchObject({ kind: "corrupt" });
});

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { seededRandom } from "../../base/random.ts";
import { VolumeDigest } from "./volume-digest.ts";

const mebibyte = 1_048_576;
const leaf = (bytes: Uint8Array) => createHash("sha256").update("\0").update(bytes).digest();
const node = (left: Buffer, right: Buffer) =>
  createHash("sha256").update("\x01").update(left).update(right).digest();

async function digestOf(parts: readonly Uint8Array[]): Promise<{ leaves: Buffer; root: string }> {
  const blocks: Buffer[] = [];
  const digest = new VolumeDigest({
    onBlock: async (block) => {
      blocks.push(Buffer.from(block));
    },
  });
  for (const part of parts) await digest.update(part);
  const found = await digest.finish();
  // Whoever listens has seen the same bytes.
  expect(Buffer.concat(blocks).equals(Buffer.concat(parts))).toBe(true);
  return found;
}

/** Piece n is a MiB of the number n, the last one shorter. */
function pieces(count: number, lastBytes: number): Buffer[] {
  return Array.from({ length: count }, (_, at) =>
    Buffer.alloc(at === count - 1 ? lastBytes : mebibyte, at),
  );
}

test("Up to a MiB the digest is the one leaf", async () => {
  for (const length of [1, 1_000, mebibyte]) {
    const bytes = Buffer.alloc(length, 7);
    expect(await digestOf([bytes])).toEqual({
      leaves: leaf(bytes),
      root: leaf(bytes).toString("hex"),
    });
  }
  // As `printf '\0hay' | sha256sum` has it.
  expect((await digestOf([Buffer.from("hay")])).root).toBe(
    "60b82bb891100053818da2c1dd3c96faad0f2bbd7dc746cf14eb4f6f8d6cb299",
  );
});

test("Of no bytes at all there is no leaf, and zeros stand for the root", async () => {
  expect(await digestOf([])).toEqual({ leaves: Buffer.alloc(0), root: "0".repeat(64) });
  expect((await digestOf([Buffer.alloc(0)])).leaves).toHaveLength(0);
});

test("The tree is that of RFC 9162, a node without a right neighbour goes up as it is", async () => {
  const parts = pieces(7, 99);
  const [a, b, c, d, e, f, g] = parts.map(leaf);
  if (!a || !b || !c || !d || !e || !f || !g) throw new Error("seven");
  const four = node(node(a, b), node(c, d));
  const roots = [
    a,
    node(a, b),
    node(node(a, b), c),
    four,
    node(four, e),
    node(four, node(e, f)),
    node(four, node(node(e, f), g)),
  ];
  for (const [at, root] of roots.entries()) {
    const { leaves, root: found } = await digestOf(parts.slice(0, at + 1));
    expect(found, `${at + 1} leaves`).toBe(root.toString("hex"));
    expect(leaves.equals(Buffer.concat(parts.slice(0, at + 1).map(leaf)))).toBe(true);
  }
});

test("A leaf is no node: a file of two digests is another than the two files", async () => {
  const parts = pieces(2, mebibyte);
  const asNode = Buffer.concat([Buffer.of(1), ...parts.map(leaf)]);
  expect((await digestOf([asNode])).root).not.toBe((await digestOf(parts)).root);
});

test("It does not matter in which pieces the bytes come", async () => {
  const random = seededRandom(4);
  const bytes = Buffer.alloc(3 * mebibyte + 12_345);
  for (let at = 0; at < bytes.length; at += 4_099) bytes[at] = random.u32() & 0xff;
  const whole = await digestOf([bytes]);
  for (let run = 0; run < 20; run++) {
    const parts: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = random.u32() % (run % 2 === 0 ? 2_000_000 : 300_000);
      parts.push(bytes.subarray(at, at + length));
      at += length;
    }
    expect((await digestOf(parts)).root).toBe(whole.root);
  }
});

test("One bit, one byte more, or a piece elsewhere make another digest", async () => {
  const parts = pieces(3, 500);
  const { root } = await digestOf(parts);
  const [a = Buffer.of(), b = Buffer.of(), c = Buffer.of()] = parts;
  const flipped = Buffer.from(b);
  flipped[mebibyte - 1] = (flipped[mebibyte - 1] ?? 0) ^ 0x80;
  const others = [
    [a, flipped, c],
    [b, a, c],
    [a, b, Buffer.concat([c, Buffer.of(2)])],
    [a, b],
  ];
  const roots = (await Promise.all(others.map(digestOf))).map((found) => found.root);
  expect(new Set([root, ...roots]).size).toBe(5);
});

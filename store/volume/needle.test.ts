import fc from "fast-check";
import { expect, test } from "vitest";
import { seededRandom } from "../../base/random.ts";
import {
  blockBytes,
  blockTableOf,
  ChecksumSeeds,
  decodeFooter,
  decodeHead,
  encodeNeedle,
  metadataOf,
  type NeedlePlace,
  type NeedleSource,
  needleLength,
  payloadDigestOf,
  verifyBlocks,
} from "./needle.ts";

const random = seededRandom(1);
const identity = { uuid: random.bytes(16), generation: 3, recordMagic: random.bytes(8) };
const seeds = new ChecksumSeeds(identity);

function makeNeedle(dataLength: number, metadataLength = 20) {
  const source: NeedleSource = {
    cookie: 0x637037d6,
    metadata: random.bytes(metadataLength),
    data: random.bytes(dataLength),
    codec: 0,
    contentLength: dataLength,
    isReservation: false,
    owner: { catalog: "00112233445566ff", session: 7 },
    ttlSeconds: 60,
    timeMs: 1_790_000_000_123,
  };
  const place: NeedlePlace = {
    offset: 8_192,
    ordinal: 41,
    epoch: 9,
    batchPosition: 2,
    batchCount: 5,
    watermark: 8_192,
    previousDigest: random.bytes(8),
  };
  const { head, tail, payloadDigest } = encodeNeedle(source, place, identity, seeds);
  return { source, place, bytes: Buffer.concat([head, source.data, tail]), payloadDigest };
}

test("A needle is read back as it was framed, whatever its sizes", () => {
  const sizes = [0, 1, 7, 8, blockBytes - 1, blockBytes, blockBytes + 1, 3 * blockBytes];
  for (const dataLength of sizes) {
    const { source, place, bytes, payloadDigest } = makeNeedle(dataLength);
    expect(bytes.length % 8).toBe(0);
    expect(bytes.length).toBe(needleLength({ metadataLength: 20, dataLength }));
    const head = decodeHead(bytes, place.offset, identity, seeds);
    expect(head).toMatchObject({
      ...place,
      cookie: source.cookie,
      owner: source.owner,
      ttlSeconds: 60,
      timeMs: source.timeMs,
      dataLength,
      length: bytes.length,
    });
    if (head === undefined) return;
    expect(metadataOf(bytes, head)).toEqual(source.metadata);
    const start = head.dataOffset - head.offset;
    expect(bytes.subarray(start, start + dataLength)).toEqual(source.data);
    const table = blockTableOf(bytes, head);
    expect(verifyBlocks(source.data, { table, ordinal: 41, firstBlock: 0 }, seeds)).toBe(true);
    const footer = bytes.subarray(start + dataLength);
    expect(decodeFooter(footer, head)).toEqual(payloadDigest);
    expect(payloadDigestOf(bytes, head)).toEqual(payloadDigest);
  }
});

test("A native blob has no owner", () => {
  const source = { ...makeNeedle(3).source, owner: undefined };
  const { place } = makeNeedle(3);
  const { head } = encodeNeedle(source, place, identity, seeds);
  expect(decodeHead(head, place.offset, identity, seeds)?.owner).toBeUndefined();
});

test("Every flipped bit is noticed, by the part that it lies in", () => {
  const { place, bytes } = makeNeedle(100);
  const head = decodeHead(bytes, place.offset, identity, seeds);
  if (head === undefined) throw new Error("the needle must verify");
  const dataStart = head.dataOffset - head.offset;
  const dataEnd = dataStart + head.dataLength;
  for (let bit = 0; bit < (dataEnd + 16) * 8; bit++) {
    const flipped = Buffer.from(bytes);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    const at = bit >> 3;
    if (at < dataStart) {
      expect(decodeHead(flipped, place.offset, identity, seeds), `bit ${bit}`).toBeUndefined();
    } else if (at < dataEnd) {
      const data = flipped.subarray(dataStart, dataEnd);
      const table = blockTableOf(flipped, head);
      expect(verifyBlocks(data, { table, ordinal: 41, firstBlock: 0 }, seeds)).toBe(false);
    } else {
      const stated = decodeFooter(flipped.subarray(dataEnd), head);
      const isRight = stated?.equals(payloadDigestOf(flipped, head));
      expect(isRight ?? false, `bit ${bit}`).toBe(false);
    }
  }
});

test("A needle verifies only where it was written: volume, generation and offset", () => {
  const { place, bytes } = makeNeedle(100);
  const elsewhere = (other: Partial<typeof identity>) => {
    const moved = { ...identity, ...other };
    return decodeHead(bytes, place.offset, moved, new ChecksumSeeds(moved));
  };
  expect(decodeHead(bytes, place.offset + 8, identity, seeds)).toBeUndefined();
  expect(elsewhere({ uuid: random.bytes(16) })).toBeUndefined();
  expect(elsewhere({ generation: 4 })).toBeUndefined();
  expect(elsewhere({ recordMagic: random.bytes(8) })).toBeUndefined();
  expect(decodeHead(Buffer.alloc(bytes.length), place.offset, identity, seeds)).toBeUndefined();
});

test("A block verifies only as that block of that needle", () => {
  const data = Buffer.alloc(2 * blockBytes, 7);
  const { place } = makeNeedle(1);
  const source = { ...makeNeedle(1).source, data };
  const { head } = encodeNeedle(source, place, identity, seeds);
  const decoded = decodeHead(head, place.offset, identity, seeds);
  if (decoded === undefined) throw new Error("the needle must verify");
  const table = blockTableOf(head, decoded);
  const block = data.subarray(0, blockBytes);
  const verify = (ordinal: number, firstBlock: number) =>
    verifyBlocks(block, { table, ordinal, firstBlock }, seeds);
  expect(verify(41, 0)).toBe(true);
  expect(verify(42, 0)).toBe(false);
  // Both blocks have the same bytes, and yet each has a checksum of its own.
  expect(table.readUInt32LE(0)).not.toBe(table.readUInt32LE(4));
});

test("No bytes at all make a reader fail", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const buffer = Buffer.concat([identity.recordMagic, Buffer.from(bytes)]);
      expect(decodeHead(buffer, 8_192, identity, seeds)).toBeUndefined();
    }),
  );
});

import { createHmac } from "node:crypto";
import { expect, test } from "vitest";
import { reservedCookie } from "./reserved-cookie.ts";

const recordMagic = Buffer.from("0123456789abcdef", "hex");
const uuid = Buffer.from("00112233445566778899aabbccddeeff", "hex");

test("A reserved cookie is the start of an HMAC over label, uuid and ordinal", () => {
  const message = Buffer.concat([
    Buffer.from("hayloft reserved cookie"),
    uuid,
    Buffer.from([0x04, 0x03, 0x02, 0x01]),
  ]);
  const expected = createHmac("sha256", recordMagic).update(message).digest().readUInt32BE(0);
  expect(reservedCookie({ recordMagic, uuid, ordinal: 0x01020304 })).toBe(expected);
});

test("Another ordinal, uuid or secret makes another cookie", () => {
  const cookies = [
    reservedCookie({ recordMagic, uuid, ordinal: 0 }),
    reservedCookie({ recordMagic, uuid, ordinal: 1 }),
    reservedCookie({ recordMagic, uuid, ordinal: 0xffff_ffff }),
    reservedCookie({ recordMagic, uuid: Buffer.alloc(16), ordinal: 0 }),
    reservedCookie({ recordMagic: Buffer.alloc(8), uuid, ordinal: 0 }),
  ];
  expect(new Set(cookies).size).toBe(cookies.length);
});

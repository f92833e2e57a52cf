/**
 * The cookie of a fid that was given out before its needle was stored.
 *
 * The directory gives such fids out (`/dir/assign`) and the store takes the first PUT: both know the secret
 * record magic of the volume and compute the same cookie, so no list of assigned fids is kept or sent.
 *
 * Fids are assigned in runs of consecutive ordinals that share ONE cookie, that of the run's FIRST ordinal,
 * because clients write the others as `<fid>_1`, `<fid>_2`, … with the first one's cookie. A run of one
 * fid is the ordinary case. So for the path `<volume>,<ordinal><cookie>_<k>` the needle's ordinal is
 * ordinal + k, and its cookie has to be `reservedCookie` of ordinal (the needle's own less k). Whoever puts
 * a later fid of a run in plain form, without `_<k>`, is refused until the needle is there.
 */

import { createHmac } from "node:crypto";

const label = Buffer.from("hayloft reserved cookie", "ascii");

// What is signed with the record magic as key:
//  0  label    23 B  ASCII "hayloft reserved cookie"
// 23  uuid     16 B  of the volume
// 39  ordinal  u32   little-endian
const at = { uuid: label.length, ordinal: label.length + 16 } as const;
const messageBytes = at.ordinal + 4;

/** A number of 32 bits, as in `Fid`. */
export function reservedCookie({
  recordMagic,
  uuid,
  ordinal,
}: {
  recordMagic: Uint8Array;
  /** 16 bytes. */
  uuid: Uint8Array;
  /** The first of its run. */
  ordinal: number;
}): number {
  const message = Buffer.alloc(messageBytes);
  message.set(label, 0);
  message.set(uuid, at.uuid);
  message.writeUInt32LE(ordinal, at.ordinal);
  return createHmac("sha256", recordMagic).update(message).digest().readUInt32BE(0);
}

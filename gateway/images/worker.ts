/**
 * A thread of the image process: reads the file that it is told, and renders it.
 *
 * Little of a render is JavaScript; the rest is native and runs in libuv's pool. So one
 * thread has several pictures in hand.
 */

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { move } from "piscina";
import { Failure, type FailureKind, messageOf } from "../../base/failure.ts";
import { render } from "./codec.ts";
import type { RenderPlan } from "./transform.ts";

export interface RenderTask {
  /** A file with all of the picture's bytes. */
  file: string;
  plan: RenderPlan;
  limitMs: number;
}

/** A thread's errors lose their class on the way, so a failure travels as a value. */
export interface RenderFailed {
  failed: { kind: FailureKind; message: string };
}

// Buffers that are used again: a new one for each picture keeps the garbage collector as busy as
// all other JavaScript together.
const spareBytesMax = 4 * 1_024 * 1_024;
const sparesMax = 8;
const spares: Buffer[] = [];

export default async function run({
  file,
  plan,
  limitMs,
}: RenderTask): Promise<Uint8Array | RenderFailed> {
  try {
    const { buffer, length } = read(file);
    try {
      const bytes = await render(buffer.subarray(0, length), plan, { limitMs });
      return move(bytes) as Uint8Array;
    } finally {
      if (buffer.length <= spareBytesMax && spares.length < sparesMax) spares.push(buffer);
    }
  } catch (error) {
    const kind = error instanceof Failure ? error.kind : "internal";
    return { failed: { kind, message: messageOf(error) } };
  }
}

function read(file: string): { buffer: Buffer; length: number } {
  const descriptor = openSync(file, "r");
  try {
    const { size } = fstatSync(descriptor);
    const at = spares.findIndex((spare) => spare.length >= size);
    const [spare] = at < 0 ? [] : spares.splice(at, 1);
    const buffer =
      spare ?? Buffer.allocUnsafeSlow(Math.max(64 * 1_024, 2 ** Math.ceil(Math.log2(size))));
    let length = 0;
    while (length < size) {
      const count = readSync(descriptor, buffer, length, size - length, null);
      if (count === 0) throw new Error("the picture's file ends early");
      length += count;
    }
    return { buffer, length };
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Waiting, taking turns and work on other threads, as a seam: these are what makes two runs of the same
 * program differ, so a replay gives others.
 */

import { subtle } from "node:crypto";
import { setImmediate } from "node:timers/promises";

export interface Runtime {
  /** Runs `action` once, after `delayMs`; the process does not stay alive for it. Returns what cancels it. */
  after(delayMs: number, action: () => void): () => void;
  /** Lets whoever waits have the processor. */
  giveWay(): Promise<void>;
  /** SHA-256 on another thread: `bytes` may not change until it is done. */
  sha256(bytes: Uint8Array): Promise<Buffer>;
}

export const systemRuntime: Runtime = {
  after(delayMs, action) {
    const timer = setTimeout(action, delayMs).unref();
    return () => clearTimeout(timer);
  },
  giveWay: () => setImmediate(),
  sha256: async (bytes) =>
    Buffer.from(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)),
};

/** Returns after `delayMs`. */
export function pause(runtime: Runtime, delayMs: number): Promise<void> {
  return new Promise((resolve) => void runtime.after(delayMs, resolve));
}

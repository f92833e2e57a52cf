/**
 * Waiting, taking turns and work on other threads, as a seam: these are what makes two runs of the same
 * program differ, so a replay gives others.
 */

import { subtle } from "node:crypto";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";

export interface Runtime {
  /** Runs `action` once, after `delayMs`; the process does not stay alive for it. Returns what cancels it. */
  after(delayMs: number, action: () => void): () => void;
  /** Lets whoever waits have the processor, for a while if there is somebody: for work in the background. */
  giveWay(): Promise<void>;
  /** SHA-256 on another thread: `bytes` may not change until it is done. */
  sha256(bytes: Uint8Array): Promise<Buffer>;
}

/** A turn of the event loop in which nobody had anything to do takes less. */
const emptyTurnMs = 0.05;
/** As short as timers are. */
const restMs = 1;

export const systemRuntime: Runtime = {
  after(delayMs, action) {
    const timer = setTimeout(action, delayMs).unref();
    return () => clearTimeout(timer);
  },
  async giveWay() {
    const startedMs = performance.now();
    await setImmediate();
    // A process that always has work is, to the system's scheduler, one that has used up its share: it waits for
    // milliseconds where one that was asleep gets the processor at once, and so does every answer it owes.
    if (performance.now() - startedMs > emptyTurnMs) await sleep(restMs);
  },
  sha256: async (bytes) =>
    Buffer.from(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)),
};

/** Returns after `delayMs`. */
export function pause(runtime: Runtime, delayMs: number): Promise<void> {
  return new Promise((resolve) => void runtime.after(delayMs, resolve));
}

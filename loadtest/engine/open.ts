/**
 * A child that opens a store's folder and tells how long it took and what it holds in memory then. Wants
 * `--expose-gc`: what is garbage is not counted, on either side of the difference.
 */

import { setTimeout as sleep } from "node:timers/promises";
import type { Store } from "../../store/store.ts";
import { serve } from "./child.ts";
import { openStore } from "./folder.ts";

export type OpenRequest =
  /** Opens a small folder and closes it, so that code and its memory are there before anything counts. */
  | { kind: "warm"; folder: string }
  | { kind: "open"; folder: string }
  /** Seals all volumes of what was opened, and closes. */
  | { kind: "seal" };

export interface OpenAnswer {
  seconds: number;
  needles: number;
  lengthBytes: number;
  /** What the engine says that its index takes. */
  indexBytes: number;
  /** Growth of the whole process, and of the memory outside of the heap. */
  residentBytes: number;
  arrayBufferBytes: number;
}

let opened: Store | undefined;

async function answer(request: OpenRequest): Promise<OpenAnswer | undefined> {
  if (request.kind === "warm") {
    await (await openStore(request.folder)).close();
    return undefined;
  }
  if (request.kind === "seal") {
    await sealAll();
    return undefined;
  }
  const before = await measureMemory();
  const startedMs = performance.now();
  opened = await openStore(request.folder);
  const seconds = (performance.now() - startedMs) / 1_000;
  const after = await measureMemory();
  const reports = opened.reports();
  return {
    seconds,
    needles: reports.reduce((sum, { needleCount }) => sum + needleCount, 0),
    lengthBytes: reports.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0),
    indexBytes: opened.volumes().reduce((sum, { indexBytes }) => sum + indexBytes, 0),
    residentBytes: after.rss - before.rss,
    arrayBufferBytes: after.arrayBuffers - before.arrayBuffers,
  };
}

async function sealAll(): Promise<void> {
  for (const volume of opened?.volumes() ?? []) {
    await volume.seal();
    await volume.settled();
  }
  await opened?.close();
  opened = undefined;
}

async function measureMemory(): Promise<NodeJS.MemoryUsage> {
  for (let turn = 0; turn < 4; turn++) {
    globalThis.gc?.();
    await sleep(50); // memory is given back beside the collection, not in it
  }
  return process.memoryUsage();
}

await serve(answer);

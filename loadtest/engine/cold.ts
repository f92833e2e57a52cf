/** A child that reads needles in random order, some at a time, and verifies each. */

import { seededRandom } from "../../base/random.ts";
import type { Volume } from "../../store/volume/volume.ts";
import { percentile } from "../bench-report.ts";
import { serve } from "./child.ts";
import { cookieOf, onlyVolume, openStore } from "./folder.ts";

export type ColdRequest =
  | { kind: "open"; folder: string; seed: number }
  /** The next `count` of the random order: none is read twice. */
  | { kind: "read"; count: number; depth: number };

export interface ColdOpened {
  needles: number;
  indexBytes: number;
}

export interface ColdRead {
  seconds: number;
  dataBytes: number;
  latencyMsP50: number;
  latencyMsP99: number;
}

let volume: Volume | undefined;
let order = new Uint32Array(0);
let next = 0;

async function answer(request: ColdRequest): Promise<ColdOpened | ColdRead> {
  return request.kind === "open" ? await open(request) : await read(request);
}

async function open({ folder, seed }: ColdRequest & { kind: "open" }): Promise<ColdOpened> {
  volume = onlyVolume(await openStore(folder));
  order = shuffled(volume.report().needleCount, seed);
  return { needles: order.length, indexBytes: volume.indexBytes };
}

async function read({ count, depth }: ColdRequest & { kind: "read" }): Promise<ColdRead> {
  const end = next + count;
  if (end > order.length) throw new Error(`Cannot read ${count} more: all would not be cold`);
  const latenciesMs: number[] = [];
  let dataBytes = 0;
  const work = async () => {
    while (next < end) {
      const startedMs = performance.now();
      const length = await readNext();
      dataBytes += length; // not in one step: others have added to it during the wait
      latenciesMs.push(performance.now() - startedMs);
    }
  };
  const startedMs = performance.now();
  await Promise.all(Array.from({ length: depth }, work));
  return {
    seconds: (performance.now() - startedMs) / 1_000,
    dataBytes,
    latencyMsP50: percentile(latenciesMs, 0.5),
    latencyMsP99: percentile(latenciesMs, 0.99),
  };
}

async function readNext(): Promise<number> {
  const ordinal = order[next++] ?? 0;
  const needle = await volume?.find(ordinal, cookieOf(ordinal));
  if (needle === undefined) throw new Error(`Cannot find needle ${ordinal}`);
  try {
    return (await needle.content()).length; // verified on the way
  } finally {
    needle.close();
  }
}

function shuffled(count: number, seed: number): Uint32Array<ArrayBuffer> {
  const ordinals = Uint32Array.from({ length: count }, (_, at) => at);
  const random = seededRandom(seed);
  for (let left = count - 1; left > 0; left--) {
    const other = random.u32() % (left + 1);
    const moved = ordinals[left] ?? 0;
    ordinals[left] = ordinals[other] ?? 0;
    ordinals[other] = moved;
  }
  return ordinals;
}

await serve(answer);

/** The benchmark's compaction: what readers notice of one that runs as fast as it can in the same store. */

import { execFile } from "node:child_process";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Failure } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import { type Random, seededRandom } from "../base/random.ts";
import { formatBytes } from "../base/units.ts";
import { DirectoryClient, type VolumeStatus } from "../directory/client.ts";
import { type BlobMetadata, StoreClient } from "../store/client.ts";
import { EngineChild, mebibyte } from "./bench-engine.ts";
import { type Bench, type Measured, median, medianLatency, takeTurns } from "./bench-report.ts";
import { findOpenVolume, readVolumes } from "./bench-requests.ts";
import { contentOf } from "./content.ts";
import { volumeFileOf } from "./engine/folder.ts";
import type { SteadyAnswer, SteadyRequest } from "./engine/steady.ts";
import { SignedCalls } from "./signed-calls.ts";

const execute = promisify(execFile);

const aim = 2;
const deletedShare = 0.4;
/** Modest, so that what is measured is the wait for a store that has time, not a queue. */
const loadShare = 0.3;
const capacityConnections = 64;
const blobCount = 512;
const bytesMin = 1_024;
const bytesMax = 65_536;
const callBytes = 4 * mebibyte;
const callsAtOnce = 4;
const deletesAtOnce = 5_000;
const orderLimitMs = 600_000;
const owner = { catalog: "00000000000000be", session: 1 };

/** What one compaction did. */
interface Compacted {
  seconds: number;
  copiedBytes: number;
  freedBytes: number;
}

export async function benchCompaction(bench: Bench): Promise<void> {
  const { report } = bench;
  report.heading(
    `compaction: GET at ${loadShare * 100} % of what the store can do, while another volume is compacted / while nothing is`,
  );
  const caller = new Caller(bench.cluster.secret);
  const store = new StoreClient(caller);
  const steady = await EngineChild.start<SteadyRequest>("steady.ts");
  try {
    await new CompactionLine(bench, { caller, store, steady }).run();
  } finally {
    await steady.close();
    store.close();
    await caller.close();
  }
}

class CompactionLine {
  readonly #bench: Bench;
  readonly #store: StoreClient;
  readonly #directory: DirectoryClient;
  readonly #steady: EngineChild<SteadyRequest>;
  readonly #random: Random;
  readonly #pool: Buffer;
  readonly #compacted: Compacted[] = [];
  #load: SteadyRequest = { kind: "stop" };
  /** Has the blobs that are read. */
  #readVolume = 0;
  #lastFile = "";

  constructor(
    bench: Bench,
    parts: {
      caller: Caller;
      store: StoreClient;
      steady: EngineChild<SteadyRequest>;
    },
  ) {
    this.#bench = bench;
    this.#store = parts.store;
    this.#steady = parts.steady;
    this.#directory = new DirectoryClient(parts.caller, bench.cluster.place("directory").address);
    this.#random = seededRandom(bench.seed);
    this.#pool = contentOf({ seed: bench.seed, id: 0 }, callBytes);
  }

  async run(): Promise<void> {
    const { report, rounds, compactionBytes } = this.#bench;
    await this.#prepareLoad();
    const sides = [
      { name: "compacting", run: () => this.#measureCompacting() },
      { name: "idle", run: () => this.#measureIdle() },
    ];
    const taken = await takeTurns(sides, rounds);
    report.show(taken, "requests");
    const [compacting, idle] = taken.map((side) => medianLatency(side, "latencyMsP99"));
    const ratio = (compacting ?? Number.NaN) / (idle ?? Number.NaN);
    report.note(`p99 ratio ${ratio.toFixed(2)}, ${report.judge(ratio <= aim, `at most ${aim}`)}`);
    const pick = (measure: (compacted: Compacted) => number) =>
      median(this.#compacted.map(measure));
    const perFreed = pick(({ copiedBytes, freedBytes }) => copiedBytes / freedBytes);
    const copyRate = pick(({ copiedBytes, seconds }) => copiedBytes / 1e6 / seconds);
    report.note(
      `${perFreed.toFixed(2)} bytes copied for each that was freed, of volumes of ` +
        `${formatBytes(compactionBytes)} with ${deletedShare * 100} % deleted`,
    );
    report.note(
      `${Math.round(copyRate)} MB/s copied, from the order to its end, with the GETs beside it; ` +
        `dd with a sync at the end copies as much at ${Math.round(await this.#timeCopy())} MB/s with nothing beside it`,
    );
    report.note(`${rounds} rounds each, page cache warm, open loop; not pinned`);
  }

  /** Blobs to read, and how often to: a share of what wrk gets. */
  async #prepareLoad(): Promise<void> {
    const { cluster, tool, seconds, report } = this.#bench;
    this.#readVolume = await findOpenVolume(this.#bench);
    const sizes = Array.from({ length: blobCount }, () => this.#randomSize());
    const fids = await this.#append(this.#readVolume, sizes);
    const address = cluster.storeAddress;
    const signed = new SignedCalls(cluster);
    const paths = fids.map((fid) => `/${fid}`);
    const { perSecond } = await tool.run({
      ...{ address, method: "GET", paths, headers: {}, signed, seconds },
      connections: capacityConnections,
    });
    const { secretFile } = cluster;
    this.#load = { kind: "start", address, secretFile, paths, perSecond: perSecond * loadShare };
    report.note(
      `${blobCount} blobs of 1 to 64 KiB, as many small as large ones: ${Math.round(perSecond)} GETs/s at most ` +
        `(${capacityConnections} connections), so ${Math.round(perSecond * loadShare)}/s`,
    );
  }

  async #measureIdle(): Promise<Measured> {
    await this.#steady.ask(this.#load);
    await sleep(this.#bench.seconds * 1_000);
    return await this.#steady.ask<SteadyAnswer>({ kind: "stop" });
  }

  async #measureCompacting(): Promise<Measured> {
    const volume = await this.#fill();
    const before = await this.#statusOf(volume);
    await this.#steady.ask(this.#load);
    const startedMs = performance.now();
    // One order for both: between a seal and a compaction the directory might order one of its own.
    const request = { rateBytes: 0, purge: true };
    const { orders } = await this.#directory.compactVolume(volume, request);
    for (const order of orders) await this.#untilDone(order);
    const seconds = (performance.now() - startedMs) / 1_000;
    const measured = await this.#steady.ask<SteadyAnswer>({ kind: "stop" });
    const after = await this.#statusOf(volume);
    if (after.generation !== before.generation + 1) {
      throw new Failure("internal", `Cannot count a round: volume ${volume} was not compacted`);
    }
    const { lengthBytes } = after;
    this.#compacted.push({
      seconds,
      copiedBytes: lengthBytes,
      freedBytes: before.lengthBytes - lengthBytes,
    });
    const folder = path.join(this.#bench.cluster.folder, "store");
    this.#lastFile = volumeFileOf(folder, after);
    return measured;
  }

  /** A volume that nobody reads from, full, and a part of it deleted. */
  async #fill(): Promise<number> {
    const { compactionBytes, cluster } = this.#bench;
    const volume = await this.#untilOpen();
    let left = compactionBytes;
    const fids: string[] = [];
    const work = async () => {
      while (left > 0) {
        const sizes: number[] = [];
        for (let bytes = 0; bytes < callBytes - bytesMax && bytes < left; ) {
          const size = this.#randomSize();
          sizes.push(size);
          bytes += size;
        }
        left -= sizes.reduce((sum, size) => sum + size, 0);
        fids.push(...(await this.#append(volume, sizes)));
      }
    };
    await Promise.all(Array.from({ length: callsAtOnce }, work));
    const deleted = fids.filter(() => this.#random.fraction() < deletedShare);
    for (let at = 0; at < deleted.length; at += deletesAtOnce) {
      await this.#store.delete(cluster.storeAddress, deleted.slice(at, at + deletesAtOnce));
    }
    return volume;
  }

  /** The directory opens another when one is sealed, but not at once. */
  async #untilOpen(): Promise<number> {
    const giveUpAtMs = performance.now() + 30_000;
    for (;;) {
      try {
        return await findOpenVolume(this.#bench, [this.#readVolume]);
      } catch (error) {
        if (performance.now() > giveUpAtMs) throw error;
        await sleep(100);
      }
    }
  }

  async #append(volume: number, sizes: readonly number[]): Promise<string[]> {
    return await this.#store.appendAll({
      address: this.#bench.cluster.storeAddress,
      volume,
      blobs: sizes.map((size) => {
        const start = this.#random.u32() % (this.#pool.length - size);
        return { data: this.#pool.subarray(start, start + size), metadata };
      }),
      owner,
      durability: "disk",
      requestId: "bench",
    });
  }

  /** As many between 1 and 2 KiB as between 32 and 64. */
  #randomSize(): number {
    return Math.round(bytesMin * (bytesMax / bytesMin) ** this.#random.fraction());
  }

  /** From the store itself: the directory only knows what the last heartbeat told. */
  async #statusOf(volume: number): Promise<VolumeStatus> {
    const volumes = await readVolumes(this.#bench);
    const found = volumes.find((each) => each.volume === volume);
    if (found === undefined) throw new Failure("internal", `Cannot find volume ${volume}`);
    return found;
  }

  async #untilDone(order: number): Promise<void> {
    const giveUpAtMs = performance.now() + orderLimitMs;
    for (;;) {
      const { state, reason } = await this.#directory.order(order);
      if (state === "done") return;
      if (state === "failed" || performance.now() > giveUpAtMs) {
        throw new Failure("internal", `Cannot compact: order ${order} is ${state}: ${reason}`);
      }
      await sleep(20);
    }
  }

  /** MB/s of a plain copy of the last volume that was made. */
  async #timeCopy(): Promise<number> {
    const copy = path.join(this.#bench.scratch, "copy");
    const startedMs = performance.now();
    await execute("dd", [`if=${this.#lastFile}`, `of=${copy}`, "bs=1M", "conv=fdatasync"]);
    const seconds = (performance.now() - startedMs) / 1_000;
    return (this.#compacted.at(-1)?.copiedBytes ?? Number.NaN) / 1e6 / seconds;
  }
}

const metadata: BlobMetadata = {
  bucket: "bench",
  key: "compaction",
  version: "1",
  chunk: 0,
  type: "image/jpeg",
  sha256: "",
};

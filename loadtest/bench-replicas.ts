/**
 * The benchmark's lines of a cluster: three stores that keep two copies beside the same three that keep one.
 *
 * PUT goes to the volume's primary, as the line `put` does: in the gateway's own work and the catalog's commit
 * the second copy would hardly show. GET goes by name through a gateway without a cache: the store's part is
 * the same for any number of copies, and what may cost is the gateway's choice among them.
 *
 * Where others use the machine too, a side with more processes at work gets more of it. So the sides are
 * compared by processor time as well, and the worse of the two ratios is held against the aim.
 */

import { mkdtemp } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { LoadSpec } from "./bench-load.ts";
import { pinTo, processorSeconds } from "./bench-process.ts";
import { type BenchRun, formatRate, median, type Side, takeTurns } from "./bench-report.ts";
import { smallBytes } from "./bench-requests.ts";
import { contentOf } from "./content.ts";
import { LoopbackCluster } from "./loopback-cluster.ts";
import { request, sumMetric } from "./request.ts";
import { SignedCalls } from "./signed-calls.ts";

const storeCount = 3;
const objects = 256;
/** A side's heartbeats and syncs that are still under way are no part of the other's round. */
const settleMs = 500;

/** The names of the buckets by their copies; the side that is measured comes first. */
const buckets = [
  { bucket: "two", copies: 2 },
  { bucket: "one", copies: 1 },
] as const;

export async function benchReplicasPut(bench: BenchRun): Promise<void> {
  const { report, seed } = bench;
  report.heading(
    `replicas-put: 1 KiB durable PUT at the primary, ${storeCount} stores, copies=2 / the same with copies=1`,
  );
  await compareCopies(bench, 0.35, async (cluster) => {
    const signed = new SignedCalls(cluster);
    const body = contentOf({ seed, id: 0 }, smallBytes);
    return async ({ copies }) => {
      const { volume, addresses } = await cluster.writableVolume(copies);
      return {
        ...{ address: addresses[0] ?? "", method: "POST", paths: [`/volumes/${volume}/needles`] },
        ...{ headers: {}, body, signed, connections: 64 },
      };
    };
  });
}

export async function benchReplicasGet(bench: BenchRun): Promise<void> {
  const { report, seed } = bench;
  report.heading(
    `replicas-get: 1 KiB GET by name, gateway without cache, ${storeCount} stores, copies=2 / the same with copies=1`,
  );
  await compareCopies(bench, 0.9, async (cluster) => {
    const pathsOf = (bucket: string) =>
      Array.from({ length: objects }, (_, id) => `/${bucket}/${id}.bin`);
    for (const { bucket } of buckets) {
      for (const [id, target] of pathsOf(bucket).entries()) {
        await cluster.put(target, contentOf({ seed, id }, smallBytes));
      }
    }
    const { address } = cluster.gateway;
    return async ({ bucket }) => ({
      ...{ address, method: "GET", paths: pathsOf(bucket), headers: {}, connections: 32 },
    });
  });
}

type Specify = (bucket: (typeof buckets)[number]) => Promise<Omit<LoadSpec, "seconds">>;

/** What a side's rounds have used for each request, those for warming up too. */
interface Used {
  processorMicros: number[];
  syncs: number[];
}

/** Both sides on one fresh cluster, all of it on the servers' core. */
async function compareCopies(
  bench: BenchRun,
  aim: number,
  prepare: (cluster: LoopbackCluster) => Promise<Specify>,
): Promise<void> {
  const { report, rounds, seconds, scratch, serverCore, tool } = bench;
  const cluster = await LoopbackCluster.start(
    await mkdtemp(path.join(scratch, "cluster-")),
    storeCount,
  );
  try {
    for (const { bucket, copies } of buckets) await cluster.makeBucket(bucket, copies);
    const specify = await prepare(cluster);
    for (const { pid } of cluster.processes) pinTo(serverCore, pid);
    const used: Used[] = [];
    let command = "";
    const sides = buckets.map((bucket): Side => {
      const own: Used = { processorMicros: [], syncs: [] };
      used.push(own);
      return {
        name: `copies=${bucket.copies}`,
        run: async () => {
          const spec = await specify(bucket);
          const before = await totalsOf(cluster);
          const result = await tool.run({ ...spec, seconds });
          const after = await totalsOf(cluster);
          const requests = result.perSecond * seconds;
          own.processorMicros.push(
            ((after.processorSeconds - before.processorSeconds) * 1e6) / requests,
          );
          own.syncs.push((after.syncs - before.syncs) / requests);
          command = result.command;
          await sleep(settleMs);
          return result;
        },
      };
    });
    // Several processes get warm more slowly than one, and the side that comes first would pay for it.
    for (const { run } of [...sides, ...sides]) await run();
    const rateRatio = report.compare(await takeTurns(sides, rounds), { unit: "requests" });
    const medianOf = (values: readonly number[] = []) => median(values.slice(-rounds));
    const [two = Number.NaN, one = Number.NaN] = used.map(({ processorMicros }) =>
      medianOf(processorMicros),
    );
    for (const [at, { copies }] of buckets.entries()) {
      const micros = formatRate(medianOf(used[at]?.processorMicros));
      const syncs = medianOf(used[at]?.syncs).toFixed(3);
      report.note(
        `${`copies=${copies}`.padEnd(16)} ${micros} µs of processor and ${syncs} syncs for a request, all processes together`,
      );
    }
    const worse = Number.isNaN(two) ? rateRatio : Math.min(rateRatio, one / two);
    report.note(
      `by processor time ratio ${(one / two).toFixed(3)}; the worse is ${worse.toFixed(3)}, ${report.judge(worse >= aim, `at least ${aim}`)}`,
    );
    const pinned =
      serverCore === undefined
        ? ""
        : `, all ${cluster.processes.length} processes on core ${serverCore}`;
    report.note(`${command}, ${rounds} rounds each${pinned}`);
  } finally {
    await cluster.destroy();
  }
}

async function totalsOf({
  processes,
  stores,
}: LoopbackCluster): Promise<{ processorSeconds: number; syncs: number }> {
  let seconds = 0;
  for (const { pid } of processes) seconds += processorSeconds(pid);
  let syncs = 0;
  for (const { opsAddress } of stores) {
    const { body } = await request({ address: opsAddress, path: "/metrics" });
    syncs += sumMetric(body.toString(), "hayloft_store_syncs_total");
  }
  return { processorSeconds: seconds, syncs };
}

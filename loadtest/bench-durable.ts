/** The benchmark's durable PUT beside the same PUT that does not wait for the disk. */

import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { formatBytes } from "../base/units.ts";
import { type Durability, durabilityHeader } from "../store/client.ts";
import { doRaw } from "./bench-engine.ts";
import { pinTo } from "./bench-process.ts";
import { type Bench, formatRate, median, type Side, takeTurns } from "./bench-report.ts";
import { findOpenVolume, smallBytes } from "./bench-requests.ts";
import { contentOf } from "./content.ts";
import { SignedCalls } from "./signed-calls.ts";

const connections = 64;
const aim = 0.6;
/** After this what was stored in memory is synced, and no part of another side's round. */
const settleMs = 1_500;
/** A needle's bytes beside its data, about. */
const frameBytes = 104;

interface Counts {
  syncs: number;
  appends: number;
}

export async function benchDurable(bench: Bench): Promise<void> {
  const { cluster, report, rounds, seconds, tool, seed, serverCore } = bench;
  report.heading(
    "durable: 1 KiB PUT at the store, synced before it is answered / the same with durability memory",
  );
  pinTo(serverCore, cluster.place("store").pid);
  const address = cluster.storeAddress;
  const paths = [`/volumes/${await findOpenVolume(bench)}/needles`];
  const body = contentOf({ seed, id: 0 }, smallBytes);
  const counts: Record<Durability, Counts[]> = { disk: [], memory: [] };
  const signed = new SignedCalls(cluster);
  let command = "";
  const side = (name: string, durability: Durability): Side => ({
    name,
    run: async () => {
      const headers = { [durabilityHeader]: durability };
      const before = await readCounts(bench);
      const spec = { address, method: "POST", paths, headers, body, connections, seconds } as const;
      const result = await tool.run({ ...spec, signed });
      const after = await readCounts(bench);
      counts[durability].push({
        syncs: (after.syncs - before.syncs) / seconds,
        appends: (after.appends - before.appends) / Math.max(after.syncs - before.syncs, 1),
      });
      command = result.command;
      await sleep(settleMs);
      return result;
    },
  });
  const taken = await takeTurns([side("disk", "disk"), side("memory", "memory")], rounds);
  report.compare(taken, { unit: "requests", aim });
  for (const durability of ["disk", "memory"] as const) {
    const syncs = median(counts[durability].map((each) => each.syncs));
    const appends = median(counts[durability].map((each) => each.appends));
    report.note(
      `${durability.padEnd(16)} ${formatRate(syncs)} syncs/s, ${formatRate(appends)} appends for each`,
    );
  }
  await noteDisk(bench, median(counts.disk.map((each) => each.appends)));
  const pinned = serverCore === undefined ? "" : `, server process on core ${serverCore}`;
  report.note(`${command}, ${rounds} rounds each${pinned}`);
}

/** What the disk does when nobody does anything but write and sync as much at once. */
async function noteDisk({ scratch, report, serverCore }: Bench, appends: number): Promise<void> {
  const bytes = Math.ceil(appends * (smallBytes + frameBytes));
  const file = path.join(scratch, "syncs");
  const { seconds, count } = await doRaw(
    { kind: "sync", file, bytes, limitMs: 2_000 },
    { core: serverCore },
  );
  report.note(
    `the disk alone  ${formatRate(count / seconds)} syncs/s of ${formatBytes(bytes)}, one after the other`,
  );
}

async function readCounts({ cluster }: Bench): Promise<Counts> {
  return {
    syncs: await cluster.metric("store", "hayloft_store_syncs_total"),
    appends: await cluster.metric("store", "hayloft_store_appends_total"),
  };
}

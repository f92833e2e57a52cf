/**
 * The directory's planning at size, in memory: so many stores with so many copies each, three copies to a
 * volume. How many heartbeats it takes in a second while one or two volumes of each have changed, how long
 * after a store is lost the copies for all of its volumes are planned, and how much memory that needs.
 *
 *     node --max-old-space-size=16000 loadtest/engine/planner.ts [stores] [copies of a store]
 *
 * Prints one line of JSON.
 */

import { DatabaseSync } from "node:sqlite";
import { makeLog } from "../../base/log.ts";
import { migrate } from "../../base/migrate.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { kyselyOn } from "../../base/sqlite.ts";
import { Directory } from "../../directory/directory.ts";
import type { Heartbeat, VolumeStatus } from "../../directory/protocol.ts";
import { type DirectoryTables, directoryMigrations } from "../../directory/schema.ts";

const copiesOfVolume = 3;
const placement = `copies=${copiesOfVolume} spread=rack`;
const storesOfRack = 20;

export interface PlannerSize {
  storeCount: number;
  copiesOfStore: number;
  heartbeatCount: number;
}

export interface PlannerResult extends PlannerSize {
  copyCount: number;
  volumeCount: number;
  loadMs: number;
  joinMs: number;
  heartbeatsPerSecond: number;
  /** The same on a processor of its own. */
  heartbeatsPerCpuSecond: number;
  /** From when the store is lost until all of its volumes have a place for the copy that they lack. */
  lostStoreMs: number;
  /** The same on a processor of its own. */
  lostStoreCpuMs: number;
  plannedCount: number;
  memoryBytes: number;
}

export async function measurePlanner(size: PlannerSize): Promise<PlannerResult> {
  const { storeCount, copiesOfStore, heartbeatCount } = size;
  const volumeCount = Math.floor((storeCount * copiesOfStore) / copiesOfVolume);
  const sqlite = new DatabaseSync(":memory:");
  const database = kyselyOn<DirectoryTables>(sqlite);
  await migrate(database, directoryMigrations);
  fillDatabase(sqlite, { storeCount, volumeCount });

  let nowMs = 0;
  const random = seededRandom(1);
  const directory = new Directory({
    database,
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    random,
    log: makeLog("planner", "silent"),
    compaction: "off",
    isBalancing: false,
    // All of a store at once: what is measured is the plan, not the copying.
    copying: { incomingMax: 100, outgoingMax: copiesOfStore, rateBytes: 0 },
  });
  const loadMs = await timeOf(() => directory.load());
  const held = Array.from({ length: storeCount }, (): number[] => []);
  for (let volume = 1; volume <= volumeCount; volume++) {
    for (const store of storesOf(volume, storeCount)) held[store]?.push(volume);
  }
  const joinMs = await timeOf(async () => {
    for (const [store, volumes] of held.entries()) {
      const statuses = volumes.map((volume) => statusOf(volume));
      const whole = { volumes: statuses, isWhole: true };
      const { orders } = await directory.heartbeat(heartbeatOf(store, whole));
      nowMs += 0.1;
      // It makes the volumes that it is told to make.
      const made = orders.flatMap((order) =>
        order.kind === "create"
          ? [{ ...statusOf(order.volume), uuid: order.uuid, epoch: 1, state: "open" as const }]
          : [],
      );
      const done = orders.map(({ order }) => order);
      await directory.heartbeat({
        ...heartbeatOf(store, { volumes: made, isWhole: false }),
        done,
      });
    }
  });

  const startedCpu = process.cpuUsage();
  const beatsMs = await timeOf(async () => {
    for (let beat = 0; beat < heartbeatCount; beat++) {
      const store = beat % storeCount;
      const changed = changedOf(held[store] ?? [], random, beat);
      await directory.heartbeat(heartbeatOf(store, { volumes: changed, isWhole: false }));
      nowMs += 1_000 / storeCount;
    }
  });

  const cpu = process.cpuUsage(startedCpu);
  const cpuMs = (cpu.user + cpu.system) / 1_000;
  // All but the first go on calling, until it is given up.
  for (let silentMs = 0; silentMs < 29_000; silentMs += 1_000) {
    for (let store = 1; store < storeCount; store++) {
      await directory.heartbeat(heartbeatOf(store, { volumes: [], isWhole: false }));
    }
    nowMs += 1_000;
  }
  const counted = () => {
    const row = sqlite.prepare("select count(*) as n from orders where kind = 'copy'").get();
    return Number(row?.n ?? 0);
  };
  return {
    ...{ ...size, copyCount: volumeCount * copiesOfVolume, volumeCount, loadMs, joinMs },
    heartbeatsPerSecond: Math.round((heartbeatCount / beatsMs) * 1_000),
    heartbeatsPerCpuSecond: Math.round((heartbeatCount / cpuMs) * 1_000),
    ...(await planLostStore(directory, () => (nowMs += 500))),
    plannedCount: counted(),
    memoryBytes: process.memoryUsage().rss,
  };
}

/** The longest single look at the time: in it the store is found lost and all its copies are planned. */
async function planLostStore(
  directory: Directory,
  goOn: () => void,
): Promise<{ lostStoreMs: number; lostStoreCpuMs: number }> {
  let longest = { lostStoreMs: 0, lostStoreCpuMs: 0 };
  for (let at = 0; at < 3; at++) {
    goOn();
    const startedCpu = process.cpuUsage();
    const lostStoreMs = await timeOf(() => directory.tick());
    const { user, system } = process.cpuUsage(startedCpu);
    const lostStoreCpuMs = Math.round((user + system) / 1_000);
    if (lostStoreMs > longest.lostStoreMs) longest = { lostStoreMs, lostStoreCpuMs };
  }
  return longest;
}

async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return Math.round(performance.now() - startedMs);
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0");

/** Far apart, so that they are in racks of their own and a store shares volumes with many others. */
function storesOf(volume: number, storeCount: number): number[] {
  const step = Math.floor(storeCount / copiesOfVolume);
  const round = Math.floor(volume / storeCount);
  return Array.from(
    { length: copiesOfVolume },
    (_, copy) => (volume + copy * (step + storesOfRack * (round % 40))) % storeCount,
  );
}

function fillDatabase(
  sqlite: DatabaseSync,
  { storeCount, volumeCount }: { storeCount: number; volumeCount: number },
): void {
  sqlite.exec("begin");
  const addVolume = sqlite.prepare(
    `insert into volumes (volume, uuid, class, generation, record_magic, epoch, state, sealed_length,
       sealed_digest, ttl_seconds, placement, is_final)
     values (?, ?, 'original', 0, '', 2, 'sealed', 33000000000, ?, 0, ?, 1)`,
  );
  const addReplica = sqlite.prepare(
    "insert into replicas (volume, store, position, state, run) values (?, ?, ?, 'member', '')",
  );
  for (let volume = 1; volume <= volumeCount; volume++) {
    addVolume.run(volume, hex(volume, 32), hex(volume, 16), placement);
    for (const [position, store] of storesOf(volume, storeCount).entries()) {
      addReplica.run(volume, hex(store + 1, 16), position);
    }
  }
  sqlite.exec(`update counters set value = ${volumeCount} where name = 'volume'; commit`);
}

function statusOf(volume: number): VolumeStatus {
  return {
    ...{
      volume,
      class: "original",
      uuid: hex(volume, 32),
      generation: 0,
      epoch: 2,
      state: "sealed",
    },
    ...{ isWritable: false, isServing: true, members: [], lengthBytes: 33_000_000_000 },
    ...{ lastDigest: hex(volume, 16), dataBytes: 33e9, needleCount: 100_000, deletedCount: 0 },
    ...{
      deletesDigest: "0".repeat(16),
      damagedBytes: 0,
      deadBytes: 0,
      ttlSeconds: 0,
      expiresMs: 0,
    },
    ...{ scrubbedMs: 0, createdMs: 1, trashBytes: 0, hasSparseKeys: false },
  };
}

/** One or two of a store, of which more was verified since. */
function changedOf(volumes: readonly number[], random: Random, beat: number): VolumeStatus[] {
  const count = 1 + (beat % 2);
  return Array.from({ length: Math.min(count, volumes.length) }, () => {
    const volume = volumes[Math.floor(random.fraction() * volumes.length)] ?? 1;
    return { ...statusOf(volume), scrubbedMs: beat + 1 };
  });
}

function heartbeatOf(
  store: number,
  { volumes, isWhole }: { volumes: VolumeStatus[]; isWhole: boolean },
): Heartbeat {
  return {
    ...{ store: hex(store + 1, 16), run: hex(store + 1, 16), address: `10.0.0.${store}:80` },
    ...{ machine: `m${store}`, rack: `r${Math.floor(store / storesOfRack)}`, dataCentre: "d" },
    // No room for new volumes: only what is there is to be planned for.
    ...{ freeBytes: 1e13, totalBytes: 2e13, volumes, isWhole, gone: [], unreadable: [] },
    ...{ done: [], failed: [], grants: [] },
  };
}

if (import.meta.main) {
  const [storeCount = 10_000, copiesOfStore = 300] = process.argv.slice(2).map(Number);
  const size = { storeCount, copiesOfStore, heartbeatCount: 50_000 };
  process.stdout.write(`${JSON.stringify(await measurePlanner(size))}\n`);
}

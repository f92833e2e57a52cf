/**
 * A walk by chance through crashes, silences and returns of stores, with appends in between: what must never
 * happen is looked for at every step, and in the end everything has all its copies again.
 */

import { expect, test } from "vitest";
import { type Random, seededRandom } from "../base/random.ts";
import { FakeCluster } from "./fake-cluster.ts";
import type { FakeStore } from "./fake-store.ts";
import { parsePlacement } from "./placement.ts";
import type { VolumeSummary } from "./protocol.ts";

const wants = ["copies=2 spread=machine", "copies=3 spread=rack min=2"];

interface Walk {
  cluster: FakeCluster;
  random: Random;
  /** What was acknowledged, by volume: a length, and who said so. */
  acknowledged: Map<number, number>;
  /** Which store wrote under an epoch of a volume. */
  writers: Map<string, string>;
  digest: number;
}

const pick = <Item>(random: Random, items: readonly Item[]): Item | undefined =>
  items[Math.floor(random.fraction() * items.length)];

/** Appends as a store does it: acknowledged only if each member that it knows takes it in its own epoch. */
function append(walk: Walk): void {
  const { cluster, random, acknowledged, writers } = walk;
  const writable = [...cluster.stores.values()].flatMap((store) =>
    store.isUp
      ? [...store.volumes.values()]
          .filter((each) => each.isWritable)
          .map((status) => ({ store, status }))
      : [],
  );
  const choice = pick(random, writable);
  if (choice === undefined) return;
  const { store, status } = choice;
  const { volume, epoch, members, lengthBytes, lastDigest } = status;
  const replicas = members.slice(1).map((id) => cluster.stores.get(id) as FakeStore);
  const takes = replicas.filter((replica) => {
    const other = replica.volumes.get(volume);
    if (!replica.isUp || other?.state !== "open" || other.epoch !== epoch) return false;
    return other.lengthBytes === lengthBytes && other.lastDigest === lastDigest;
  });
  walk.digest += 1;
  const digest = walk.digest.toString(16);
  if (takes.length === replicas.length) {
    store.append(volume, digest, replicas);
    acknowledged.set(volume, lengthBytes + 1_024);
    const writer = writers.get(`${volume}/${epoch}`) ?? store.id;
    expect(writer, `volume ${volume} has one writer in epoch ${epoch}`).toBe(store.id);
    writers.set(`${volume}/${epoch}`, store.id);
  } else {
    // It reached some, and nobody was told that it is stored.
    for (const replica of takes) replica.append(volume, digest, []);
    store.set(volume, {
      ...{ isWritable: false, canReopen: true, closedBecause: "a replica does not take it" },
    });
  }
}

function disturb({ cluster, random }: Walk): void {
  const store = pick(random, [...cluster.stores.values()]);
  if (store === undefined) return;
  const fate = random.fraction();
  if (store.isUp && fate < 0.4) store.isUp = false;
  else if (!store.isUp && fate < 0.5) store.isUp = true;
  else if (fate < 0.8) cluster.restart(store);
  else if (fate < 0.9) cluster.restartDirectory();
}

const isCopy = (store: FakeStore | undefined, { volume, lengthBytes }: VolumeSummary) => {
  const status = store?.volumes.get(volume);
  return status?.state === "sealed" && status.lengthBytes === lengthBytes;
};

function look({ cluster, acknowledged }: Walk, before: Map<number, number>): Map<number, number> {
  const copies = new Map<number, number>();
  for (const summary of cluster.directory.status().volumes) {
    const { volume, state, lengthBytes } = summary;
    if (state !== "sealed") continue;
    const told = acknowledged.get(volume) ?? 0;
    expect(lengthBytes, `volume ${volume} has what was acknowledged`).toBeGreaterThanOrEqual(told);
    const count = [...cluster.stores.values()].filter((store) => isCopy(store, summary)).length;
    copies.set(volume, count);
    // Down to what is wanted it may go, no further.
    const floor = Math.min(before.get(volume) ?? 0, parsePlacement(summary.placement).copies);
    expect(count, `copies of volume ${volume}`).toBeGreaterThanOrEqual(floor);
  }
  return copies;
}

for (let seed = 1; seed <= 12; seed++) {
  test(`Through crashes and silences nothing acknowledged is lost, and all copies come back (seed ${seed})`, async () => {
    const cluster = await FakeCluster.start(["r1", "r1", "r2", "r2", "r3", "r3"]);
    const walk: Walk = {
      cluster,
      random: seededRandom(seed),
      ...{ acknowledged: new Map(), writers: new Map(), digest: 0 },
    };
    await cluster.rounds(3);
    for (const want of wants) await cluster.want(want);
    let copies = new Map<number, number>();
    for (let step = 0; step < 400; step++) {
      const { random } = walk;
      for (let at = 0; at < 3; at++) append(walk);
      if (random.fraction() < 0.08) disturb(walk);
      const up = [...cluster.stores.values()].filter(({ isUp }) => isUp);
      const store = pick(random, up);
      if (store !== undefined && random.fraction() < 0.7) await store.beat(cluster.directory);
      else await cluster.round();
      copies = look(walk, copies);
    }
    for (const store of cluster.stores.values()) if (!store.isUp) cluster.restart(store);
    // A directory that has started anew hears of them again from gateways.
    for (const want of wants) await cluster.want(want);
    await cluster.rounds(200);
    look(walk, copies);
    const { volumes, shortfall } = cluster.directory.status();
    expect(shortfall).toMatchObject({ volumeCount: 0, unavailableCount: 0 });
    for (const { replicas, state, volume, placement } of volumes) {
      expect(["open", "sealed"], `volume ${volume}`).toContain(state);
      if (state !== "sealed") continue;
      expect(replicas, `volume ${volume}`).toHaveLength(parsePlacement(placement).copies);
      for (const { condition } of replicas) expect(condition, `volume ${volume}`).toBe("whole");
    }
    for (const want of ["copies=1 spread=machine", wants[0]]) {
      const writable = cluster.directory.map().volumes.filter((entry) => entry.isWritable);
      expect(writable.map(({ placement }) => placement)).toContain(want);
    }
    await cluster.database.destroy();
  });
}

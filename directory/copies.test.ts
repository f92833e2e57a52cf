import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import { FakeCluster } from "./fake-cluster.ts";
import type { FakeStore } from "./fake-store.ts";
import { Operations } from "./operations.ts";

const twoCopies = "copies=2 spread=machine";
const threeCopies = "copies=3 spread=rack";

const operationsOf = (cluster: FakeCluster) =>
  new Operations(cluster.directory, {
    clock: { nowMs: () => cluster.nowMs, monotonicMs: () => cluster.nowMs },
    random: seededRandom(9),
  });

async function withCopies(
  text: string,
  racks = ["r1", "r2", "r3", "r4"],
): Promise<{ cluster: FakeCluster; volume: number; holders: FakeStore[] }> {
  const cluster = await FakeCluster.start(racks);
  await cluster.rounds(3);
  const { volume } = await cluster.want(text);
  const holders = cluster.holders(volume);
  const [primary, ...replicas] = holders;
  primary?.append(volume, "aa", replicas);
  await cluster.round();
  return { cluster, volume, holders };
}

/** Of the copies that count. */
const conditions = (cluster: FakeCluster, volume: number) =>
  cluster
    .summary(volume)
    .replicas.filter(({ role }) => role === "member")
    .map(({ condition }) => condition);

test("A volume is made at all its members, in racks of their own, and written once all have it", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies);
  expect(new Set(holders.map(({ rack }) => rack)).size).toBe(3);
  expect(cluster.entry(volume)).toMatchObject({
    isWritable: true,
    placement: threeCopies,
    addresses: holders.map(({ address }) => address),
    memberAddresses: holders.map(({ address }) => address),
  });
});

test("Every store is the primary of a volume of each placement that is wanted", async () => {
  const { cluster } = await withCopies(twoCopies);
  const primaries = cluster.directory
    .map()
    .volumes.filter(({ placement }) => placement === twoCopies)
    .map(({ addresses }) => addresses[0]);
  expect(new Set(primaries).size).toBe(4);
});

test("What can't be placed is said; with a lower minimum fewer copies are made", async () => {
  const cluster = await FakeCluster.start(["r1", "r2", "r2"]);
  await cluster.rounds(3);
  await expect(cluster.want(threeCopies)).rejects.toThrow("no volume");
  expect(cluster.directory.map().unmet).toEqual([
    { want: threeCopies, reason: "Cannot place 3 copies over 3 racks: 2 racks live" },
  ]);
  const { volume } = await cluster.want(`${threeCopies} min=2`);
  expect(cluster.holders(volume)).toHaveLength(2);
  expect(cluster.summary(volume).missingCount).toBe(1);
});

test("A volume whose copy can't be made is given up, and others are made", async () => {
  const cluster = await FakeCluster.start(["r1", "r2", "r3"]);
  const [first] = cluster.stores.values();
  await cluster.rounds(3);
  first?.failures.set("create", "no");
  const { volume } = await cluster.want(twoCopies);
  expect(cluster.holders(volume)).not.toContain(first);
  await cluster.rounds(3);
  const kept = new Set(cluster.directory.status().volumes.map((each) => each.volume));
  for (const store of cluster.stores.values()) {
    for (const id of store.volumes.keys()) expect(kept.has(id)).toBe(true);
  }
});

test("A replica that restarts closes the volume for a moment: it goes on under epoch 3", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies);
  const replica = holders[2] as FakeStore;
  cluster.restart(replica);
  await replica.beat(cluster.directory);
  expect(cluster.entry(volume)?.isWritable).toBe(false);
  expect(cluster.summary(volume)).toMatchObject({ state: "sealing", epoch: 2 });
  await cluster.rounds(4);
  expect(cluster.summary(volume)).toMatchObject({ state: "open", epoch: 3 });
  expect(cluster.entry(volume)?.isWritable).toBe(true);
});

test("A rolling restart of all stores seals nothing", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  for (const store of cluster.stores.values()) {
    cluster.restart(store);
    await cluster.rounds(4);
  }
  expect(cluster.summary(volume)).toMatchObject({ state: "open" });
  expect(cluster.entry(volume)?.isWritable).toBe(true);
  expect(cluster.holders(volume)).toEqual(holders);
});

test("A directory that restarts waits for members to call and leaves the volume open", async () => {
  const { cluster, volume } = await withCopies(twoCopies);
  cluster.restartDirectory();
  await cluster.rounds(2);
  expect(cluster.summary(volume)).toMatchObject({ state: "open", epoch: 1 });
  expect(cluster.entry(volume)?.isWritable).toBe(true);
});

test("With a replica dead, the volume ends where its living primary's acknowledgements did", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies);
  const [primary, second, third] = holders as [FakeStore, FakeStore, FakeStore];
  // A batch that reached one replica and was never acknowledged.
  primary.append(volume, "bb", [second, third]);
  second.append(volume, "cc", []);
  third.isUp = false;
  primary.set(volume, { closedBecause: "a replica was lost", canReopen: true, isWritable: false });
  await cluster.rounds(20);
  expect(cluster.summary(volume)).toMatchObject({ state: "sealed", lengthBytes: 10_240 });
  expect(second.volumes.get(volume)).toMatchObject({ state: "sealed", lengthBytes: 10_240 });
  // The silent one is the last to be asked.
  expect(cluster.entry(volume)?.addresses).toEqual(holders.map((each) => each.address));
});

test("With the primary dead, the volume ends with the longest copy, and the others are filled", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies);
  const [primary, second, third] = holders as [FakeStore, FakeStore, FakeStore];
  third.append(volume, "dd", []);
  primary.isUp = false;
  await cluster.rounds(20);
  expect(cluster.summary(volume)).toMatchObject({ state: "sealed", lengthBytes: 10_240 });
  expect(second.volumes.get(volume)?.lengthBytes).toBe(10_240);
});

test("One member that is left is enough to seal, and none is too few", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  for (const store of holders) store.isUp = false;
  await cluster.rounds(40);
  expect(cluster.summary(volume).state).toBe("sealing");
  const [, second] = holders as [FakeStore, FakeStore];
  cluster.restart(second);
  await cluster.rounds(3);
  expect(cluster.summary(volume).state).toBe("sealed");
});

test("A lost store's volumes are copied to others, and its return moves nothing twice", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies);
  const third = holders[2] as FakeStore;
  third.isUp = false;
  await cluster.rounds(90);
  expect(conditions(cluster, volume)).toEqual(["whole", "whole", "whole"]);
  expect(cluster.entry(volume)?.memberAddresses).not.toContain(third.address);
  cluster.restart(third);
  await cluster.rounds(80);
  expect(conditions(cluster, volume)).toEqual(["whole", "whole", "whole"]);
  expect(third.volumes.has(volume)).toBe(false);
  expect(cluster.holders(volume)).not.toContain(third);
  expect(cluster.directory.shortfall().volumeCount).toBe(0);
});

test("A store that was away for less than that rejoins with what it has", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  const [primary, second] = holders as [FakeStore, FakeStore];
  second.isUp = false;
  primary.append(volume, "ee", []);
  primary.set(volume, { deletedCount: 3, deletesDigest: "3".repeat(16) });
  await cluster.rounds(30);
  cluster.restart(second);
  await second.beat(cluster.directory);
  expect(second.volumes.get(volume)).toMatchObject({
    ...{ state: "sealed", isServing: true, lengthBytes: 10_240, deletedCount: 3 },
  });
  await cluster.rounds(3);
  expect(cluster.holders(volume)).toEqual(holders);
  expect(conditions(cluster, volume)).toEqual(["whole", "whole"]);
});

test("After a restart a copy of a sealed volume serves only once it has merged deletes", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const [primary, second] = holders as [FakeStore, FakeStore];
  cluster.restart(second);
  primary.set(volume, { deletedCount: 1, deletesDigest: "1".repeat(16) });
  await cluster.directory.heartbeat(second.report());
  expect(cluster.entry(volume)?.addresses).toEqual([primary.address]);
  expect(cluster.entry(volume)?.memberAddresses).toHaveLength(2);
  await cluster.rounds(2);
  expect(cluster.entry(volume)?.addresses).toHaveLength(2);
  expect(second.volumes.get(volume)?.deletedCount).toBe(1);
});

test("Members whose deletes differ for long are brought together", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const [primary, second] = holders as [FakeStore, FakeStore];
  second.set(volume, { deletedCount: 2, deletesDigest: "2".repeat(16) });
  await cluster.rounds(5);
  expect(primary.volumes.get(volume)?.deletedCount).toBe(0);
  await cluster.rounds(15);
  expect(primary.volumes.get(volume)?.deletedCount).toBe(2);
});

test("A copy with another uuid is served to nobody, and touched by nobody", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const stranger = [...cluster.stores.values()].find((store) => !holders.includes(store));
  stranger?.set(volume, { uuid: "f".repeat(32), state: "sealed", lengthBytes: 5 });
  await cluster.rounds(20);
  expect(stranger?.volumes.get(volume)).toMatchObject({ uuid: "f".repeat(32), lengthBytes: 5 });
  expect(cluster.entry(volume)?.memberAddresses).not.toContain(stranger?.address);
});

test("A damaged copy is replaced by one from an undamaged one, and goes only then", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const [primary] = holders as [FakeStore, FakeStore];
  primary.set(volume, { damagedBytes: 100 });
  await cluster.rounds(30);
  expect(conditions(cluster, volume)).toEqual(["whole", "whole"]);
  expect(primary.volumes.has(volume)).toBe(false);
});

test("With nowhere else to go, a damaged copy is replaced where it is", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies, ["r1", "r2"]);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const [primary] = holders as [FakeStore, FakeStore];
  primary.set(volume, { damagedBytes: 100 });
  await cluster.rounds(10);
  expect(conditions(cluster, volume)).toEqual(["whole", "whole"]);
  expect(primary.volumes.get(volume)?.damagedBytes).toBe(0);
});

test("A single copy of a lost store is waited for: it is not lost", async () => {
  const cluster = await FakeCluster.start(["r1", "r2"]);
  await cluster.rounds(3);
  const [first] = cluster.stores.values();
  await operationsOf(cluster).seal(1);
  await cluster.rounds(2);
  const before = cluster.holders(1);
  expect(before).toEqual([first]);
  if (first !== undefined) first.isUp = false;
  await cluster.rounds(80);
  expect(cluster.holders(1)).toEqual(before);
  expect(cluster.entry(1)?.memberAddresses).toEqual([first?.address]);
  expect(cluster.directory.shortfall()).toMatchObject({ volumeCount: 0 });
});

test("A store is drained: what it has is elsewhere before it goes, and nothing new comes", async () => {
  const { cluster, volume, holders } = await withCopies(twoCopies);
  const leaver = holders[0] as FakeStore;
  await cluster.directory.drain(leaver.address, { undo: false });
  const moved = [...leaver.volumes.keys()];
  await cluster.rounds(120);
  expect([...leaver.volumes.keys()]).toEqual([]);
  for (const each of moved) {
    expect(conditions(cluster, each).every((condition) => condition === "whole")).toBe(true);
  }
  expect(cluster.summary(volume).replicas).toHaveLength(2);
  const status = cluster.directory.status().stores.find(({ store }) => store === leaver.id);
  expect(status).toMatchObject({ isDraining: true, memberCount: 0, memberBytes: 0 });
});

test("A drain that would leave too few racks, or has no space, is refused with the reason", async () => {
  const { cluster, holders } = await withCopies(threeCopies, ["r1", "r2", "r3"]);
  const { directory } = cluster;
  const [leaver] = holders as [FakeStore];
  await expect(directory.drain(leaver.id, { undo: false })).rejects.toThrow(
    /^Cannot drain store .*: 3 of its volumes have 3 copies, each in a rack of its own, and without it 2 are live$/,
  );
  const small = await withCopies(twoCopies);
  for (const store of small.cluster.stores.values()) store.freeBytes = 100;
  await small.cluster.round();
  await expect(
    small.cluster.directory.drain((small.holders[0] as FakeStore).id, { undo: false }),
  ).rejects.toThrow(/the others have 300 B left above their reserve$/);
});

test("A drain that is taken back leaves what is there", async () => {
  const { cluster, holders } = await withCopies(twoCopies);
  const leaver = holders[0] as FakeStore;
  for (const store of cluster.stores.values()) store.isSlow = true;
  await cluster.directory.drain(leaver.id, { undo: false });
  await cluster.rounds(5);
  await cluster.directory.drain(leaver.id, { undo: true });
  for (const store of cluster.stores.values()) store.isSlow = false;
  const before = [...leaver.volumes.keys()];
  await cluster.rounds(40);
  for (const volume of before) expect(leaver.volumes.has(volume)).toBe(true);
});

test("An operator moves a copy, but not into the rack of another", async () => {
  const { cluster, volume, holders } = await withCopies(threeCopies, [
    "r1",
    "r2",
    "r3",
    "r3",
    "r4",
  ]);
  await operationsOf(cluster).seal(volume);
  await cluster.rounds(3);
  const [from] = holders as [FakeStore];
  const others = [...cluster.stores.values()].filter((store) => !holders.includes(store));
  for (const to of others) {
    const isTaken = holders.some((store) => store !== from && store.rack === to.rack);
    if (isTaken) {
      await expect(
        cluster.directory.move(volume, { from: from.id, to: to.address }),
      ).rejects.toThrow("another copy is in the rack");
    }
  }
  const free = others.find((to) => !holders.some((each) => each !== from && each.rack === to.rack));
  await cluster.directory.move(volume, { from: from.id, to: free?.id ?? "" });
  await cluster.rounds(30);
  expect(cluster.holders(volume)).toContain(free);
  expect(cluster.holders(volume)).not.toContain(from);
  expect(from.volumes.has(volume)).toBe(false);
});

test("A store that tells changes alone has to have told all before", async () => {
  const cluster = await FakeCluster.start(["r1"]);
  await cluster.rounds(3);
  const [store] = cluster.stores.values() as IterableIterator<FakeStore>;
  const changes = { ...(store as FakeStore).report(), isWhole: false, volumes: [] };
  expect((await cluster.directory.heartbeat(changes)).wantsWhole).toBe(false);
  expect(cluster.directory.status().stores[0]?.volumes).toHaveLength(2);
  cluster.restartDirectory();
  expect((await cluster.directory.heartbeat(changes)).wantsWhole).toBe(true);
  await cluster.round();
  const gone = { ...changes, gone: [1] };
  await cluster.directory.heartbeat(gone);
  expect(cluster.directory.status().stores[0]?.volumes.map(({ volume }) => volume)).toEqual([2]);
});

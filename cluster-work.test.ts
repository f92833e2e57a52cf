import { expect, test } from "vitest";
import { formatStatus, formatStores, formatVolumes } from "./cluster-work.ts";
import { FakeCluster } from "./directory/fake-cluster.ts";

async function startCluster(): Promise<FakeCluster> {
  const cluster = await FakeCluster.start(["r1", "r2"]);
  await cluster.rounds(3);
  await cluster.want("copies=2 spread=rack");
  return cluster;
}

test("The status counts stores, says what is short and what can't be had, and who is being emptied", async () => {
  const cluster = await startCluster();
  await cluster.directory.mapAfter("", 0, new AbortController().signal, ["copies=3 spread=rack"]);
  const text = formatStatus(cluster.directory.status());
  expect(text).toBe(
    [
      "stores   2 live, 0 suspect, 0 lost",
      "volumes  6, 0 short of copies (0 B to copy), 0 out of reach",
      "unmet    copies=3 spread=rack: Cannot place 3 copies over 3 racks: 2 racks live",
      "",
    ].join("\n"),
  );
});

test("Stores are listed with their places, volumes with each of their copies", async () => {
  const cluster = await startCluster();
  const status = cluster.directory.status();
  expect(formatStores(status)).toMatch(/000a:80 +live +data-centre +r1 +000000000000000a +4 /);
  const line = formatVolumes(status)
    .split("\n")
    .find((each) => each.includes("copies=2"));
  expect(line).toMatch(
    /original +open +copies=2 spread=rack .*000[ab]:80 \(live\) 000[ab]:80 \(live\)/,
  );
  expect(formatVolumes({ ...status, volumes: [] })).toBe("There are no such volumes.\n");
});

/**
 * What the commands of cluster.ts do.
 *
 * Invariant: with --json standard output is one JSON document.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure } from "./base/failure.ts";
import { Caller } from "./base/http-call.ts";
import { formatBytes } from "./base/units.ts";
import { DirectoryClient, type DirectoryStatus } from "./directory/client.ts";
import { Installation } from "./installation.ts";
import { formatMany, formatTable } from "./volume-text.ts";

interface WhereOptions {
  data: string;
  directory?: string;
  tokenFile?: string;
  json?: boolean;
}

export async function printClusterStatus(options: WhereOptions): Promise<void> {
  await withDirectory(options, async (directory) => {
    const status = await directory.status();
    const { shortfall, unmet } = status;
    const stores = status.stores.map(({ volumes: _, ...store }) => store);
    print(options, { stores, shortfall, unmet }, () => formatStatus(status));
  });
}

export async function printStores(options: WhereOptions): Promise<void> {
  await withDirectory(options, async (directory) => {
    const status = await directory.status();
    const stores = status.stores.map(({ volumes: _, ...store }) => store);
    print(options, stores, () => formatStores(status));
  });
}

export async function printVolumes(options: WhereOptions & { short?: boolean }): Promise<void> {
  await withDirectory(options, async (directory) => {
    const status = await directory.status();
    const volumes = status.volumes.filter(
      ({ missingCount }) => options.short !== true || missingCount > 0,
    );
    print(options, volumes, () => formatVolumes({ ...status, volumes }));
  });
}

export async function drainStore(
  name: string,
  options: WhereOptions & { undo?: boolean; wait?: boolean },
): Promise<void> {
  await withDirectory(options, async (directory) => {
    await directory.drainStore(name, { undo: options.undo === true });
    const look = async () => {
      const { stores } = await directory.status();
      const store = stores.find((each) => each.store === name || each.address === name);
      const { memberCount = 0, memberBytes = 0, isDraining = false } = store ?? {};
      return { memberCount, memberBytes, isDraining };
    };
    let { memberCount, memberBytes, isDraining } = await look();
    let shown = "";
    while (options.wait === true && isDraining && memberCount > 0) {
      const text = `${formatMany(memberCount, "volume")}, ${formatBytes(memberBytes)} left\n`;
      if (text !== shown) process.stderr.write(text);
      shown = text;
      await sleep(1_000);
      ({ memberCount, memberBytes, isDraining } = await look());
    }
    print(options, { store: name, isDraining, memberCount, memberBytes }, () =>
      isDraining && memberCount === 0
        ? `Store ${name} is empty: it can be stopped and taken away.\n`
        : isDraining
          ? `Store ${name} is being emptied: ${formatMany(memberCount, "volume")}, ${formatBytes(memberBytes)} are to be moved.\n`
          : `Store ${name} keeps what it has.\n`,
    );
  });
}

async function withDirectory(
  { data, directory, tokenFile }: WhereOptions,
  use: (client: DirectoryClient) => Promise<void>,
): Promise<void> {
  const installation = new Installation(data);
  const address = directory ?? installation.readRun().directory?.address;
  if (address === undefined) {
    throw new Failure("unavailable", `Cannot reach Hayloft: no directory runs in ${data}`);
  }
  if (directory !== undefined && tokenFile === undefined) {
    throw new Failure("bad-request", "Cannot ask a directory without --token-file");
  }
  const caller = new Caller(ClusterSecret.read(tokenFile ?? installation.tokenFile));
  try {
    await use(new DirectoryClient(caller, address));
  } finally {
    await caller.close();
  }
}

function print({ json }: WhereOptions, value: unknown, text: () => string): void {
  process.stdout.write(json === true ? `${JSON.stringify(value)}\n` : text());
}

export function formatStatus({ stores, volumes, shortfall, unmet }: DirectoryStatus): string {
  const count = (state: string) => stores.filter((store) => store.state === state).length;
  const lines = [
    `stores   ${count("live")} live, ${count("suspect")} suspect, ${count("lost")} lost`,
    `volumes  ${volumes.length}, ${shortfall.volumeCount} short of copies (${formatBytes(shortfall.copyBytes)} to copy), ${shortfall.unavailableCount} out of reach`,
  ];
  for (const store of stores.filter(({ isDraining }) => isDraining)) {
    const left = `${formatMany(store.memberCount, "volume")}, ${formatBytes(store.memberBytes)} left`;
    lines.push(`drained  ${store.address}: ${left}`);
  }
  for (const { want, reason } of unmet) lines.push(`unmet    ${want}: ${reason}`);
  return `${lines.join("\n")}\n`;
}

export function formatStores({ stores }: DirectoryStatus): string {
  if (stores.length === 0) return "There are no stores.\n";
  const rows = stores.map((store) => ({
    store: store.store,
    address: store.address,
    state: store.isDraining ? `${store.state}, drained` : store.state,
    "data centre": store.dataCentre,
    rack: store.rack,
    machine: store.machine,
    volumes: String(store.memberCount),
    held: formatBytes(store.memberBytes),
    free: formatBytes(store.freeBytes),
  }));
  const places = ["data centre", "rack", "machine"];
  return formatTable(["store", "address", "state", ...places, "volumes", "held", "free"], rows);
}

export function formatVolumes({
  stores,
  volumes,
}: Omit<DirectoryStatus, "shortfall" | "unmet">): string {
  if (volumes.length === 0) return "There are no such volumes.\n";
  const addressOf = new Map(stores.map(({ store, address }) => [store, address]));
  const rows = volumes.map((volume) => ({
    volume: String(volume.volume),
    class: volume.class,
    state: volume.state,
    placement: volume.placement,
    length: formatBytes(volume.lengthBytes),
    missing: volume.missingCount === 0 ? "-" : String(volume.missingCount),
    copies: volume.replicas
      .map(({ store, role, condition }) => {
        const what = role === "member" ? condition : `${role}, ${condition}`;
        return `${addressOf.get(store) ?? store} (${what})`;
      })
      .join(" "),
  }));
  return formatTable(
    ["volume", "class", "state", "placement", "length", "missing", "copies"],
    rows,
  );
}

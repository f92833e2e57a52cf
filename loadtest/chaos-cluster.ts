/** The cluster of a chaos run: a database, directories, stores and gateways, each on a host of its own. */

import { existsSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import { lacksPostgres } from "../base/postgres-server.ts";
import type { Random } from "../base/random.ts";
import { DirectoryClient, type DirectoryStatus } from "../directory/client.ts";
import { ChaosDatabase } from "./chaos-database.ts";
import type { ChaosScene } from "./chaos-faults.ts";
import { ManyProcess, SmallDisk } from "./many.ts";
import { NetworkHosts } from "./network-hosts.ts";
import { basicAuth, type Credentials, request } from "./request.ts";

export interface ChaosClusterOptions {
  folder: string;
  stores: number;
  gateways: number;
  directories: number;
  /** The cluster's secret, 64 hex digits. */
  token: string;
  withHosts: boolean;
  random: Random;
}

/** For deletes that were postponed by a minute. */
const settleLimitMs = 100_000;
const smallDiskBytes = 768 * 1_048_576;
const faketime = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

export class ChaosCluster implements ChaosScene {
  readonly hosts: NetworkHosts | undefined;
  readonly database: ChaosDatabase;
  readonly directories: ManyProcess[] = [];
  readonly stores: ManyProcess[] = [];
  readonly gateways: ManyProcess[] = [];
  readonly smallDisks: Map<string, string> = new Map();
  readonly clockFiles: Map<string, string> = new Map();
  readonly credentials: Credentials = { accessKey: "chaos", secretKey: "chaos-chaos-chaos-chaos" };
  readonly random: Random;
  readonly #options: ChaosClusterOptions;
  readonly #caller: Caller;
  readonly #disks: SmallDisk[] = [];

  private constructor(
    options: ChaosClusterOptions,
    hosts: NetworkHosts | undefined,
    database: ChaosDatabase,
  ) {
    this.#options = options;
    this.random = options.random;
    this.hosts = hosts;
    this.database = database;
    const secret = path.join(options.folder, "secret");
    writeFileSync(secret, `${options.token}\n`, { mode: 0o600 });
    this.#caller = new Caller(ClusterSecret.read(secret));
  }

  static async start(options: ChaosClusterOptions): Promise<ChaosCluster> {
    if (lacksPostgres) {
      throw new Failure("unsupported", "Cannot run: there is no PostgreSQL (Debian's postgresql)");
    }
    const names = (kind: string, count: number) =>
      Array.from({ length: count }, (_, at) => `${kind}${at + 1}`);
    const directories = names("d", options.directories);
    const stores = names("s", options.stores);
    const gateways = names("g", options.gateways);
    const hosts = options.withHosts
      ? NetworkHosts.make([...directories, ...stores, ...gateways])
      : undefined;
    const database = await ChaosDatabase.start(hosts?.ownAddress ?? "127.0.0.1", 25_432);
    const cluster = new ChaosCluster(options, hosts, database);
    try {
      await database.create("directory");
      await database.create("catalog");
      await cluster.#make(directories, stores, gateways);
      for (const each of cluster.#all()) each.start();
      for (const each of cluster.#all()) await each.untilReady();
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
    return cluster;
  }

  async makeBucket(bucket: string, settings: Record<string, unknown>): Promise<void> {
    const headers = { authorization: basicAuth(this.credentials) };
    const address = this.gateways[0]?.address ?? "";
    const made = await request({ address, method: "PUT", path: `/${bucket}`, headers });
    const set = await request({
      address,
      method: "PATCH",
      path: `/${bucket}?settings`,
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(settings),
    });
    if (made.status !== 200 || set.status !== 200) {
      throw new Failure("unavailable", `Cannot make the bucket: ${made.body} ${set.body}`);
    }
  }

  /** Starts again what has ended by itself. */
  startEnded(): void {
    for (const each of this.#all()) each.start();
  }

  /** Ends all faults and waits until every volume has all its copies, equal; tells how long that took. */
  async mend(limitMs: number): Promise<number> {
    const startedMs = performance.now();
    this.hosts?.heal();
    for (const file of this.clockFiles.values()) writeFileSync(file, "+0\n");
    for (const each of this.#all()) {
      each.resume();
      each.start();
    }
    for (const each of this.#all()) await each.untilReady();
    let why = "";
    while (performance.now() - startedMs < limitMs) {
      try {
        why = shortfallOf(await this.#status());
        if (why === "") return performance.now() - startedMs;
      } catch (error) {
        why = messageOf(error);
      }
      await sleep(500);
    }
    throw new Failure("timeout", `Cannot see full copies within ${limitMs} ms: ${why}`);
  }

  /** Has every copy verified to the last byte, and compares those of each volume. */
  async compareCopies(): Promise<boolean> {
    const client = this.#client();
    const { stores } = await this.#status();
    const ids = new Set(stores.flatMap(({ volumes }) => volumes.map(({ volume }) => volume)));
    const orders: number[] = [];
    for (const volume of ids) orders.push(...(await client.verifyVolume(volume)).orders);
    for (const order of orders) {
      for (;;) {
        const { state, reason } = await client.order(order);
        if (state === "failed") console.log(`an order failed: ${reason}`);
        if (state !== "pending") break;
        await sleep(200);
      }
    }
    // Deletes are still on their way, and reports come once a second.
    const giveUpAtMs = performance.now() + settleLimitMs;
    for (;;) {
      await sleep(1_500);
      const { volumes, copies, different } = differences(await this.#status());
      if (different.length > 0 && performance.now() < giveUpAtMs) continue;
      for (const text of different) console.log(`WRONG: ${text}`);
      console.log(`${volumes} volumes, ${copies} copies: ${different.length} differ`);
      return different.length === 0;
    }
  }

  async destroy(): Promise<void> {
    await Promise.all(this.#all().map((each) => each.kill()));
    await this.database.destroy();
    await this.#caller.close();
    for (const disk of this.#disks) disk.unmount();
    this.hosts?.destroySync();
  }

  async #make(directories: string[], stores: string[], gateways: string[]): Promise<void> {
    const { folder } = this.#options;
    await mkdir(folder, { recursive: true });
    const credentials = path.join(folder, "credentials.json");
    writeFileSync(credentials, JSON.stringify(this.credentials), { mode: 0o600 });
    const secret = ["--token-file", path.join(folder, "secret"), "--log-level", "info"];
    // On loopback all have the same host, and so ports of their own.
    const portOf = (first: number, at: number) => first + (this.hosts === undefined ? at * 10 : 0);
    for (const [at, name] of directories.entries()) {
      const args = ["--database", this.database.url("directory"), ...secret];
      this.directories.push(this.#process("directory", name, portOf(29_333, at), args));
    }
    const directory = this.directories.map(({ address }) => address).join(",");
    for (const [at, name] of stores.entries()) {
      // The first two have disks that can be filled.
      if (at < 2) {
        const place = path.join(folder, name);
        this.#disks.push(new SmallDisk(place, smallDiskBytes));
        this.smallDisks.set(name, place);
      }
      const args = [
        ...["--directory", directory, "--machine", name, "--rack", `rack-${name}`],
        ...["--reserve", "32MiB", "--volume-size", "64MiB", "--checkpoint-needles", "200"],
        ...secret,
      ];
      this.stores.push(this.#process("store", name, portOf(28_080, at), args));
    }
    for (const [at, name] of gateways.entries()) {
      const args = [
        ...["--directory", directory, "--catalog", this.database.url("catalog")],
        ...["--credentials", credentials, "--delete-delay", "5", "--cache-bytes", "0"],
        ...secret,
      ];
      this.gateways.push(this.#process("gateway", name, portOf(28_333, at), args));
    }
  }

  #process(
    role: "directory" | "store" | "gateway",
    name: string,
    port: number,
    args: string[],
  ): ManyProcess {
    const { folder } = this.#options;
    const env: Record<string, string> = {};
    if (existsSync(faketime) && role !== "gateway") {
      const file = path.join(folder, `${name}.clock`);
      writeFileSync(file, "+0\n");
      this.clockFiles.set(name, file);
      Object.assign(env, {
        LD_PRELOAD: faketime,
        FAKETIME_TIMESTAMP_FILE: file,
        FAKETIME_NO_CACHE: "1",
        FAKETIME_DONT_FAKE_MONOTONIC: "1",
      });
    }
    return new ManyProcess({ role, name, folder, hosts: this.hosts, port, args, env });
  }

  #all(): ManyProcess[] {
    return [...this.directories, ...this.stores, ...this.gateways];
  }

  #client(): DirectoryClient {
    return new DirectoryClient(
      this.#caller,
      this.directories.map(({ address }) => address).join(","),
    );
  }

  async #status(): Promise<DirectoryStatus> {
    return await this.#client().status();
  }
}

/** What is still missing, or nothing. */
function shortfallOf({ stores, volumes, shortfall }: DirectoryStatus): string {
  const { volumeCount, unavailableCount } = shortfall;
  if (volumeCount + unavailableCount > 0) {
    return `${volumeCount} volumes are short of copies, ${unavailableCount} out of reach`;
  }
  const silent = stores.find(({ state }) => state !== "live");
  if (silent !== undefined) return `store ${silent.address} is ${silent.state}`;
  // Not by what copies say of their members: of a sealed volume that was moved they were told long ago.
  for (const { volume, class: volumeClass, replicas } of volumes) {
    const odd = replicas.find(({ condition }) => condition !== "whole" && condition !== "live");
    if (odd !== undefined) {
      return `volume ${volume} (${volumeClass}) has a copy that is ${odd.condition} at ${odd.store}`;
    }
  }
  return "";
}

/** Volumes whose copies are not the same, or damaged. */
function differences({ stores }: DirectoryStatus): {
  volumes: number;
  copies: number;
  different: string[];
} {
  const found = new Map<number, Map<string, string[]>>();
  let copies = 0;
  for (const { address, volumes } of stores) {
    for (const status of volumes) {
      const { state, generation, lengthBytes, lastDigest, digest, deletesDigest } = status;
      const { volume, damagedBytes } = status;
      const facts = { state, generation, lengthBytes, lastDigest, digest, deletesDigest };
      const text = JSON.stringify({ ...facts, damagedBytes });
      const same = found.get(volume) ?? new Map<string, string[]>();
      found.set(volume, same);
      same.set(text, [...(same.get(text) ?? []), address]);
      copies += 1;
    }
  }
  const different: string[] = [];
  for (const [volume, same] of found) {
    const isDamaged = [...same.keys()].some((text) => !text.includes('"damagedBytes":0'));
    if (same.size === 1 && !isDamaged) continue;
    for (const [text, addresses] of same) {
      different.push(`volume ${volume} at ${addresses.join(", ")}: ${text}`);
    }
  }
  return { volumes: found.size, copies, different };
}

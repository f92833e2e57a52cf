/**
 * A small cluster for a run: one directory, some stores and one gateway as processes of their own on
 * loopback, with SQLite. Each store counts as a machine.
 */

import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import { DirectoryClient, type MapVolume } from "../directory/client.ts";
import { ManyProcess, type ManyRole } from "./many.ts";
import { type Answer, basicAuth, type Credentials, request } from "./request.ts";

// Below the ports that systems give out by themselves; two runs at once are seldom in one stretch.
const firstPort = 30_000 + (process.pid % 27) * 100;
const portsOfProcess = 2;
const writableLimitMs = 30_000;
const pollMs = 100;

export class LoopbackCluster {
  readonly directory: ManyProcess;
  readonly stores: ManyProcess[];
  readonly gateway: ManyProcess;
  readonly secret: ClusterSecret;
  readonly #credentials: Credentials = { accessKey: "run", secretKey: "run-run-run-run-run-run" };
  readonly #caller: Caller;

  private constructor(folder: string, storeCount: number) {
    const secretFile = path.join(folder, "secret");
    writeFileSync(secretFile, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600 });
    this.secret = ClusterSecret.read(secretFile);
    this.#caller = new Caller(this.secret);
    const credentials = path.join(folder, "credentials.json");
    writeFileSync(credentials, JSON.stringify(this.#credentials), { mode: 0o600 });
    const shared = ["--token-file", secretFile, "--log-level", "warn"];
    let port = firstPort;
    const make = (role: ManyRole, name: string, args: readonly string[]) => {
      const options = { role, name, folder, port, hosts: undefined };
      port += portsOfProcess;
      return new ManyProcess({ ...options, args: [...args, ...shared] });
    };
    this.directory = make("directory", "d1", []);
    const directory = ["--directory", this.directory.address];
    this.stores = Array.from({ length: storeCount }, (_, at) =>
      make("store", `s${at + 1}`, [...directory, "--machine", `machine-${at + 1}`]),
    );
    // Without a cache each read by name is one at a store.
    const own = ["--credentials", credentials, "--cache-bytes", "0"];
    this.gateway = make("gateway", "g1", [...directory, ...own]);
  }

  static async start(folder: string, storeCount: number): Promise<LoopbackCluster> {
    await mkdir(folder, { recursive: true });
    const cluster = new LoopbackCluster(folder, storeCount);
    try {
      for (const each of cluster.processes) each.start();
      for (const each of cluster.processes) await each.untilReady();
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
    return cluster;
  }

  get processes(): ManyProcess[] {
    return [this.directory, ...this.stores, this.gateway];
  }

  /** A bucket that anybody may read, with so many copies of what is in it; returns when it can be written. */
  async makeBucket(bucket: string, copies: number): Promise<void> {
    await this.#expectOk("PUT", `/${bucket}`);
    await this.#expectOk(
      "PATCH",
      `/${bucket}?settings`,
      JSON.stringify({ copies, publicRead: true }),
    );
    // Its volumes are made when the gateway first says that it wants them.
    const giveUpAtMs = performance.now() + writableLimitMs;
    while ((await this.#call("PUT", `/${bucket}/first`, "first")).status !== 200) {
      if (performance.now() > giveUpAtMs) break;
      await sleep(pollMs);
    }
    await this.put(`/${bucket}/first`, "first");
  }

  async put(target: string, body: Uint8Array | string): Promise<void> {
    await this.#expectOk("PUT", target, body);
  }

  /** One of the catalog's volumes that takes appends and has so many copies. */
  async writableVolume(copies: number): Promise<MapVolume> {
    const client = new DirectoryClient(this.#caller, this.directory.address);
    const { volumes } = await client.map("", 0, AbortSignal.timeout(writableLimitMs));
    const found = volumes.find(
      (each) =>
        each.class === "original" && each.isWritable && each.memberAddresses.length === copies,
    );
    if (found !== undefined) return found;
    throw new Failure("unavailable", `Cannot find a writable volume with copies=${copies}`);
  }

  /** Ends all of it at once; the folder stays. */
  async destroy(): Promise<void> {
    await Promise.all(this.processes.map((each) => each.kill()));
    await this.#caller.close();
  }

  async #expectOk(method: string, target: string, body?: Uint8Array | string): Promise<void> {
    const { status, body: answer } = await this.#call(method, target, body);
    if (status === 200) return;
    const text = answer.toString().slice(0, 300);
    const logs = this.processes.map((each) => each.logTail(3)).join("\n");
    throw new Failure(
      "unavailable",
      `Cannot ${method} ${target}: status ${status} ${text}\n${logs}`,
    );
  }

  /** At the gateway, as its root user. */
  async #call(method: string, target: string, body?: Uint8Array | string): Promise<Answer> {
    return await request({
      ...{ address: this.gateway.address, method, path: target },
      headers: { authorization: basicAuth(this.#credentials) },
      ...(body === undefined ? {} : { body }),
    });
  }
}

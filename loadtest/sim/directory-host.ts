/**
 * The directory's machine: a database that outlives its processes, and one run of the directory after another.
 *
 * Invariant: a commit takes time, and the process can end before it, or after it without having heard.
 */

import { DatabaseSync } from "node:sqlite";
import type { Kysely } from "kysely";
import { migrate } from "../../base/migrate.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { pause } from "../../base/runtime.ts";
import { ProcessTime } from "../../base/simulated-time.ts";
import { kyselyOn } from "../../base/sqlite.ts";
import type { DirectoryClient, HeartbeatReply } from "../../directory/client.ts";
import { Directory } from "../../directory/directory.ts";
import { heartbeatSchema, type VolumeMap } from "../../directory/protocol.ts";
import { type DirectoryTables, directoryMigrations } from "../../directory/schema.ts";
import type { MapSource } from "../../directory/volume-directory.ts";
import type { SimulatedNetwork, SimulatedProcess } from "./network.ts";
import type { World } from "./world.ts";

const address = "directory:80";
const callTimeoutMs = 5_000;
const commitMs = 3;
const epochMs = 1_790_000_000_000;

interface DirectoryService {
  heartbeat(body: string, signal: AbortSignal): Promise<HeartbeatReply>;
  map(
    after: string,
    waitMs: number,
    signal: AbortSignal,
    wants: readonly string[],
  ): Promise<VolumeMap>;
}

export class DirectoryHost {
  readonly name = "directory";
  readonly #world: World;
  readonly #random: Random;
  readonly #database: Kysely<DirectoryTables>;
  readonly #raw: DatabaseSync;
  #life: { time: ProcessTime; directory: Directory } | undefined;
  #offsetMs = epochMs;
  /** Share of the commits that are done and reported as failed. */
  doubtShare = 0;

  static async make(world: World): Promise<DirectoryHost> {
    const raw = new DatabaseSync(":memory:");
    const database = kyselyOn<DirectoryTables>(raw);
    await migrate(database, directoryMigrations);
    return new DirectoryHost(world, raw, database);
  }

  private constructor(world: World, raw: DatabaseSync, database: Kysely<DirectoryTables>) {
    this.#world = world;
    this.#random = seededRandom(world.random.u32());
    this.#raw = raw;
    this.#database = database;
  }

  get directory(): Directory | undefined {
    return this.#life?.directory;
  }

  start(): void {
    if (this.#life !== undefined) return;
    const { network, trace, settings } = this.#world;
    const { lostMs, isBalancing } = settings;
    const time = new ProcessTime(this.#world.time, this.#offsetMs);
    const directory = new Directory({
      ...{ database: this.#database, clock: time, runtime: time, log: trace.logOf(this.name) },
      random: seededRandom(this.#random.u32()),
      ...{ lostMs, isBalancing },
      transact: async (work) => {
        await pause(time, this.#random.fraction() * commitMs);
        const result = await this.#database.transaction().execute(work);
        await pause(time, this.#random.fraction() * commitMs);
        if (this.#random.fraction() < this.doubtShare) throw new Error("the connection was lost");
        return result;
      },
    });
    this.#life = { time, directory };
    trace.add(this.name, "starts");
    const service: DirectoryService = {
      heartbeat: (body, signal) =>
        directory.heartbeat(heartbeatSchema.parse(JSON.parse(body)), signal),
      map: (after, waitMs, signal, wants) => directory.mapAfter(after, waitMs, signal, wants),
    };
    network.listen(address, { host: this.name, time }, service);
    directory.start();
  }

  crash(): void {
    if (this.#life === undefined) return;
    this.#world.trace.add(this.name, "crashes");
    this.#life.time.end();
    this.#life = undefined;
  }

  stop(): void {
    this.#world.trace.add(this.name, "stops");
    this.#life?.time.stop();
  }

  goOn(): void {
    this.#life?.time.goOn();
  }

  setClock(jumpMs: number): void {
    this.#world.trace.add(this.name, `clock jumps by ${jumpMs}`);
    this.#offsetMs += jumpMs;
    if (this.#life !== undefined) this.#life.time.offsetMs = this.#offsetMs;
  }

  heal(): void {
    this.doubtShare = 0;
    this.goOn();
    this.start();
  }

  close(): void {
    this.crash();
    this.#raw.close();
  }
}

/** The directory as stores and gateways call it. */
export class SimulatedDirectoryClient implements Pick<DirectoryClient, "heartbeat">, MapSource {
  readonly #network: SimulatedNetwork;
  readonly #process: SimulatedProcess;
  readonly #onReply: (reply: HeartbeatReply) => void;

  constructor(
    { network, process }: { network: SimulatedNetwork; process: SimulatedProcess },
    { onReply }: { onReply: (reply: HeartbeatReply) => void },
  ) {
    this.#network = network;
    this.#process = process;
    this.#onReply = onReply;
  }

  heartbeat: DirectoryClient["heartbeat"] = async (heartbeat, signal) => {
    const timeoutMs = callTimeoutMs + (heartbeat.waitMs ?? 0);
    const body = JSON.stringify(heartbeat);
    const reply = await this.#call(timeoutMs, signal, (service, there) =>
      service.heartbeat(body, there),
    );
    this.#onReply(reply);
    return reply;
  };

  map: MapSource["map"] = async (after, waitMs, signal, wants) => {
    const sent = [...wants];
    return await this.#call(callTimeoutMs + waitMs, signal, (service, there) =>
      service.map(after, waitMs, there, sent),
    );
  };

  #call<Result>(
    timeoutMs: number,
    signal: AbortSignal | undefined,
    handle: (service: DirectoryService, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const call = { from: this.#process, to: address, timeoutMs, signal };
    return this.#network.call(call, handle);
  }
}

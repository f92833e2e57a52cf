/**
 * A machine with one store: its disk, and one run of the store's process after another.
 *
 * Invariant: a run that has ended does nothing any more, and its files are another object than those of the next.
 */

import { messageOf } from "../../base/failure.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { type FaultPlan, type Loss, SimulatedFiles } from "../../base/simulated-files.ts";
import { ProcessTime } from "../../base/simulated-time.ts";
import { HeartbeatLoop } from "../../store/heartbeat.ts";
import { Maintenance } from "../../store/maintenance.ts";
import { Store } from "../../store/store.ts";
import { SimulatedDirectoryClient } from "./directory-host.ts";
import { slowFiles } from "./slow-disk.ts";
import { SimulatedPeers, StoreService } from "./store-service.ts";
import type { World } from "./world.ts";

interface Life {
  time: ProcessTime;
  run: string;
  store: Store | undefined;
}

const folder = "/store";
const epochMs = 1_790_000_000_000;
/** As long as a supervisor waits before it tries again. */
const restartMs = 1_000;

export class StoreHost {
  readonly name: string;
  readonly address: string;
  /** Why the store could not be started, the last time. */
  startFailure: string | undefined;
  readonly #world: World;
  readonly #random: Random;
  #files: SimulatedFiles;
  #life: Life | undefined;
  #offsetMs = epochMs;
  /** Whether this run has met an error of its disk. */
  #hasDiskFailed = false;

  constructor(world: World, name: string) {
    this.#world = world;
    this.name = name;
    this.address = `${name}:80`;
    this.#random = seededRandom(world.random.u32());
    this.#files = new SimulatedFiles({
      blockBytes: this.#random.fraction() < 0.5 ? 512 : 4_096,
      seed: this.#random.u32(),
      isDisordered: true,
      afterCut: "hang",
    });
  }

  /** The store, once it is open. */
  get store(): Store | undefined {
    return this.#life?.store;
  }

  get isUp(): boolean {
    return this.#life !== undefined;
  }

  /** What the volume's file holds, as readers see it. */
  fileOf(volume: number, generation: number): Buffer | undefined {
    return this.#files.visible(`${folder}/${volume}.g${generation}.volume`);
  }

  start(): void {
    if (this.#life !== undefined) return;
    const { time: worldTime, trace } = this.#world;
    const time = new ProcessTime(worldTime, this.#offsetMs);
    const run = this.#random.bytes(8).toString("hex");
    const life: Life = { time, run, store: undefined };
    this.#life = life;
    trace.add(this.name, `starts run ${run}`);
    this.#open(life).catch((error: unknown) => {
      if (this.#life !== life) return;
      this.startFailure = messageOf(error);
      trace.add(this.name, `can't start: ${this.startFailure}`);
      this.crash("none");
      worldTime.after(restartMs, () => this.start());
    });
    // The power may also go at an operation on the disk, as planned.
    void this.#files.cut.then(() => {
      if (this.#life === life) this.crash(this.#random.fraction() < 0.5 ? "all" : "some");
    });
  }

  /** The power goes, or with `none` only the process. */
  crash(lose: Loss): void {
    if (this.#life === undefined) return;
    this.#world.trace.add(this.name, `crashes, lose ${lose}`);
    this.#life.time.end();
    this.#life = undefined;
    this.#hasDiskFailed = false;
    const left = this.#files.restart({ lose, random: this.#random });
    this.#files = left.clone({ seed: this.#random.u32() });
  }

  stop(): void {
    this.#world.trace.add(this.name, "stops");
    this.#life?.time.stop();
  }

  goOn(): void {
    this.#life?.time.goOn();
  }

  /** The wall clock is set. */
  setClock(jumpMs: number): void {
    this.#world.trace.add(this.name, `clock jumps by ${jumpMs}`);
    this.#offsetMs += jumpMs;
    if (this.#life !== undefined) this.#life.time.offsetMs = this.#offsetMs;
  }

  /** What goes wrong at one of the next operations on the disk. */
  plan(inOperations: number, fault: NonNullable<ReturnType<FaultPlan>>): void {
    const at = this.#files.operationCount + inOperations;
    this.#world.trace.add(this.name, `operation ${at} will be ${JSON.stringify(fault)}`);
    this.#files.plan = ({ number }) => {
      if (number !== at) return undefined;
      this.#hasDiskFailed = true;
      return fault;
    };
  }

  /**
   * The disk works again. A store that has met its error is started anew: in that run it does not open volumes
   * that it could not open, nor write a delete log that it could not write.
   */
  heal(): void {
    this.#files.plan = undefined;
    this.startFailure = undefined;
    this.goOn();
    if (this.#hasDiskFailed) this.crash("none");
    this.start();
  }

  async #open(life: Life): Promise<void> {
    const { network, promises, trace, settings, isHasty } = this.#world;
    const { time, run } = life;
    const { name, address } = this;
    const process = { host: name, time };
    const log = trace.logOf(name);
    let heartbeats: HeartbeatLoop | undefined;
    const random = seededRandom(this.#random.u32());
    const store = await Store.open({
      ...{ files: slowFiles(this.#files, time, random), clock: time, runtime: time, random, log },
      lock: () => ({ release: () => undefined }),
      ...{ folder, volumeBytes: settings.volumeBytes, reserveBytes: 0, trashMs: settings.trashMs },
      peers: new SimulatedPeers({ network, process }, { isHasty }),
      onVolumeClosed: () => heartbeats?.hurry(),
      checkpointNeedles: 8,
    });
    if (this.#life !== life) return;
    life.store = store;
    this.startFailure = undefined;
    network.listen(address, process, new StoreService({ name, store, run, promises, trace }));
    const directory = new SimulatedDirectoryClient(
      { network, process },
      { onReply: (reply) => promises.replied(name, reply) },
    );
    heartbeats = new HeartbeatLoop({
      ...{ store, directory, run, address, runtime: time, log },
      place: { machine: name, rack: name, dataCentre: "data-centre" },
    });
    heartbeats.start();
    new Maintenance({
      ...{ store, clock: time, runtime: time, log, scrubRateBytes: 0 },
      ...{ scrubIntervalMs: settings.scrubIntervalMs, pauseMs: settings.maintenanceMs },
    }).start();
  }
}

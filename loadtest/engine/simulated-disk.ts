/**
 * The simulated file system as a disk: the cut comes at an operation of the engine on its files, within it as
 * well, and the same seed ends in the same way.
 */

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import type { Random } from "../../base/random.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Extent, type Loss, SimulatedFiles } from "../../base/simulated-files.ts";
import { EngineLoad, type EngineTask } from "./engine-load.ts";
import type { PowerDisk, Tell } from "./power-disk.ts";

const extents: readonly Extent[] = ["none", "some", "all"];

/** The end comes within so many operations: often soon, when the engine is still recovering. */
const operationsMax = 700;

export class SimulatedDisk implements PowerDisk {
  readonly name = "simulated in memory";
  readonly folder = "/store";
  readonly clock: Clock;
  readonly runtime: Runtime;
  readonly #spoil: (files: FileSystem) => FileSystem;
  #files = new SimulatedFiles();
  #loss: Loss = "all";

  /** `spoil` is for those who want to see that a worse disk is noticed. */
  constructor(spoil: (files: FileSystem) => FileSystem = (files) => files) {
    this.#spoil = spoil;
    const time = new CountingTime();
    this.clock = time;
    this.runtime = time;
  }

  get files(): FileSystem {
    return this.#files;
  }

  async renew(random: Random): Promise<void> {
    this.#files = new SimulatedFiles({
      blockBytes: random.fraction() < 0.5 ? 512 : 4_096,
      seed: random.u32(),
      isDisordered: true,
      afterCut: "hang",
    });
  }

  async run(
    task: EngineTask,
    { by, random, tell }: { by: "cut" | "kill"; random: Random; tell: Tell },
  ): Promise<string> {
    const files = this.#files;
    const at = files.operationCount + Math.ceil(random.fraction() ** 2 * operationsMax);
    const done = extents[random.u32() % extents.length] ?? "all";
    files.plan = ({ number }) => (number === at ? { kind: "crash", done } : undefined);
    // A client that was between two operations goes on until its next one, which never ends: nobody listens.
    let isOver = false;
    const load = new EngineLoad({
      task,
      files: this.#spoil(files),
      clock: this.clock,
      runtime: this.runtime,
      tell: (record) => {
        if (!isOver) tell(record, files.isCut);
      },
    });
    const failed = load.run().catch((error: unknown) => {
      tell({ type: "violation", text: `the engine can't go on: ${messageOf(error)}` }, false);
    });
    await Promise.race([files.cut, failed]);
    isOver = true;
    return await this.#end(by, random);
  }

  cut(random: Random): Promise<string> {
    return this.#end("cut", random);
  }

  async powerOn(random: Random): Promise<void> {
    const left = this.#files.restart({ lose: this.#loss, random });
    this.#files = left.clone({ seed: random.u32() });
  }

  destroySync(): void {
    // Memory goes by itself.
  }

  async #end(by: "cut" | "kill", random: Random): Promise<string> {
    this.#files.cutPower();
    this.#loss = by === "kill" ? "none" : random.fraction() < 0.4 ? "all" : "some";
    if (by === "cut") return `lose ${this.#loss}`;
    await this.powerOn(random);
    return "kill";
  }
}

/** Goes on with each look, and does at once what else would take turns: the same calls see the same time. */
class CountingTime implements Clock, Runtime {
  #ms = 1_790_000_000_000;
  readonly #timers = new Set<{ dueMs: number; action: () => void }>();

  nowMs(): number {
    this.#ms += 1;
    for (const timer of this.#timers) {
      if (timer.dueMs > this.#ms) continue;
      this.#timers.delete(timer);
      queueMicrotask(timer.action);
    }
    return this.#ms;
  }

  monotonicMs(): number {
    return this.nowMs();
  }

  after(delayMs: number, action: () => void): () => void {
    const timer = { dueMs: this.#ms + delayMs, action };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  giveWay(): Promise<void> {
    return setImmediate();
  }

  async sha256(bytes: Uint8Array): Promise<Buffer> {
    return createHash("sha256").update(bytes).digest();
  }
}

/** A disk under an engine, and the power that can be cut. */

import type { Clock } from "../../base/clock.ts";
import type { FileSystem } from "../../base/files.ts";
import type { Random } from "../../base/random.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { EngineRecord, EngineTask } from "./engine-load.ts";

/** `isLate`: the end may have come before it. */
export type Tell = (record: EngineRecord, isLate: boolean) => void;

export interface PowerDisk {
  /** What it is, for people. */
  readonly name: string;
  /** What is on it, while the power is on. */
  readonly files: FileSystem;
  readonly folder: string;
  readonly clock: Clock;
  readonly runtime: Runtime;
  /** Puts a blank disk in the place of the last; the power is on. */
  renew(random: Random): Promise<void>;
  /**
   * Has an engine work at the task, and ends it at a moment that `random` picks: by a cut of the power, or
   * by its own death alone. Nothing of the engine lives afterwards. Returns how it ended.
   */
  run(
    task: EngineTask,
    options: { by: "cut" | "kill"; random: Random; tell: Tell },
  ): Promise<string>;
  /** Cuts the power with no engine at work. Returns how. */
  cut(random: Random): Promise<string>;
  /** `random` picks what is left, where that is for this side to say. */
  powerOn(random: Random): Promise<void>;
  /** Leaves nothing behind. For the end of the process too, when nothing can be waited for. */
  destroySync(): void;
}

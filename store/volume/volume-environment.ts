/** What a volume stands on: the disk, time, chance, and whoever has to be asked or told. */

import type { Clock } from "../../base/clock.ts";
import type { Failure } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import type { Random } from "../../base/random.ts";
import type { Runtime } from "../../base/runtime.ts";

export interface VolumeEnvironment {
  files: FileSystem;
  clock: Clock;
  random: Random;
  /** The process's own where none is given. */
  runtime?: Runtime | undefined;
  folder: string;
  /** Whether the volume is only looked at, where no store uses it: then each copy shows what it has. */
  isOffline?: boolean | undefined;
  /** Why nothing may be appended now (no space), or undefined. Asked before each batch. */
  refusal: () => Failure | undefined;
  /** Told of each batch, so that space is known between two looks at the disk. */
  spend: (bytes: number) => void;
  /** Told when a volume stopped taking appends, for good or until another epoch begins. */
  onClosed?: (() => void) | undefined;
  /** New needles after which the index of an open volume gets a checkpoint, where not the usual number. */
  checkpointNeedles?: number | undefined;
  /** Told what an operator may want to know: a message and its details. */
  note?: ((message: string, details: Record<string, unknown>) => void) | undefined;
}

/** What all that is simulated in one run has in common. */

import type { Random } from "../../base/random.ts";
import type { SimulatedTime } from "../../base/simulated-time.ts";
import type { SimulatedNetwork } from "./network.ts";
import type { Promises } from "./promises.ts";
import type { Trace } from "./trace.ts";

export interface World {
  time: SimulatedTime;
  network: SimulatedNetwork;
  trace: Trace;
  promises: Promises;
  /** For whoever needs a seed of its own. */
  random: Random;
  settings: Settings;
  /** Whether stores have the bug that has to be found. */
  isHasty: boolean;
}

/** What differs from run to run, beside what goes wrong. */
export interface Settings {
  storeCount: number;
  gatewayCount: number;
  clientCount: number;
  volumeBytes: number;
  /** How long things go wrong. */
  faultsMs: number;
  lostMs: number;
  isBalancing: boolean;
  trashMs: number;
  scrubIntervalMs: number;
  maintenanceMs: number;
  /** Placements that clients ask for. */
  placements: string[];
}

export function chooseSettings(random: Random): Settings {
  const chance = (share: number) => random.fraction() < share;
  const storeCount = chance(0.5) ? 3 : 4;
  const two = "copies=2 spread=machine";
  return {
    storeCount,
    gatewayCount: chance(0.5) ? 1 : 2,
    clientCount: 1 + (random.u32() % 2),
    volumeBytes: 65_536 + (random.u32() % 98_304),
    faultsMs: 5_000 + random.fraction() * 12_000,
    // Often so short that copies are made anew, within a run that has to be short.
    lostMs: chance(0.6) ? 6_000 : 30_000,
    isBalancing: chance(0.3),
    trashMs: chance(0.5) ? 5_000 : 259_200_000,
    scrubIntervalMs: chance(0.3) ? 4_000 : 1_209_600_000,
    maintenanceMs: 2_000,
    placements: chance(0.25) ? [two, "copies=3 spread=machine"] : [two],
  };
}

/** Whether a store can be emptied, as a pure function: what it has must fit elsewhere, as far apart as before. */

import { Failure } from "../base/failure.ts";
import { formatBytes } from "../base/units.ts";
import { domainOf, type Target } from "./place.ts";
import { parsePlacement } from "./placement.ts";

export interface DrainView {
  /** How people know the store. */
  name: string;
  /** Copies to be moved, by placement. */
  copies: readonly { placement: string; count: number; lengthBytes: number }[];
  /** Live stores that take copies, without the one that is drained. */
  targets: readonly Target[];
}

/** Fails with `conflict` and a sentence that says why. */
export function requireDrainable({ name, copies, targets }: DrainView): void {
  for (const { placement, count } of copies) {
    const { copies: wanted, spread } = parsePlacement(placement);
    const domains = new Set(targets.map((target) => domainOf(target, spread)));
    if (count === 0 || domains.size >= wanted) continue;
    const noun = spread === "data-centre" ? "data centre" : spread;
    throw new Failure(
      "conflict",
      `Cannot drain store ${name}: ${count} of its volumes have ${wanted} ${wanted === 1 ? "copy" : "copies"}, each in a ${noun} of its own, and without it ${domains.size === 1 ? "one is" : `${domains.size} are`} live`,
    );
  }
  const neededBytes = copies.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const freeBytes = targets.reduce((sum, target) => sum + target.freeBytes, 0);
  if (neededBytes > freeBytes) {
    throw new Failure(
      "conflict",
      `Cannot drain store ${name}: it has ${formatBytes(neededBytes)}, and the others have ${formatBytes(freeBytes)} left above their reserve`,
    );
  }
}

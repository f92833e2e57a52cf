/**
 * Where copies go, as pure functions: by chance in proportion to free space, never two of a volume in one
 * failure domain of its spread.
 */

import { Failure } from "../base/failure.ts";
import type { Placement, Spread } from "./placement.ts";
import { chooseWeighted } from "./plan.ts";

/** Where a store stands. */
export interface Place {
  store: string;
  machine: string;
  rack: string;
  dataCentre: string;
}

/** A live store that copies may be put on. */
export interface Target extends Place {
  freeBytes: number;
}

/** The failure domain that a store is in. Shards of one machine are in one, whatever the spread. */
export function domainOf(
  { machine, rack, dataCentre }: Omit<Place, "store">,
  spread: Spread,
): string {
  switch (spread) {
    case "machine":
      return `${dataCentre}/${rack}/${machine}`;
    case "rack":
      return `${dataCentre}/${rack}`;
    case "data-centre":
      return dataCentre;
  }
}

const domainNouns: Record<Spread, string> = {
  machine: "machine",
  rack: "rack",
  "data-centre": "data centre",
};

function many(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * Stores for a new volume, the primary first. `primary` is taken if it is given. Fewer than all where the
 * placement's `min` allows it; fails with `unavailable` where there are not even so many domains.
 */
export function placeCopies({
  placement: { copies, spread, min },
  targets,
  primary,
  fraction,
}: {
  placement: Placement;
  targets: readonly Target[];
  primary?: Target | undefined;
  fraction: () => number;
}): Target[] {
  const chosen = primary === undefined ? [] : [primary];
  const taken = new Set(chosen.map((target) => domainOf(target, spread)));
  while (chosen.length < copies) {
    const target = chooseTarget({ targets, spread, taken, fraction: fraction() });
    if (target === undefined) break;
    chosen.push(target);
    taken.add(domainOf(target, spread));
  }
  if (chosen.length < min) throw cannotPlace({ copies, spread, min }, targets);
  return chosen;
}

/** A store for one more copy, in none of the domains that are taken; undefined if there is none. */
export function chooseTarget<Choice extends Target>({
  targets,
  spread,
  taken,
  fraction,
}: {
  targets: readonly Choice[];
  spread: Spread;
  taken: ReadonlySet<string>;
  fraction: number;
}): Choice | undefined {
  const choices = targets.filter(
    (target) => target.freeBytes > 0 && !taken.has(domainOf(target, spread)),
  );
  return chooseWeighted(choices, ({ freeBytes }) => freeBytes, fraction);
}

function cannotPlace({ copies, spread, min }: Placement, targets: readonly Target[]): Failure {
  const domains = new Set(targets.map((target) => domainOf(target, spread)));
  const roomy = new Set(
    targets.filter(({ freeBytes }) => freeBytes > 0).map((target) => domainOf(target, spread)),
  );
  const noun = domainNouns[spread];
  const least = min < copies ? `, nor ${min}` : "";
  const space = roomy.size < domains.size ? `, ${roomy.size} with space` : "";
  return new Failure(
    roomy.size < domains.size && domains.size >= min ? "full" : "unavailable",
    `Cannot place ${copies === 1 ? "1 copy" : `${copies} copies`} over ${many(copies, noun)}${least}: ${many(domains.size, noun)} live${space}`,
    { retryAfterSeconds: 1 },
  );
}

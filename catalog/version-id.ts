/** Version ids: the time in front, so that a person can sort them; the rest can't be guessed. */

import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";

/** 31 url-safe characters; never `null`. The order of versions is the catalog's, not that of the ids. */
export function newVersionId(random: Random, clock: Clock): string {
  const time = Math.max(0, Math.floor(clock.nowMs())).toString(36).padStart(9, "0").slice(-9);
  return `${time}${random.bytes(11).toString("hex")}`;
}

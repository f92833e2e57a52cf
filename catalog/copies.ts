/** How many copies of a blob there are, and how far apart: in our words, and in SeaweedFS's three digits. */

import { copiesMax, type Spread } from "../directory/client.ts";

export const spreads: readonly Spread[] = ["machine", "rack", "data-centre"];

/**
 * SeaweedFS's replication `xyz`: beside the first copy, x in other data centres, y in other racks and z on
 * other machines. Undefined if it is not that, or more copies than there may be.
 */
export function parseReplication(text: string): { copies: number; spread: Spread } | undefined {
  if (!/^[0-9]{3}$/.test(text)) return undefined;
  const [dataCentres = 0, racks = 0, machines = 0] = Array.from(text, Number);
  const copies = 1 + dataCentres + racks + machines;
  if (copies > copiesMax) return undefined;
  return { copies, spread: dataCentres > 0 ? "data-centre" : racks > 0 ? "rack" : "machine" };
}

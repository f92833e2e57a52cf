/**
 * How many copies a volume has, and how far apart they lie: what a bucket asks for, and the text of it that
 * volumes are sorted by.
 */

import { Failure } from "../base/failure.ts";

/** What two copies of one volume may not share. */
export type Spread = "machine" | "rack" | "data-centre";

export interface Placement {
  copies: number;
  spread: Spread;
  /** Copies with which a volume is written while there are not enough failure domains for all. */
  min: number;
}

export const onePlacement: Placement = { copies: 1, spread: "machine", min: 1 };

const copiesMax = 8;

/** `copies=3 spread=rack`, and `min=2` where it is not the number of copies. */
export function placementText({ copies, spread, min }: Placement): string {
  return `copies=${copies} spread=${spread}${min < copies ? ` min=${min}` : ""}`;
}

const pattern = /^copies=([1-9]) spread=(machine|rack|data-centre)(?: min=([1-9]))?$/;

export function parsePlacement(text: string): Placement {
  const match = pattern.exec(text);
  const copies = Number(match?.[1]);
  const min = Number(match?.[3] ?? match?.[1]);
  if (match === null || copies > copiesMax || min > copies) {
    throw new Failure(
      "bad-request",
      `Cannot read the placement "${text}": copies=3 spread=rack min=2 would be one, with up to ${copiesMax} copies`,
    );
  }
  return { copies, min, spread: match[2] as Spread };
}

/** How the copies of a bucket's objects are placed, as volumes are sorted by it. */

import type { BucketSettings } from "../catalog/model.ts";
import { placementText, type Spread } from "../directory/client.ts";

/** What a bucket says of it; one that says nothing has one copy. */
type CopySettings = BucketSettings & {
  copies?: number | undefined;
  spread?: Spread | undefined;
  /** Copies with which it takes uploads while there are not enough failure domains for all. */
  minCopies?: number | undefined;
};

export function bucketPlacement({ copies = 1, spread, minCopies }: CopySettings): string {
  return placementText({ copies, spread: spread ?? "machine", min: minCopies ?? copies });
}

/** How the copies of a bucket's objects are placed, as volumes are sorted by it. */

import type { BucketSettings } from "../catalog/model.ts";
import { placementText } from "../directory/client.ts";

export function bucketPlacement({ copies, spread, minCopies }: BucketSettings): string {
  return placementText({ copies, spread, min: minCopies });
}

/** The request of one object, its names decoded and its bucket known to be there. */

import type { Bucket } from "../catalog/model.ts";

export interface ObjectRequest {
  bucket: Bucket;
  key: string;
  query: URLSearchParams;
  requestId: string;
}

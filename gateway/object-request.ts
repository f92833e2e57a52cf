/** Requests of one object, their names decoded. */

import type { Bucket } from "../catalog/model.ts";
import type { Principal } from "./auth.ts";

/** Of one who may ask, in a bucket that is there. */
export interface ObjectRequest {
  bucket: Bucket;
  key: string;
  query: URLSearchParams;
  requestId: string;
}

/** As it comes: who may read is seen when the object is looked up, with its bucket. */
export interface ReadRequest extends Omit<ObjectRequest, "bucket"> {
  bucketName: string;
  principal: Principal;
}

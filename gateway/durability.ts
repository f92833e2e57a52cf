/**
 * How durable an upload's bytes are to be when it is answered: its bucket chose, and a request may ask for
 * more, never for less. The name is on the disk by then in either case.
 */

import type { IncomingHttpHeaders } from "node:http";
import { Failure } from "../base/failure.ts";
import { type Durability, durabilityHeader } from "../store/client.ts";

export function chooseDurability(headers: IncomingHttpHeaders, bucket: Durability): Durability {
  const asked = headers[durabilityHeader];
  switch (asked) {
    case undefined:
      return bucket;
    case "disk":
      return "disk";
    case "memory":
      if (bucket === "memory") return "memory";
      throw new Failure(
        "bad-request",
        "Cannot store the upload with durability memory: its bucket has durability disk, and a request may only ask for more than its bucket has",
      );
    default:
      throw new Failure(
        "bad-request",
        `Cannot store the upload: its ${durabilityHeader} is neither disk nor memory`,
      );
  }
}

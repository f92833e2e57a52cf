/** What a conditional PUT asks of the object that lives under its key, decided as S3 does. */

import { Failure } from "../base/failure.ts";
import type { PutConditions } from "./model.ts";

/** Fails unless `live`, the object that a GET would find now, is as the conditions ask. */
export function checkConditions(
  what: string,
  live: { etag: string } | undefined,
  { ifMatch, ifNoneMatch }: PutConditions,
): void {
  if (ifMatch !== undefined) {
    if (live === undefined) {
      throw new Failure("not-found", `Cannot replace ${what}: there is no such object`, {
        code: "NoSuchKey",
      });
    }
    if (ifMatch !== "*" && !ifMatch.includes(live.etag)) {
      throw unmet(`Cannot replace ${what}: its ETag is "${live.etag}", not one that was asked for`);
    }
  }
  if (ifNoneMatch !== undefined && live !== undefined) {
    if (ifNoneMatch === "*") throw unmet(`Cannot create ${what}: it exists already`);
    if (ifNoneMatch.includes(live.etag)) {
      throw unmet(`Cannot replace ${what}: its ETag is "${live.etag}", one that was ruled out`);
    }
  }
}

function unmet(message: string): Failure {
  return new Failure("precondition-failed", message, { code: "PreconditionFailed" });
}

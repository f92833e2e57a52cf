/** The conditions of a PUT, as the catalog takes them. */

import { type ConditionHeaders, parseEtags } from "../base/http-conditions.ts";
import type { PutConditions } from "../catalog/model.ts";

export function readPutConditions(headers: ConditionHeaders): PutConditions {
  return {
    ifMatch: parseEtags(headers["if-match"]),
    ifNoneMatch: parseEtags(headers["if-none-match"]),
  };
}

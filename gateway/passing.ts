/** Which failures of a store are no last word. */

import { Failure, type FailureKind } from "../base/failure.ts";

const passing: readonly FailureKind[] = ["unavailable", "timeout", "busy", "full", "internal"];

/** Whether another copy or volume, or the same store a moment later, may do better. */
export function isPassing(error: unknown): error is Failure {
  return error instanceof Failure && passing.includes(error.kind);
}

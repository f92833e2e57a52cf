/** What a gateway counts of its talk with stores; metrics.ts shows it. */

/** Why a copy was read around. */
export type AroundReason =
  | "corrupt"
  | "missing"
  | "silent"
  | "unreachable"
  /** The answer broke off, as it does before a block that does not verify. */
  | "cut"
  | "refused";

export class BlobCounts {
  /** Second reads beside a first one that was slow. */
  hedgedReads = 0;
  /** Those of them that answered first. */
  hedgeWins = 0;
  /** Puts that went on to another volume, each time. */
  putRetries = 0;
  readonly readsAround: Record<AroundReason, number> = {
    corrupt: 0,
    missing: 0,
    silent: 0,
    unreachable: 0,
    cut: 0,
    refused: 0,
  };

  readAround(reason: AroundReason): void {
    this.readsAround[reason] += 1;
  }
}

/** What a volume asks of an index: where needles lie, by ordinal. */

export interface NeedleIndex {
  /** The next ordinal: those before it may be there. */
  readonly count: number;
  readonly presentCount: number;
  readonly memoryBytes: number;

  /** The offset of a needle in bytes, or undefined if it is not there. */
  get(ordinal: number): number | undefined;

  /**
   * An offset at which a read of this needle may stop: that of the next needle in the file, or one further
   * on. Undefined if it is not known, as for a needle that is not there.
   */
  bound(ordinal: number): number | undefined;
}

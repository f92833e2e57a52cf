/**
 * The first tier of the cache: values in this process's memory, bounded by their bytes.
 *
 * Invariants:
 * - The values held never weigh more than `capacityBytes`; the least recently used go first.
 * - A value over `valueBytesMax` is not kept: one big file must not empty the cache for it.
 * - `get` returns what was set last under the key, or nothing.
 */

import { LRUCache } from "lru-cache";

export interface BlobCacheOptions<Value> {
  capacityBytes: number;
  valueBytesMax: number;
  /** What a value weighs. */
  sizeOf: (value: Value) => number;
}

export interface BlobCacheStats {
  hits: number;
  misses: number;
  /** What is held now. */
  bytes: number;
  entries: number;
}

// A key, the list's links and the value's own object, whatever the value holds: without them a
// million empty values would weigh nothing.
const entryBytes = 256;

export class BlobCache<Value extends object> {
  readonly #entries: LRUCache<string, Value>;
  readonly #sizeOf: (value: Value) => number;
  readonly #valueBytesMax: number;
  #hits = 0;
  #misses = 0;

  constructor({ capacityBytes, valueBytesMax, sizeOf }: BlobCacheOptions<Value>) {
    this.#sizeOf = (value) => sizeOf(value) + entryBytes;
    this.#valueBytesMax = Math.min(valueBytesMax + entryBytes, capacityBytes);
    // The library takes no capacity of 0, and with that nothing is ever set.
    this.#entries = new LRUCache({ maxSize: Math.max(1, capacityBytes) });
  }

  get(key: string): Value | undefined {
    const value = this.#entries.get(key);
    if (value === undefined) this.#misses += 1;
    else this.#hits += 1;
    return value;
  }

  /** Whether the key is held; counts as no use of it. */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  set(key: string, value: Value): void {
    const size = this.#sizeOf(value);
    if (size > this.#valueBytesMax)
      this.#entries.delete(key); // never the one before
    else this.#entries.set(key, value, { size });
  }

  delete(key: string): void {
    this.#entries.delete(key);
  }

  get stats(): BlobCacheStats {
    return {
      hits: this.#hits,
      misses: this.#misses,
      bytes: this.#entries.calculatedSize,
      entries: this.#entries.size,
    };
  }
}

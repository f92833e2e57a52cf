/**
 * Buffers for reading whole needles, used again: a new one of half a megabyte for each photo costs more to
 * allocate, fault in and collect than the read itself.
 *
 * Invariant: a buffer is in one pair of hands. Who forgets to give one back costs a reuse, nothing else.
 */

/** Smaller ones come cheap from Node's own pool; larger needles are not read whole. */
const bytesMin = 65_536;
const bytesMax = 1_048_576;
const sparesMax = 16;

export class ReadBuffers {
  /** By power of two. */
  readonly #spares = new Map<number, Buffer[]>();

  /** A buffer of `length` bytes, with anything in it. */
  take(length: number): Buffer {
    if (length <= bytesMin || length > bytesMax) return Buffer.allocUnsafe(length);
    const size = 2 ** Math.ceil(Math.log2(length));
    const buffer = this.#spares.get(size)?.pop() ?? Buffer.allocUnsafeSlow(size);
    return buffer.subarray(0, length);
  }

  /** Nobody reads what `take` returned any more. */
  giveBack(taken: Buffer): void {
    const { buffer } = taken;
    const size = buffer.byteLength;
    if (taken.byteOffset !== 0 || taken.length <= bytesMin || size > bytesMax) return;
    const spares = this.#spares.get(size) ?? [];
    this.#spares.set(size, spares);
    if (spares.length < sparesMax) spares.push(Buffer.from(buffer));
  }
}

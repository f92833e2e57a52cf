/** A generator's parts as a stream that lets go of the generator when it ends, however early. */

import { Readable } from "node:stream";

export class PartsStream extends Readable {
  readonly #parts: AsyncGenerator<Buffer>;
  #first: IteratorResult<Buffer> | undefined;

  /** `first` is what was taken from the generator already. */
  constructor(first: IteratorResult<Buffer>, parts: AsyncGenerator<Buffer>) {
    super({ highWaterMark: 262_144 });
    this.#first = first;
    this.#parts = parts;
  }

  override _read(): void {
    this.#next().then(
      (part) => this.push(part),
      (error: Error) => this.destroy(error),
    );
  }

  /** Also when nothing was ever read: `Readable.from` would leave the generator as it is. */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#parts.return(undefined).then(
      () => callback(error),
      (failed: Error) => callback(error ?? failed),
    );
  }

  async #next(): Promise<Buffer | null> {
    const result = this.#first ?? (await this.#parts.next());
    this.#first = undefined;
    return result.done === true ? null : result.value;
  }
}

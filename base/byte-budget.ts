/** How many bytes of bodies may be in memory at once: what goes over it is refused before it is read. */

import { Failure } from "./failure.ts";

export class ByteBudget {
  readonly #limitBytes: number;
  #takenBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Takes bytes until the returned function is called. Fails with `busy` when there are not so many left. */
  take(bytes: number): () => void {
    const giveBack = this.tryTake(bytes);
    if (giveBack !== undefined) return giveBack;
    throw new Failure("busy", "Cannot take more bodies now: the memory for them is in use", {
      retryAfterSeconds: 1,
    });
  }

  /** `take` for who can do without; undefined when there are not so many left. */
  tryTake(bytes: number): (() => void) | undefined {
    // One that is larger than all there is gets through alone, rather than never.
    if (this.#takenBytes > 0 && this.#takenBytes + bytes > this.#limitBytes) return undefined;
    this.#takenBytes += bytes;
    let isTaken = true;
    return () => {
      if (isTaken) this.#takenBytes -= bytes;
      isTaken = false;
    };
  }
}

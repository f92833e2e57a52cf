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
    // One that is larger than all there is gets through alone, rather than never.
    if (this.#takenBytes > 0 && this.#takenBytes + bytes > this.#limitBytes) {
      throw new Failure("busy", "Cannot take more bodies now: the memory for them is in use", {
        retryAfterSeconds: 1,
      });
    }
    this.#takenBytes += bytes;
    let isTaken = true;
    return () => {
      if (isTaken) this.#takenBytes -= bytes;
      isTaken = false;
    };
  }
}

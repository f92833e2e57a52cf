/**
 * A network between simulated processes: it delays, loses and cuts off, one way or both.
 *
 * Invariants:
 * - A call is delivered once or never, and so is its answer; which of them was lost the caller can't tell.
 * - What is sent is copied: no two processes have memory in common. Hanging up is a message too.
 */

import { Failure } from "../../base/failure.ts";
import type { Random } from "../../base/random.ts";
import type { ProcessTime, SimulatedTime } from "../../base/simulated-time.ts";

/** One run of a process. */
export interface SimulatedProcess {
  /** The machine that it runs on. */
  host: string;
  time: ProcessTime;
}

interface Listener {
  process: SimulatedProcess;
  service: unknown;
}

interface CallOptions {
  from: SimulatedProcess;
  to: string;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

const calmDelayMs = 2;

export class SimulatedNetwork {
  /** Share of the messages that are lost. */
  lossShare = 0;
  /** A message takes up to so long; a few take ten times that, so that they overtake one another. */
  delayMs: number = calmDelayMs;
  readonly #time: SimulatedTime;
  readonly #random: Random;
  readonly #listeners = new Map<string, Listener>();
  readonly #cuts = new Set<string>();

  constructor(time: SimulatedTime, random: Random) {
    this.#time = time;
    this.#random = random;
  }

  listen(address: string, process: SimulatedProcess, service: unknown): void {
    this.#listeners.set(address, { process, service });
  }

  /** Nothing comes from one machine to the other. */
  cut(from: string, to: string): void {
    this.#cuts.add(`${from}>${to}`);
  }

  mend(from: string, to: string): void {
    this.#cuts.delete(`${from}>${to}`);
  }

  heal(): void {
    this.#cuts.clear();
    this.lossShare = 0;
    this.delayMs = calmDelayMs;
  }

  /** Has `handle` done by whoever listens there; fails as a call over HTTP would. */
  call<Service, Result>(
    { from, to, timeoutMs, signal }: CallOptions,
    handle: (service: Service, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const { host } = this.#listeners.get(to)?.process ?? { host: to };
    return new Promise((resolve, reject) => {
      let hangUpThere: () => void = () => undefined;
      let isOver = false;
      const settle = (end: () => void) => {
        if (isOver) return;
        isOver = true;
        cancelDeadline();
        signal?.removeEventListener("abort", hangUp);
        end();
      };
      const giveUp = (failure: Failure) => {
        if (isOver) return;
        this.#send(from.host, host, () => hangUpThere());
        settle(() => reject(failure));
      };
      const cancelDeadline = from.time.after(timeoutMs, () => {
        giveUp(new Failure("timeout", `Cannot call ${to}: no answer in ${timeoutMs} ms`));
      });
      const hangUp = () => giveUp(new Failure("unavailable", `Cannot call ${to}: hung up`));
      if (signal?.aborted === true) {
        hangUp();
        return;
      }
      signal?.addEventListener("abort", hangUp, { once: true });

      const answer = (end: () => void) => {
        this.#send(host, from.host, () => from.time.take(() => settle(end)));
      };
      this.#send(from.host, host, () => {
        const listener = this.#listeners.get(to);
        if (listener === undefined || listener.process.time.hasEnded) {
          const refusal = new Failure("unavailable", `Cannot call ${to}: nobody listens`);
          answer(() => reject(refusal));
          return;
        }
        const { process, service } = listener;
        process.time.take(() => {
          const gone = new AbortController();
          hangUpThere = () => process.time.take(() => gone.abort());
          handle(service as Service, gone.signal).then(
            (result) => {
              if (process.time.hasEnded) return;
              const sent = structuredClone(result);
              answer(() => resolve(sent));
            },
            (error: unknown) => {
              if (!process.time.hasEnded) answer(() => reject(asSeenFromOutside(error)));
            },
          );
        });
      });
    });
  }

  #send(from: string, to: string, arrive: () => void): void {
    const random = this.#random;
    const isLost = random.fraction() < this.lossShare;
    const isSlow = random.fraction() < 0.03;
    const delayMs = random.fraction() * this.delayMs * (isSlow ? 10 : 1);
    this.#time.after(delayMs, () => {
      // Looked at when it arrives: what is under way when the cut comes is lost too.
      if (!isLost && !this.#cuts.has(`${from}>${to}`)) arrive();
    });
  }
}

function asSeenFromOutside(error: unknown): Failure {
  if (error instanceof Failure) return new Failure(error.kind, error.message);
  return new Failure("internal", "Cannot answer: an internal error", { cause: error });
}

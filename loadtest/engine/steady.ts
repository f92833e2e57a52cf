/**
 * A child that asks at a steady rate, whether or not answers come: what a busy server does to those who
 * ask shows in how long they wait, not in how many fewer they are.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { CallSigner } from "../../base/call-signer.ts";
import { ClusterSecret } from "../../base/cluster-secret.ts";
import { LeanGetter } from "../../base/lean-get.ts";
import { percentile } from "../bench-report.ts";
import { serve } from "./child.ts";

export type SteadyRequest =
  | {
      kind: "start";
      address: string;
      /** Asked for in turn. */
      paths: string[];
      /** The cluster's: each call is signed. */
      secretFile: string;
      perSecond: number;
    }
  | { kind: "stop" };

export interface SteadyAnswer {
  perSecond: number;
  latencyMsP50: number;
  latencyMsP99: number;
  latencyMsMax: number;
  /** Not answered with 200, or not at all. */
  bad: number;
}

/** A timer that came late is not made up for beyond this: it would be a burst that nobody asked for. */
const catchUpMsMax = 5;
const timeoutMs = 20_000;

class Steady {
  readonly #options: SteadyRequest & { kind: "start" };
  readonly #getter: LeanGetter;
  readonly #asked = new Set<Promise<void>>();
  readonly #latenciesMs: number[] = [];
  readonly #asking: Promise<void>;
  readonly #startedMs = performance.now();
  #bad = 0;
  #at = 0;
  #isStopping = false;

  constructor(options: SteadyRequest & { kind: "start" }) {
    this.#options = options;
    const signer = new CallSigner(ClusterSecret.read(options.secretFile));
    this.#getter = new LeanGetter({ connectionsMax: 256, signer });
    this.#asking = this.#ask();
  }

  async stop(): Promise<SteadyAnswer> {
    this.#isStopping = true;
    await this.#asking;
    const seconds = (performance.now() - this.#startedMs) / 1_000;
    await Promise.all(this.#asked);
    this.#getter.close();
    const latenciesMs = this.#latenciesMs;
    return {
      perSecond: latenciesMs.length / seconds,
      latencyMsP50: percentile(latenciesMs, 0.5),
      latencyMsP99: percentile(latenciesMs, 0.99),
      latencyMsMax: percentile(latenciesMs, 1),
      bad: this.#bad,
    };
  }

  async #ask(): Promise<void> {
    const gapMs = 1_000 / this.#options.perSecond;
    let dueMs = performance.now();
    while (!this.#isStopping) {
      const nowMs = performance.now();
      dueMs = Math.max(dueMs, nowMs - catchUpMsMax);
      for (; dueMs <= nowMs; dueMs += gapMs) {
        const asking = this.#askOnce().finally(() => this.#asked.delete(asking));
        this.#asked.add(asking);
      }
      await sleep(1);
    }
  }

  async #askOnce(): Promise<void> {
    const { address, paths } = this.#options;
    const path = paths[this.#at++ % paths.length] ?? "/";
    // From here on: how late our own timer was is not the server's doing.
    const startedMs = performance.now();
    try {
      const onPart = () => undefined;
      const { status } = await this.#getter.get({ address, path, headers: {}, timeoutMs, onPart });
      if (status !== 200) this.#bad += 1;
    } catch {
      this.#bad += 1;
    }
    this.#latenciesMs.push(performance.now() - startedMs);
  }
}

let running: Steady | undefined;

await serve(async (request: SteadyRequest): Promise<SteadyAnswer | undefined> => {
  if (request.kind === "start") {
    running = new Steady(request);
    return undefined;
  }
  const answer = await running?.stop();
  running = undefined;
  return answer;
});

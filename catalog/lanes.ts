/**
 * The ways of one gateway to a database that it shares: so many changes are made at once, each in its lane.
 *
 * Invariants:
 * - Changes of one key go through one lane, in the order of the calls: they never meet each other, only
 *   those of other gateways.
 * - Each lane has a slot of its own to count in, so that uploads into one bucket do not wait for its usage.
 * - At most `waitingMax` changes wait, none longer than `waitMsMax`; the rest is refused as busy.
 */

import { crc32 } from "node:zlib";
import type { Clock } from "../base/clock.ts";
import { Failure, toFailure } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Change, ChangeInput, ChangeName, ChangeOutput, Changes } from "./changes.ts";
import type { PostgresRunner } from "./postgres-runner.ts";
import { SessionClosed } from "./version-changes.ts";

/** Enough to share the database's syncs, few enough that ten gateways fit on one database. */
export const laneCount = 8;

/**
 * Sessions so far apart use the same slots: that makes two gateways wait for each other's commits where they
 * upload into the same bucket, and keeps the rows of a bucket few, however often gateways start.
 */
const slotGroups = 16;

const waitMsMax = 10_000;

export interface LanesOptions {
  runner: PostgresRunner;
  changes: Changes;
  session: number;
  /** For the times in the catalog. */
  nowMs: () => number;
  clock: Clock;
  log: Log;
  waitingMax: number;
  /** The session was closed by others: nothing can be uploaded in it any more. */
  onSessionClosed: (failure: Failure) => void;
}

interface Pending {
  change: Change;
  deadlineMs: number;
  resolve: (value: unknown) => void;
  reject: (failure: Failure) => void;
}

interface Lane {
  slot: number;
  waiting: Pending[];
  running: Promise<void> | undefined;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #lanes: Lane[];
  #waitingCount = 0;
  #nextLane = 0;
  #refusal: Failure | undefined;

  constructor(options: LanesOptions) {
    this.#options = options;
    const firstSlot = (options.session % slotGroups) * laneCount;
    this.#lanes = Array.from({ length: laneCount }, (_, at) => ({
      slot: firstSlot + at,
      waiting: [],
      running: undefined,
    }));
  }

  /** Resolves once the change is committed. */
  submit<Name extends ChangeName>(
    name: Name,
    input: ChangeInput<Name>,
  ): Promise<ChangeOutput<Name>> {
    if (this.#refusal !== undefined) return Promise.reject(this.#refusal);
    const { clock, waitingMax } = this.#options;
    if (this.#waitingCount >= waitingMax) {
      return Promise.reject(busy(`${waitingMax} changes are waiting already`));
    }
    const change = { name, input } as Change;
    const lane = this.#laneOf(change);
    return new Promise<ChangeOutput<Name>>((resolve, reject) => {
      this.#waitingCount += 1;
      lane.waiting.push({
        change,
        deadlineMs: clock.monotonicMs() + waitMsMax,
        resolve: resolve as (value: unknown) => void,
        reject,
      });
      lane.running ??= this.#run(lane);
    });
  }

  /** Makes what waits, and takes nothing more. */
  async close(): Promise<void> {
    this.#refusal ??= new Failure("unavailable", "Cannot change the catalog: it is closed");
    await Promise.all(this.#lanes.map(({ running }) => running));
  }

  #laneOf(change: Change): Lane {
    const lane = this.#lanes[this.#laneNumber(change) % laneCount];
    if (lane === undefined) throw new Error("there is a lane for every number");
    return lane;
  }

  #laneNumber({ name, input }: Change): number {
    if (name === "putVersion") return hash(input.version);
    if (name === "deleteObject") return hash(input);
    return this.#nextLane++;
  }

  async #run(lane: Lane): Promise<void> {
    const { clock, runner, changes, log, nowMs } = this.#options;
    for (let next = lane.waiting.shift(); next !== undefined; next = lane.waiting.shift()) {
      this.#waitingCount -= 1;
      const { change, deadlineMs, resolve, reject } = next;
      if (clock.monotonicMs() > deadlineMs) {
        reject(busy(`its turn did not come within ${waitMsMax / 1_000} s`));
        continue;
      }
      try {
        resolve(
          await runner.change(() => changes.make(change, { nowMs: nowMs(), slot: lane.slot })),
        );
      } catch (error) {
        if (!(error instanceof Failure)) {
          log.error({ change: change.name, err: error }, "a change of the catalog failed inside");
        }
        const failure = toFailure(error);
        reject(failure);
        if (failure instanceof SessionClosed) this.#end(failure);
      }
    }
    lane.running = undefined;
  }

  #end(failure: SessionClosed): void {
    if (this.#refusal !== undefined) return;
    this.#refusal = failure;
    this.#options.onSessionClosed(failure);
  }
}

function hash({ bucket, key }: { bucket: string; key: string }): number {
  return crc32(`${bucket}/${key}`);
}

function busy(why: string): Failure {
  return new Failure("busy", `Cannot change the catalog: ${why}`, {
    code: "SlowDown",
    retryAfterSeconds: 1,
  });
}

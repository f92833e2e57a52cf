/**
 * The way to the writer's thread: whatever arrives while a group is being committed is the next group.
 *
 * Invariants:
 * - One group is on its way at a time, and changes are made in the order in which they came.
 * - At most `waitingMax` changes wait; the next is refused as busy.
 * - Every change is answered: by the writer, or with a failure once the writer has ended.
 */

import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { Clock } from "../base/clock.ts";
import { Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Change, ChangeInput, ChangeName, ChangeOutput } from "./changes.ts";
import type { Answer, FailureData, GroupResult } from "./group.ts";
import type { FromWriter, ToWriter, WriterSettings } from "./writer.ts";

/** Enough to share one sync among thousands, few enough that the last does not wait long for the first. */
const groupMax = 1_000;

export interface WriterQueueOptions {
  /** The program of the thread. */
  script: URL;
  settings: WriterSettings;
  clock: Clock;
  log: Log;
  waitingMax: number;
  /** The writer has ended by itself: nothing can be written any more. */
  onFatal: (error: Failure) => void;
}

interface Pending {
  change: Change;
  resolve: (value: unknown) => void;
  reject: (failure: Failure) => void;
}

export class WriterQueue {
  readonly #options: WriterQueueOptions;
  readonly #worker: Worker;
  readonly #exit: Promise<unknown>;
  #waiting: Pending[] = [];
  #running: Pending[] = [];
  #isSendPlanned = false;
  /** Why no further change is taken. */
  #refusal: Failure | undefined;
  #whenIdle: (() => void) | undefined;

  private constructor(worker: Worker, options: WriterQueueOptions) {
    this.#options = options;
    this.#worker = worker;
    this.#exit = new Promise((resolve) => worker.once("exit", resolve));
    worker.on("message", (message: FromWriter) => {
      if (message.type === "answered") this.#settle(message.result);
    });
    worker.on("error", (error) => {
      options.log.error({ err: error }, "the catalog's writer failed");
      this.#die(error);
    });
    worker.on("exit", (code) => this.#die(new Error(`its thread ended with code ${code}`)));
  }

  /** Starts the writer; fails as the writer does if it can't open the database. */
  static async start(
    options: WriterQueueOptions,
  ): Promise<{ queue: WriterQueue; id: string; session: number }> {
    const worker = new Worker(options.script, {
      workerData: options.settings,
      name: "catalog writer",
    });
    const exit = once(worker, "exit").then((): never => {
      throw new Failure("unavailable", "Cannot open the catalog: its writer ended at once");
    });
    // Rejects if the thread fails before it has said anything.
    const first = once(worker, "message").then(([message]) => message as FromWriter);
    const message = await Promise.race([first, exit]);
    if (message.type !== "opened") {
      await worker.terminate();
      if (message.type === "refused") throw toFailure(message.failure);
      throw new Failure("internal", "Cannot open the catalog: its writer said something else");
    }
    const queue = new WriterQueue(worker, options);
    return { queue, id: message.id, session: message.session };
  }

  /** Resolves once the change is committed and on the disk. */
  submit<Name extends ChangeName>(
    name: Name,
    input: ChangeInput<Name>,
  ): Promise<ChangeOutput<Name>> {
    if (this.#refusal !== undefined) return Promise.reject(this.#refusal);
    if (this.#waiting.length >= this.#options.waitingMax) {
      return Promise.reject(
        new Failure(
          "busy",
          `Cannot change the catalog: ${this.#waiting.length} changes are waiting already`,
          { code: "SlowDown", retryAfterSeconds: 1 },
        ),
      );
    }
    return new Promise<ChangeOutput<Name>>((resolve, reject) => {
      this.#waiting.push({
        change: { name, input } as Change,
        resolve: resolve as (value: unknown) => void,
        reject,
      });
      this.#planSend();
    });
  }

  /** Commits what waits, takes nothing more, and ends the writer. */
  async close(): Promise<void> {
    const hasEnded = this.#refusal !== undefined;
    this.#refusal ??= new Failure("unavailable", "Cannot change the catalog: it is closed");
    if (!hasEnded) {
      if (this.#waiting.length + this.#running.length > 0) {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#whenIdle = resolve;
        await promise;
      }
      this.#send({ type: "close", nowMs: this.#nowMs() });
    }
    await this.#exit;
  }

  #send(message: ToWriter): void {
    this.#worker.postMessage(message);
  }

  #nowMs(): number {
    return Math.floor(this.#options.clock.nowMs());
  }

  // After the callbacks that are due now: those just answered may have their next change ready, and the
  // group is the larger for it.
  #planSend(): void {
    if (this.#isSendPlanned || this.#running.length > 0 || this.#waiting.length === 0) return;
    this.#isSendPlanned = true;
    setImmediate(() => {
      this.#isSendPlanned = false;
      this.#running = this.#waiting.splice(0, groupMax);
      if (this.#running.length === 0) return;
      const changes = this.#running.map(({ change }) => change);
      this.#send({ type: "group", group: { nowMs: this.#nowMs(), changes } });
    });
  }

  #settle({ answers, isFatal }: GroupResult): void {
    const settled = this.#running;
    this.#running = [];
    for (const [index, { change, resolve, reject }] of settled.entries()) {
      const answer: Answer | undefined = answers[index];
      if (answer !== undefined && "value" in answer) {
        resolve(answer.value);
      } else {
        const failure = answer?.failure ?? unanswered;
        if (failure.kind === "internal") {
          this.#options.log.error({ change: change.name, stack: failure.stack }, failure.message);
        }
        reject(toFailure(failure));
      }
    }
    if (isFatal) {
      this.#die(new Error("a commit failed; see what it was answered"));
      this.#worker.terminate().catch(() => undefined);
      return;
    }
    this.#planSend();
    if (this.#waiting.length === 0) this.#whenIdle?.();
  }

  #die(cause: Error): void {
    const wasAsked = this.#refusal !== undefined;
    const isIdle = this.#running.length + this.#waiting.length === 0;
    if (wasAsked && isIdle) return;

    const because = messageOf(cause);
    const refusal = new Failure(
      "unavailable",
      `Cannot change the catalog: its writer has ended: ${because}`,
      { cause },
    );
    const outcomeUnknown = new Failure(
      "unavailable",
      `Cannot tell whether the change was kept: the catalog's writer has ended: ${because}`,
      { cause },
    );
    const running = this.#running;
    const waiting = this.#waiting;
    this.#running = [];
    this.#waiting = [];
    this.#refusal = refusal;
    for (const { reject } of running) reject(outcomeUnknown);
    for (const { reject } of waiting) reject(refusal);
    this.#options.log.fatal({ err: cause }, refusal.message);
    this.#whenIdle?.();
    this.#options.onFatal(refusal);
  }
}

const unanswered: FailureData = {
  kind: "internal",
  message: "Cannot change the catalog: the writer left the change unanswered",
  code: undefined,
};

function toFailure({ kind, message, code, stack }: FailureData): Failure {
  return new Failure(kind, message, {
    ...(code === undefined ? {} : { code }),
    ...(stack === undefined ? {} : { cause: new Error(stack) }),
    ...(kind === "busy" ? { retryAfterSeconds: 1 } : {}),
  });
}

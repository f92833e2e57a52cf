/**
 * The store's side of its talk with the directory: report, get orders, carry them out, report again.
 *
 * A report goes out every second, at once when something was carried out, and at once when `hurry` is
 * called (a volume closed). While the directory is away the store serves on.
 */

import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { DirectoryClient } from "../directory/client.ts";
import { describeOrderFailure, type Store } from "./store.ts";

const intervalMs = 1_000;

export interface HeartbeatOptions {
  store: Store;
  directory: DirectoryClient;
  /** Random for this process: 16 hex digits. */
  run: string;
  /** `host:port` under which gateways reach the store. */
  address: string;
  log: Log;
}

export class HeartbeatLoop {
  readonly #options: HeartbeatOptions;
  #done: number[] = [];
  #isStopping = false;
  #isAnswered = false;
  #wake: (() => void) | undefined;
  #isHurried = false;
  #running: Promise<void> | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** Whether the directory answered the last heartbeat. */
  get isAnswered(): boolean {
    return this.#isAnswered;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Sends the next heartbeat now. */
  hurry(): void {
    this.#isHurried = true;
    this.#wake?.();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#wake?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isStopping) {
      this.#isHurried = false;
      const hasNews = await this.#beat();
      if (!hasNews && !this.#isHurried) await this.#pause();
    }
  }

  /** One heartbeat and its orders; returns whether there is something new to report. */
  async #beat(): Promise<boolean> {
    const { store, directory, run, address, log } = this.#options;
    const reported = this.#done;
    try {
      await store.measureSpace();
      const { orders } = await directory.heartbeat({
        store: store.id,
        run,
        address,
        ...store.space(),
        volumes: store.reports(),
        unreadable: [...store.unreadable],
        done: reported,
      });
      this.#isAnswered = true;
      this.#done = [];
      for (const order of orders) {
        try {
          await store.carryOut(order);
          this.#done.push(order.order);
        } catch (error) {
          log.error({ err: error }, describeOrderFailure(order, error));
        }
      }
    } catch (error) {
      if (this.#isAnswered) log.warn({ reason: messageOf(error) }, "the directory does not answer");
      this.#isAnswered = false;
    }
    return this.#done.length > 0 && this.#isAnswered;
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      // While the directory is away, look for it more often: nothing can be stored until it is back.
      const timer = setTimeout(() => this.#wake?.(), this.#isAnswered ? intervalMs : 100);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

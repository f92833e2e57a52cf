/**
 * The gateway's side of the images: keeps the image process running and sends it pictures.
 *
 * Invariants:
 * - Whatever the bytes do to the image process, the gateway lives, and the process comes back.
 * - A picture that was being worked on when the process died is tried once more, alone among its
 *   kind: one that dies again is the reason, and is refused; the others did nothing wrong.
 * - sharp is never loaded here.
 */

import { EventEmitter } from "node:events";
import { availableParallelism } from "node:os";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { Failure, messageOf } from "../../base/failure.ts";
import type { Log, LogLevel } from "../../base/log.ts";
import { Counter, Gauge, Histogram, latencyBuckets, type Registry } from "../../base/metrics.ts";
import { Supervisor } from "../../base/supervisor.ts";
import { type ImageFacts, readHeaderFacts, sniffFormat } from "./facts.ts";
import { Handover, type RenderSource } from "./handover.ts";

export type { RenderSource } from "./handover.ts";

import type { ImageProcessOptions, ImageProcessReady } from "./process.ts";
import type { RenderPlan } from "./transform.ts";
import { Link, LinkLost, type WireFailure } from "./wire.ts";

export interface ImagesOptions {
  log: Log;
  registry: Registry;
  /** Where the folder of socket and pictures is made; in memory by default, where there is a place. */
  folder?: string | undefined;
}

export interface RenderRequest {
  /** All of the file that is rendered. */
  source: RenderSource;
  plan: RenderPlan;
  signal?: AbortSignal | undefined;
  requestId?: string | undefined;
}

export interface RenderedImage {
  bytes: Buffer;
  contentType: string;
  width: number;
  height: number;
}

// Two more than there are cores: between two pictures a thread hands over and fetches, and its core
// would stand idle.
const slots = availableParallelism() + 2;
/** Over the process's own deadline, which makes the better answer. */
const callLimitMs = 13_000;
/** How long a render waits for a process that is being started again. */
const backLimitMs = 6_000;
/** When the supervisor has given up: bytes that kill must not end the images for good. */
const reviveMs = 30_000;
/** Nothing runs any more when `close` is called. */
const stopLimitMs = 3_000;
/** Enough for the headers of all but a few JPEG and PNG files; those are sent whole. */
const headBytes = 256 * 1_024;

export class Images {
  readonly #log: Log;
  readonly #handover: Handover;
  readonly #metrics: ReturnType<typeof makeMetrics>;
  #supervisor: Supervisor<ImageProcessReady>;
  #link: Link | undefined;
  /** Who waits for the next link. */
  readonly #linked = new EventEmitter<{ link: [Link] }>();
  #last: ImageProcessReady | undefined;
  #inFlight = 0;
  /** The second tries, one after the other. */
  #suspects: Promise<unknown> = Promise.resolve();
  #revival: NodeJS.Timeout | undefined;
  #isClosed = false;

  private constructor({ log, registry, folder }: ImagesOptions) {
    this.#log = log;
    this.#handover = new Handover(folder, () => {
      log.warn("the folder of the image process was swept away: starting anew");
      this.#supervisor.kill();
    });
    this.#metrics = makeMetrics(registry, () => this.#inFlight);
    this.#supervisor = this.#supervise();
    this.#linked.setMaxListeners(0); // each job that waits listens; jobs are bounded
  }

  static async start(options: ImagesOptions): Promise<Images> {
    const images = new Images(options);
    try {
      await images.#supervisor.start();
      await images.#whenLinked(undefined, undefined);
      return images;
    } catch (error) {
      await images.close();
      throw error;
    }
  }

  /** What encodes: a part of every variant's key. */
  get revision(): string {
    if (this.#last === undefined) throw new TypeError("the image process was never ready");
    return this.#last.revision;
  }

  get isReady(): boolean {
    return this.#link !== undefined;
  }

  /** The image process that runs now. */
  get pid(): number | undefined {
    return this.#supervisor.pid;
  }

  /**
   * The facts of the picture that begins with these bytes; undefined when it is none, or none that
   * can be read. Fails only for want of the image process (`unavailable`, `busy`).
   */
  async facts(head: Uint8Array): Promise<ImageFacts | undefined> {
    this.#checkOpen();
    const format = sniffFormat(head);
    switch (format) {
      case undefined:
        return undefined;
      case "heic":
      case "svg":
      case "tiff":
        return readHeaderFacts(head);
      case "jpeg":
      case "png": {
        const facts = await this.#readFacts(head.subarray(0, headBytes));
        if (facts !== undefined || head.length <= headBytes) return facts;
        return await this.#readFacts(head);
      }
      default:
        // The file's end matters to these decoders: what they can't read of a piece, we may.
        return (await this.#readFacts(head)) ?? readHeaderFacts(head);
    }
  }

  #checkOpen(): void {
    if (this.#isClosed) throw unavailable("the image process does not run", undefined);
  }

  async #readFacts(head: Uint8Array): Promise<ImageFacts | undefined> {
    try {
      const bytes = await this.#handover.with(head, (file) =>
        this.#ask({ question: { ask: "facts", file } }),
      );
      return JSON.parse(bytes.toString()) as ImageFacts;
    } catch (error) {
      if (error instanceof Failure && error.kind === "unprocessable") return undefined;
      throw error;
    }
  }

  async render({ source, plan, signal, requestId }: RenderRequest): Promise<RenderedImage> {
    this.#checkOpen();
    if (this.#inFlight >= (this.#last?.inFlightMax ?? 1)) {
      const message = "Cannot render the picture now: too many are waiting";
      throw new Failure("busy", message, { retryAfterSeconds: 1 });
    }
    this.#inFlight += 1;
    const stopTimer = this.#metrics.seconds.startTimer();
    try {
      const bytes = await this.#handover.with(source, (file) =>
        this.#ask({ question: { ask: "render", file, plan }, signal, requestId }),
      );
      this.#metrics.renders.inc({ format: plan.format });
      const { contentType, outWidth, outHeight } = plan;
      return { bytes, contentType, width: outWidth, height: outHeight };
    } finally {
      stopTimer();
      this.#inFlight -= 1;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#revival);
    await this.#supervisor.stop();
    this.#link?.close();
    this.#handover.close();
  }

  async #ask(call: Call): Promise<Buffer> {
    const link = await this.#whenLinked(undefined, call.signal);
    try {
      return await this.#send(link, call);
    } catch (error) {
      if (!(error instanceof LinkLost)) throw error;
    }
    await this.#whenLinked(link, call.signal);
    const again = this.#suspects.then(() => this.#askAlone(call));
    this.#suspects = again.catch(() => {});
    return await again;
  }

  async #askAlone(call: Call): Promise<Buffer> {
    const link = await this.#whenLinked(undefined, call.signal);
    try {
      return await this.#send(link, call);
    } catch (error) {
      if (!(error instanceof LinkLost)) throw error;
      if (this.#isClosed) throw unavailable("the image process ended", error);
      const message = "Cannot decode the picture: decoding it ends the image process";
      throw new Failure("unprocessable", message, { cause: error });
    }
  }

  async #send(link: Link, { question, signal, requestId }: Call): Promise<Buffer> {
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort(unavailable("the image process does not answer", undefined));
    }, callLimitMs);
    const either = signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]);
    try {
      const { isFailure, bytes } = await link.ask(question, { signal: either, requestId });
      if (!isFailure) return bytes;
      const { kind, message, retryAfterSeconds } = JSON.parse(bytes.toString()) as WireFailure;
      throw new Failure(
        kind,
        message,
        retryAfterSeconds === undefined ? {} : { retryAfterSeconds },
      );
    } finally {
      clearTimeout(timer);
    }
  }

  /** The link to a process that is ready, other than `before`; waits for it a while. */
  #whenLinked(before: Link | undefined, signal: AbortSignal | undefined): Promise<Link> {
    const link = this.#link;
    if (link !== undefined && link !== before) return Promise.resolve(link);
    if (this.#isClosed || this.#revival !== undefined) {
      return Promise.reject(unavailable("the image process does not run", undefined));
    }
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        this.#linked.off("link", onLink);
        signal?.removeEventListener("abort", onAbort);
      };
      const onLink = (next: Link) => {
        settle();
        resolve(next);
      };
      const onAbort = () => {
        settle();
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        settle();
        reject(unavailable("the image process is not back yet", undefined));
      }, backLimitMs);
      this.#linked.on("link", onLink);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  async #connect(ready: ImageProcessReady): Promise<void> {
    this.#last = ready;
    const supervisor = this.#supervisor;
    const link = await Link.connect(this.#handover.socketPath, (lost) => {
      if (this.#link === lost) this.#link = undefined;
      // A process without a link is of no use, should it have outlived it.
      if (!this.#isClosed && supervisor.pid === ready.pid) supervisor.kill();
    });
    this.#link = link;
    this.#linked.emit("link", link);
  }

  #supervise(): Supervisor<ImageProcessReady> {
    const options: ImageProcessOptions = {
      socketPath: this.#handover.socketPath,
      slots,
      logLevel: this.#log.level as LogLevel,
    };
    const script = fileURLToPath(
      new URL(`./process${extname(import.meta.filename)}`, import.meta.url),
    );
    const supervisor = new Supervisor<ImageProcessReady>({
      name: "images",
      args: () => [
        ...(process.env.HAYFLAGS ?? "").split(" ").filter(Boolean),
        script,
        JSON.stringify(options),
      ],
      env: {
        // Every slot keeps a thread of this pool busy, and facts are read beside them.
        UV_THREADPOOL_SIZE: String(slots + 4),
        VIPS_BLOCK_UNTRUSTED: "1",
        VIPS_CONCURRENCY: "1",
      },
      log: this.#log,
      stopLimitMs,
    });
    supervisor.on("ready", (ready) => {
      this.#connect(ready).catch((error: unknown) => {
        // It died again at once and is started anew; one that lives and does not listen has to go.
        this.#log.warn({ reason: messageOf(error) }, "the image process does not listen");
        supervisor.kill();
      });
    });
    supervisor.on("died", () => this.#metrics.restarts.inc());
    supervisor.on("gaveUp", (failure) => {
      if (this.#last === undefined || this.#isClosed) return; // it never ran: `start` tells why
      this.#log.error({ err: failure }, `no images for ${reviveMs} ms`);
      this.#revival = setTimeout(() => {
        this.#revival = undefined;
        this.#supervisor = this.#supervise();
        // Its end is heard as `gaveUp`, like the first one's.
        this.#supervisor.start().catch(() => {});
      }, reviveMs);
    });
    return supervisor;
  }
}

interface Call {
  question: Parameters<Link["ask"]>[0];
  signal?: AbortSignal | undefined;
  requestId?: string | undefined;
}

function unavailable(why: string, cause: unknown): Failure {
  const message = `Cannot render the picture now: ${why}`;
  return new Failure("unavailable", message, { cause, retryAfterSeconds: 1 });
}

function makeMetrics(registry: Registry, inFlight: () => number) {
  const registers = [registry];
  new Gauge({
    name: "hayloft_image_queue",
    help: "Renders asked for and not answered yet",
    registers,
    collect() {
      this.set(inFlight());
    },
  });
  return {
    renders: new Counter({
      name: "hayloft_image_renders_total",
      help: "Pictures rendered, by the format they were written in",
      labelNames: ["format"] as const,
      registers,
    }),
    seconds: new Histogram({
      name: "hayloft_image_render_seconds",
      help: "From asking for a render to its end, waiting included",
      buckets: latencyBuckets,
      registers,
    }),
    restarts: new Counter({
      name: "hayloft_image_process_restarts_total",
      help: "Times the image process ended unasked and was started again",
      registers,
    }),
  };
}

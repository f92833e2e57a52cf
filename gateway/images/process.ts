/**
 * The image process: a child of the gateway that decodes and encodes, so that a native crash, a
 * bomb or a full libuv pool costs a picture and not the gateway.
 *
 * It listens on a local socket in a folder that only its user may enter, and is asked as wire.ts
 * says. The pictures lie beside the socket as files, in memory where the system has such a file
 * system: cheaper than sending them through the socket.
 *
 * Invariants:
 * - What it holds in memory is bounded by its slots; what waits is a name.
 * - It ends when its parent does, and after its running jobs when it is asked to.
 */

import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { dirname, extname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Piscina } from "piscina";
import { Failure, messageOf, toFailure } from "../../base/failure.ts";
import { type LogLevel, makeLog } from "../../base/log.ts";
import { encoderRevision, makeWarmUpPicture, readFacts } from "./codec.ts";
import type { ImageFacts } from "./facts.ts";
import { JobQueue } from "./queue.ts";
import { encodeFailure, encodeResult, type Question, QuestionReader } from "./wire.ts";
import type { RenderFailed, RenderTask } from "./worker.ts";

/** What the gateway's side passes on the command line, as JSON. */
export interface ImageProcessOptions {
  /** In a folder of its own, where the pictures lie too. */
  socketPath: string;
  /** Pictures that are worked on at a time. */
  slots: number;
  logLevel: LogLevel;
}

/** What the process is ready with. */
export interface ImageProcessReady {
  pid: number;
  revision: string;
  /** Renders that may be on their way at once, waiting ones included. */
  inFlightMax: number;
}

/** From a job's arrival to its answer. */
const jobLimitMs = 10_000;
/** A job that has worked this long hangs in native code: only a new process gets its slot back. */
const stuckLimitMs = 30_000;
const waitingPerSlot = 16;
const slotsPerThread = 8;
const factsInFlightMax = 64;
const stopLimitMs = 11_000;

const { socketPath, slots, logLevel } = JSON.parse(process.argv[2] ?? "{}") as ImageProcessOptions;
const log = makeLog("images", logLevel);

const queue = new JobQueue({ slots, waitingMax: waitingPerSlot * slots, limitMs: jobLimitMs });
const threads = Math.ceil(slots / slotsPerThread);
const pool = new Piscina<RenderTask, Uint8Array | RenderFailed>({
  filename: new URL(`./worker${extname(import.meta.filename)}`, import.meta.url).href,
  minThreads: threads,
  maxThreads: threads,
  concurrentTasksPerWorker: slotsPerThread,
  // The queue above never hands over more than the threads can take at once.
  maxQueue: slots,
  // Parked threads would stall what sharp still has to do in them.
  atomics: "disabled",
});

let factsInFlight = 0;

const sockets = new Set<Socket>();

const server = createServer((socket) => {
  sockets.add(socket);
  /** What runs for this connection, each with what tells it that nobody waits. */
  const running = new Map<number, AbortController>();
  const questions = new QuestionReader();
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => {
    for (const question of questions.push(text)) {
      if (question.ask === "nothing") running.get(question.id)?.abort();
      else void reply(socket, question, running);
    }
  });
  socket.on("error", (error) => log.debug({ err: error }, "the connection failed"));
  socket.on("close", () => {
    sockets.delete(socket);
    for (const gone of running.values()) gone.abort();
  });
});

type Job = Exclude<Question, { ask: "nothing" }>;

async function reply(
  socket: Socket,
  job: Job,
  running: Map<number, AbortController>,
): Promise<void> {
  const gone = new AbortController();
  running.set(job.id, gone);
  let answer: [head: Buffer, bytes: Buffer];
  try {
    answer = encodeResult(job.id, await work(job, gone.signal));
  } catch (error) {
    const failure = toFailure(error);
    if (failure.kind === "internal") {
      const { requestId } = job;
      log.error({ requestId, err: failure.cause ?? failure }, failure.message);
    }
    answer = encodeFailure(job.id, failure);
  }
  running.delete(job.id);
  if (gone.signal.aborted || socket.destroyed) return;
  socket.cork();
  for (const part of answer) socket.write(part);
  socket.uncork();
}

async function work(job: Job, gone: AbortSignal): Promise<Uint8Array> {
  const { file } = job;
  if (job.ask === "facts") return Buffer.from(JSON.stringify(await facts(file)));
  const { plan } = job;
  return await queue.run({
    work: (limitMs) => renderInThread({ file, plan, limitMs }),
    signal: gone,
  });
}

async function facts(file: string): Promise<ImageFacts> {
  if (factsInFlight >= factsInFlightMax) {
    const message = "Cannot read the picture's facts now: too many are being read";
    throw new Failure("busy", message, { retryAfterSeconds: 1 });
  }
  factsInFlight += 1;
  try {
    return await readFacts(readFileSync(file));
  } catch (error) {
    throw new Failure("unprocessable", `Cannot read the picture's facts: ${messageOf(error)}`);
  } finally {
    factsInFlight -= 1;
  }
}

async function renderInThread(task: RenderTask): Promise<Uint8Array> {
  const stuck = setTimeout(() => {
    log.fatal({ plan: task.plan.canonical }, `a render did not end within ${stuckLimitMs} ms`);
    process.exit(1);
  }, stuckLimitMs);
  try {
    const result = await pool.run(task);
    if ("failed" in result) throw new Failure(result.failed.kind, result.failed.message);
    return result;
  } finally {
    clearTimeout(stuck);
  }
}

/** Makes the threads load their code and their encoders, so that the first user does not wait for it. */
async function warmUp(): Promise<void> {
  const file = join(dirname(socketPath), "warm-up");
  writeFileSync(file, await makeWarmUpPicture());
  const size = { resize: "scale", outWidth: 64, outHeight: 48 } as const;
  for (const format of ["jpeg", "webp"] as const) {
    const plan = {
      ...size,
      format,
      quality: 80,
      canonical: "warm-up",
      contentType: `image/${format}`,
      varyAccept: false,
    };
    const runs = Array.from({ length: slots }, () => pool.run({ file, plan, limitMs: jobLimitMs }));
    await Promise.all(runs);
  }
  rmSync(file);
}

let isStopping = false;
async function stop(reason: string): Promise<void> {
  if (isStopping) return;
  isStopping = true;
  log.info({ reason }, "stopping");
  setTimeout(() => process.exit(1), stopLimitMs).unref();
  server.close();
  while (queue.size > 0 || factsInFlight > 0) await sleep(20);
  const ended = [...sockets].map((socket) => once(socket, "close"));
  for (const socket of sockets) socket.end();
  await Promise.all(ended);
  process.exit(0);
}

/** The gateway is gone, and those that are killed tidy nothing up. */
function endAlone(): void {
  rmSync(dirname(socketPath), { recursive: true, force: true });
  process.exit(0);
}

// A terminal sends SIGINT to the whole group. The gateway still needs this process to finish what
// runs, and says SIGTERM when it does not.
process.on("SIGINT", () => {});
process.on("SIGHUP", () => {});
process.on("SIGTERM", () => void stop("asked to"));
process.on("disconnect", endAlone);
process.on("uncaughtException", (error) => {
  log.fatal({ err: error }, "a mistake was not caught");
  process.exit(1);
});

try {
  if (!process.connected) endAlone(); // gone before anyone listened for it
  await warmUp();
  if (process.platform !== "win32") rmSync(socketPath, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, resolve);
  });
  const ready: ImageProcessReady = {
    pid: process.pid,
    revision: encoderRevision,
    inFlightMax: slots * (1 + waitingPerSlot),
  };
  log.info({ ...ready, slots }, "ready");
  process.send?.({ ready });
} catch (error) {
  log.fatal({ err: error }, "Cannot start the image process");
  process.send?.({ failed: messageOf(error) });
  process.exit(1);
}

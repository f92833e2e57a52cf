/**
 * The store's calls for operators, signed like those of server.ts:
 *
 *   GET /volumes/{id}                                   the facts of a volume
 *   GET /volumes/{id}/needle?fid=FID&verify=1           the facts of one needle, its bytes read anew
 *   GET /volumes/{id}/records?from=N&count=N&cookies=1  every record of its file, a line of JSON for each
 *   GET /volumes/{id}/findings?rate=BYTES               what does not verify in it, by needle
 *   GET /volumes/{id}/export                            what lives in it, as a tar archive
 *
 * Invariants:
 * - They stream: memory is bounded however large the volume, and a reader who is behind is waited for.
 * - Few run at once, and a reader who takes nothing for long is let go: each holds a generation's file open.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { systemClock } from "../base/clock.ts";
import { Failure, systemErrorCode } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import { answerJson } from "../base/http-serve.ts";
import { needleFactsOf } from "./needle-facts.ts";
import type { Store } from "./store.ts";
import { scrubVolume } from "./volume/scrub.ts";
import type { Volume } from "./volume/volume.ts";
import { exportVolume } from "./volume-export.ts";
import { type DamageFacts, factsOf, listRecords, nameDamage } from "./volume-facts.ts";

/** A line of the answer to `findings`: how far it is, or one of what it found in the end. */
export type FindingsLine = { doneBytes: number; totalBytes: number } | { finding: DamageFacts };

const number = z.coerce.number().int().nonnegative().optional();
const querySchema = z.object({
  from: number,
  count: number,
  cookies: z.literal("1").optional(),
  fid: z.string().optional(),
  verify: z.literal("1").optional(),
  rate: number,
});

const streamsMax = 4;
const stalledMsMax = 600_000;
const busyRetrySeconds = 5;
let streamCount = 0;
/** What a reader who hangs up leaves behind. */
const goneCodes = new Set(["ERR_STREAM_PREMATURE_CLOSE", "ECONNRESET", "EPIPE"]);
const lineType = "application/x-ndjson";

const callPattern = /^\/volumes\/([0-9]{1,10})(?:\/(records|findings|export|needle))?$/;

/** Answers a request that is one of these calls; returns whether it is. */
export async function answerOperator(
  store: Store,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  const [path = "", query = ""] = (request.url ?? "/").split("?", 2);
  const match = callPattern.exec(path);
  if (match === null || request.method !== "GET") return false;
  const volume = store.volume(Number(match[1]));
  if (volume === undefined) throw new Failure("not-found", `Cannot find volume ${match[1]}`);
  const { from, count, cookies, rate = 0, fid: fidText = "", verify } = parseQuery(query);
  switch (match[2]) {
    case "records": {
      const selection = { from, count, withCookies: cookies === "1" };
      await send(response, lineType, () => Readable.from(recordLines(volume, selection)));
      break;
    }
    case "findings":
      await send(response, lineType, () => Readable.from(findingsLines(volume, rate, response)));
      break;
    case "export":
      await send(response, "application/x-tar", () => exportVolume(volume, systemClock.nowMs()));
      break;
    case "needle": {
      const fid = parseFid(fidText);
      if (fid === undefined) throw new Failure("bad-request", `Cannot read the fid "${fidText}"`);
      answerJson(response, 200, await needleFactsOf(volume, fid, { verifies: verify === "1" }));
      break;
    }
    default:
      answerJson(response, 200, await factsOf(volume, volume.descriptor));
  }
  return true;
}

function parseQuery(query: string): z.infer<typeof querySchema> {
  const parsed = querySchema.safeParse(Object.fromEntries(new URLSearchParams(query)));
  if (parsed.success) return parsed.data;
  throw new Failure(
    "bad-request",
    `Cannot read the query "${query}": ${z.prettifyError(parsed.error)}`,
  );
}

/** A slice of records is a piece of the answer; one without records is an empty line, as a sign of life. */
async function* recordLines(
  volume: Volume,
  selection: { from: number | undefined; count: number | undefined; withCookies: boolean },
): AsyncGenerator<string> {
  const nowMs = systemClock.nowMs();
  for await (const records of listRecords(volume, { ...selection, nowMs })) {
    yield `${records.map((record) => JSON.stringify(record)).join("\n")}\n`;
  }
}

/** A volume that was verified and found well is not read again. */
async function* findingsLines(
  volume: Volume,
  rateBytes: number,
  response: ServerResponse,
): AsyncGenerator<string> {
  const line = (value: FindingsLine) => `${JSON.stringify(value)}\n`;
  if (volume.report().damagedBytes === 0) return;
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  const reached = { doneBytes: 0, totalBytes: volume.report().lengthBytes };
  const scrubbing = volume.read((generation, end) =>
    scrubVolume({
      ...{ generation, end, rateBytes, signal: gone.signal },
      isDeleted: (ordinal) => volume.isDeleted(ordinal),
      progress: (doneBytes) => Object.assign(reached, { doneBytes }),
    }),
  );
  const ended = scrubbing.then(
    () => true,
    () => true,
  );
  while (!(await Promise.race([ended, tick()]))) yield line(reached);
  const { findings } = await scrubbing;
  const named = await nameDamage(volume, findings);
  const { damagedBytes } = volume.report();
  if (named.length === 0 && damagedBytes > 0) {
    // Such as a digest that is another than the one written down, or a damaged log of deletes.
    const why = "the store counts damage that is in none of its records, its log says what";
    named.push({ offset: 0, length: damagedBytes, why });
  }
  for (const finding of named) yield line({ finding });
}

const tickMs = 500;

function tick(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), tickMs).unref());
}

async function send(response: ServerResponse, type: string, make: () => Readable): Promise<void> {
  if (streamCount >= streamsMax) {
    throw new Failure("busy", `Cannot answer now: ${streamsMax} such calls run already`, {
      retryAfterSeconds: busyRetrySeconds,
    });
  }
  streamCount += 1;
  response.setTimeout(stalledMsMax, () => response.destroy());
  response.writeHead(200, { "content-type": type });
  response.flushHeaders(); // the first line may take its time
  try {
    await pipeline(make(), response);
  } catch (error) {
    const isGone = goneCodes.has(systemErrorCode(error) ?? "");
    if (!isGone) throw error;
  } finally {
    streamCount -= 1;
  }
}

/**
 * The directory's calls. Those between processes, and those of operators, are signed (base/call-signature.ts):
 *
 *   POST /heartbeat               what a store has; answers with its orders
 *   GET  /map?after=V&wait=MS     the volume map, once it is another than version V; `want=` (several times)
 *                                 names kinds of volumes that the gateway writes to (wants.ts), and
 *                                 `gateway=` its own public address
 *   GET  /status                  stores and volumes, for people and tools
 *   GET  /volumes/{id}            one volume with its copies
 *   GET  /shortfall               volumes that have too few copies
 *   POST /stores/{id}/drain       moves all copies away; {"undo": true} takes it back. An address will do.
 *   POST /volumes/{id}/move       moves one copy {from, to}
 *   POST /volumes/{id}/compact    rewrites a volume without what is dead; seals it first if it is open
 *   POST /volumes/{id}/verify     reads every byte of it
 *   POST /volumes/{id}/seal       ends its open life
 *   POST /volumes/import          takes over a volume of SeaweedFS
 *   POST /compact                 compacts all that is worth it, or tells what that would be
 *   GET  /orders/{n}              where an order stands
 *   GET  /leader                  who leads (standby.ts has what is answered by who does not)
 *
 * What operators ask for is answered with 202 and the numbers of the orders. native-calls.ts has the rest.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { z } from "zod";
import { CallVerifier } from "../base/call-verifier.ts";
import { systemClock } from "../base/clock.ts";
import type { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { answerFailure, answerJson, readBody, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import type { Directory } from "./directory.ts";
import { Gateways } from "./gateways.ts";
import type { Term } from "./lease.ts";
import { NativeCalls } from "./native-calls.ts";
import type { Operations } from "./operations.ts";
import {
  compactAllSchema,
  compactVolumeSchema,
  drainStoreSchema,
  heartbeatSchema,
  importVolumeSchema,
  type LeaderStatus,
  moveVolumeSchema,
  verifyVolumeSchema,
} from "./protocol.ts";

/** A store with 100,000 volumes reports about 50 MB. */
const heartbeatBytesMax = 128 * 1_048_576;
const requestBytesMax = 65_536;
const mapWaitMsMax = 30_000;

export interface DirectoryServerOptions {
  directory: Directory;
  operations: Operations;
  secret: ClusterSecret;
  /** Of the process: what it remembers outlives a term. */
  verifier?: CallVerifier;
  log: Log;
  native: NativeAccess;
  /** Bytes a second of a compaction that a native call asks for; 0 if as fast as can be. */
  rateBytes: number;
  /** `host:port` under which others reach this directory. */
  address?: string;
  /** Of the process: who has polled the map here. */
  gateways?: Gateways;
  /** The time that this directory leads, where there are several. */
  term?: Term;
}

/** Answers one request, or fails. */
export type Answers = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

interface Call {
  request: IncomingMessage;
  response: ServerResponse;
  url: URL;
  /** What the parentheses of the route's pattern stand for. */
  parts: string[];
  /** Aborts when the caller has gone, or this directory leads no more. */
  signal: AbortSignal;
}

/** A server of the only directory. */
export function makeDirectoryServer(options: DirectoryServerOptions): Server {
  const answers = makeAnswers(options);
  return serveAnswers(() => answers, options.log);
}

/** A server that answers with what `current` returns when a request comes. */
export function serveAnswers(current: () => Answers, log: Log): Server {
  return createServer((request, response) => {
    current()(request, response).catch((error: unknown) => {
      answerFailure(response, error, { log, requestId: requestIdOf(request) });
    });
  });
}

/** What the directory that leads answers. */
export function makeAnswers(options: DirectoryServerOptions): Answers {
  const { secret, native: access, term } = options;
  const { verifier = new CallVerifier(secret) } = options;
  const { gateways = new Gateways(systemClock) } = options;
  const routes = makeRoutes({ ...options, gateways });
  const native = new NativeCalls({ ...options, gateways, access, verifier });
  return async (request, response) => {
    const url = readUrl(request);
    if (native.has(url.pathname)) {
      await native.answer(request, response, url);
      return;
    }
    await verifier.admit(request, response);
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    const signal = term === undefined ? gone.signal : AbortSignal.any([gone.signal, term.ended]);
    const line = `${request.method} ${url.pathname}`;
    for (const { pattern, answer } of routes) {
      const match = pattern.exec(line);
      if (match === null) continue;
      const parts = match.slice(1);
      await answer({ request, response, url, parts, signal });
      return;
    }
    throw new Failure("not-found", `Cannot find ${line}`);
  };
}

/** How long a poll of the map may be held. */
export function readMapPoll(url: URL): {
  after: string;
  waitMs: number;
  wants: string[];
  gateways: string[];
} {
  const waitMs = Math.min(Number(url.searchParams.get("wait") ?? 0) || 0, mapWaitMsMax);
  const wants = url.searchParams.getAll("want");
  return {
    after: url.searchParams.get("after") ?? "",
    waitMs,
    wants,
    gateways: url.searchParams.getAll("gateway"),
  };
}

function makeRoutes({
  directory,
  operations,
  term,
  address,
  gateways,
}: DirectoryServerOptions & { gateways: Gateways }): {
  pattern: RegExp;
  answer: (call: Call) => Promise<void>;
}[] {
  return [
    {
      pattern: /^POST \/heartbeat$/,
      async answer({ request, response, signal }) {
        const body = await readBody(request, { limitBytes: heartbeatBytesMax });
        const heartbeat = parseAs(heartbeatSchema, body);
        const reply = await directory.heartbeat(heartbeat, signal);
        // By now another may lead, and have ordered otherwise.
        term?.requireHeld();
        if (!signal.aborted) answerJson(response, 200, reply);
      },
    },
    {
      pattern: /^GET \/map$/,
      async answer({ response, url, signal }) {
        const { after, waitMs, wants, gateways: said } = readMapPoll(url);
        gateways.add(said);
        const map = await directory.mapAfter(after, waitMs, signal, wants);
        if (!signal.aborted) answerJson(response, 200, map);
      },
    },
    {
      pattern: /^GET \/status$/,
      async answer({ response }) {
        answerJson(response, 200, directory.status());
      },
    },
    {
      pattern: /^GET \/leader$/,
      async answer({ response }) {
        const status: LeaderStatus = { isLeader: true, leader: address, lease: term?.number };
        answerJson(response, 200, status);
      },
    },
    {
      pattern: /^GET \/shortfall$/,
      async answer({ response }) {
        answerJson(response, 200, directory.shortfall());
      },
    },
    {
      pattern: /^GET \/volumes\/([0-9]{1,10})$/,
      async answer({ response, parts }) {
        const details = directory.volumeDetails(Number(parts[0]));
        if (details === undefined) {
          throw new Failure("not-found", `Cannot find volume ${parts[0]}`);
        }
        answerJson(response, 200, details);
      },
    },
    {
      pattern: /^POST \/stores\/([^/]{1,300})\/drain$/,
      async answer({ request, response, parts }) {
        const body = await readRequest(request, drainStoreSchema);
        await directory.drain(decodeURIComponent(parts[0] ?? ""), body);
        answerJson(response, 202, {});
      },
    },
    {
      pattern: /^POST \/volumes\/([0-9]{1,10})\/move$/,
      async answer({ request, response, parts }) {
        const body = await readRequest(request, moveVolumeSchema);
        await directory.move(Number(parts[0]), body);
        answerJson(response, 202, {});
      },
    },
    {
      pattern: /^POST \/volumes\/([0-9]{1,10})\/compact$/,
      async answer({ request, response, parts }) {
        const body = await readRequest(request, compactVolumeSchema);
        answerJson(response, 202, await operations.compact(Number(parts[0]), body));
      },
    },
    {
      pattern: /^POST \/volumes\/([0-9]{1,10})\/verify$/,
      async answer({ request, response, parts }) {
        const body = await readRequest(request, verifyVolumeSchema);
        answerJson(response, 202, await operations.verify(Number(parts[0]), body));
      },
    },
    {
      pattern: /^POST \/volumes\/([0-9]{1,10})\/seal$/,
      async answer({ response, parts }) {
        answerJson(response, 202, await operations.seal(Number(parts[0])));
      },
    },
    {
      pattern: /^POST \/volumes\/import$/,
      async answer({ request, response }) {
        const body = await readRequest(request, importVolumeSchema);
        answerJson(response, 202, await operations.import(body));
      },
    },
    {
      pattern: /^POST \/compact$/,
      async answer({ request, response }) {
        const body = await readRequest(request, compactAllSchema);
        const answer = await operations.compactAll(body);
        answerJson(response, body.dryRun ? 200 : 202, answer);
      },
    },
    {
      pattern: /^GET \/orders\/([0-9]{1,15})$/,
      async answer({ response, parts }) {
        const status = await operations.status(Number(parts[0]));
        if (status === undefined) {
          throw new Failure(
            "not-found",
            `Cannot find order ${parts[0]}: there is none, or it ended too long ago`,
          );
        }
        answerJson(response, 200, status);
      },
    },
  ];
}

export function readUrl(request: IncomingMessage): URL {
  try {
    // A path of two slashes would be taken for a host.
    return new URL(`http://directory${request.url ?? "/"}`);
  } catch (error) {
    throw new Failure("bad-request", "Cannot read the request: it has no path", { cause: error });
  }
}

async function readRequest<Value>(
  request: IncomingMessage,
  schema: z.ZodType<Value>,
): Promise<Value> {
  const body = await readBody(request, { limitBytes: requestBytesMax });
  return parseAs(schema, body.length === 0 ? Buffer.from("{}") : body);
}

function parseAs<Value>(schema: z.ZodType<Value>, body: Buffer): Value {
  try {
    return schema.parse(JSON.parse(body.toString()));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new Failure("bad-request", `Cannot read the request: ${why}`);
  }
}

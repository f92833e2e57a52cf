/**
 * The directory's calls, all between processes and all with the cluster's token:
 *
 *   POST /heartbeat              what a store has; answers with its orders
 *   GET  /map?after=V&wait=MS    the volume map, once it is another than version V
 *   GET  /status                 stores and volumes, for people and tools
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { z } from "zod";
import { Failure, messageOf } from "../base/failure.ts";
import { answerFailure, answerJson, readBody, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import { tokenCheck, tokenHeader } from "../base/token.ts";
import type { Directory } from "./directory.ts";
import { heartbeatSchema } from "./protocol.ts";

/** A store with 100,000 volumes reports about 30 MB. */
const heartbeatBytesMax = 64 * 1_048_576;
const mapWaitMsMax = 30_000;

export function makeDirectoryServer(
  directory: Directory,
  { token, log }: { token: string; log: Log },
): Server {
  const isOurs = tokenCheck(token);
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    if (!isOurs(request.headers[tokenHeader])) {
      throw new Failure("forbidden", "Cannot answer: the call does not carry the cluster's token");
    }
    const url = new URL(request.url ?? "/", "http://directory");
    switch (`${request.method} ${url.pathname}`) {
      case "POST /heartbeat": {
        const body = await readBody(request, { limitBytes: heartbeatBytesMax });
        const heartbeat = parseAs(heartbeatSchema, body);
        answerJson(response, 200, await directory.heartbeat(heartbeat));
        break;
      }
      case "GET /map": {
        const gone = new AbortController();
        response.once("close", () => gone.abort());
        const waitMs = Math.min(Number(url.searchParams.get("wait") ?? 0) || 0, mapWaitMsMax);
        const after = url.searchParams.get("after") ?? "";
        answerJson(response, 200, await directory.mapAfter(after, waitMs, gone.signal));
        break;
      }
      case "GET /status":
        answerJson(response, 200, directory.status());
        break;
      default:
        throw new Failure("not-found", `Cannot find ${request.method} ${url.pathname}`);
    }
  };
  return createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      answerFailure(response, error, { log, requestId: requestIdOf(request) });
    });
  });
}

function parseAs<Value>(schema: z.ZodType<Value>, body: Buffer): Value {
  try {
    return schema.parse(JSON.parse(body.toString()));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new Failure("bad-request", `Cannot read the request: ${why}`);
  }
}

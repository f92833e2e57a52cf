/**
 * What every HTTP server of Hayloft does alike: listen with a clear error, read a bounded body, answer,
 * turn a failure into an answer, and stop without cutting off what runs.
 */

import type { IncomingMessage, OutgoingHttpHeaders, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Failure, type FailureBody, systemErrorCode, toFailure } from "./failure.ts";
import type { Log } from "./log.ts";
import { systemRandom } from "./random.ts";

export const requestIdHeader = "x-request-id";

/** With a failure: who leads, and so can answer. */
export const leaderHeader = "x-hayloft-leader";

export interface ListenAddress {
  host: string;
  /** 0 means any free one. */
  port: number;
}

/** Starts to listen; returns the address in use, with the real port. */
export function listen(server: Server, { host, port }: ListenAddress): Promise<ListenAddress> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error) => {
      const code = systemErrorCode(error);
      const why =
        code === "EADDRINUSE"
          ? "another process has that port; choose one that is free, or 0 for any"
          : code === "EACCES"
            ? "this user may not use that port; choose one above 1023"
            : error.message;
      const message = `Cannot listen on ${formatAddress({ host, port })}: ${why}`;
      reject(new Failure("conflict", message, { cause: error }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve({ host, port: (server.address() as AddressInfo).port });
    });
  });
}

/** `host:port` as URLs write it. */
export function formatAddress({ host, port }: ListenAddress): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Takes no new connection, lets running requests end, and cuts off what has not after `graceMs`. */
export async function closeServer(server: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  // A kept-alive connection is idle again only after its answer: look once more, not just now.
  const sweep = setInterval(() => server.closeIdleConnections(), 50);
  const deadline = setTimeout(() => server.closeAllConnections(), graceMs);
  await closed;
  clearInterval(sweep);
  clearTimeout(deadline);
}

/** The request's own id if it brought a sane one, else a new one. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers[requestIdHeader];
  if (typeof given === "string" && /^[\w.:-]{1,64}$/.test(given)) return given;
  return newRequestId();
}

/** 16 hexadecimal digits; to be told apart, not to be kept secret. */
export function newRequestId(): string {
  const digits = () => systemRandom.u32().toString(16).padStart(8, "0");
  return digits() + digits();
}

/** The whole body, at most `limitBytes` of it: more is `too-large`, less than promised `bad-request`. */
export function readBody(
  request: IncomingMessage,
  { limitBytes, stallMs = 30_000 }: { limitBytes: number; stallMs?: number },
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const declared = request.headers["content-length"];
    if (declared !== undefined && Number(declared) > limitBytes) {
      reject(tooLarge(limitBytes));
      return;
    }
    const parts: Buffer[] = [];
    let length = 0;
    const stalled = setTimeout(() => {
      finish(new Failure("timeout", `Cannot read the request: nothing came for ${stallMs} ms`));
    }, stallMs);
    const finish = (failure?: Failure) => {
      clearTimeout(stalled);
      request.off("data", onData).off("end", onEnd).off("error", onCut).off("aborted", onCut);
      if (failure === undefined) {
        resolve(parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts));
      } else {
        request.pause();
        reject(failure);
      }
    };
    const onData = (part: Buffer) => {
      stalled.refresh();
      length += part.length;
      if (length > limitBytes) finish(tooLarge(limitBytes));
      else parts.push(part);
    };
    const onEnd = () => finish();
    const onCut = () => {
      finish(new Failure("bad-request", "Cannot read the request: it ended before its time"));
    };
    request.on("data", onData).on("end", onEnd).on("error", onCut).on("aborted", onCut);
  });
}

function tooLarge(limitBytes: number): Failure {
  return new Failure("too-large", `Cannot take the body: it is over ${limitBytes} bytes`);
}

/** Sends a whole answer. Content-Length is always set: proxies that speak HTTP/1.0 need it. */
export function answer(
  response: ServerResponse,
  status: number,
  body: Buffer | string,
  headers: OutgoingHttpHeaders = {},
): void {
  const length = typeof body === "string" ? Buffer.byteLength(body) : body.length;
  response.writeHead(status, { ...headers, "content-length": length });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

export function answerJson(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: OutgoingHttpHeaders = {},
): void {
  answer(response, status, `${JSON.stringify(value)}\n`, {
    ...headers,
    "content-type": "application/json",
  });
}

/** Answers with a failure as JSON, and logs what is ours to mend. */
export function answerFailure(
  response: ServerResponse,
  error: unknown,
  { log, requestId }: { log: Log; requestId: string },
): void {
  const failure = toFailure(error);
  // That another leads is no trouble of ours.
  if (failure.status >= 500 && failure.leader === undefined) {
    log.error({ requestId, err: failure.cause ?? failure, kind: failure.kind }, failure.message);
  }
  if (response.headersSent) {
    // Too late for a status: a cut connection is the only honest end.
    response.destroy();
    return;
  }
  const body: FailureBody = {
    error: { kind: failure.kind, message: failure.message, requestId },
  };
  const headers: OutgoingHttpHeaders = { [requestIdHeader]: requestId };
  if (failure.retryAfterSeconds !== undefined) {
    headers["retry-after"] = String(failure.retryAfterSeconds);
  }
  if (failure.leader !== undefined) headers[leaderHeader] = failure.leader;
  // Bytes of a body that nobody reads would be taken for the next request.
  if (!response.req.complete) headers.connection = "close";
  answerJson(response, failure.status, body, headers);
}

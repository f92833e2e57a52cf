/**
 * Calls to other processes of the cluster: pooled connections, the cluster's token, a deadline on every
 * call, and failures that come out as they went in.
 */

import type { Readable } from "node:stream";
import { Agent, type Dispatcher } from "undici";
import {
  Failure,
  type FailureBody,
  type FailureOptions,
  isFailureKind,
  messageOf,
  systemErrorCode,
} from "./failure.ts";
import { leaderHeader, requestIdHeader } from "./http-serve.ts";
import { tokenHeader } from "./token.ts";

export interface CallOptions {
  method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** `host:port` of the process that is called. */
  address: string;
  /** Path with query. */
  path: string;
  headers?: Record<string, string>;
  body?: Uint8Array | string | undefined;
  /** How long the answer's head may take, and then any pause in its body. */
  timeoutMs: number;
  requestId?: string | undefined;
  signal?: AbortSignal | undefined;
}

export interface CallAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

export interface StreamAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Readable;
}

/** One for a process: it owns the connections. */
export class Caller {
  readonly #token: string;
  readonly #calls: Agent;
  /** Apart, because a stream is as slow as who reads it: it must not take a call's connection. */
  readonly #streams: Agent;

  constructor(
    token: string,
    { connectionsPerAddress = 256 }: { connectionsPerAddress?: number } = {},
  ) {
    this.#token = token;
    const makeAgent = () =>
      new Agent({
        connections: connectionsPerAddress,
        pipelining: 1,
        keepAliveTimeout: 10_000,
        connect: { timeout: 2_000 },
      });
    this.#calls = makeAgent();
    this.#streams = makeAgent();
  }

  /** The whole answer. Any status of 400 or more is thrown as the `Failure` it carries. */
  async call(options: CallOptions): Promise<CallAnswer> {
    const { status, headers, body } = await this.#send(this.#calls, options);
    try {
      return { status, headers, body: Buffer.from(await body.arrayBuffer()) };
    } catch (error) {
      throw callFailure(options, error);
    }
  }

  /** `call` with JSON both ways. */
  async callJson<Answer>(options: Omit<CallOptions, "body"> & { body?: unknown }): Promise<Answer> {
    const { body, headers, ...rest } = options;
    const answer = await this.call({
      ...rest,
      headers: {
        ...headers,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return JSON.parse(answer.body.toString()) as Answer;
  }

  /** The answer's head, and its body as a stream that the caller has to read or destroy. */
  async stream(options: CallOptions): Promise<StreamAnswer> {
    return await this.#send(this.#streams, options);
  }

  async close(): Promise<void> {
    await Promise.all([this.#calls.destroy(), this.#streams.destroy()]);
  }

  async #send(
    agent: Agent,
    options: CallOptions,
  ): Promise<{
    status: number;
    headers: Record<string, string | string[] | undefined>;
    body: Dispatcher.ResponseData["body"];
  }> {
    const { method, address, path, headers, body, timeoutMs, requestId, signal } = options;
    // One deadline over all: undici's own begins only when a connection is free.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new LateError()), timeoutMs);
    let response: Dispatcher.ResponseData;
    try {
      response = await agent.request({
        origin: `http://${address}`,
        path,
        method,
        headers: {
          ...headers,
          [tokenHeader]: this.#token,
          ...(requestId === undefined ? {} : { [requestIdHeader]: requestId }),
        },
        body: body ?? null,
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
        signal: signal === undefined ? late.signal : AbortSignal.any([late.signal, signal]),
      });
    } catch (error) {
      throw callFailure(options, error);
    } finally {
      clearTimeout(timer);
    }
    if (response.statusCode >= 400) throw await readFailure(options, response);
    return { status: response.statusCode, headers: response.headers, body: response.body };
  }
}

class LateError extends Error {}

async function readFailure(
  { method, address, path }: CallOptions,
  { statusCode, body, headers }: Dispatcher.ResponseData,
): Promise<Failure> {
  const text = await body.text().catch(() => "");
  const what = `${method} ${path} at ${address}`;
  const leader = headers[leaderHeader];
  return failureOfAnswer(what, statusCode, text, {
    retryAfterSeconds: Number(headers["retry-after"]),
    leader: typeof leader === "string" ? leader : undefined,
  });
}

/** The failure that an answer of 400 or more carries, or one that tells its status. */
export function failureOfAnswer(
  what: string,
  status: number,
  text: string,
  { retryAfterSeconds = Number.NaN, leader }: FailureOptions = {},
): Failure {
  try {
    const { error } = JSON.parse(text) as FailureBody;
    if (isFailureKind(error.kind)) {
      const retry = Number.isFinite(retryAfterSeconds) ? { retryAfterSeconds } : {};
      return new Failure(error.kind, error.message, { ...retry, leader });
    }
  } catch {
    // Not one of ours: told apart below.
  }
  const kind = status === 404 ? "not-found" : status === 503 ? "unavailable" : "internal";
  return new Failure(kind, `Cannot ${what}: it answered ${status}`);
}

function callFailure({ method, address, path }: CallOptions, error: unknown): Failure {
  const code = systemErrorCode(error) ?? "";
  const isLate = error instanceof LateError || code.endsWith("TIMEOUT");
  return new Failure(
    isLate ? "timeout" : "unavailable",
    `Cannot ${method} ${path.split("?")[0]} at ${address}: ${isLate ? "no answer in time" : messageOf(error) || code}`,
    { cause: error, retryAfterSeconds: 1 },
  );
}

/**
 * Calls to other processes of the cluster: pooled connections, a signature and a deadline on every call, and
 * failures that come out as they went in.
 */

import type { Readable } from "node:stream";
import { Agent, type Dispatcher } from "undici";
import { challengeHeader, signatureHeader } from "./call-signature.ts";
import { CallSigner, signingsMax } from "./call-signer.ts";
import type { ClusterSecret } from "./cluster-secret.ts";
import {
  Failure,
  type FailureBody,
  type FailureKind,
  type FailureOptions,
  isFailureKind,
  messageOf,
  systemErrorCode,
} from "./failure.ts";
import { leaderHeader, requestIdHeader } from "./http-serve.ts";

export interface CallOptions {
  method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  /** `host:port` of the process that is called. */
  address: string;
  /** Path with query. */
  path: string;
  /** With names in lower case. */
  headers?: Record<string, string>;
  body?: Uint8Array | string | undefined;
  /** SHA-256 of the body, hex, where it is known already. */
  bodySha256?: string | undefined;
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
  readonly signer: CallSigner;
  readonly #calls: Agent;
  /** Apart, because a stream is as slow as who reads it: it must not take a call's connection. */
  readonly #streams: Agent;

  constructor(
    secret: ClusterSecret,
    { connectionsPerAddress = 256 }: { connectionsPerAddress?: number } = {},
  ) {
    this.signer = new CallSigner(secret);
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
    for (let signings = 1; ; signings++) {
      const signature = this.signer.sign({ headers: {}, ...options });
      const response = await this.#sendSigned(agent, options, signature);
      const { statusCode, headers, body } = response;
      if (statusCode < 400) return { status: statusCode, headers, body };
      const failure = await readFailure(options, response);
      const challenge = String(headers[challengeHeader] ?? "");
      const isAnswered =
        signings < signingsMax && this.signer.learn(options.address, signature, challenge);
      if (!isAnswered) throw failure;
    }
  }

  async #sendSigned(
    agent: Agent,
    options: CallOptions,
    signature: string,
  ): Promise<Dispatcher.ResponseData> {
    const { method, address, path, headers, body, timeoutMs, requestId, signal } = options;
    // One deadline over all: undici's own begins only when a connection is free.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new LateError()), timeoutMs);
    try {
      return await agent.request({
        origin: `http://${address}`,
        path,
        method,
        headers: {
          ...headers,
          [signatureHeader]: signature,
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
    const { error } = JSON.parse(text) as FailureBody | { error: string };
    // As native calls fail, in the words of SeaweedFS's shape.
    if (typeof error === "string") return new Failure(kindOfStatus(status), error);
    if (isFailureKind(error.kind)) {
      const retry = Number.isFinite(retryAfterSeconds) ? { retryAfterSeconds } : {};
      return new Failure(error.kind, error.message, { ...retry, leader });
    }
  } catch {
    // Not one of ours: told apart below.
  }
  return new Failure(kindOfStatus(status), `Cannot ${what}: it answered ${status}`);
}

function kindOfStatus(status: number): FailureKind {
  switch (status) {
    case 400:
    case 406:
      return "bad-request";
    case 404:
      return "not-found";
    case 409:
      return "conflict";
    case 413:
      return "too-large";
    case 503:
      return "unavailable";
    default:
      return "internal";
  }
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

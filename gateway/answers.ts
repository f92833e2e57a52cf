/** How failures look to users: small JSON or S3's XML, with a code, a sentence and the request's id. */

import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { Context } from "koa";
import { type Failure, type FailureKind, toFailure } from "../base/failure.ts";
import { answer, requestIdHeader } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import { formatXml } from "./xml.ts";

/** S3's names for what has no finer one. */
const codeByKind: Record<FailureKind, string> = {
  "bad-request": "InvalidRequest",
  forbidden: "AccessDenied",
  "not-found": "NoSuchKey",
  "method-not-allowed": "MethodNotAllowed",
  timeout: "RequestTimeout",
  conflict: "OperationAborted",
  "precondition-failed": "PreconditionFailed",
  "too-large": "EntityTooLarge",
  unsupported: "UnsupportedMediaType",
  "range-not-satisfiable": "InvalidRange",
  unprocessable: "UnprocessableContent",
  internal: "InternalError",
  corrupt: "InternalError",
  unavailable: "ServiceUnavailable",
  busy: "SlowDown",
  full: "InsufficientStorage",
};

/** How long a body that nobody wants is still read, so that its sender gets to see the answer. */
const drainLimitMs = 5_000;

export function sendFailure(
  request: IncomingMessage,
  response: ServerResponse,
  error: unknown,
  { log, requestId, asJson }: { log: Log; requestId: string; asJson: boolean },
): void {
  const failure = toFailure(error);
  if (failure.status >= 500) {
    const { method, url } = request;
    log.error({ requestId, method, url, err: failure.cause ?? failure }, failure.message);
  }
  if (response.headersSent) {
    // Too late for a status: a cut connection is the only honest end.
    response.destroy();
    return;
  }
  const headers: OutgoingHttpHeaders = {
    ...headersOf(response),
    [requestIdHeader]: requestId,
    "content-type": asJson ? "application/json" : "application/xml",
  };
  if (failure.retryAfterSeconds !== undefined) {
    headers["retry-after"] = String(failure.retryAfterSeconds);
  }
  answer(response, failure.status, formatFailure(failure, { requestId, asJson }), headers);
  if (!request.complete) {
    const cut = setTimeout(() => request.destroy(), drainLimitMs);
    request.once("close", () => clearTimeout(cut));
    request.resume();
  }
}

function formatFailure(
  failure: Failure,
  { requestId, asJson }: { requestId: string; asJson: boolean },
): string {
  const code = failure.code ?? codeByKind[failure.kind];
  const { message } = failure;
  return asJson
    ? `${JSON.stringify({ error: { code, message, requestId } })}\n`
    : formatXml(
        "Error",
        { Code: code, Message: message, RequestId: requestId },
        { namespaced: false },
      );
}

/** What a handler had set for an answer that did not come about, less what described its body. */
function headersOf(response: ServerResponse): OutgoingHttpHeaders {
  const kept = ["content-range", "x-amz-delete-marker", "x-amz-version-id", "allow", "vary"];
  return Object.fromEntries(
    Object.entries(response.getHeaders()).filter(([name]) => kept.includes(name)),
  );
}

/** Whether the sender would rather have JSON than S3's XML. */
export function prefersJson({ headers, url = "", method }: IncomingMessage): boolean {
  if (headers.accept?.includes("application/json")) return true;
  if (headers.accept?.includes("xml")) return false;
  return url.startsWith("/_") || method === "POST" || method === "PATCH";
}

/** A whole answer without a body, of the status that is set. */
export function answerEmpty(context: Context): void {
  context.body = ""; // without one koa would write the status's name
  context.remove("Content-Type");
}

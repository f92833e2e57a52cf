/**
 * What can go wrong, as a closed set of kinds, and the one error class that carries them.
 *
 * A `Failure` is an answer that a caller can act on. Its message is a sentence for people that says
 * what could not be done and why; it may be shown to users. Anything else that is thrown is a
 * mistake of ours: it is logged whole and shown as `internal`.
 */

/** Each kind with the HTTP status that carries it between processes and to users. */
const statusByKind = {
  "bad-request": 400,
  forbidden: 403,
  "not-found": 404,
  "method-not-allowed": 405,
  timeout: 408,
  conflict: 409,
  "precondition-failed": 412,
  "too-large": 413,
  unsupported: 415,
  "range-not-satisfiable": 416,
  unprocessable: 422,
  internal: 500,
  corrupt: 500,
  unavailable: 503,
  busy: 503,
  full: 507,
} as const;

export type FailureKind = keyof typeof statusByKind;

export interface FailureOptions {
  cause?: unknown;
  /** A finer name for the public error code, such as S3's `NoSuchBucket`. */
  code?: string;
  /** Seconds after which trying again makes sense. */
  retryAfterSeconds?: number | undefined;
  /** `host:port` of the process that can do it, where this one can't because another leads. */
  leader?: string | undefined;
}

export class Failure extends Error {
  override readonly name = "Failure";
  readonly kind: FailureKind;
  readonly code: string | undefined;
  readonly retryAfterSeconds: number | undefined;
  readonly leader: string | undefined;

  constructor(kind: FailureKind, message: string, options: FailureOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.code = options.code;
    this.retryAfterSeconds = options.retryAfterSeconds;
    this.leader = options.leader;
  }

  get status(): number {
    return statusByKind[this.kind];
  }
}

/** A failure as it crosses from process to process: the body of every internal error answer. */
export interface FailureBody {
  error: { kind: FailureKind; message: string; requestId?: string };
}

export function isFailureKind(text: unknown): text is FailureKind {
  return typeof text === "string" && Object.hasOwn(statusByKind, text);
}

/** Any thrown value as a `Failure`: itself, or `internal` with nothing of its text shown. */
export function toFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure("internal", "Cannot answer: something failed inside", { cause: error });
}

/** The `code` of a system error (`ENOENT`, `EADDRINUSE`, …), or undefined for anything else. */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The message of any thrown value, for a sentence that goes on after a colon. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

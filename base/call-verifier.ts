/**
 * Lets in the calls that were signed with the cluster's secret (call-signature.ts) for this run of this process.
 *
 * Invariants:
 * - A call that changes something is let in once. Reads may come again for as long as their time is near.
 * - Only who has the secret learns more than that the call is refused.
 * - A body is what was signed, wherever it is read: readBody compares.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import {
  anyRead,
  type CallSignature,
  challengeHeader,
  challengeText,
  formatChallenge,
  formatSignature,
  isRead,
  noBody,
  parseSignature,
  type SignedCall,
  signatureHeader,
  signedText,
  windowMs,
} from "./call-signature.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { ClusterSecret, SecretKey } from "./cluster-secret.ts";
import { Failure } from "./failure.ts";
import { parseFid } from "./fid.ts";
import { drainBody, expectBody } from "./http-serve.ts";
import { type Random, systemRandom } from "./random.ts";
import { ReplayWindow } from "./replay-window.ts";

/** A pass that was checked. */
interface Pass {
  key: SecretKey;
  untilMs: number;
}

interface Refusal {
  failure: Failure;
  /** For a caller who has the secret and only has to sign anew. */
  challenge?: string;
}

const busyRetrySeconds = 30;
/** Far more than there are gateways; those forgotten are checked anew. */
const passesMax = 1_024;

export class CallVerifier {
  readonly #secret: ClusterSecret;
  readonly #clock: Clock;
  /** Of this process: what was signed for another is no use here, and what was signed before a restart. */
  readonly #run: string;
  readonly #startedMs: number;
  readonly #replays: ReplayWindow;
  readonly #passes = new Map<string, Pass>();

  constructor(
    secret: ClusterSecret,
    {
      clock = systemClock,
      random = systemRandom,
      callersMax,
    }: { clock?: Clock; random?: Random; callersMax?: number } = {},
  ) {
    this.#secret = secret;
    this.#clock = clock;
    this.#run = random.bytes(8).toString("hex");
    this.#startedMs = clock.monotonicMs();
    // A call may be signed a whole window ahead, and then be good for another.
    const forgetMs = 2 * windowMs;
    this.#replays = new ReplayWindow({ forgetMs, ...(callersMax && { callersMax }) });
  }

  /** Whether a call claims to be from one of our own processes. */
  isSigned({ headers }: IncomingMessage): boolean {
    return headers[signatureHeader] !== undefined;
  }

  /** Returns if the call may be carried out; fails with `forbidden` or `busy` otherwise. */
  async admit(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url: path = "", headers } = request;
    const given = headers[signatureHeader];
    const signature = typeof given === "string" ? parseSignature(given) : undefined;
    const refusal =
      signature === undefined
        ? refuseUnsigned(given)
        : this.#checkSigned({ method, path, headers }, signature);
    if (refusal === undefined) {
      const { body = noBody } = signature ?? {};
      expectBody(request, body === anyRead ? noBody : body);
      return;
    }
    if (refusal.challenge !== undefined) {
      response.setHeader(challengeHeader, refusal.challenge);
      // Cut off while it sends, the caller would never see the answer. It has the secret: it may send.
      await drainBody(request);
    }
    throw refusal.failure;
  }

  /** Why a call is refused, or undefined if it is let in, which for one that changes something is once. */
  check(call: SignedCall): Refusal | undefined {
    const given = call.headers[signatureHeader];
    const signature = typeof given === "string" ? parseSignature(given) : undefined;
    return signature === undefined ? refuseUnsigned(given) : this.#checkSigned(call, signature);
  }

  #checkSigned(call: SignedCall, signature: CallSignature): Refusal | undefined {
    const key = this.#secret.keyOf(signedText(signature, call), signature.mac);
    if (key === undefined) {
      return refuse(
        "it is signed with another secret, or was changed on its way; compare the secret files of both processes",
      );
    }
    const nowMs = this.#nowMs();
    const stale = this.#staleness(signature, nowMs);
    if (stale !== undefined) return this.#challenge(stale, { key, signature, nowMs });
    if (signature.body === anyRead && !isBlobRead(call)) {
      return refuse("its signature is for reading blobs alone");
    }
    if (isRead(call.method)) return undefined;
    const { caller, count } = signature;
    if (count === 0) return refuse("its signature is that of a read");
    switch (this.#replays.take(caller, count, nowMs)) {
      case "fresh":
        return undefined;
      case "seen":
        return refuse("the same call came before");
      case "behind":
        return this.#challenge("too many calls have overtaken it", { key, signature, nowMs });
      case "full":
        return {
          failure: new Failure("busy", "Cannot answer: too many processes have called of late", {
            retryAfterSeconds: busyRetrySeconds,
          }),
        };
    }
  }

  /** Whether a blob may be read by its fid with this pass. The same text, checked before, costs next to nothing. */
  admitsRead(text: string): boolean {
    const nowMs = this.#nowMs();
    const known = this.#passes.get(text);
    if (known !== undefined && nowMs <= known.untilMs && this.#secret.has(known.key)) return true;
    const signature = parseSignature(text);
    if (signature?.body !== anyRead || this.#staleness(signature, nowMs) !== undefined)
      return false;
    const key = this.#secret.keyOf(signedText(signature, anyBlob), signature.mac);
    if (key === undefined) return false;
    if (this.#passes.size >= passesMax) this.#passes.clear();
    // Written anew, since the text may be a part of a longer one that it would keep in memory.
    this.#passes.set(formatSignature(signature), { key, untilMs: signature.timeMs + windowMs });
    return true;
  }

  #nowMs(): number {
    return Math.round(this.#clock.monotonicMs() - this.#startedMs);
  }

  #staleness({ run, timeMs }: CallSignature, nowMs: number): string | undefined {
    if (run !== this.#run)
      return "it was signed for another run of this process, or for another one";
    const lateMs = nowMs - timeMs;
    if (Math.abs(lateMs) <= windowMs) return undefined;
    const seconds = Math.round(Math.abs(lateMs) / 1_000);
    const side = lateMs > 0 ? "ago" : "ahead";
    return `by the clock here it was signed ${seconds} s ${side}, and ${windowMs / 1_000} s is the most`;
  }

  #challenge(
    why: string,
    { key, signature, nowMs }: { key: SecretKey; signature: CallSignature; nowMs: number },
  ): Refusal {
    const told = { run: this.#run, timeMs: nowMs };
    const mac = key.mac(challengeText(told, signature.mac));
    return { ...refuse(why), challenge: formatChallenge({ ...told, mac }) };
  }
}

const anyBlob: SignedCall = { method: "GET", path: "", headers: {} };

function isBlobRead({ method, path }: SignedCall): boolean {
  return isRead(method) && parseFid(path.slice(1)) !== undefined;
}

function refuseUnsigned(given: unknown): Refusal {
  return given === undefined
    ? refuse("it is not signed with the cluster's secret")
    : refuse("its signature is not of a form known here");
}

function refuse(why: string): Refusal {
  return { failure: new Failure("forbidden", `Cannot answer the call: ${why}`) };
}

/**
 * SeaweedFS's `POST /submit`: stores the file of a form under a fid that nobody has, and says which. The
 * directory sends clients here, since it takes no bytes itself.
 *
 * The file becomes a blob of a native volume, as after /dir/assign and a POST to the store: it has no bucket
 * and no name, and is read by its fid at the store that `fileUrl` names, or through the directory.
 *
 * Invariants:
 * - Who may call: everybody where native access is open; else who shows the native token or the root user's key.
 * - Bodies in memory are bounded; what is over that is refused before it is read.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { ByteBudget } from "../base/byte-budget.ts";
import type { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, toFailure } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import { answerJson, drainBody, readBody, requestIdHeader } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { NativeAccess } from "../base/native-access.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { DirectoryClient } from "../directory/client.ts";
import { authenticate, requireRoot } from "./auth.ts";

export interface SubmitterOptions {
  catalog: Catalog;
  directory: DirectoryClient;
  caller: Caller;
  secret: ClusterSecret;
  access: NativeAccess;
  log: Log;
}

export const submitPath = "/submit";

/** A blob of 64 MiB, and what a form has besides. */
const bodyBytesMax = 65 * 1_048_576;
const bodiesBytesMax = 256 * 1_048_576;
const storeTimeoutMs = 30_000;

/** Parameters of /dir/assign that mean something here too. */
const assignNames = ["count", "collection", "dataCenter", "rack", "replication", "ttl", "disk"];

/** Headers of the upload that the store acts by. */
const passedNames = ["content-type", "content-disposition", "content-encoding", "content-md5"];

/** What a store answers to an upload. */
interface Stored {
  name?: string;
  size?: number;
  eTag?: string;
}

export class Submitter {
  readonly #options: SubmitterOptions;
  readonly #bodies = new ByteBudget(bodiesBytesMax);

  constructor(options: SubmitterOptions) {
    this.#options = options;
  }

  /** Answers the call; fails nowhere. `continueBody` lets a client go on that asks before it sends. */
  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    asked: { query: URLSearchParams; requestId: string; continueBody: () => void },
  ): Promise<void> {
    const headers = { "x-content-type-options": "nosniff", [requestIdHeader]: asked.requestId };
    try {
      if (request.method !== "POST") {
        throw new Failure("method-not-allowed", "Cannot submit: it takes POST");
      }
      await this.#admit(request);
      answerJson(response, 201, await this.#store(request, asked), headers);
    } catch (error) {
      const failure = toFailure(error);
      const { status, message, retryAfterSeconds } = failure;
      if (status >= 500) {
        const { requestId } = asked;
        this.#options.log.error({ requestId, err: failure.cause ?? failure }, message);
      }
      if (response.headersSent || response.destroyed) return;
      await drainBody(request);
      const retry =
        retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) };
      answerJson(response, status, { error: message }, { ...headers, ...retry });
    }
  }

  async #admit({ headers: { authorization } }: IncomingMessage): Promise<void> {
    const { access, secret, catalog } = this.#options;
    if (access === "off") {
      throw new Failure("not-found", "Cannot find this call: it is switched off");
    }
    if (secret.isNativeBearer(authorization)) return;
    const principal = await authenticate(catalog, authorization);
    if (access !== "open") requireRoot(principal);
  }

  async #store(
    request: IncomingMessage,
    {
      query,
      requestId,
      continueBody,
    }: { query: URLSearchParams; requestId: string; continueBody: () => void },
  ): Promise<unknown> {
    const { directory, caller } = this.#options;
    const { headers } = request;
    if (!/^multipart\/form-data\b/i.test(headers["content-type"] ?? "")) {
      throw new Failure("bad-request", "Cannot submit: the file comes as multipart/form-data");
    }
    const declaredBytes = Number(headers["content-length"] ?? bodyBytesMax);
    const giveBack = this.#bodies.take(Math.min(declaredBytes, bodyBytesMax));
    try {
      continueBody();
      const body = await readBody(request, { limitBytes: bodyBytesMax });
      const wanted = new URLSearchParams({ dataSize: String(body.length) });
      for (const name of assignNames) {
        const value = query.get(name);
        if (value !== null) wanted.set(name, value);
      }
      const { fid, url, publicUrl } = await directory.assign(wanted, requestId);
      const passed = passedNames.flatMap((name) => {
        const value = headers[name];
        return typeof value === "string" ? [[name, value]] : [];
      });
      const ttl = query.get("ttl");
      const answer = await caller.call({
        method: "POST",
        address: url,
        path: `/${fid}${ttl === null ? "" : `?ttl=${encodeURIComponent(ttl)}`}`,
        headers: Object.fromEntries(passed),
        ...{ body, timeoutMs: storeTimeoutMs, requestId },
      });
      const { name = "", size = 0, eTag = "" } = JSON.parse(answer.body.toString()) as Stored;
      return { fileName: name, fid, fileUrl: `${publicUrl}/${fid}`, size, eTag };
    } finally {
      giveBack();
    }
  }
}

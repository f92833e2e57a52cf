/** How programs use a gateway: the calls that operators' tools need, over its public address. */

import { readFileSync } from "node:fs";
import { request } from "undici";
import { Failure, messageOf } from "../base/failure.ts";
import type { BucketSettings } from "../catalog/model.ts";
import type { StoreStatus } from "../directory/client.ts";
import type { Explanation } from "./explain.ts";
import { formatTarget } from "./target.ts";

export type { Explanation } from "./explain.ts";

export interface Credentials {
  accessKey: string;
  secretKey: string;
}

interface BucketStatus {
  name: string;
  objects: number;
  bytes: number;
  settings: BucketSettings;
}

export interface GatewayStatus {
  stores: StoreStatus[];
  buckets: BucketStatus[];
}

const callTimeoutMs = 15_000;

export class GatewayClient {
  readonly #url: string;
  readonly #authorization: string;

  /** `url` is the gateway's, without a path. */
  constructor(url: string, { accessKey, secretKey }: Credentials) {
    this.#url = url;
    this.#authorization = `Basic ${Buffer.from(`${accessKey}:${secretKey}`).toString("base64")}`;
  }

  async status(): Promise<GatewayStatus> {
    return (await this.#call("GET", "/_status")) as GatewayStatus;
  }

  async buckets(): Promise<{ name: string }[]> {
    return ((await this.#call("GET", "/")) as { buckets: { name: string }[] }).buckets;
  }

  async makeBucket(name: string): Promise<void> {
    await this.#call("PUT", `/${encodeURIComponent(name)}`);
  }

  /** Returns the settings as they are after the change. */
  async changeSettings(name: string, patch: Record<string, unknown>): Promise<BucketSettings> {
    const path = `/${encodeURIComponent(name)}?settings`;
    return (await this.#call("PATCH", path, patch)) as BucketSettings;
  }

  /** Where an object's bytes are. */
  async explain(bucket: string, key: string, versionId?: string): Promise<Explanation> {
    const version = versionId === undefined ? "" : `&versionId=${encodeURIComponent(versionId)}`;
    const path = `${formatTarget({ bucket, key })}?explain${version}`;
    return (await this.#call("GET", path)) as Explanation;
  }

  async #call(method: "GET" | "PUT" | "PATCH", path: string, body?: unknown): Promise<unknown> {
    let status: number;
    let text: string;
    try {
      const answer = await request(`${this.#url}${path}`, {
        method,
        headers: { accept: "application/json", authorization: this.#authorization },
        body: body === undefined ? null : JSON.stringify(body),
        headersTimeout: callTimeoutMs,
        bodyTimeout: callTimeoutMs,
      });
      status = answer.statusCode;
      text = await answer.body.text();
    } catch (error) {
      throw new Failure("unavailable", `Cannot reach ${this.#url}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    if (status < 400) return text === "" ? undefined : JSON.parse(text);
    const kind = status === 404 ? "not-found" : status < 500 ? "bad-request" : "unavailable";
    throw new Failure(
      kind,
      messageIn(text) ?? `Cannot ${method} ${path}: the answer was ${status}`,
    );
  }
}

function messageIn(text: string): string | undefined {
  try {
    return (JSON.parse(text) as { error?: { message?: string } }).error?.message;
  } catch {
    return undefined;
  }
}

/** The key and secret in a JSON file. Fails with `bad-request` if they are not there. */
export function readCredentials(file: string): Credentials {
  try {
    const { accessKey, secretKey } = JSON.parse(readFileSync(file, "utf8")) as Credentials;
    if (typeof accessKey === "string" && typeof secretKey === "string") {
      return { accessKey, secretKey };
    }
    throw new Error("it has no accessKey and secretKey");
  } catch (error) {
    throw new Failure("bad-request", `Cannot read the credentials in ${file}: ${messageOf(error)}`);
  }
}

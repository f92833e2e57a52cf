/** How a gateway calls a store. */

import type { Readable } from "node:stream";
import { type Caller, failureOfAnswer } from "../base/http-call.ts";
import type { ByteRange } from "../base/http-range.ts";
import { requestIdHeader } from "../base/http-serve.ts";
import { LeanGetter } from "../base/lean-get.ts";
import { tokenHeader } from "../base/token.ts";
import { type BlobMetadata, type DeleteReply, metadataHeader, ownerHeader } from "./protocol.ts";

export type { BlobMetadata, DeleteReply } from "./protocol.ts";

// A sync on a busy disk takes milliseconds, a sick one seconds; beyond that another store is the answer.
const appendTimeoutMs = 15_000;
const readTimeoutMs = 10_000;

export class StoreClient {
  readonly #caller: Caller;
  readonly #getter = new LeanGetter();
  readonly #token: string;

  constructor(caller: Caller, token: string) {
    this.#caller = caller;
    this.#token = token;
  }

  close(): void {
    this.#getter.close();
  }

  /** Stores a blob in a volume; returns its fid once it is durable there. */
  async append({
    address,
    volume,
    data,
    metadata,
    owner,
    requestId,
  }: {
    address: string;
    volume: number;
    data: Uint8Array;
    metadata: BlobMetadata;
    owner: { catalog: string; session: number };
    requestId: string;
  }): Promise<string> {
    const { body } = await this.#caller.call({
      method: "POST",
      address,
      path: `/volumes/${volume}/needles`,
      headers: {
        [metadataHeader]: Buffer.from(JSON.stringify(metadata)).toString("base64"),
        [ownerHeader]: `${owner.catalog}:${owner.session}`,
      },
      body: data,
      timeoutMs: appendTimeoutMs,
      requestId,
    });
    const { fid } = JSON.parse(body.toString()) as { fid: string };
    return fid;
  }

  /** The whole blob, in memory. */
  async read(address: string, fid: string, requestId: string): Promise<Buffer> {
    let data = Buffer.alloc(0);
    let filled = 0;
    await this.pull({
      address,
      fid,
      requestId,
      onLength: (bytes) => {
        data = Buffer.allocUnsafeSlow(bytes);
      },
      onPart: (part) => {
        filled += part.copy(data, filled);
      },
    });
    return data;
  }

  /** The whole blob, in parts that are only valid while they are handed over. */
  async pull({
    address,
    fid,
    requestId,
    signal,
    onLength,
    onPart,
  }: {
    address: string;
    fid: string;
    requestId: string;
    signal?: AbortSignal | undefined;
    onLength?: (bytes: number) => void;
    onPart: (part: Buffer) => void;
  }): Promise<void> {
    const path = `/${fid}`;
    const { status, errorBody } = await this.#getter.get({
      address,
      path,
      headers: { [tokenHeader]: this.#token, [requestIdHeader]: requestId },
      timeoutMs: readTimeoutMs,
      signal,
      ...(onLength === undefined ? {} : { onLength }),
      onPart,
    });
    if (status >= 400) throw failureOfAnswer(`GET ${path} at ${address}`, status, errorBody);
  }

  /** The blob, or a range of it, as a stream that the caller has to read or destroy. */
  async stream({
    address,
    fid,
    range,
    requestId,
  }: {
    address: string;
    fid: string;
    range: ByteRange;
    requestId: string;
  }): Promise<Readable> {
    const { body } = await this.#caller.stream({
      method: "GET",
      address,
      path: `/${fid}`,
      headers: { range: `bytes=${range.start}-${range.end - 1}` },
      timeoutMs: readTimeoutMs,
      requestId,
    });
    return body;
  }

  async delete(address: string, fids: readonly string[]): Promise<DeleteReply> {
    return await this.#caller.callJson<DeleteReply>({
      method: "POST",
      address,
      path: "/needles/delete",
      body: { fids },
      timeoutMs: appendTimeoutMs,
    });
  }
}

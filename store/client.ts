/** How a gateway calls a store. */

import type { Readable } from "node:stream";
import { Failure } from "../base/failure.ts";
import { type Caller, failureOfAnswer } from "../base/http-call.ts";
import type { ByteRange } from "../base/http-range.ts";
import { requestIdHeader } from "../base/http-serve.ts";
import { LeanGetter } from "../base/lean-get.ts";
import type { NeedleFacts } from "./needle-facts.ts";
import type { FindingsLine } from "./operator-calls.ts";
import {
  type BatchReply,
  type BlobMetadata,
  type DeleteReply,
  durabilityHeader,
  metadataHeader,
  ownerHeader,
} from "./protocol.ts";
import type { Durability } from "./volume/batch.ts";
import type { DamageFacts, RecordFacts, RecordSelection, VolumeFacts } from "./volume-facts.ts";

export type { NeedleFacts } from "./needle-facts.ts";
export { type BlobMetadata, type DeleteReply, durabilityHeader } from "./protocol.ts";
export type { Durability } from "./volume/batch.ts";
export type { ExportSummary, ManifestLine } from "./volume-export.ts";
export type { DamageFacts, RecordFacts, VolumeFacts } from "./volume-facts.ts";

export interface BlobOwner {
  /** Catalog id, 16 hex digits. */
  catalog: string;
  /** Writer session. */
  session: number;
}

// A sync on a busy disk takes milliseconds, a sick one seconds; beyond that another store is the answer.
const appendTimeoutMs = 15_000;
const readTimeoutMs = 10_000;
/** An operator's call may read gigabytes between two lines of its answer. */
const operatorTimeoutMs = 600_000;

export class StoreClient {
  readonly #caller: Caller;
  readonly #getter: LeanGetter;

  constructor(caller: Caller) {
    this.#caller = caller;
    this.#getter = new LeanGetter({ signer: caller.signer });
  }

  close(): void {
    this.#getter.close();
  }

  /** Stores a blob in a volume; returns its fid once it is as durable there as asked. */
  async append({
    address,
    volume,
    data,
    metadata,
    owner,
    durability,
    requestId,
    timeoutMs = appendTimeoutMs,
  }: {
    address: string;
    volume: number;
    data: Uint8Array;
    metadata: BlobMetadata;
    owner: BlobOwner;
    durability: Durability;
    requestId: string;
    timeoutMs?: number;
  }): Promise<string> {
    const { body } = await this.#caller.call({
      method: "POST",
      address,
      path: `/volumes/${volume}/needles`,
      headers: {
        ...appendHeaders(owner, durability),
        [metadataHeader]: Buffer.from(JSON.stringify(metadata)).toString("base64"),
      },
      body: data,
      bodySha256: metadata.sha256 || undefined,
      timeoutMs,
      requestId,
    });
    const { fid } = JSON.parse(body.toString()) as { fid: string };
    return fid;
  }

  /**
   * Stores many blobs with one sync, all or nothing; returns their fids in the same order, with ordinals
   * that follow each other. Together they may be as large as one blob.
   */
  async appendAll({
    address,
    volume,
    blobs,
    owner,
    durability,
    requestId,
  }: {
    address: string;
    volume: number;
    blobs: readonly { data: Uint8Array; metadata: BlobMetadata }[];
    owner: BlobOwner;
    durability: Durability;
    requestId: string;
  }): Promise<string[]> {
    const { body } = await this.#caller.call({
      method: "POST",
      address,
      path: `/volumes/${volume}/batch`,
      headers: appendHeaders(owner, durability),
      body: encodeBatch(blobs),
      timeoutMs: appendTimeoutMs,
      requestId,
    });
    const { fids } = JSON.parse(body.toString()) as BatchReply;
    return fids;
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
      headers: { [requestIdHeader]: requestId },
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
    signal,
  }: {
    address: string;
    fid: string;
    range: ByteRange;
    requestId: string;
    signal?: AbortSignal | undefined;
  }): Promise<Readable> {
    const { body } = await this.#caller.stream({
      method: "GET",
      address,
      path: `/${fid}`,
      headers: { range: `bytes=${range.start}-${range.end - 1}` },
      timeoutMs: readTimeoutMs,
      requestId,
      signal,
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

  async facts(address: string, volume: number): Promise<VolumeFacts> {
    return await this.#caller.callJson<VolumeFacts>({
      method: "GET",
      address,
      path: `/volumes/${volume}`,
      timeoutMs: readTimeoutMs,
    });
  }

  /** What a store knows of one needle; with `verifies` its bytes are read for that. */
  async needle(
    address: string,
    fid: string,
    { verifies, requestId }: { verifies: boolean; requestId?: string },
  ): Promise<NeedleFacts> {
    const query = new URLSearchParams({ fid, ...(verifies ? { verify: "1" } : {}) });
    const [volume] = fid.split(",", 1);
    const path = `/volumes/${volume}/needle?${query}`;
    const call = { method: "GET", address, path, timeoutMs: readTimeoutMs, requestId } as const;
    return await this.#caller.callJson<NeedleFacts>(call);
  }

  /** The records of a volume's file, some at a time. */
  async *records(
    address: string,
    volume: number,
    { from = 0, count, withCookies = false }: Omit<RecordSelection, "nowMs">,
  ): AsyncGenerator<RecordFacts[]> {
    const query = new URLSearchParams({ from: String(from) });
    if (count !== undefined) query.set("count", String(count));
    if (withCookies) query.set("cookies", "1");
    yield* this.#lines<RecordFacts>(address, `/volumes/${volume}/records?${query}`);
  }

  /** What does not verify in a volume, by needle; `progress` is told how far the store is. */
  async findings(
    address: string,
    volume: number,
    {
      rateBytes,
      progress,
    }: { rateBytes: number; progress: (doneBytes: number, totalBytes: number) => void },
  ): Promise<DamageFacts[]> {
    const path = `/volumes/${volume}/findings?rate=${rateBytes}`;
    const findings: DamageFacts[] = [];
    for await (const lines of this.#lines<FindingsLine>(address, path)) {
      for (const line of lines) {
        if ("finding" in line) findings.push(line.finding);
        else progress(line.doneBytes, line.totalBytes);
      }
    }
    return findings;
  }

  /** What lives in a volume, as a tar archive that the caller has to read or destroy. */
  async export(address: string, volume: number): Promise<Readable> {
    const path = `/volumes/${volume}/export`;
    const call = { method: "GET", address, path, timeoutMs: operatorTimeoutMs } as const;
    return (await this.#caller.stream(call)).body;
  }

  /** An answer of JSON lines, those at a time that came together. */
  async *#lines<Line>(address: string, path: string): AsyncGenerator<Line[]> {
    const call = { method: "GET", address, path, timeoutMs: operatorTimeoutMs } as const;
    const { body } = await this.#caller.stream(call);
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for await (const part of body as AsyncIterable<Buffer>) {
        const texts = (rest + decoder.decode(part, { stream: true })).split("\n");
        rest = texts.pop() ?? "";
        yield texts.filter((text) => text !== "").map((text) => JSON.parse(text) as Line);
      }
    } catch (error) {
      throw new Failure("unavailable", `Cannot read ${path} at ${address} to its end`, {
        cause: error,
      });
    }
  }
}

function appendHeaders(owner: BlobOwner, durability: Durability): Record<string, string> {
  return {
    [ownerHeader]: `${owner.catalog}:${owner.session}`,
    ...(durability === "memory" ? { [durabilityHeader]: durability } : {}),
  };
}

/** For each blob the lengths of metadata and data (u32 each, little-endian), and then those. */
function encodeBatch(blobs: readonly { data: Uint8Array; metadata: BlobMetadata }[]): Buffer {
  const parts = blobs.flatMap(({ data, metadata }) => {
    const encoded = Buffer.from(JSON.stringify(metadata));
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32LE(encoded.length, 0);
    lengths.writeUInt32LE(data.length, 4);
    return [lengths, encoded, data];
  });
  return Buffer.concat(parts);
}

/** Where a store copies volumes from: other stores, seen as three calls. */

import { Failure } from "../base/failure.ts";
import type { Caller } from "../base/http-call.ts";
import type { ByteRange } from "../base/http-range.ts";
import { OrdinalSet } from "./volume/ordinal-set.ts";
import { rootOfLeaves } from "./volume/volume-digest.ts";

/** The Merkle root over the leaves of the answer, hex. */
export const digestHeader = "x-hayloft-digest";
/** Tells the set of deleted ordinals of the answer from others: 16 hex digits. */
export const deletesDigestHeader = "x-hayloft-deletes-digest";

export interface PlacedVolume {
  /** `host:port` of the store. */
  address: string;
  volume: number;
  signal: AbortSignal;
}

/**
 * Each call fails with `unavailable` or `timeout` if the store can't be reached. With any other failure it
 * has answered: `busy` if it will have the answer later.
 */
export interface CopySource {
  /** Bytes of a sealed volume's file, as they are there: fewer only if the file ends early. */
  readFile(from: PlacedVolume & { generation: number }, range: ByteRange): Promise<Buffer>;
  /** The leaves of a sealed volume's digest, 32 bytes each. */
  leaves(from: PlacedVolume & { generation: number }): Promise<Buffer>;
  /** What was deleted in a volume. */
  deletes(from: PlacedVolume): Promise<OrdinalSet>;
}

/** Between two pieces of an answer. Whoever copies has a limit on the whole. */
const timeoutMs = 10_000;

export class HttpCopySource implements CopySource {
  readonly #caller: Caller;

  constructor(caller: Caller) {
    this.#caller = caller;
  }

  async readFile(
    { address, volume, generation, signal }: PlacedVolume & { generation: number },
    { start, end }: ByteRange,
  ): Promise<Buffer> {
    const { status, body } = await this.#caller.call({
      method: "GET",
      address,
      path: `/volumes/${volume}/file?generation=${generation}`,
      headers: { range: `bytes=${start}-${end - 1}` },
      timeoutMs,
      signal,
    });
    if (status !== 206) throw new Failure("internal", `Cannot read from ${address}: no range came`);
    return body;
  }

  async leaves({
    address,
    volume,
    generation,
    signal,
  }: PlacedVolume & { generation: number }): Promise<Buffer> {
    const path = `/volumes/${volume}/leaves?generation=${generation}`;
    const { headers, body } = await this.#caller.call({
      ...{ method: "GET", address, path, timeoutMs, signal },
    });
    if (headers[digestHeader] !== rootOfLeaves(body)) {
      throw new Failure("corrupt", `Cannot read ${path} at ${address}: the leaves do not verify`);
    }
    return body;
  }

  async deletes({ address, volume, signal }: PlacedVolume): Promise<OrdinalSet> {
    const path = `/volumes/${volume}/deletes`;
    const call = { method: "GET", address, path, timeoutMs, signal } as const;
    const { headers, body } = await this.#caller.stream(call);
    const deleted = new OrdinalSet();
    let rest = Buffer.alloc(0);
    try {
      for await (const part of body as AsyncIterable<Buffer>) {
        const bytes = rest.length === 0 ? part : Buffer.concat([rest, part]);
        const whole = bytes.length - (bytes.length % ordinalBytes);
        for (let at = 0; at < whole; at += ordinalBytes) deleted.add(bytes.readUInt32LE(at));
        rest = Buffer.from(bytes.subarray(whole));
      }
    } catch (error) {
      throw new Failure("unavailable", `Cannot read ${path} at ${address} to its end`, {
        cause: error,
      });
    }
    if (headers[deletesDigestHeader] !== deleted.digest) {
      throw new Failure("corrupt", `Cannot read ${path} at ${address}: what came is another set`);
    }
    return deleted;
  }
}

export const ordinalBytes = 4;

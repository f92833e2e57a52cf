/**
 * A store's calls, as they come in from a simulated network: what server.ts, replica-calls.ts and copy-calls.ts do
 * over HTTP, and the two that call them, as gateways and as other stores.
 */

import { Readable } from "node:stream";
import { Failure } from "../../base/failure.ts";
import { formatFid, parseFid } from "../../base/fid.ts";
import type { ByteRange } from "../../base/http-range.ts";
import { encodeBatchHead, parseBatchHead } from "../../store/batch-head.ts";
import type { StoreClient } from "../../store/client.ts";
import type { PlacedVolume } from "../../store/copy-source.ts";
import { deleteFids } from "../../store/deletes.ts";
import type { Peers } from "../../store/peers.ts";
import type { Store } from "../../store/store.ts";
import type { Batch } from "../../store/volume/batch.ts";
import { codecs } from "../../store/volume/needle.ts";
import { OrdinalSet } from "../../store/volume/ordinal-set.ts";
import type { Volume } from "../../store/volume/volume.ts";
import { rootOfLeaves } from "../../store/volume/volume-digest.ts";
import type { SimulatedNetwork, SimulatedProcess } from "./network.ts";
import type { Promises } from "./promises.ts";
import type { Trace } from "./trace.ts";

type Append = Omit<Parameters<StoreClient["append"]>[0], "address" | "timeoutMs">;
type Generated = PlacedVolume & { generation: number };

const appendTimeoutMs = 15_000;
const readTimeoutMs = 10_000;
const peerTimeoutMs = 30_000;

export class StoreService {
  readonly #name: string;
  readonly #store: Store;
  readonly #run: string;
  readonly #promises: Promises;
  readonly #trace: Trace;

  constructor(parts: {
    name: string;
    store: Store;
    run: string;
    promises: Promises;
    trace: Trace;
  }) {
    this.#name = parts.name;
    this.#store = parts.store;
    this.#run = parts.run;
    this.#promises = parts.promises;
    this.#trace = parts.trace;
  }

  async append({ volume: id, data, metadata, owner, durability }: Append): Promise<string> {
    const volume = this.#volume(id);
    const bytes = Buffer.from(data);
    const fid = await volume.append(
      {
        ...{ data: bytes, codec: codecs.none, contentLength: bytes.length, owner, ttlSeconds: 0 },
        metadata: Buffer.from(JSON.stringify(metadata)),
      },
      durability,
    );
    const text = formatFid(fid);
    const { epoch } = volume.report();
    this.#trace.add(this.#name, `acknowledges ${text} volume ${id} epoch ${epoch}`);
    const { ordinal } = fid;
    const blob = { fid: text, volume: id, ordinal, data: bytes };
    this.#promises.appended(blob, { epoch, run: this.#run });
    return text;
  }

  async read(fid: string): Promise<Buffer> {
    const blob = this.#promises.blobs.get(fid);
    const before = blob?.deletion ?? "none";
    const found = await this.#find(fid).catch((error: unknown) => {
      this.#promises.failed(`${this.#name} reads ${fid}`, error, [fid]);
      throw error;
    });
    // Where a volume is not at all it is somebody else's to answer.
    if (blob !== undefined) this.#promises.readAt(this.#name, blob, before, found);
    if (found === undefined) throw new Failure("not-found", `Cannot find blob ${fid}`);
    return found;
  }

  async delete(fids: readonly string[]): Promise<Awaited<ReturnType<typeof deleteFids>>> {
    const reply = await deleteFids(this.#store, fids);
    this.#trace.add(this.#name, `deletes: ${JSON.stringify(reply.outcomes)}`);
    return reply;
  }

  async takeBatch(id: number, head: string, bytes: Buffer): Promise<void> {
    const parsed = parseBatchHead(head);
    const { epoch, offset } = parsed;
    await this.#volume(id).takeBatch(bytes, parsed);
    this.#trace.add(this.#name, `takes ${bytes.length} at ${offset} volume ${id} epoch ${epoch}`);
  }

  async readFile(id: number, generation: number, { start, end }: ByteRange): Promise<Buffer> {
    const volume = this.#volume(id);
    return await volume.read(async ({ file }, length) => {
      volume.requireSealed(generation);
      if (start >= length) throw new Failure("range-not-satisfiable", "Cannot read that range");
      const bytes = Buffer.alloc(Math.min(end, length) - start);
      return bytes.subarray(0, await file.read(bytes, start));
    });
  }

  async leaves(id: number, generation: number): Promise<{ leaves: Buffer; root: string }> {
    return await this.#volume(id).leaves(generation);
  }

  async deletes(id: number): Promise<number[]> {
    return [...this.#volume(id).deleted()];
  }

  #volume(id: number): Volume {
    const volume = this.#store.volume(id);
    if (volume === undefined) throw new Failure("not-found", `Cannot find volume ${id}`);
    return volume;
  }

  async #find(text: string): Promise<Buffer | undefined> {
    const fid = parseFid(text);
    if (fid === undefined) throw new Failure("bad-request", `Cannot read ${text}: it is no fid`);
    const needle = await this.#volume(fid.volume).find(fid.ordinal, fid.cookie);
    if (needle === undefined) return undefined;
    try {
      return Buffer.from(await needle.content());
    } finally {
      needle.close();
    }
  }
}

/** One process that calls stores. */
interface Caller {
  network: SimulatedNetwork;
  process: SimulatedProcess;
}

/** Stores as a gateway calls them. */
export class SimulatedStoreClient
  implements Pick<StoreClient, "append" | "delete" | "pull" | "stream">
{
  readonly #caller: Caller;

  constructor(caller: Caller) {
    this.#caller = caller;
  }

  append: StoreClient["append"] = ({ address, timeoutMs = appendTimeoutMs, ...append }) => {
    const sent = structuredClone(append);
    return this.#call({ address, timeoutMs }, (service) => service.append(sent));
  };

  delete: StoreClient["delete"] = (address, fids) => {
    const sent = [...fids];
    return this.#call({ address, timeoutMs: appendTimeoutMs }, (service) => service.delete(sent));
  };

  pull: StoreClient["pull"] = async ({ address, fid, signal, onLength, onPart }) => {
    const to = { address, timeoutMs: readTimeoutMs, signal };
    const bytes = Buffer.from(await this.#call(to, (service) => service.read(fid)));
    onLength?.(bytes.length);
    if (bytes.length > 0) onPart(bytes);
  };

  stream: StoreClient["stream"] = async ({ address, fid, range, signal }) => {
    const to = { address, timeoutMs: readTimeoutMs, signal };
    const bytes = Buffer.from(await this.#call(to, (service) => service.read(fid)));
    return Readable.from([bytes.subarray(range.start, range.end)]);
  };

  #call<Result>(
    to: { address: string; timeoutMs: number; signal?: AbortSignal | undefined },
    handle: (service: StoreService) => Promise<Result>,
  ): Promise<Result> {
    const { network, process } = this.#caller;
    const { address, timeoutMs, signal } = to;
    return network.call({ from: process, to: address, timeoutMs, signal }, handle);
  }
}

/** Stores as another store calls them. */
export class SimulatedPeers implements Peers {
  readonly #caller: Caller;
  readonly #isHasty: boolean;

  /** `isHasty` is a bug that has to be found: a batch counts as written before the replica has it. */
  constructor(caller: Caller, { isHasty }: { isHasty: boolean }) {
    this.#caller = caller;
    this.#isHasty = isHasty;
  }

  async append(to: PlacedVolume, batch: Batch): Promise<void> {
    const head = encodeBatchHead(batch);
    const bytes = Buffer.concat(batch.buffers);
    const taken = this.#call(to, (service) => service.takeBatch(to.volume, head, bytes));
    if (this.#isHasty) taken.catch(() => undefined);
    else await taken;
  }

  async readFile({ generation, ...from }: Generated, range: ByteRange): Promise<Buffer> {
    const { volume } = from;
    return Buffer.from(
      await this.#call(from, (service) => service.readFile(volume, generation, range)),
    );
  }

  async leaves({ generation, ...from }: Generated): Promise<Buffer> {
    const answer = await this.#call(from, (service) => service.leaves(from.volume, generation));
    const leaves = Buffer.from(answer.leaves);
    if (rootOfLeaves(leaves) !== answer.root) {
      throw new Failure("corrupt", "Cannot read the leaves: they do not verify");
    }
    return leaves;
  }

  async deletes(from: PlacedVolume): Promise<OrdinalSet> {
    const deleted = new OrdinalSet();
    const ordinals = await this.#call(from, (service) => service.deletes(from.volume));
    for (const ordinal of ordinals) deleted.add(ordinal);
    return deleted;
  }

  #call<Result>(
    { address, signal }: PlacedVolume,
    handle: (service: StoreService) => Promise<Result>,
  ): Promise<Result> {
    const { network, process } = this.#caller;
    return network.call({ from: process, to: address, timeoutMs: peerTimeoutMs, signal }, handle);
  }
}

/** A child that fills a store's folder through the engine's own batch append, each batch synced. */

import { systemRandom } from "../../base/random.ts";
import type { Store } from "../../store/store.ts";
import type { Blob, Volume } from "../../store/volume/volume.ts";
import { contentOf } from "../content.ts";
import { serve } from "./child.ts";
import { cookieOf, openStore } from "./folder.ts";

export interface FillRequest {
  folder: string;
  seed: number;
  volumes: number;
  /** In each volume. */
  needles: number;
  dataBytes: number;
  /** In good order, sealed, or as a crash leaves it: then whoever asked ends this process. */
  ending: "closed" | "sealed" | "cut";
}

export interface FillAnswer {
  seconds: number;
  /** Of all volumes. */
  lengthBytes: number;
}

const callCountMax = 4_096;
const callBytesMax = 16 * 2 ** 20;
/** So that one is framed while another is synced. */
const callsAtOnce = 2;
const poolBytes = 4 * 2 ** 20;

async function fill(request: FillRequest): Promise<FillAnswer> {
  const startedMs = performance.now();
  const store = await openStore(request.folder);
  const pool = contentOf({ seed: request.seed, id: 0 }, poolBytes + request.dataBytes);
  for (let id = 1; id <= request.volumes; id++) {
    await fillVolume(await createVolume(store, id), request, pool);
  }
  const lengthBytes = store.reports().reduce((sum, report) => sum + report.lengthBytes, 0);
  if (request.ending === "sealed") await sealAll(store);
  if (request.ending !== "cut") await store.close();
  return { seconds: (performance.now() - startedMs) / 1_000, lengthBytes };
}

async function createVolume(store: Store, id: number): Promise<Volume> {
  await store.carryOut({
    order: id,
    kind: "create",
    volume: id,
    uuid: systemRandom.bytes(16).toString("hex"),
    class: "original",
    generation: 0,
    recordMagic: systemRandom.bytes(8).toString("hex"),
    epoch: 1,
    members: [{ store: store.id, address: "127.0.0.1:1" }],
    createdMs: Date.now(),
    ttlSeconds: 0,
  });
  const volume = store.volume(id);
  if (volume === undefined) throw new Error(`Cannot fill volume ${id}: it was not created`);
  return volume;
}

async function fillVolume(
  volume: Volume,
  { needles, dataBytes }: FillRequest,
  pool: Buffer,
): Promise<void> {
  const callCount = Math.max(1, Math.min(callCountMax, Math.floor(callBytesMax / dataBytes)));
  let given = 0;
  const work = async () => {
    while (given < needles) {
      const first = given;
      given = Math.min(needles, first + callCount);
      const blobs: Blob[] = [];
      for (let ordinal = first; ordinal < given; ordinal++) {
        const start = (ordinal * 4_099) % poolBytes;
        blobs.push({
          data: pool.subarray(start, start + dataBytes),
          metadata: noMetadata,
          owner: undefined,
          ttlSeconds: 0,
          cookie: cookieOf(ordinal),
        });
      }
      const [fid] = await volume.appendAll(blobs);
      if (fid?.ordinal !== first) throw new Error("Cannot fill: ordinals are not as expected");
    }
  };
  await Promise.all(Array.from({ length: callsAtOnce }, work));
}

const noMetadata = Buffer.alloc(0);

async function sealAll(store: Store): Promise<void> {
  for (const volume of store.volumes()) {
    await volume.seal();
    await volume.settled();
  }
}

await serve(fill);

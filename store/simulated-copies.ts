/** What tests of copies share: stores without a server on simulated disks, and sources that lie, die and hang. */

import { pino } from "pino";
import { Failure } from "../base/failure.ts";
import type { ByteRange } from "../base/http-range.ts";
import { seededRandom } from "../base/random.ts";
import { type Runtime, systemRuntime } from "../base/runtime.ts";
import { SimulatedFiles } from "../base/simulated-files.ts";
import type { Order } from "../directory/client.ts";
import { Copies } from "./copies.ts";
import type { CopySource, PlacedVolume } from "./copy-source.ts";
import type { OrdinalSet } from "./volume/ordinal-set.ts";
import {
  blobOf,
  createOn,
  environmentOn,
  simulatedFolder,
  simulatedVolume,
} from "./volume/simulated-volume.ts";
import { Volume } from "./volume/volume.ts";
import type { VolumeEnvironment } from "./volume/volume-environment.ts";
import { listVolumes, volumeFile } from "./volume/volume-files.ts";

const storeIds: string[] = ["a", "b", "c", "d"].map((digit) => digit.repeat(16));

/** So many times as fast as the day: what waits for seconds is tried in milliseconds. */
const hurry = 40;
const hurriedRuntime: Runtime = {
  ...systemRuntime,
  after: (delayMs, action) => systemRuntime.after(delayMs / hurry, action),
};
const hurriedClock = {
  nowMs: () => 1_790_000_000_000,
  monotonicMs: () => performance.now() * hurry,
};

type Spoil = (bytes: Buffer, range: ByteRange) => Promise<Buffer> | Buffer;

/** Sources by address, each a volume or one that misbehaves. */
export class SimulatedSources implements CopySource {
  readonly holders: Map<string, Volume> = new Map<string, Volume>();
  /** Asked before each answer, and may fail, wait, or change what is sent. */
  readonly spoil: Map<string, Spoil> = new Map<string, Spoil>();
  readonly away: Set<string> = new Set<string>();
  /** Bytes of files that were sent, by address. */
  readonly sentBytes: Map<string, number> = new Map<string, number>();

  get totalBytes(): number {
    return [...this.sentBytes.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  async readFile(
    { address, generation }: PlacedVolume & { generation: number },
    range: ByteRange,
  ): Promise<Buffer> {
    const volume = this.#find(address);
    volume.requireSealed(generation);
    const bytes = Buffer.alloc(range.end - range.start);
    await volume.read(async ({ file }) => await file.read(bytes, range.start));
    const sent = (await this.spoil.get(address)?.(bytes, range)) ?? bytes;
    this.sentBytes.set(address, (this.sentBytes.get(address) ?? 0) + sent.length);
    return sent;
  }

  async leaves({ address, generation }: PlacedVolume & { generation: number }): Promise<Buffer> {
    return (await this.#find(address).leaves(generation)).leaves;
  }

  async deletes({ address }: PlacedVolume): Promise<OrdinalSet> {
    return this.#find(address).deleted();
  }

  #find(address: string): Volume {
    const volume = this.holders.get(address);
    if (volume !== undefined && !this.away.has(address)) return volume;
    throw new Failure("unavailable", `Cannot reach ${address}`);
  }
}

/** What a store does of copies, on a simulated disk. */
export class SimulatedStore {
  readonly files: SimulatedFiles;
  readonly volumes: Map<number, Volume> = new Map<number, Volume>();
  readonly unreadable: number[] = [];
  readonly notes: string[] = [];
  readonly copies: Copies;

  readonly #isHurried: boolean;

  private constructor(files: SimulatedFiles, source: CopySource, isHurried: boolean) {
    this.files = files;
    this.#isHurried = isHurried;
    this.copies = new Copies(
      {
        id: storeIds[3] ?? "",
        log: pino({ level: "silent" }),
        volumes: this.volumes,
        unreadable: this.unreadable,
        environment: () => this.environment(),
        open: (volume) => Volume.open(this.environment(), volume, 1_073_741_824),
        requireSpace: async () => undefined,
        onWhole: (volume) => volume.serve(),
      },
      source,
    );
  }

  /** Opens what is on the disk, as a store does. */
  static async open(
    files: SimulatedFiles,
    source: CopySource,
    { isHurried = true }: { isHurried?: boolean } = {},
  ): Promise<SimulatedStore> {
    const store = new SimulatedStore(files, source, isHurried);
    for (const id of await listVolumes(files, simulatedFolder)) {
      try {
        store.volumes.set(id, await Volume.open(store.environment(), id, 1_073_741_824));
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        if (error.kind !== "not-found") store.unreadable.push(id);
        else await store.copies.isTrashed(id);
      }
    }
    return store;
  }

  environment(): VolumeEnvironment {
    return {
      ...environmentOn(this.files, { clock: hurriedClock, seed: 7 }),
      runtime: this.#isHurried ? hurriedRuntime : systemRuntime,
      note: (message) => this.notes.push(message),
    };
  }

  get volume(): Volume {
    const volume = this.volumes.get(simulatedVolume);
    if (volume === undefined) throw new Error("the volume is there");
    return volume;
  }

  /** The file of the volume, as readers see it. */
  bytes(generation: number = 0): Buffer {
    const file = volumeFile(simulatedFolder, { volume: simulatedVolume, generation });
    return this.files.visible(file) ?? Buffer.alloc(0);
  }

  async close(): Promise<void> {
    await this.copies.close();
    for (const volume of this.volumes.values()) await volume.close();
  }
}

/** A sealed volume of about `mebibytes`, on a disk of its own; the same bytes for the same seed. */
export async function makeSealed(
  mebibytes: number,
  { files = new SimulatedFiles() }: { files?: SimulatedFiles } = {},
): Promise<Volume> {
  const random = seededRandom(mebibytes);
  const volume = await createOn({ ...environmentOn(files), runtime: hurriedRuntime });
  const pool = random.bytes(300_000);
  const count = Math.ceil((mebibytes * 1_048_576) / 250_000);
  for (let at = 0; at < count; at++) {
    const start = (at * 1_009) % 40_000;
    await volume.append(blobOf(pool.subarray(start, start + 250_000 + at)));
  }
  await volume.seal();
  await volume.settled();
  return volume;
}

/** The order to copy it, from so many sources; without a digest if it is not known yet. */
export function copyOrder(
  volume: Volume,
  { from = 1, ...change }: Partial<Omit<Order & { kind: "copy" }, "from">> & { from?: number } = {},
): Order & { kind: "copy" } {
  const { uuid, generation, lengthBytes, digest, epoch } = volume.report();
  const members = storeIds.map((store) => ({ store, address: store.slice(0, 1) }));
  return {
    ...{ order: 1, kind: "copy", volume: simulatedVolume, uuid, generation, epoch, lengthBytes },
    ...{ digest, members, from: members.slice(0, from), rateBytes: 0 },
    ...change,
  };
}

/**
 * What a store does with copies of volumes at the directory's orders: makes one from other stores, takes in
 * what was deleted in others, and moves its own to the trash.
 *
 * Invariants:
 * - One copy of a volume is made at a time. It is no volume, and nobody reads it, before it is verified.
 * - What a copy takes the place of, and what is moved to the trash, stays on the disk for a while.
 * - Half a copy that no order goes on with is removed after as long.
 */

import { Failure, messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Order, VolumeStatus } from "../directory/client.ts";
import type { CopySource } from "./copy-source.ts";
import { finishSwitch, switchedDescriptor, unusedAsideMs } from "./volume/copy-switch.ts";
import { DeleteLog } from "./volume/delete-log.ts";
import { type Descriptor, decodeDescriptor, writeDescriptor } from "./volume/descriptor.ts";
import type { FinishedCopy } from "./volume/incoming-copy.ts";
import type { OrdinalSet } from "./volume/ordinal-set.ts";
import type { Operation, Volume } from "./volume/volume.ts";
import type { VolumeEnvironment } from "./volume/volume-environment.ts";
import {
  asideFile,
  deleteLogFile,
  descriptorFile,
  listGenerationFiles,
  parseGenerationFile,
  volumeFile,
} from "./volume/volume-files.ts";
import { removeVolume } from "./volume/volume-opening.ts";
import { type CopyTerms, fetchCopy, gatherDeletes } from "./volume-copy.ts";

type CopyOrder = Order & { kind: "copy" };
type RejoinOrder = Order & { kind: "rejoin" };
type DeleteCopyOrder = Order & { kind: "delete-copy" };

/** The store that it works for. */
export interface CopiesHost {
  /** Its id. */
  readonly id: string;
  readonly log: Log;
  /** Those that are open, by id. */
  readonly volumes: Map<number, Volume>;
  /** Ids of volumes that can't be opened. */
  readonly unreadable: number[];
  environment(): VolumeEnvironment;
  open(volume: number): Promise<Volume>;
  /** Fails with `full` if the disk has no room for so much more. */
  requireSpace(what: string, bytes: number): Promise<void>;
  /** Told when a volume is known to be whole, deletes too. */
  onWhole(volume: Volume): void;
}

interface Making {
  uuid: string;
  generation: number;
  members: string[];
  epoch: number;
  operation: Operation;
  stopping: AbortController;
  ended: Promise<void>;
}

interface Trashed {
  uuid: string;
  sinceMs: number;
  bytes: number;
}

/** Each of them asks other stores: all at once, after a restart, they would be a stampede. */
const rejoinsAtOnce = 8;

export class Copies {
  readonly #host: CopiesHost;
  readonly #source: CopySource | undefined;
  /** Copies of volumes that are not open here, on their way. */
  readonly #making = new Map<number, Making>();
  /** Volumes in the trash. */
  readonly #trashed = new Map<number, Trashed>();
  /** Half copies by file, and since when it is known that nobody goes on with them. */
  readonly #halves = new Map<string, number>();
  readonly #stopping = new AbortController();
  #rejoining = 0;
  readonly #rejoinsWaiting: (() => void)[] = [];

  constructor(host: CopiesHost, source: CopySource | undefined) {
    this.#host = host;
    this.#source = source;
  }

  /** Bytes of volumes in the trash. */
  get trashBytes(): number {
    return [...this.#trashed.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Volumes that are being made, as the directory gets to know of them: of no length, and serving nobody. */
  reports(): VolumeStatus[] {
    return [...this.#making].flatMap(([volume, making]) =>
      this.#host.volumes.has(volume) ? [] : [statusOf(volume, making)],
    );
  }

  /** Looks at a volume that can't be opened; returns whether it is in the trash, and so has not to be. */
  async isTrashed(volume: number): Promise<boolean> {
    const descriptor = await this.#readDescriptor(volume);
    if (descriptor?.state !== "trashed") return false;
    await this.#noteTrashed(descriptor);
    return true;
  }

  /** Makes a copy of a sealed volume, or finds that it is here. */
  async copy(order: CopyOrder): Promise<void> {
    const { volume: id, uuid } = order;
    if (this.#making.has(id)) {
      throw new Failure("busy", `Cannot copy volume ${id} now: a copy of it is being made`);
    }
    const volume = this.#host.volumes.get(id) ?? (await this.#openLeft(order));
    if (volume === undefined) {
      await this.#make(order);
      return;
    }
    const found = volume.report().uuid;
    if (found !== uuid) {
      throw new Failure("conflict", `Cannot copy volume ${id}: the one here has uuid ${found}`);
    }
    if (isSame(volume.report(), order)) {
      await volume.finishSwitch();
      await volume.learn(facts(order));
      return;
    }
    await this.#replace(order, volume);
  }

  /** Takes in what other copies of a volume have deleted; then this one may be read. */
  async rejoin(order: RejoinOrder): Promise<void> {
    const { volume: id, generation, lengthBytes } = order;
    const volume = this.#host.volumes.get(id);
    if (volume === undefined) throw new Failure("not-found", `Cannot find volume ${id}`);
    const report = volume.report();
    const isIt =
      report.state === "sealed" &&
      report.generation === generation &&
      report.lengthBytes === lengthBytes;
    if (!isIt) {
      const { state, generation: found, lengthBytes: length } = report;
      const what = `${state} in generation ${found} with ${length} bytes`;
      throw new Failure("conflict", `Cannot rejoin volume ${id}: it is ${what}`);
    }
    await this.#inTurn(async () => {
      await volume.mergeDeletes(await this.#gather(id, order.from));
    });
    const members = order.members.map(({ store }) => store);
    await volume.learn({ members, epoch: 0 });
    this.#host.onWhole(volume);
  }

  /** Moves a copy to the trash, or half a copy out of the world. */
  async deleteCopy({ volume: id, uuid }: DeleteCopyOrder): Promise<void> {
    const making = this.#making.get(id);
    if (making?.uuid === uuid) {
      making.stopping.abort(new Failure("not-found", `Cannot copy volume ${id}: it was withdrawn`));
      await making.ended;
      await this.#removeHalves(id);
    }
    const volume = this.#host.volumes.get(id);
    if (volume === undefined) return;
    const found = volume.report().uuid;
    if (found !== uuid) {
      throw new Failure("conflict", `Cannot delete volume ${id}: the one here has uuid ${found}`);
    }
    // Gone from the list only afterwards: an order that fails comes again.
    await volume.trash();
    this.#host.volumes.delete(id);
    await this.#noteTrashed(volume.descriptor);
    this.#host.log.info({ volume: id }, "volume moved to the trash");
  }

  /** Removes a volume that lies in the trash now, if it is the one with this uuid. */
  async drop(id: number, uuid: string): Promise<void> {
    if (this.#trashed.get(id)?.uuid === uuid) await this.#removeTrashed(id);
  }

  /** Removes volumes that were moved to the trash before `beforeMs`, and half copies that nobody wants. */
  async emptyTrash(beforeMs: number): Promise<void> {
    for (const [id, { sinceMs }] of [...this.#trashed]) {
      if (sinceMs < beforeMs && !this.#making.has(id)) await this.#removeTrashed(id);
    }
    const { files, folder, clock } = this.#host.environment();
    const names = (await files.list(folder)).filter((name) => this.#isHalf(name));
    for (const name of this.#halves.keys()) if (!names.includes(name)) this.#halves.delete(name);
    for (const name of names) {
      const sinceMs = this.#halves.get(name) ?? Math.floor(clock.nowMs());
      this.#halves.set(name, sinceMs);
      if (sinceMs >= beforeMs) continue;
      await files.remove(`${folder}/${name}`);
      this.#host.log.info({ file: name }, "half a copy that nobody went on with is removed");
    }
  }

  async close(): Promise<void> {
    this.#stopping.abort(new Failure("unavailable", "Cannot go on: the store is stopping"));
    for (const { stopping, ended } of [...this.#making.values()]) {
      stopping.abort(this.#stopping.signal.reason);
      await ended;
    }
  }

  /** A copy in the place of a volume that is open here, which serves on until then. */
  async #replace(order: CopyOrder, volume: Volume): Promise<void> {
    const { volume: id } = order;
    await volume.operateCopy(async (operation, signal) => {
      const { generation } = volume.superblock;
      const copy = await this.#fetch(order, { operation, signal, generations: [generation] });
      let deleted: OrdinalSet;
      try {
        deleted = await this.#gather(id, order.from, signal);
      } catch (error) {
        await copy.file.close();
        throw error;
      }
      await volume.replaceBy(copy, { ...facts(order), deleted });
      this.#logDone(order, volume);
    });
  }

  /** A copy of a volume that is not here, or that can't be opened, or lies in the trash. */
  async #make(order: CopyOrder): Promise<void> {
    const { volume: id, uuid, generation, lengthBytes } = order;
    const stopping = new AbortController();
    const operation: Operation = { kind: "copy", doneBytes: 0, totalBytes: lengthBytes };
    const ended = Promise.withResolvers<void>();
    const making = { uuid, generation, ...facts(order), operation, stopping, ended: ended.promise };
    this.#making.set(id, making);
    try {
      const before = await this.#readDescriptor(id, { mayBeDamaged: true });
      if (before !== undefined && before.uuid !== uuid) {
        throw new Failure(
          "conflict",
          `Cannot copy volume ${id}: the one here has uuid ${before.uuid}`,
        );
      }
      const generations = before === undefined ? [generation] : [before.generation];
      const { signal } = stopping;
      const copy = await this.#fetch(order, { operation, signal, generations });
      try {
        const deleted = await this.#gather(id, order.from, signal);
        const deleteRecords = await this.#logDeletes(order, deleted);
        await this.#switchTo(order, { copy, before, deleteRecords });
      } finally {
        await copy.file.close();
      }
      const volume = await this.#host.open(id);
      this.#host.volumes.set(id, volume);
      this.#trashed.delete(id);
      const at = this.#host.unreadable.indexOf(id);
      if (at >= 0) this.#host.unreadable.splice(at, 1);
      this.#logDone(order, volume);
    } finally {
      this.#making.delete(id);
      ended.resolve();
    }
  }

  async #fetch(
    order: CopyOrder,
    {
      operation,
      signal,
      generations,
    }: {
      operation: Operation;
      signal: AbortSignal;
      /** Those that are here. */
      generations: number[];
    },
  ): Promise<FinishedCopy> {
    const { volume, generation, lengthBytes, from } = order;
    const environment = this.#host.environment();
    const { files, folder } = environment;
    let neededBytes = lengthBytes;
    for (const found of await listGenerationFiles(files, folder, volume)) {
      if (found.kind !== "copying" || found.generation !== generation) continue;
      const half = await files.open(found.file, "read");
      neededBytes -= Math.min(await half.sizeBytes(), neededBytes);
      await half.close();
    }
    await this.#host.requireSpace(`copy volume ${volume}`, neededBytes);
    const terms: CopyTerms = {
      ...order,
      from: from.filter(({ store }) => store !== this.#host.id),
    };
    return await fetchCopy(terms, {
      environment,
      source: this.#requireSource(),
      // Of another generation no MiB is the same.
      nearby: generations.includes(generation) ? [volumeFile(folder, { volume, generation })] : [],
      signal,
      progress: (doneBytes, totalBytes) => Object.assign(operation, { doneBytes, totalBytes }),
    });
  }

  async #gather(
    volume: number,
    from: readonly { store: string; address: string }[],
    signal: AbortSignal = this.#stopping.signal,
  ): Promise<OrdinalSet> {
    const others = from.filter(({ store }) => store !== this.#host.id);
    const environment = this.#host.environment();
    const source = this.#requireSource();
    return await gatherDeletes({ volume, from: others }, { environment, source, signal });
  }

  /** Makes the delete log of a volume that is to be, or adds to the one that is there; returns its records. */
  async #logDeletes({ volume, uuid }: CopyOrder, deleted: OrdinalSet): Promise<number> {
    const { files, folder, clock, note } = this.#host.environment();
    const name = deleteLogFile(folder, volume);
    const identity = { volume, uuid: Buffer.from(uuid, "hex") };
    let log: DeleteLog | undefined;
    try {
      if ((await files.readWhole(name)) !== undefined) {
        log = await DeleteLog.open(files, name, identity);
      }
    } catch (error) {
      if (!(error instanceof Failure) || error.kind !== "corrupt") throw error;
      note?.("a log of deletes is damaged and made anew", { volume, reason: error.message });
    }
    if (log === undefined) {
      await DeleteLog.create(files, name, identity);
      log = await DeleteLog.open(files, name, identity);
    }
    try {
      const nowMs = Math.floor(clock.nowMs());
      await log.merge(deleted, nowMs);
      return log.recordCount;
    } finally {
      await log.close();
    }
  }

  async #switchTo(
    order: CopyOrder,
    {
      copy,
      before,
      deleteRecords,
    }: { copy: FinishedCopy; before: Descriptor | undefined; deleteRecords: number },
  ): Promise<void> {
    const { files, folder, clock } = this.#host.environment();
    const { volume, uuid, generation } = order;
    const nowMs = clock.nowMs();
    const sinceMs = await unusedAsideMs(files, folder, { volume, nowMs });
    if (before === undefined) {
      // Nothing says what files of other generations are: kept, because a start removes what is not named.
      for (const found of await listGenerationFiles(files, folder, volume)) {
        if (found.kind !== "volume" || found.generation === generation) continue;
        const target = asideFile(folder, found, { offset: 0, timeMs: sinceMs });
        await files.rename({ source: found.file, target });
      }
    }
    const blank: Descriptor = {
      ...{ format: 1, volume, uuid, generation, epoch: 0, members: [], state: "sealed" },
    };
    const { lengthBytes } = order;
    const terms = { ...facts(order), generation, lengthBytes, digest: copy.digest, nowMs };
    terms.epoch = Math.max(terms.epoch, copy.end.epoch);
    const descriptor = { ...switchedDescriptor(before ?? blank, terms, sinceMs), deleteRecords };
    await writeDescriptor(files, descriptorFile(folder, volume), descriptor);
    await finishSwitch(files, folder, descriptor);
  }

  /** A volume that an order left on the disk and could not open. */
  async #openLeft({ volume: id }: CopyOrder): Promise<Volume | undefined> {
    const descriptor = await this.#readDescriptor(id, { mayBeDamaged: true });
    if (descriptor === undefined || descriptor.state === "trashed") return undefined;
    try {
      const volume = await this.#host.open(id);
      this.#host.volumes.set(id, volume);
      const at = this.#host.unreadable.indexOf(id);
      if (at >= 0) this.#host.unreadable.splice(at, 1);
      return volume;
    } catch (error) {
      this.#host.log.warn({ volume: id, reason: messageOf(error) }, "volume can't be opened");
      return undefined;
    }
  }

  #logDone({ volume, generation }: CopyOrder, copy: Volume): void {
    const { lengthBytes, deletedCount } = copy.report();
    this.#host.log.info({ volume, generation, lengthBytes, deletedCount }, "volume copied");
  }

  async #noteTrashed({
    volume,
    uuid,
    trashedMs = 0,
  }: Pick<Descriptor, "volume" | "uuid" | "trashedMs">): Promise<void> {
    const { files, folder } = this.#host.environment();
    let bytes = 0;
    for (const { file } of await listGenerationFiles(files, folder, volume)) {
      const handle = await files.open(file, "read");
      bytes += await handle.sizeBytes();
      await handle.close();
    }
    this.#trashed.set(volume, { uuid, sinceMs: trashedMs, bytes });
  }

  async #removeTrashed(id: number): Promise<void> {
    const { files, folder } = this.#host.environment();
    const descriptor = await this.#readDescriptor(id);
    if (descriptor !== undefined) {
      // So that a start goes on with it, should this be cut short.
      const dropped: Descriptor = { ...descriptor, state: "dropped", trashedMs: undefined };
      await writeDescriptor(files, descriptorFile(folder, id), dropped);
    }
    await removeVolume(files, folder, id);
    this.#trashed.delete(id);
    this.#host.log.info({ volume: id }, "volume removed from the trash");
  }

  /** Whether a file belongs to a copy that is not being made, nor was it made and waits for its name. */
  #isHalf(name: string): boolean {
    const parsed = parseGenerationFile(name);
    if (parsed?.kind !== "copying" && parsed?.kind !== "copying-index") return false;
    const volume = this.#host.volumes.get(parsed.volume);
    const isSwitching = volume?.descriptor.switching !== undefined;
    const isCopying = volume?.operation?.kind === "copy" || this.#making.has(parsed.volume);
    // A volume that can't be opened may be named by its copy's temporary name still.
    return !isSwitching && !isCopying && !this.#host.unreadable.includes(parsed.volume);
  }

  async #removeHalves(id: number): Promise<void> {
    const { files, folder } = this.#host.environment();
    for (const { kind, file } of await listGenerationFiles(files, folder, id)) {
      if (kind === "copying" || kind === "copying-index") await files.remove(file);
    }
  }

  async #readDescriptor(
    volume: number,
    { mayBeDamaged = false }: { mayBeDamaged?: boolean } = {},
  ): Promise<Descriptor | undefined> {
    const { files, folder } = this.#host.environment();
    const name = descriptorFile(folder, volume);
    const bytes = await files.readWhole(name);
    if (bytes === undefined) return undefined;
    try {
      return decodeDescriptor(bytes, name);
    } catch (error) {
      if (!mayBeDamaged || !(error instanceof Failure)) throw error;
      return undefined;
    }
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    while (this.#rejoining >= rejoinsAtOnce) {
      await new Promise<void>((resolve) => this.#rejoinsWaiting.push(resolve));
    }
    this.#rejoining += 1;
    try {
      await work();
    } finally {
      this.#rejoining -= 1;
      this.#rejoinsWaiting.shift()?.();
    }
  }

  #requireSource(): CopySource {
    if (this.#source !== undefined) return this.#source;
    throw new Failure("unsupported", "Cannot copy volumes: this store can't call others");
  }
}

function facts({ members, epoch }: CopyOrder): { members: string[]; epoch: number } {
  return { members: members.map(({ store }) => store), epoch };
}

/** Whether a volume is what the order wants a copy of, as far as anybody knows. */
function isSame(report: VolumeStatus, order: CopyOrder): boolean {
  return (
    report.state === "sealed" &&
    report.generation === order.generation &&
    report.lengthBytes === order.lengthBytes &&
    report.damagedBytes === 0 &&
    (order.digest === undefined || order.digest === report.digest)
  );
}

function statusOf(volume: number, making: Making): VolumeStatus {
  const { uuid, generation, members, epoch, operation } = making;
  return {
    ...{ volume, uuid, generation, members, epoch, operation, class: "unknown", state: "sealed" },
    ...{ isWritable: false, isServing: false, hasSparseKeys: false },
    ...{ lengthBytes: 0, lastDigest: "0".repeat(16), dataBytes: 0, needleCount: 0 },
    ...{ deletedCount: 0, deletesDigest: "0".repeat(16), damagedBytes: 0, deadBytes: 0 },
    ...{ ttlSeconds: 0, expiresMs: 0, scrubbedMs: 0, createdMs: 0, trashBytes: 0 },
  };
}

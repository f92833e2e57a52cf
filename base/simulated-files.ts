/**
 * A file system in memory that forgets and fails as a disk does, on command and from a seed.
 *
 * Invariants:
 * - What readers see and what the disk has are two things: a write or a cut reaches the disk with
 *   `syncData` of its file, a name with `syncFolder` of its folder, or by the luck of a power cut.
 * - Every operation that touches the disk has a number, from 1 on, and is decided by it and by the seed
 *   alone: the same calls in the same order, plan and seed end the same.
 * - A power cut ends the object: whatever had hold of it gets nothing done any more. What is left of the
 *   disk goes on as another object, by `restart`.
 *
 * Folders are there as soon as a file is named in them; permissions are not kept.
 */

import path from "node:path";
import type { FileHandle, FileSystem } from "./files.ts";
import { type Random, seededRandom } from "./random.ts";
import { Inode } from "./simulated-inode.ts";

const changing = [
  "create",
  "write",
  "truncate",
  "sync",
  "rename",
  "unlink",
  "sync-folder",
] as const;
const reading = ["open", "read", "size", "list"] as const;

export type OperationKind = (typeof changing)[number] | (typeof reading)[number];

export interface Operation {
  readonly number: number;
  readonly kind: OperationKind;
  /** The file, or the folder of a `sync-folder` or `list`; a rename goes by its new name. */
  readonly file: string;
}

/**
 * How far an operation came before its fault. Of a write `some` is a prefix, which readers see from then
 * on. Of a sync that reports an error it is the blocks that are not lost. Of all else it is nothing.
 */
export type Extent = "none" | "some" | "all";

export type Fault =
  | { readonly kind: "crash"; readonly done: Extent }
  /**
   * After a failed sync the bytes that it did not write count as clean: readers see them, no later sync
   * writes them. That is what Linux does.
   */
  | { readonly kind: "error"; readonly code: "EIO" | "ENOSPC"; readonly done: Extent }
  /** A `read` reports fewer bytes than there are; other operations are not touched by it. */
  | { readonly kind: "short-read" };

export type FaultPlan = (operation: Operation) => Fault | undefined;

/**
 * What becomes of what was not synced: `all` and `some` are power cuts, `some` by seed. With `none` only
 * the process was killed: all is still seen, and still not on the disk.
 */
export type Loss = "all" | "some" | "none";

export interface SimulationOptions {
  /** The most that the disk writes whole, and the least that the page cache calls dirty. */
  readonly blockBytes?: 512 | 4_096;
  readonly seed?: number;
  /** Whether reads, opens and the like are numbered too, and so can be hit by a fault. */
  readonly numbersReads?: boolean;
  /** Whether calls that run at the same time overtake one another, as threads do. */
  readonly isDisordered?: boolean;
  /** What a call gets after a power cut: an error, or, as in life, never an answer. */
  readonly afterCut?: "reject" | "hang";
}

/** The power is gone, or was, since the handle was opened. */
export class PowerCut extends Error {
  override readonly name = "PowerCut";
}

function diskError(code: string, kind: string, file: string): Error {
  return Object.assign(new Error(`${code}: simulated, ${kind} '${file}'`), {
    code,
    syscall: kind,
    path: file,
  });
}

/** How far an operation is to go, as its fault has it. */
interface Attempt {
  readonly extent: Extent;
  readonly fault: Fault | undefined;
  readonly random: Random;
}

/** The one place that every call passes: where it is counted, and where the plan strikes. */
class Disk {
  readonly options: Required<SimulationOptions>;
  readonly operations: Operation[] = [];
  readonly cut: PromiseWithResolvers<PowerCut> = Promise.withResolvers();
  plan: FaultPlan | undefined;
  powerCut: PowerCut | undefined;
  #calls = 0;

  constructor(options: Required<SimulationOptions>) {
    this.options = options;
  }

  cutPower(when: string): PowerCut {
    this.powerCut ??= new PowerCut(`Cannot go on: the power was cut ${when}`);
    this.cut.resolve(this.powerCut);
    return this.powerCut;
  }

  /** Does a step a little later, so that callers that run at the same time take turns. */
  async later<Result>(step: () => Result): Promise<Result> {
    this.#calls += 1;
    const turns = this.options.isDisordered ? 1 + (this.#random(-this.#calls).u32() % 8) : 1;
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    try {
      if (this.powerCut !== undefined) throw this.powerCut;
      return step();
    } catch (error) {
      if (!(error instanceof PowerCut) || this.options.afterCut === "reject") throw error;
      return new Promise<never>(() => undefined);
    }
  }

  /** Numbers an operation and does as much of it as the plan allows. */
  operate<Result>(kind: OperationKind, file: string, act: (attempt: Attempt) => Result): Result {
    if (this.powerCut !== undefined) throw this.powerCut;
    const isNumbered = this.options.numbersReads || !reading.some((other) => other === kind);
    const number = this.operations.length + 1;
    const operation: Operation = { number, kind, file };
    if (isNumbered) this.operations.push(operation);
    const fault = isNumbered ? this.plan?.(operation) : undefined;

    const extent = fault === undefined || fault.kind === "short-read" ? "all" : fault.done;
    const result = act({ extent, fault, random: this.#random(number) });
    if (fault?.kind === "crash") throw this.cutPower(`at operation ${number}, ${kind} of ${file}`);
    if (fault?.kind === "error") throw diskError(fault.code, kind, file);
    return result;
  }

  /** Of its own for each number, so that one more call of a kind leaves the others as they were. */
  #random(number: number): Random {
    return seededRandom(Math.imul(this.options.seed, 0x9e37_79b1) ^ Math.imul(number, 0x85eb_ca6b));
  }
}

class SimulatedFile implements FileHandle {
  readonly #disk: Disk;
  readonly #inode: Inode;
  readonly #file: string;
  readonly #isWritable: boolean;
  readonly #room: () => number;
  #isOpen = true;

  constructor(options: {
    disk: Disk;
    inode: Inode;
    file: string;
    isWritable: boolean;
    /** By how many bytes a file may still grow. */
    room: () => number;
  }) {
    this.#disk = options.disk;
    this.#inode = options.inode;
    this.#file = options.file;
    this.#isWritable = options.isWritable;
    this.#room = options.room;
  }

  read(target: Uint8Array, offset: number): Promise<number> {
    return this.#disk.later(() => this.readNow(target, offset));
  }

  readNow(target: Uint8Array, offset: number): number {
    return this.#operate("read", (attempt) => {
      const there = Math.min(target.length, Math.max(0, this.#inode.lengthBytes - offset));
      const length = readLength(there, attempt);
      return this.#inode.read(target.subarray(0, length), offset);
    });
  }

  write(parts: readonly Uint8Array[], offset: number): Promise<void> {
    return this.#disk.later(() => {
      if (parts.every((part) => part.length === 0)) return;
      this.#operate("write", ({ extent, random }) => {
        if (!this.#isWritable) throw diskError("EBADF", "write", this.#file);
        const data = Buffer.concat(parts); // a copy: the caller has its buffers back after this
        const wanted =
          extent === "some"
            ? Math.ceil(random.fraction() * (data.length - 1))
            : extent === "all"
              ? data.length
              : 0;
        const fitting = Math.max(0, this.#inode.lengthBytes + this.#room() - offset);
        this.#inode.write(data.subarray(0, Math.min(wanted, fitting)), offset);
        if (wanted > fitting) throw diskError("ENOSPC", "write", this.#file);
      });
    });
  }

  syncData(): Promise<void> {
    return this.#disk.later(() =>
      this.#operate("sync", ({ extent, fault, random }) => {
        if (extent === "all") this.#inode.sync();
        else if (fault?.kind === "error") {
          this.#inode.failSync(extent === "some" ? random : undefined);
        }
      }),
    );
  }

  sizeBytes(): Promise<number> {
    return this.#disk.later(() => this.#operate("size", () => this.#inode.lengthBytes));
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.#disk.later(() =>
      this.#operate("truncate", ({ extent }) => {
        if (!this.#isWritable) throw diskError("EINVAL", "truncate", this.#file);
        if (extent === "all") this.#inode.truncate(lengthBytes);
      }),
    );
  }

  close(): Promise<void> {
    return this.#disk.later(() => {
      this.#assertOpen("close");
      this.#isOpen = false;
    });
  }

  #operate<Result>(kind: OperationKind, act: (attempt: Attempt) => Result): Result {
    this.#assertOpen(kind);
    return this.#disk.operate(kind, this.#file, act);
  }

  #assertOpen(kind: string): void {
    if (!this.#isOpen) throw diskError("EBADF", kind, this.#file);
  }
}

/** Of the bytes that there are, how many a read gives. */
function readLength(there: number, { extent, fault, random }: Attempt): number {
  if (fault?.kind === "short-read") return Math.floor(random.fraction() * there);
  return extent === "all" ? there : 0;
}

/** One change of the names in a folder, which happens whole or not at all. */
interface NameChange {
  readonly folder: string;
  readonly removed?: string;
  readonly added?: { readonly file: string; readonly inode: Inode };
}

function applyChange(names: Map<string, Inode>, { removed, added }: NameChange): void {
  if (removed !== undefined) names.delete(removed);
  if (added !== undefined) names.set(added.file, added.inode);
}

export class SimulatedFiles implements FileSystem {
  readonly #disk: Disk;
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  /** What tells the names from the durable ones, in the order it was done. */
  #changes: NameChange[] = [];

  /** What fits in all; a write past it does what fits and fails with ENOSPC. */
  capacityBytes: number = 2 ** 40;

  constructor(options: SimulationOptions = {}) {
    this.#disk = new Disk({
      blockBytes: 512,
      seed: 1,
      numbersReads: false,
      isDisordered: false,
      afterCut: "reject",
      ...options,
    });
  }

  get options(): Required<SimulationOptions> {
    return this.#disk.options;
  }

  /** Decides the fault of each operation that has a number. */
  set plan(plan: FaultPlan | undefined) {
    this.#disk.plan = plan;
  }

  get operations(): readonly Operation[] {
    return this.#disk.operations;
  }

  get operationCount(): number {
    return this.#disk.operations.length;
  }

  /** Resolves when the power is cut. */
  get cut(): Promise<PowerCut> {
    return this.#disk.cut.promise;
  }

  get isCut(): boolean {
    return this.#disk.powerCut !== undefined;
  }

  get usedBytes(): number {
    let used = 0;
    for (const inode of this.#names.values()) used += inode.lengthBytes;
    return used;
  }

  open(file: string, mode: "read" | "write" | "create"): Promise<FileHandle> {
    if (mode === "create") return this.#create(file, "new");
    return this.#disk.later(() => {
      const name = path.resolve(file);
      return this.#disk.operate("open", name, () => {
        const inode = this.#names.get(name);
        if (inode === undefined) throw diskError("ENOENT", "open", name);
        return this.#handle(name, inode, mode === "write");
      });
    });
  }

  readWhole(file: string): Promise<Buffer | undefined> {
    return this.#disk.later(() => {
      const name = path.resolve(file);
      return this.#disk.operate("read", name, (attempt) => {
        const content = this.#names.get(name)?.content("cached");
        return content?.subarray(0, readLength(content.length, attempt));
      });
    });
  }

  async replace(
    file: string,
    content: Uint8Array | readonly Uint8Array[],
    _permissions?: number,
  ): Promise<void> {
    const name = path.resolve(file);
    const temporary = `${name}.new`;
    const handle = await this.#create(temporary, "new or empty");
    try {
      await handle.write(content instanceof Uint8Array ? [content] : content, 0);
      await handle.syncData();
    } finally {
      await handle.close();
    }
    await this.#disk.later(() =>
      this.#disk.operate("rename", name, ({ extent }) => {
        const inode = this.#names.get(temporary);
        if (inode === undefined) throw diskError("ENOENT", "rename", temporary);
        if (extent === "all") this.#change(name, { removed: temporary, inode });
      }),
    );
    await this.syncFolder(path.dirname(name));
  }

  async rename({ source, target }: { source: string; target: string }): Promise<void> {
    const before = path.resolve(source);
    const name = path.resolve(target);
    await this.#disk.later(() =>
      this.#disk.operate("rename", name, ({ extent }) => {
        const inode = this.#names.get(before);
        if (inode === undefined) throw diskError("ENOENT", "rename", before);
        if (extent === "all") this.#change(name, { removed: before, inode });
      }),
    );
    await this.syncFolder(path.dirname(name));
  }

  list(folder: string): Promise<string[]> {
    return this.#disk.later(() => {
      const place = path.resolve(folder);
      return this.#disk.operate("list", place, () => {
        const start = place.endsWith(path.sep) ? place : place + path.sep;
        const names = new Set<string>();
        for (const name of this.#names.keys()) {
          if (name.startsWith(start))
            names.add(name.slice(start.length).split(path.sep, 1)[0] ?? "");
        }
        return [...names].sort();
      });
    });
  }

  async remove(file: string): Promise<void> {
    const name = path.resolve(file);
    await this.#disk.later(() =>
      this.#disk.operate("unlink", name, ({ extent }) => {
        if (extent === "all" && this.#names.has(name)) this.#change(name, { removed: name });
      }),
    );
    await this.syncFolder(path.dirname(name));
  }

  syncFolder(folder: string): Promise<void> {
    return this.#disk.later(() => {
      const place = path.resolve(folder);
      this.#disk.operate("sync-folder", place, ({ extent }) => {
        if (extent === "all") this.#syncNames(place);
      });
    });
  }

  space(_folder: string): Promise<{ freeBytes: number; totalBytes: number }> {
    const totalBytes = this.capacityBytes;
    return this.#disk.later(() => ({ freeBytes: this.#room(), totalBytes }));
  }

  /** Cuts the power now, between two operations. */
  cutPower(): void {
    this.#disk.cutPower("between two operations");
  }

  /**
   * Cuts the power, if it is not cut yet, and returns what is found afterwards, counting from 1 again and
   * without a plan. May be asked again for another outcome of the same cut.
   */
  restart({ lose, random }: { lose: Loss; random?: Random }): SimulatedFiles {
    this.cutPower();
    if (lose === "none") return this.clone();
    const chance = lose === "all" ? undefined : (random ?? seededRandom(this.#disk.options.seed));
    const names = new Map(this.#durableNames);
    for (const change of this.#changes) {
      if (chance !== undefined && chance.fraction() < 0.5) applyChange(names, change);
    }
    const left = this.#similar({});
    for (const [name, inode] of names) left.#names.set(name, inode.afterPowerCut(chance));
    left.#durableNames = new Map(left.#names);
    return left;
  }

  /**
   * A copy that goes its own way, counting from 1, without a plan and without the open handles. Costs
   * little: blocks are shared until one side changes them.
   */
  clone(options: Omit<SimulationOptions, "blockBytes"> = {}): SimulatedFiles {
    const copy = this.#similar(options);
    const copies = new Map<Inode, Inode>();
    const copyOf = (inode: Inode) => {
      const known = copies.get(inode) ?? inode.clone();
      copies.set(inode, known);
      return known;
    };
    for (const [name, inode] of this.#names) copy.#names.set(name, copyOf(inode));
    for (const [name, inode] of this.#durableNames) copy.#durableNames.set(name, copyOf(inode));
    copy.#changes = this.#changes.map(({ added, ...change }) =>
      added === undefined ? change : { ...change, added: { ...added, inode: copyOf(added.inode) } },
    );
    return copy;
  }

  /** What a file surely has after a power cut: undefined if its name may be lost. */
  durable(file: string): Buffer | undefined {
    return this.#durableNames.get(path.resolve(file))?.content("durable");
  }

  /** What readers of a file see now, without an operation. */
  visible(file: string): Buffer | undefined {
    return this.#names.get(path.resolve(file))?.content("cached");
  }

  /** All files that readers see, or that are surely there after a power cut. */
  names(which: "visible" | "durable"): string[] {
    return [...(which === "visible" ? this.#names : this.#durableNames).keys()].sort();
  }

  /** Puts a file on the disk behind everyone's back; name and content, and the names beside it, are durable. */
  put(file: string, content: Uint8Array): void {
    const name = path.resolve(file);
    const inode = this.#names.get(name) ?? new Inode(this.#disk.options.blockBytes);
    inode.truncate(0);
    inode.write(Buffer.from(content), 0);
    inode.sync();
    this.#change(name, { inode });
    this.#syncNames(path.dirname(name));
  }

  /** Turns over one bit, counted from the file's start, lowest of a byte first. */
  flipBit(file: string, bit: number): void {
    const inode = this.#names.get(path.resolve(file));
    if (inode === undefined) throw diskError("ENOENT", "flip a bit of", file);
    inode.flipBit(bit);
  }

  #similar(options: SimulationOptions): SimulatedFiles {
    const similar = new SimulatedFiles({ ...this.#disk.options, ...options });
    similar.capacityBytes = this.capacityBytes;
    return similar;
  }

  #create(file: string, as: "new" | "new or empty"): Promise<FileHandle> {
    return this.#disk.later(() => {
      const name = path.resolve(file);
      return this.#disk.operate("create", name, ({ extent }) => {
        const found = this.#names.get(name);
        if (found !== undefined && as === "new") throw diskError("EEXIST", "open", name);
        const inode = found ?? new Inode(this.#disk.options.blockBytes);
        if (extent === "all") {
          if (found === undefined) this.#change(name, { inode });
          else inode.truncate(0);
        }
        return this.#handle(name, inode, true);
      });
    });
  }

  #handle(file: string, inode: Inode, isWritable: boolean): SimulatedFile {
    return new SimulatedFile({
      disk: this.#disk,
      inode,
      file,
      isWritable,
      room: () => this.#room(),
    });
  }

  #room(): number {
    return Math.max(0, this.capacityBytes - this.usedBytes);
  }

  #syncNames(folder: string): void {
    for (const change of this.#changes) {
      if (change.folder === folder) applyChange(this.#durableNames, change);
    }
    this.#changes = this.#changes.filter((change) => change.folder !== folder);
  }

  #change(file: string, { removed, inode }: { removed?: string; inode?: Inode }): void {
    const change: NameChange = {
      folder: path.dirname(file),
      ...(removed === undefined ? {} : { removed }),
      ...(inode === undefined ? {} : { added: { file, inode } }),
    };
    applyChange(this.#names, change);
    this.#changes.push(change);
  }
}

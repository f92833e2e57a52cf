/**
 * Lives of an engine on one disk after another: each works, is cut off, and is held against its promises.
 *
 * Invariants:
 * - A disk goes through many lives, so that damage would add up and show.
 * - All that a disk goes through follows from a seed of its own: on the simulated one it repeats exactly.
 */

import { type Random, seededRandom } from "../../base/random.ts";
import {
  type EngineCount,
  EngineLedger,
  type EngineViolation,
  emptyCount,
} from "./engine-ledger.ts";
import { type EngineRecord, type EngineTask, engineEnvironment } from "./engine-load.ts";
import type { PowerDisk } from "./power-disk.ts";

export interface PowerCutsOptions {
  disk: PowerDisk;
  seed: number;
  /** Lives before the disk is replaced by a blank one. */
  livesPerImage: number;
  /** Given what the engine told, a life at a time and before the disk, by its seed, is looked at. */
  log: (records: readonly string[], seed: number) => void;
}

export interface Life {
  how: string;
  violations: EngineViolation[];
  /** The disk's seed, and which of its lives this was. */
  seed: number;
  number: number;
}

/** The engine dies alone, what it left is looked at, and then the power goes: what was seen has to stay. */
const killShare = 0.12;
/** Blobs that a life knows of, to read and delete them. */
const knownMax = 400;
/** Ids of a life begin at its number times this. */
const idsPerLife = 1_000_000;

export class PowerCuts {
  readonly count: EngineCount = emptyCount();
  /** Ends by their kind, and why the engine refused something, how often. */
  readonly ends: Map<string, number> = new Map<string, number>();
  readonly refusals: Map<string, number> = new Map<string, number>();
  images = 0;
  readonly #options: PowerCutsOptions;
  #random: Random = seededRandom(0);
  #ledger: EngineLedger;
  #lives: number;

  constructor(options: PowerCutsOptions) {
    this.#options = options;
    this.#ledger = new EngineLedger(0, this.count, this.refusals);
    this.#lives = options.livesPerImage;
  }

  async next(): Promise<Life> {
    const { disk, livesPerImage } = this.#options;
    if (this.#lives === livesPerImage) await this.#renew();
    this.#lives += 1;
    const seed = this.#seed;
    const random = this.#random;
    const by = random.fraction() < killShare ? "kill" : "cut";
    const how = await this.#run(by);
    const violations: EngineViolation[] = [];
    if (by === "kill") {
      violations.push(...(await this.#look(false)));
      this.#count(`${await disk.cut(random)} after a kill`);
    } else this.#count(how);
    await disk.powerOn(random);
    violations.push(...(await this.#look(this.#lives === livesPerImage)));
    const life: Life = { how, violations, seed, number: this.#lives };
    // What is broken is not built on.
    if (violations.length > 0) this.#lives = livesPerImage;
    return life;
  }

  get #seed(): number {
    return this.#options.seed + this.images - 1;
  }

  async #renew(): Promise<void> {
    this.images += 1;
    this.#lives = 0;
    this.#random = seededRandom(this.#seed);
    this.#ledger = new EngineLedger(this.#seed, this.count, this.refusals);
    await this.#options.disk.renew(this.#random);
  }

  async #run(by: "cut" | "kill"): Promise<string> {
    const told: string[] = [];
    const tell = (record: EngineRecord, isLate: boolean) => {
      told.push(`${isLate ? "late " : ""}${JSON.stringify(record)}`);
      this.#ledger.take(record, isLate);
    };
    const random = this.#random;
    const how = await this.#options.disk.run(this.#task(), { by, random, tell });
    this.#options.log([...told, `life ${this.#lives} ended: ${how}`], this.#seed);
    return how;
  }

  #task(): EngineTask {
    const { volumes, unmade, nextVolume, blobs } = this.#ledger;
    const random = this.#random;
    const share = knownMax / Math.max(blobs.length, 1);
    return {
      folder: this.#options.disk.folder,
      seed: random.u32(),
      contentSeed: this.#seed,
      firstId: this.#lives * idsPerLife,
      volumes,
      unmade,
      nextVolume,
      blobs: blobs.filter(() => random.fraction() < share),
    };
  }

  async #look(isThorough: boolean): Promise<EngineViolation[]> {
    const { files, clock, runtime, folder } = this.#options.disk;
    const random = this.#random;
    const environment = engineEnvironment({ files, clock, runtime, folder, seed: random.u32() });
    return await this.#ledger.verify(environment, { random, isThorough });
  }

  #count(end: string): void {
    this.ends.set(end, (this.ends.get(end) ?? 0) + 1);
  }
}

/**
 * A real file system as a disk: ext4 in an image on a loop device, shut down under the engine by an ioctl, so
 * that only what was synced is left. The engine is a process of its own, and killed after the cut.
 *
 * Invariants:
 * - Nothing of it is left behind: engine, mount, loop device and image go with `destroySync`.
 * - What the engine told counts only if it was read before the cut was ordered.
 */

import { type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { type Clock, systemClock } from "../../base/clock.ts";
import { Failure } from "../../base/failure.ts";
import { diskFiles, type FileSystem } from "../../base/files.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { type Runtime, systemRuntime } from "../../base/runtime.ts";
import type { EngineRecord, EngineTask } from "./engine-load.ts";
import type { PowerDisk, Tell } from "./power-disk.ts";

type Child = ChildProcessByStdio<Writable, Readable, null>;

const imageBytes = 512 * 1_048_576;

/** EXT4_IOC_SHUTDOWN. */
const shutdown = 0x8004_587d;
/**
 * What it may be told, in turn. `nologflush` drops all that was not synced. `logflush` commits the journal, but
 * not all data that the journal speaks of: a file may be longer than what was written to it. `default` syncs
 * the file system at the very moment.
 */
const flags = [
  { name: "nologflush", value: 2 },
  { name: "logflush", value: 1 },
  { name: "nologflush", value: 2 },
  { name: "logflush", value: 1 },
  { name: "default", value: 0 },
] as const;

/** Node has no call for an ioctl. Each line, a flag and a folder, is a cut. */
const knifeScript = `
  $| = 1;
  while (my $line = <STDIN>) {
    chomp $line;
    my ($flag, $folder) = split / /, $line, 2;
    my $handle;
    my $isCut = open($handle, "<", $folder) && ioctl($handle, ${shutdown}, pack("L", $flag));
    my $answer = $isCut ? "cut" : "$!";
    close $handle if $handle;
    print "$answer\\n";
  }`;

/** What is not synced is lost in other ways under each. */
const mountOptions = ["defaults", "nodelalloc", "data=writeback,nodelalloc", "data=writeback"];
const blockBytes = ["1024", "4096"];

/** A life ends after so long, whatever it was to wait for. */
const lifeMsMax = 3_000;
const knifeMsMax = 10_000;
const unmountTries = 50;

export class Ext4Disk implements PowerDisk {
  readonly name: string;
  readonly files: FileSystem = diskFiles;
  readonly clock: Clock = systemClock;
  readonly runtime: Runtime = systemRuntime;
  readonly folder: string;
  readonly #place: string;
  readonly #mountPoint: string;
  readonly #image: string;
  readonly #knife: Child;
  readonly #answers: AsyncIterator<string>;
  /** The next one, which loads its code while the one before it works. */
  #engine: Child;
  #working: Child | undefined;
  #loop = "";
  #options = "";
  #isMounted = false;
  #cuts = 0;

  private constructor() {
    // On a disk in memory a sync takes no time, and a cut is a cut all the same.
    const above = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
    this.#place = mkdtempSync(path.join(above, "hayloft-powercut-"));
    this.#image = path.join(this.#place, "image");
    this.#mountPoint = path.join(this.#place, "mount");
    this.folder = path.join(this.#mountPoint, "store");
    this.name = `ext4 on a loop device, its image in ${above}`;
    mkdirSync(this.#mountPoint);
    process.once("exit", () => this.destroySync());
    this.#knife = spawn("perl", ["-e", knifeScript], { stdio: ["pipe", "pipe", "inherit"] });
    this.#knife.on("error", () => undefined); // told by the first cut, which gets no answer
    this.#knife.stdin.on("error", () => undefined);
    this.#answers = lines(this.#knife.stdout);
    this.#engine = this.#startEngine();
  }

  /** Fails with `unsupported`, and says why, where there can be none: tried once, with a cut. */
  static async open(): Promise<Ext4Disk> {
    const refuse = (why: string) =>
      new Failure("unsupported", `Cannot cut the power of ext4: ${why}`);
    if (process.platform !== "linux") throw refuse("that takes Linux");
    if (process.getuid?.() !== 0) throw refuse("only root may mount");
    const disk = new Ext4Disk();
    try {
      await disk.renew(seededRandom(1));
      await disk.cut();
      await disk.powerOn();
      return disk;
    } catch (error) {
      disk.destroySync();
      if (!(error instanceof Failure)) throw error;
      throw refuse(error.message);
    }
  }

  async renew(random: Random): Promise<void> {
    await this.#unmount();
    this.#detachSync();
    writeFileSync(this.#image, "");
    truncateSync(this.#image, imageBytes);
    const options = mountOptions[random.u32() % mountOptions.length] ?? "defaults";
    const block = blockBytes[random.u32() % blockBytes.length] ?? "4096";
    const layout = ["-b", block, "-O", "^resize_inode", "-J", "size=8", "-N", "1024", "-m", "0"];
    run("mkfs.ext4", ["-q", "-F", "-E", "lazy_itable_init=1,nodiscard", ...layout, this.#image]);
    this.#loop = run("losetup", ["--find", "--show", this.#image]).trim();
    this.#options = options;
    this.#mount();
    mkdirSync(this.folder);
    await diskFiles.syncFolder(this.#mountPoint);
  }

  async run(
    task: EngineTask,
    { by, random, tell }: { by: "cut" | "kill"; random: Random; tell: Tell },
  ): Promise<string> {
    const engine = this.#engine;
    this.#working = engine;
    this.#engine = this.#startEngine();
    const moment = drawMoment(random);
    const closed = new Promise<void>((resolve) => engine.once("close", () => resolve()));
    const ending = Promise.withResolvers<void>();
    let isLate = false;
    let answers = 0;
    const end = () => {
      isLate = true;
      ending.resolve();
    };
    readLines(engine.stdout, (line) => {
      const record = JSON.parse(line) as EngineRecord;
      tell(record, isLate);
      if (record.type === "stored" || record.type === "done") answers += 1;
      if (answers >= moment.answers) end();
      if (record.type === "opened") setTimeout(end, moment.workMs).unref();
    });
    engine.stdin.write(`${JSON.stringify(task)}\n`);
    const timer = setTimeout(end, moment.lifeMs);
    await Promise.race([ending.promise, closed]);
    clearTimeout(timer);
    isLate = true;

    const isDeadFirst = by === "kill" || random.fraction() < 0.2;
    if (isDeadFirst) await kill(engine, closed);
    const how = by === "kill" ? "kill" : await this.cut();
    await kill(engine, closed);
    this.#working = undefined;
    return how;
  }

  async cut(): Promise<string> {
    const { name, value } = flags[this.#cuts % flags.length] ?? flags[0];
    this.#cuts += 1;
    this.#knife.stdin.write(`${value} ${this.#mountPoint}\n`);
    const late = sleep(knifeMsMax, undefined, { ref: false }).then(() => undefined);
    const answer = await Promise.race([this.#answers.next(), late]);
    if (answer?.value === "cut") return name;
    const why = answer === undefined ? "no answer in time" : (answer.value ?? "perl does not run");
    throw new Failure("unsupported", `the ioctl failed: ${why}`);
  }

  async powerOn(): Promise<void> {
    await this.#unmount();
    this.#mount();
  }

  destroySync(): void {
    this.#working?.kill("SIGKILL");
    this.#engine.kill("SIGKILL");
    this.#knife.kill("SIGKILL");
    if (this.#isMounted && spawnSync("umount", [this.#mountPoint]).status !== 0) {
      spawnSync("umount", ["--lazy", this.#mountPoint]);
    }
    this.#isMounted = false;
    this.#detachSync();
    rmSync(this.#place, { recursive: true, force: true });
  }

  #startEngine(): Child {
    const script = path.join(import.meta.dirname, "engine-process.ts");
    const engine = spawn(process.execPath, [script], {
      stdio: ["pipe", "pipe", "inherit"],
      // Most of a start is compiling, the same each time.
      env: { ...process.env, NODE_COMPILE_CACHE: path.join(this.#place, "code") },
    });
    engine.stdin.on("error", () => undefined); // it was killed: that is told by its end
    return engine;
  }

  #mount(): void {
    run("mount", ["-n", "-t", "ext4", "-o", this.#options, this.#loop, this.#mountPoint]);
    this.#isMounted = true;
  }

  async #unmount(): Promise<void> {
    for (let tries = 1; this.#isMounted; tries++) {
      const { status, stderr } = spawnSync("umount", [this.#mountPoint], { encoding: "utf8" });
      if (status === 0) this.#isMounted = false;
      else if (tries === unmountTries) throw new Failure("internal", `Cannot unmount: ${stderr}`);
      else await sleep(20);
    }
  }

  #detachSync(): void {
    if (this.#loop !== "") spawnSync("losetup", ["--detach", this.#loop]);
    this.#loop = "";
  }
}

interface Moment {
  /** Answers after which the end comes, milliseconds of work, milliseconds since the task was given. */
  answers: number;
  workMs: number;
  lifeMs: number;
}

/** After so many answers, after a while of work, or while the engine is opening what there is. */
function drawMoment(random: Random): Moment {
  const moment: Moment = {
    answers: Number.POSITIVE_INFINITY,
    workMs: lifeMsMax,
    lifeMs: lifeMsMax,
  };
  const choice = random.fraction();
  const fraction = random.fraction();
  if (choice < 0.45) moment.answers = 1 + Math.floor(fraction * 120);
  else if (choice < 0.85) moment.workMs = fraction * 60;
  else moment.lifeMs = fraction * 60;
  return moment;
}

async function kill(engine: Child, closed: Promise<void>): Promise<void> {
  engine.kill("SIGKILL");
  await closed;
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
  if (status === 0) return stdout;
  throw new Failure("unsupported", `${command} failed: ${error?.message ?? stderr.trim()}`);
}

/** Each line that is whole; what a kill has cut off is none. */
function readLines(stream: Readable, take: (line: string) => void): void {
  let rest = "";
  stream.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    for (const line of parts) take(line);
  });
}

async function* lines(stream: Readable): AsyncGenerator<string> {
  let rest = "";
  for await (const text of stream.setEncoding("utf8")) {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}

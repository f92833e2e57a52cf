import fc from "fast-check";
import { expect, test } from "vitest";
import type { FileHandle } from "./files.ts";
import { seededRandom } from "./random.ts";
import {
  type Fault,
  type OperationKind,
  PowerCut,
  SimulatedFiles,
  type SimulationOptions,
} from "./simulated-files.ts";

const bytes = (text: string) => Buffer.from(text);
const seeds = Array.from({ length: 60 }, (_, at) => at + 1);

/** One file, its content and name durable, and a handle to write it. */
async function prepare(content: Uint8Array, options: SimulationOptions = {}) {
  const files = new SimulatedFiles(options);
  files.put("/v/a", content);
  return { files, handle: await files.open("/v/a", "write") };
}

/** Lets a fault strike the next operation of a kind, once. */
function failNext(files: SimulatedFiles, kind: OperationKind, fault: Fault): void {
  let isDone = false;
  files.plan = (operation) => {
    if (isDone || operation.kind !== kind) return undefined;
    isDone = true;
    return fault;
  };
}

/** What a file may be found as after a power cut. */
function outcomes(files: SimulatedFiles, file = "/v/a"): Set<string | undefined> {
  const lost = (seed: number) => files.restart({ lose: "some", random: seededRandom(seed) });
  return new Set(seeds.map((seed) => lost(seed).visible(file)?.toString("latin1")));
}

test("What was synced stays, what was not is lost with the power, but not with the process", async () => {
  const { files, handle } = await prepare(bytes("durable"));
  await handle.write([bytes("DURABLE, and more")], 0);
  expect(files.visible("/v/a")).toEqual(bytes("DURABLE, and more"));
  expect(files.durable("/v/a")).toEqual(bytes("durable"));
  expect(files.clone().restart({ lose: "all" }).visible("/v/a")).toEqual(bytes("durable"));

  // Whoever comes after a process that was killed sees all, and still can't count on it.
  const killed = files.clone().restart({ lose: "none" });
  expect(killed.visible("/v/a")).toEqual(bytes("DURABLE, and more"));
  expect(killed.restart({ lose: "all" }).visible("/v/a")).toEqual(bytes("durable"));

  await handle.syncData();
  const synced = files.restart({ lose: "all" });
  expect(synced.visible("/v/a")).toEqual(bytes("DURABLE, and more"));
});

test("Of the writes since the last sync any blocks survive, later ones without earlier ones too", async () => {
  const { files, handle } = await prepare(Buffer.alloc(2_048, "-"));
  await handle.write([Buffer.alloc(512, "1")], 0);
  await handle.write([Buffer.alloc(512, "2")], 1_024);
  const first = Buffer.alloc(512, "1").toString();
  const second = Buffer.alloc(512, "2").toString();
  const none = Buffer.alloc(512, "-").toString();
  expect(outcomes(files)).toEqual(
    new Set([
      none + none + none + none,
      first + none + none + none,
      none + none + second + none,
      first + none + second + none,
    ]),
  );
});

test("A write is torn at blocks, of the size that was asked for", async () => {
  for (const blockBytes of [512, 4_096] as const) {
    const { files, handle } = await prepare(Buffer.alloc(16_384), { blockBytes });
    await handle.write([Buffer.alloc(16_384, "x")], 0);
    const torn = new Set<number>();
    for (const found of outcomes(files)) {
      for (let at = 1; at < 16_384; at++) if (found?.[at] !== found?.[at - 1]) torn.add(at);
    }
    expect(torn.size).toBe(16_384 / blockBytes - 1);
    for (const at of torn) expect(at % blockBytes).toBe(0);
  }
});

test("A block may be found as after any of the writes to it, never as if one before was left out", async () => {
  const { files, handle } = await prepare(bytes("____"));
  for (let at = 0; at < 4; at++) await handle.write([bytes("x")], at);
  expect(outcomes(files)).toEqual(new Set(["____", "x___", "xx__", "xxx_", "xxxx"]));
});

test("A file that grew is found short, or grown, or grown and full of zeros", async () => {
  const { files, handle } = await prepare(bytes(""));
  await handle.write([bytes("new")], 0);
  expect(outcomes(files)).toEqual(new Set(["", "\0\0\0", "new"]));
});

test("A cut that was not synced may be undone, and never brings back what it cut in a file that grew", async () => {
  const { files, handle } = await prepare(bytes("old"));
  await handle.truncate(0);
  await handle.write([bytes("newer")], 0);
  expect(outcomes(files)).toEqual(new Set(["old", "", "\0\0\0\0\0", "newer"]));
  const partly = await prepare(bytes("old"));
  await partly.handle.truncate(1);
  await partly.handle.truncate(3);
  expect(outcomes(partly.files)).toEqual(new Set(["old", "o", "o\0\0"]));
});

test("A sync that failed loses what it should have written: a later one does not make it durable", async () => {
  for (const code of ["EIO", "ENOSPC"] as const) {
    const { files, handle } = await prepare(Buffer.alloc(1_536, "-"));
    await handle.write([Buffer.alloc(512, "1")], 0);
    failNext(files, "sync", { kind: "error", code, done: "none" });
    await expect(handle.syncData()).rejects.toMatchObject({ code });
    await handle.write([Buffer.alloc(512, "2")], 512);
    await handle.syncData();
    expect(files.visible("/v/a")?.toString()).toMatch(/^1{512}2{512}-{512}$/);
    expect(files.durable("/v/a")?.toString()).toMatch(/^-{512}2{512}-{512}$/);
    const killed = files.restart({ lose: "none" });
    expect(killed.visible("/v/a")?.toString()).toMatch(/^1{512}2{512}-{512}$/);
    const again = await killed.open("/v/a", "write");
    await again.syncData();
    for (const found of outcomes(killed)) expect(found).toMatch(/^-{512}2{512}-{512}$/);
  }
});

test("What a failed sync lost is written after all with a later change to the same block", async () => {
  const { files, handle } = await prepare(bytes("----"));
  await handle.write([bytes("1")], 0);
  failNext(files, "sync", { kind: "error", code: "EIO", done: "none" });
  await expect(handle.syncData()).rejects.toMatchObject({ code: "EIO" });
  const copy = files.clone();
  await handle.write([bytes("2")], 3);
  await handle.syncData();
  expect(files.durable("/v/a")).toEqual(bytes("1--2"));

  const other = await copy.open("/v/a", "write");
  await other.truncate(2);
  expect(copy.visible("/v/a")).toEqual(bytes("1-"));
  await other.syncData();
  expect(copy.durable("/v/a")).toEqual(bytes("1-"));
});

test("The length of a file whose sync failed may grow; what is in it are zeros", async () => {
  const { files, handle } = await prepare(bytes(""));
  await handle.write([bytes("new")], 0);
  failNext(files, "sync", { kind: "error", code: "EIO", done: "none" });
  await expect(handle.syncData()).rejects.toMatchObject({ code: "EIO" });
  expect(outcomes(files.clone())).toEqual(new Set(["", "\0\0\0"]));
  await handle.syncData();
  expect(files.durable("/v/a")).toEqual(Buffer.alloc(3));
});

test("A cut makes no write certain that was not: a failed sync loses it from the rest of its block", async () => {
  const { files, handle } = await prepare(bytes("----"));
  await handle.write([bytes("1111")], 0);
  await handle.truncate(2);
  failNext(files, "sync", { kind: "error", code: "EIO", done: "none" });
  await expect(handle.syncData()).rejects.toMatchObject({ code: "EIO" });
  expect(files.visible("/v/a")).toEqual(bytes("11"));
  await handle.syncData();
  expect(files.durable("/v/a")).toEqual(bytes("--"));
});

test("A failed sync keeps the cuts, and growing a file writes nothing of what it lost", async () => {
  const fault: Fault = { kind: "error", code: "EIO", done: "none" };
  const cut = await prepare(bytes("old"));
  await cut.handle.truncate(0);
  failNext(cut.files, "sync", fault);
  await expect(cut.handle.syncData()).rejects.toMatchObject({ code: "EIO" });
  await cut.handle.truncate(3);
  await cut.handle.syncData();
  expect(cut.files.durable("/v/a")).toEqual(Buffer.alloc(3));

  const grown = await prepare(bytes("old"));
  await grown.handle.write([bytes("new")], 0);
  failNext(grown.files, "sync", fault);
  await expect(grown.handle.syncData()).rejects.toMatchObject({ code: "EIO" });
  await grown.handle.truncate(4);
  await grown.handle.syncData();
  expect(grown.files.durable("/v/a")).toEqual(bytes("old\0"));
});

test("What a power cut left behind the end does not show when the file grows again", async () => {
  const { files, handle } = await prepare(bytes("old"));
  await handle.write([bytes("new and longer")], 0);
  for (const seed of seeds) {
    const left = files.restart({ lose: "some", random: seededRandom(seed) });
    const length = left.visible("/v/a")?.length ?? 0;
    const again = await left.open("/v/a", "write");
    await again.truncate(20);
    await again.syncData();
    expect(left.durable("/v/a")?.subarray(length)).toEqual(Buffer.alloc(20 - length));
  }
});

test("A failed sync of which some was done loses some blocks and not others", async () => {
  const lost = new Set<number>();
  for (const seed of seeds) {
    const { files, handle } = await prepare(Buffer.alloc(4_096), { seed });
    await handle.write([Buffer.alloc(4_096, 1)], 0);
    failNext(files, "sync", { kind: "error", code: "EIO", done: "some" });
    await expect(handle.syncData()).rejects.toMatchObject({ code: "EIO" });
    await handle.syncData();
    const durable = files.durable("/v/a") ?? Buffer.alloc(0);
    lost.add(
      [0, 512, 1_024, 1_536, 2_048, 2_560, 3_072, 3_584].filter((at) => !durable[at]).length,
    );
  }
  expect(lost.size).toBeGreaterThan(4);
});

test("A write that fails part of the way leaves a prefix for readers, cut at any byte", async () => {
  const lengths = new Set<number>();
  for (const seed of seeds) {
    const { files, handle } = await prepare(bytes(""), { seed });
    failNext(files, "write", { kind: "error", code: "ENOSPC", done: "some" });
    const write = handle.write([bytes("012"), bytes("3456")], 0);
    await expect(write).rejects.toMatchObject({ code: "ENOSPC" });
    const found = files.visible("/v/a")?.toString() ?? "";
    expect("0123456".startsWith(found)).toBe(true);
    lengths.add(found.length);
  }
  expect([...lengths].sort()).toEqual([1, 2, 3, 4, 5, 6]);
});

test("An operation that fails with nothing done leaves all as it was", async () => {
  const { files, handle } = await prepare(bytes("x"));
  const fault: Fault = { kind: "error", code: "EIO", done: "none" };
  const calls: [OperationKind, () => Promise<unknown>][] = [
    ["write", () => handle.write([bytes("y")], 0)],
    ["truncate", () => handle.truncate(0)],
    ["create", () => files.open("/v/b", "create")],
    ["rename", () => files.replace("/v/a", bytes("y"))],
    ["unlink", () => files.remove("/v/a")],
  ];
  for (const [kind, call] of calls) {
    failNext(files, kind, fault);
    await expect(call()).rejects.toMatchObject({ code: "EIO", syscall: kind });
    expect(files.visible("/v/a")).toEqual(bytes("x"));
    expect(files.visible("/v/b")).toBeUndefined();
  }
  failNext(files, "sync-folder", fault);
  await files.open("/v/b", "create");
  await expect(files.syncFolder("/v")).rejects.toMatchObject({ code: "EIO" });
  expect(files.names("durable")).toEqual(["/v/a"]);
});

test("A read fails or falls short when it is told to, and only then", async () => {
  const { files, handle } = await prepare(bytes("0123456789"), { numbersReads: true });
  const target = Buffer.alloc(10);
  failNext(files, "read", { kind: "error", code: "EIO", done: "none" });
  await expect(handle.read(target, 0)).rejects.toMatchObject({ code: "EIO" });
  failNext(files, "read", { kind: "error", code: "EIO", done: "none" });
  expect(() => handle.readNow(target, 0)).toThrow(/EIO/);
  expect(target).toEqual(Buffer.alloc(10));
  for (const read of ["read", "readNow"] as const) {
    failNext(files, "read", { kind: "short-read" });
    expect(await handle[read](target, 0)).toBeLessThan(10);
    expect(await handle[read](target, 0)).toBe(10);
  }
});

test("A rotten bit is read, and is on the disk, before and after a sync of what is on its way", async () => {
  const { files, handle } = await prepare(bytes("aa"));
  await handle.write([bytes("bb")], 1);
  files.flipBit("/v/a", 9);
  expect(files.visible("/v/a")).toEqual(bytes("a`b"));
  expect(files.durable("/v/a")).toEqual(bytes("ac"));
  await handle.syncData();
  expect(files.durable("/v/a")).toEqual(bytes("a`b"));
});

test("A file that was created stays for sure once its folder was synced, whatever was synced in it", async () => {
  const files = new SimulatedFiles();
  const handle = await files.open("/v/a", "create");
  await handle.write([bytes("x")], 0);
  expect(outcomes(files.clone())).toEqual(new Set([undefined, "", "\0", "x"]));
  await handle.syncData();
  expect(outcomes(files.clone())).toEqual(new Set([undefined, "x"]));
  await files.syncFolder("/other");
  expect(files.clone().restart({ lose: "all" }).visible("/v/a")).toBeUndefined();
  await files.syncFolder("/v/");
  expect(outcomes(files)).toEqual(new Set(["x"]));
});

/** The kinds of operation that a call does, and what the power cut at each may leave of a file. */
async function cutEach(
  file: string,
  call: (files: SimulatedFiles) => Promise<void>,
): Promise<Record<string, (string | undefined)[]>> {
  const { files } = await prepare(bytes("old"));
  const whole = files.clone();
  await call(whole);
  const found: Record<string, (string | undefined)[]> = {};
  for (const { number, kind } of whole.operations) {
    const cut = files.clone();
    cut.plan = (operation) =>
      operation.number === number ? { kind: "crash", done: "none" } : undefined;
    await expect(call(cut)).rejects.toBeInstanceOf(PowerCut);
    found[kind] = [...outcomes(cut, file)].sort();
  }
  found.done = [...outcomes(whole, file)].sort();
  return found;
}

test("A replace that is cut leaves the old or the new, whole, and the new once it has returned", async () => {
  const replace = (files: SimulatedFiles) => files.replace("/v/a", bytes("new"));
  expect(await cutEach("/v/a", replace)).toEqual({
    create: ["old"],
    write: ["old"],
    sync: ["old"],
    rename: ["old"],
    "sync-folder": ["new", "old"],
    done: ["new"],
  });
  expect(await cutEach("/v/a.new", replace)).toMatchObject({
    write: ["", undefined],
    sync: ["", "\0\0\0", "new", undefined],
    rename: ["new", undefined],
    "sync-folder": ["new", undefined],
    done: [undefined],
  });
});

test("A removal that is cut leaves the file or not, and not once it has returned", async () => {
  expect(await cutEach("/v/a", (files) => files.remove("/v/a"))).toEqual({
    unlink: ["old"],
    "sync-folder": ["old", undefined],
    done: [undefined],
  });
});

test("An operation at which the power is cut is not done, or in part, or done and not reported", async () => {
  const lengths = new Set<number>();
  for (const seed of seeds) {
    for (const done of ["none", "some", "all"] as const) {
      const { files, handle } = await prepare(bytes(""), { seed });
      failNext(files, "write", { kind: "crash", done });
      await expect(handle.write([bytes("0123")], 0)).rejects.toBeInstanceOf(PowerCut);
      const found = files.restart({ lose: "none" }).visible("/v/a")?.length ?? -1;
      if (done === "some") lengths.add(found);
      else expect(found).toBe(done === "all" ? 4 : 0);
    }
  }
  expect([...lengths].sort()).toEqual([1, 2, 3]);
});

test("After a power cut nothing is done any more, through handles, the file system or calls under way", async () => {
  const { files, handle } = await prepare(bytes("old"));
  const underWay = handle.write([bytes("new")], 0);
  files.cutPower();
  expect(files.isCut).toBe(true);
  expect(await files.cut).toBeInstanceOf(PowerCut);
  await expect(underWay).rejects.toBeInstanceOf(PowerCut);

  const left = files.restart({ lose: "none" });
  expect(() => handle.readNow(Buffer.alloc(1), 0)).toThrow(PowerCut);
  const calls: (() => Promise<unknown>)[] = [
    () => handle.read(Buffer.alloc(1), 0),
    () => handle.write([bytes("new")], 0),
    () => handle.write([], 0),
    () => handle.syncData(),
    () => handle.sizeBytes(),
    () => handle.truncate(0),
    () => handle.close(),
    () => files.open("/v/a", "read"),
    () => files.readWhole("/v/a"),
    () => files.replace("/v/a", bytes("new")),
    () => files.remove("/v/a"),
    () => files.list("/v"),
    () => files.syncFolder("/v"),
    () => files.space("/v"),
  ];
  for (const call of calls) await expect(call()).rejects.toBeInstanceOf(PowerCut);
  expect(left.visible("/v/a")).toEqual(bytes("old"));
  expect(left.operationCount).toBe(0);
  expect(await left.readWhole("/v/a")).toEqual(bytes("old"));
});

test("Where a power cut is to be as in life, a call never hears of it", async () => {
  const { files, handle } = await prepare(bytes("old"), { afterCut: "hang" });
  failNext(files, "write", { kind: "crash", done: "none" });
  let heard = 0;
  const count = () => {
    heard += 1;
  };
  handle.write([bytes("new")], 0).then(count, count);
  await files.cut;
  handle.close().then(count, count);
  files.readWhole("/v/a").then(count, count);
  await new Promise((resolve) => setImmediate(resolve));
  expect(heard).toBe(0);
});

test("Operations are counted with kind and file; reads only where it was asked for", async () => {
  const kinds = async (numbersReads: boolean) => {
    const files = new SimulatedFiles({ numbersReads });
    const handle = await files.open("/v/a", "create");
    await handle.write([bytes("x")], 0);
    await handle.read(Buffer.alloc(1), 0);
    handle.readNow(Buffer.alloc(1), 0);
    await handle.sizeBytes();
    await handle.syncData();
    await handle.close();
    await files.syncFolder("/v");
    await files.open("/v/a", "read");
    await files.list("/v");
    await files.readWhole("/v/a");
    expect(files.operations.map(({ number }) => number)).toEqual(
      Array.from({ length: files.operationCount }, (_, at) => at + 1),
    );
    return files.operations.map(({ kind, file }) => `${kind} ${file}`);
  };
  const changes = ["create /v/a", "write /v/a", "sync /v/a", "sync-folder /v"];
  expect(await kinds(false)).toEqual(changes);
  const all = await kinds(true);
  expect(all).toHaveLength(10);
  expect(all).toEqual(expect.arrayContaining([...changes, "read /v/a", "size /v/a", "list /v"]));
});

test("A full disk takes what fits, and again once there is room", async () => {
  const { files, handle } = await prepare(bytes("0123"));
  files.capacityBytes = 6;
  expect(await files.space("/v")).toEqual({ freeBytes: 2, totalBytes: 6 });
  await handle.write([bytes("abcd")], 0);
  const tooMuch = handle.write([bytes("456789")], 4);
  await expect(tooMuch).rejects.toMatchObject({ code: "ENOSPC" });
  expect(files.visible("/v/a")).toEqual(bytes("abcd45"));
  await expect(files.replace("/v/b", bytes("x"))).rejects.toMatchObject({ code: "ENOSPC" });
  await handle.truncate(1);
  await files.replace("/v/b", bytes("x"));
  expect(files.usedBytes).toBe(2);
});

test("Calls that run at the same time overtake one another where disorder was asked for", async () => {
  const orders = new Set<string>();
  for (const seed of seeds) {
    const { files, handle } = await prepare(bytes("-----"), { seed, isDisordered: true });
    const write = (at: number) => handle.write([bytes(String(at))], 0);
    await Promise.all([write(1), write(2), handle.syncData()]);
    orders.add(`${files.visible("/v/a")} ${files.durable("/v/a")}`);
  }
  // A sync covers what was written before it began, not what was only asked for.
  expect([...orders].sort()).toEqual([
    "1---- -----",
    "1---- 1----",
    "1---- 2----",
    "2---- -----",
    "2---- 1----",
    "2---- 2----",
  ]);
});

/** Anything that a program may do to two files in a folder, with faults and disorder, as text. */
async function story(seed: number): Promise<string> {
  const random = seededRandom(seed);
  const files = new SimulatedFiles({ seed, isDisordered: true });
  files.put("/v/0", random.bytes(2_000));
  files.put("/v/1", random.bytes(2_000));
  files.plan = ({ number }) =>
    number % 7 === 0 ? { kind: "error", code: "EIO", done: "some" } : undefined;
  const handles = [await files.open("/v/0", "write"), await files.open("/v/1", "write")];
  const step = async (handle: FileHandle | undefined) => {
    const choice = random.u32() % 8;
    if (choice === 0) await handle?.syncData();
    else if (choice === 1) await handle?.truncate(random.u32() % 3_000);
    else if (choice === 2) await files.replace("/v/1", random.bytes(700));
    else await handle?.write([random.bytes(random.u32() % 900)], random.u32() % 2_500);
  };
  for (let round = 0; round < 20; round++) {
    const steps = handles.map(step);
    await Promise.allSettled(steps);
  }
  const left = files.restart({ lose: "some" });
  const contents = left.names("visible").map((name) => left.visible(name)?.toString("base64"));
  return JSON.stringify([files.operations, left.names("visible"), contents]);
}

test("The same seed ends the same, another one otherwise", async () => {
  const ends = await Promise.all(seeds.map(story));
  expect(await Promise.all(seeds.map(story))).toEqual(ends);
  expect(new Set(ends).size).toBe(seeds.length);
});

test("A clone has all of it, synced and not, and goes its own way", async () => {
  const { files, handle } = await prepare(bytes("old"));
  await handle.write([bytes("OLD")], 0);
  await files.open("/v/b", "create");
  const copy = files.clone();
  expect([copy.visible("/v/a"), copy.durable("/v/a")]).toEqual([bytes("OLD"), bytes("old")]);
  expect([copy.names("visible"), copy.names("durable")]).toEqual([["/v/a", "/v/b"], ["/v/a"]]);
  expect(copy.operationCount).toBe(0);

  const other = await copy.open("/v/a", "write");
  await other.write([bytes("copy")], 0);
  await other.syncData();
  await copy.syncFolder("/v");
  await copy.remove("/v/b");
  expect([files.visible("/v/a"), files.durable("/v/a")]).toEqual([bytes("OLD"), bytes("old")]);
  expect([files.names("visible"), files.names("durable")]).toEqual([["/v/a", "/v/b"], ["/v/a"]]);
  await handle.write([bytes("!")], 0);
  await handle.syncData();
  expect([files.durable("/v/a"), copy.durable("/v/a")]).toEqual([bytes("!LD"), bytes("copy")]);
  copy.cutPower();
  expect(files.isCut).toBe(false);
});

test("A change of the first does not show in its clone either, nor a sync", async () => {
  const { files, handle } = await prepare(bytes("old"));
  await handle.write([bytes("1")], 0);
  const copy = files.clone();
  await handle.write([bytes("2")], 1);
  expect(copy.visible("/v/a")).toEqual(bytes("1ld"));
  await handle.syncData();
  expect([copy.visible("/v/a"), copy.durable("/v/a")]).toEqual([bytes("1ld"), bytes("old")]);
  expect(outcomes(copy)).toEqual(new Set(["old", "1ld"]));
});

test("Clones of a large file are cheap: thousands of them take no memory of their own", async () => {
  const { files } = await prepare(Buffer.alloc(8_388_608, 1));
  const clones = Array.from({ length: 5_000 }, () => files.clone());
  // 40 GB, were they copies.
  expect(clones.every((clone) => clone.usedBytes === 8_388_608)).toBe(true);
});

/** The model: what readers see, what a sync would leave on the disk, and what it would if it lost all data. */
class ModelFile {
  cached: Buffer = Buffer.alloc(0);
  next: Buffer = Buffer.alloc(0);
  bare: Buffer = Buffer.alloc(0);
  durable: Buffer = Buffer.alloc(0);
  /** All that it has been since the last sync. */
  past: Buffer[] = [Buffer.alloc(0)];

  write(data: Uint8Array, at: number): void {
    if (data.length === 0) return;
    const end = at + data.length;
    if (end > this.cached.length) this.#resize(end);
    this.cached.set(data, at);
    const from = at - (at % 512);
    this.cached.copy(this.next, from, from, Math.ceil(end / 512) * 512);
    this.past.push(Buffer.from(this.cached));
  }

  truncate(length: number): void {
    const block = length - (length % 512);
    if (length < this.cached.length) this.cached.copy(this.next, block, block);
    this.#resize(length);
    this.past.push(Buffer.from(this.cached));
  }

  sync(): void {
    this.durable = Buffer.from(this.next);
    this.bare = Buffer.from(this.next);
    this.past = [Buffer.from(this.next), Buffer.from(this.cached)];
  }

  failSync(): void {
    this.next = Buffer.from(this.bare);
  }

  #resize(length: number): void {
    const resized = (old: Buffer) =>
      Buffer.concat([old, Buffer.alloc(Math.max(0, length - old.length))], length);
    this.cached = resized(this.cached);
    this.next = resized(this.next);
    this.bare = resized(this.bare);
  }
}

const steps = fc.array(
  fc.oneof(
    {
      arbitrary: fc.record({
        kind: fc.constant("write" as const),
        at: fc.nat(2_500),
        data: fc.uint8Array({ minLength: 1, maxLength: 1_200 }),
      }),
      weight: 4,
    },
    {
      arbitrary: fc.record({ kind: fc.constant("truncate" as const), length: fc.nat(3_000) }),
      weight: 2,
    },
    {
      arbitrary: fc.record({ kind: fc.constantFrom("sync" as const, "fail" as const) }),
      weight: 2,
    },
  ),
  { maxLength: 14 },
);

test("Whatever was written, cut, synced and lost: the disk has what an obvious model has", async () => {
  await fc.assert(
    fc.asyncProperty(steps, fc.nat(), async (all, seed) => {
      const { files, handle } = await prepare(Buffer.alloc(0));
      const model = new ModelFile();
      for (const step of all) {
        if (step.kind === "write") {
          await handle.write([step.data], step.at);
          model.write(step.data, step.at);
        } else if (step.kind === "truncate") {
          await handle.truncate(step.length);
          model.truncate(step.length);
        } else if (step.kind === "sync") {
          await handle.syncData();
          model.sync();
        } else {
          failNext(files, "sync", { kind: "error", code: "EIO", done: "none" });
          await expect(handle.syncData()).rejects.toMatchObject({ code: "EIO" });
          model.failSync();
        }
        expect(model.cached.equals(files.visible("/v/a") ?? bytes("none"))).toBe(true);
        expect(model.durable.equals(files.durable("/v/a") ?? bytes("none"))).toBe(true);
      }
      const left = files.restart({ lose: "some", random: seededRandom(seed) });
      const found = left.visible("/v/a") ?? bytes("none");
      expect(left.durable("/v/a")).toEqual(found);
      const past = [model.durable, ...model.past];
      expect(past.map(({ length }) => length)).toContain(found.length);
      const isExplained = found.every(
        (byte, at) => byte === 0 || past.some((content) => content[at] === byte),
      );
      expect(isExplained).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test("Whatever names were made, moved and removed: durable is what the folder was at its last sync", async () => {
  const call = fc.record({
    kind: fc.constantFrom("create", "replace", "remove", "sync"),
    file: fc.constantFrom("/v/a", "/v/b", "/w/a"),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(call, { maxLength: 15 }), fc.nat(), async (calls, seed) => {
      const files = new SimulatedFiles();
      const seen = new Map<string, string>();
      const durable = new Map<string, string>();
      const everSeen = new Set<string>();
      const sync = (folder: string) => {
        const isInside = (name: string) => name.startsWith(`${folder}/`);
        for (const name of [...durable.keys()].filter(isInside)) durable.delete(name);
        for (const [name, content] of seen) if (isInside(name)) durable.set(name, content);
      };
      for (const [at, { kind, file }] of calls.entries()) {
        const folder = file.slice(0, 2);
        if (kind === "create" && !seen.has(file)) {
          const handle = await files.open(file, "create");
          await handle.write([bytes(`${at}`)], 0);
          await handle.syncData();
          await handle.close();
          seen.set(file, `${at}`);
        } else if (kind === "replace") {
          await files.replace(file, bytes(`${at}`));
          seen.set(file, `${at}`);
          sync(folder);
        } else if (kind === "remove") {
          await files.remove(file);
          seen.delete(file);
          sync(folder);
        } else if (kind === "sync") {
          await files.syncFolder(folder);
          sync(folder);
        }
        for (const [name, content] of seen) everSeen.add(`${name} ${content}`);
      }
      const state = (which: "visible" | "durable") =>
        new Map(files.names(which).map((name) => [name, files[which](name)?.toString()]));
      const sorted = (names: Map<string, string>) => new Map([...names].sort());
      expect(state("visible")).toEqual(sorted(seen));
      expect(state("durable")).toEqual(sorted(durable));
      const left = files.restart({ lose: "some", random: seededRandom(seed) });
      for (const name of left.names("visible")) {
        expect(everSeen).toContain(`${name} ${left.visible(name)}`);
      }
      for (const [name, content] of durable) {
        // Only creations can be pending here, and they take nothing away.
        expect(left.visible(name)?.toString()).toBe(content);
      }
    }),
    { numRuns: 100 },
  );
});

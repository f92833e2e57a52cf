/** `hayloft volume … --folder`: the command line as a process, on a folder that the engine made. */

import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { systemClock } from "../../base/clock.ts";
import { diskFiles } from "../../base/files.ts";
import { seededRandom } from "../../base/random.ts";
import { SeaweedFixture } from "../../store/seaweed/seaweed-fixture.ts";
import { Store } from "../../store/store.ts";
import { volumeFile } from "../../store/volume/volume-files.ts";

const main = path.join(import.meta.dirname, "..", "..", "main.ts");
const random = seededRandom(21);
let base: string;
let folder: string;

beforeAll(async () => {
  base = mkdtempSync(path.join(tmpdir(), "hayloft-volumes-"));
  folder = path.join(base, "store");
  const store = await openStore();
  // 3 is well and partly dead, 4 is open, 5 is damaged.
  for (const id of [3, 4, 5]) {
    await store.carryOut({
      ...{ order: id, kind: "create", volume: id, class: "original", generation: 0, epoch: 1 },
      uuid: random.bytes(16).toString("hex"),
      recordMagic: random.bytes(8).toString("hex"),
      ...{
        members: [{ store: store.id, address: "127.0.0.1:1" }],
        createdMs: 1_790_000_000_000,
        ttlSeconds: 0,
      },
    });
    for (let at = 0; at < 20; at++) {
      const metadata = {
        bucket: "photos",
        key: `${id}/hay-${at}.jpg`,
        chunk: 0,
        type: "image/jpeg",
      };
      const fid = await store.volume(id)?.append({
        data: random.bytes(3_000),
        metadata: Buffer.from(JSON.stringify(metadata)),
        ...{ owner: undefined, ttlSeconds: 0 },
      });
      if (fid !== undefined && at % 2 === 0 && id === 3) {
        await store.volume(id)?.delete(fid.ordinal, fid.cookie);
      }
    }
    if (id !== 4) await store.volume(id)?.seal();
  }
  const offset = await store.volume(5)?.read(async ({ index }) => index.get(11));
  await store.close();
  const file = volumeFile(folder, { volume: 5, generation: 0 });
  const bytes = readFileSync(file);
  bytes.write("rotten", (offset ?? 0) + 1_000);
  writeFileSync(file, bytes);
});

// Each command is a process of its own.
vi.setConfig({ testTimeout: 60_000 });

afterAll(() => rmSync(base, { recursive: true, force: true }));

async function openStore(): Promise<Store> {
  return await Store.open({
    ...{ files: diskFiles, clock: systemClock, random, folder },
    log: pino({ level: "silent" }),
    ...{ volumeBytes: 1_073_741_824, reserveBytes: 0, trashMs: 3_600_000 },
  });
}

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function hayloft(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const all = [main, "volume", ...args, "--folder", folder];
    execFile(process.execPath, all, { cwd: base }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

async function json<Value>(...args: string[]): Promise<Value> {
  const { stdout } = await hayloft(...args, "--json");
  return JSON.parse(stdout) as Value;
}

test("Volumes are listed and shown", async () => {
  const { code, stdout, stderr } = await hayloft("ls");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const [head, ...rows] = stdout.trimEnd().split("\n");
  expect(head).toMatch(/^volume +class +state +gen +needles +deleted +length +dead +index/);
  expect(rows.map((row) => row.split(/ {2,}/).slice(0, 3))).toEqual([
    ["3", "original", "sealed"],
    ["4", "original", "open"],
    ["5", "original", "sealed"],
  ]);
  expect((await hayloft("info", "3")).stdout).toMatch(/needles +20, 10 deleted/);
  expect(await json("info", "3")).toMatchObject({ volume: 3, deletedCount: 10 });
  expect(await json<unknown[]>("ls")).toHaveLength(3);
});

test("A dump has a line for each record, and damage in its place", async () => {
  const { stdout } = await hayloft("dump", "5", "--from", "10", "--count", "3");
  const lines = stdout.trimEnd().split("\n").slice(1);
  expect(lines).toHaveLength(3);
  expect(lines[1]).toMatch(/photos\/5\/hay-11\.jpg.*\[DAMAGED: .*checksum/);
  const records = (await hayloft("dump", "3", "--json")).stdout.trimEnd().split("\n");
  expect(records.map((line) => JSON.parse(line).isDeleted === true)).toEqual(
    Array.from({ length: 20 }, (_, at) => at % 2 === 0),
  );
});

test("Whoever has read enough of a dump ends it quietly", async () => {
  const command = `"${process.execPath}" "${main}" volume dump 3 --folder "${folder}" | head -n 1`;
  const { stdout, stderr } = await new Promise<{ stdout: string; stderr: string }>((resolve) => {
    execFile("sh", ["-c", command], (_, out, err) => resolve({ stdout: out, stderr: err }));
  });
  expect(stdout).toContain("ordinal");
  expect(stderr).toBe("");
});

test("Damage ends a verify with 1, and names the needle", async () => {
  const { code, stdout, stderr } = await hayloft("verify", "--all");
  expect({ code, stderr }).toEqual({ code: 1, stderr: "" });
  expect(stdout).toMatch(/volume 3: no damage/);
  expect(stdout).toMatch(/volume 5: 1 needle damaged.*\n {2}needle 11 at .*checksum/);
  expect((await hayloft("verify", "3")).code).toBe(0);
  expect(await json("verify", "5")).toMatchObject([{ volume: 5, findings: [{ ordinal: 11 }] }]);
});

test("A dry run of a compaction tells and changes nothing", async () => {
  const look = () =>
    [".", ...readdirSync(folder)].map((name) => [name, statSync(path.join(folder, name)).mtimeMs]);
  const before = look();
  const { code, stdout } = await hayloft("compact", "--dry-run", "--rate", "1MB/s");
  expect(code).toBe(0);
  expect(stdout).toMatch(/^volume +state +to copy +to free +takes\n3 +sealed /);
  expect(await json("compact", "--dry-run", "--garbage", "90%")).toEqual([]);
  expect((await hayloft("compact", "--dry-run", "--garbage", "90%")).stdout).toContain("90% dead");
  expect(look()).toEqual(before);
});

test("A compaction, a seal and an export do what they say", async () => {
  const refused = await hayloft("compact", "4");
  expect(refused.code).toBe(1);
  expect(refused.stderr).toBe(
    "hayloft: Cannot compact volume 4: it is open; add --seal to seal it first\n",
  );
  expect((await hayloft("seal", "4", "--dry-run")).stdout).toContain("would be sealed");
  expect(await json("info", "4")).toMatchObject({ state: "open" });
  const compacted = await hayloft("compact", "3", "4", "--seal");
  expect(compacted.code).toBe(0);
  expect(compacted.stdout).toMatch(/^volume 3: generation 1, .* freed/);
  expect(compacted.stderr).toContain("volume 4 is open, and sealed first");
  expect(await json("seal", "4")).toMatchObject({ isNew: false });
  expect((await hayloft("verify", "3", "4")).code).toBe(0);

  const output = path.join(base, "5.tar");
  const exported = await hayloft("export", "5", "--output", output);
  expect(exported.code).toBe(1);
  expect(exported.stderr).toContain("needle 11 at ");
  expect(exported.stdout).toContain("volume 5: 19 files");
  expect(statSync(output).size).toBeGreaterThan(19 * 3_000);
  expect(await json("export", "3", "--output", output)).toMatchObject({ files: 10, damage: [] });
  expect(readdirSync(base).filter((name) => name.endsWith(".new"))).toEqual([]);
});

test("An import names what it leaves out", async () => {
  const fixture = new SeaweedFixture();
  for (let key = 1n; key <= 10n; key++) {
    fixture.put({ key, cookie: Number(key), data: random.bytes(500), name: `${key}.jpg` });
  }
  const source = { dat: path.join(base, "photos_8.dat"), idx: path.join(base, "photos_8.idx") };
  await fixture.save(diskFiles, source);
  const dry = await hayloft("import", source.dat, "--dry-run");
  expect(dry).toMatchObject({ code: 0, stderr: "" });
  expect(dry.stdout).toMatch(/^volume 8: 10 blobs would be imported, 4.9 KiB/);
  const bytes = readFileSync(source.dat);
  bytes[200] = (bytes[200] ?? 0) ^ 0xff;
  writeFileSync(source.dat, bytes);
  const imported = await hayloft("import", source.dat, "--json");
  expect(imported.code).toBe(1);
  expect(JSON.parse(imported.stdout)).toMatchObject({
    volume: 8,
    blobs: 9,
    damaged: [{ key: "1" }],
  });
  expect((await hayloft("import", source.dat)).stderr).toContain("has a volume of that id");
});

test("Whatever can't be understood ends with 1 and a sentence", async () => {
  const rows = [
    { args: ["info", "99"], says: "Cannot find volume 99 in " },
    { args: ["verify"], says: "Cannot verify: name volumes, or give --all" },
    { args: ["info", "three"], says: "a volume's id is a whole number" },
    { args: ["verify", "3", "--rate", "fast"], says: "a rate is such as" },
    { args: ["compact", "--garbage", "2"], says: "a share is a number" },
    { args: ["ls", "--directory", "h:1"], says: "cannot be used with option" },
    { args: ["export", "3", "--json"], says: "give --output" },
    { args: ["import", "x.dat"], says: "give --volume" },
    { args: ["import", "7.dat"], says: "there is no such file" },
  ];
  for (const { args, says } of rows) {
    const { code, stdout, stderr } = await hayloft(...args);
    expect({ code, stdout }, args.join(" ")).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain(says);
    expect(stderr).not.toMatch(/^ +at /m);
  }
});

test("A folder that a store runs on is refused", async () => {
  const store = await openStore();
  const { code, stderr } = await hayloft("ls");
  await store.close();
  expect(code).toBe(1);
  expect(stderr).toMatch(
    /^hayloft: Cannot use .*: a store runs on it; stop it, or leave out --folder/,
  );
});

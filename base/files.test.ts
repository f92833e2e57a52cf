import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { diskFiles, type FileSystem } from "./files.ts";
import { SimulatedFiles } from "./simulated-files.ts";

// What every file system behind the seam does alike. What only a disk does, such as permissions, or only
// the simulated one, such as losing what was not synced, is tested elsewhere.
const systems = {
  "the disk": () => diskFiles,
  "the simulated files": () => new SimulatedFiles(),
  "the simulated files, in pages and out of order": () =>
    new SimulatedFiles({ blockBytes: 4_096, isDisordered: true }),
};

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-files-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const bytes = (text: string) => Buffer.from(text);

describe.each(Object.entries(systems))("On %s", (_, make) => {
  let files: FileSystem;
  let file: string;

  beforeEach(() => {
    files = make();
    file = path.join(folder, "a");
  });

  async function readAll(length: number, offset: number): Promise<string> {
    const handle = await files.open(file, "read");
    const target = Buffer.alloc(length, "?");
    const count = await handle.read(target, offset);
    const again = Buffer.alloc(length, "?");
    expect(handle.readNow(again, offset)).toBe(count);
    expect(again).toEqual(target);
    await handle.close();
    return target.toString("latin1", 0, count);
  }

  test("What was written in parts is read in one piece, from anywhere", async () => {
    const handle = await files.open(file, "create");
    await handle.write([bytes("one "), bytes(""), bytes("two "), bytes("three")], 0);
    await handle.write([bytes("TWO")], 4);
    await handle.syncData();
    expect(await handle.sizeBytes()).toBe(13);
    await handle.close();
    expect(await readAll(13, 0)).toBe("one TWO three");
    expect(await readAll(3, 4)).toBe("TWO");
    expect(await files.readWhole(file)).toEqual(bytes("one TWO three"));
  });

  test("A write has no limit to its parts", async () => {
    const parts = Array.from({ length: 3_000 }, (_, at) => bytes(String(at % 10)));
    const handle = await files.open(file, "create");
    await handle.write(parts, 5);
    await handle.close();
    expect(await files.readWhole(file)).toEqual(Buffer.concat([Buffer.alloc(5), ...parts]));
  });

  test("Buffers are the caller's again once a write has returned", async () => {
    const handle = await files.open(file, "create");
    const part = Buffer.alloc(8_192, "before");
    await handle.write([part], 0);
    part.fill("!");
    await handle.close();
    expect(await files.readWhole(file)).toEqual(Buffer.alloc(8_192, "before"));
  });

  test("A read past the end gives what there is, and leaves the rest of its target alone", async () => {
    await files.replace(file, bytes("0123456789"));
    expect(await readAll(20, 4)).toBe("456789");
    expect(await readAll(20, 10)).toBe("");
    expect(await readAll(20, 1_000)).toBe("");
    expect(await readAll(0, 0)).toBe("");
    const handle = await files.open(file, "read");
    const target = Buffer.alloc(6, "?");
    await handle.read(target, 7);
    expect(target.toString()).toBe("789???");
    await handle.close();
  });

  test("Nothing to write makes no file longer", async () => {
    const handle = await files.open(file, "create");
    await handle.write([], 100);
    await handle.write([bytes(""), bytes("")], 100);
    expect(await handle.sizeBytes()).toBe(0);
    await handle.close();
    expect(await files.readWhole(file)).toEqual(Buffer.alloc(0));
  });

  test("Truncate cuts, and lengthens with zeros: what was cut off does not come back", async () => {
    const handle = await files.open(file, "create");
    await handle.write([Buffer.alloc(10_000, "x")], 0);
    await handle.truncate(3);
    expect(await handle.sizeBytes()).toBe(3);
    await handle.truncate(6_000);
    await handle.write([bytes("end")], 7_000);
    await handle.close();
    const expected = Buffer.alloc(7_003);
    expected.write("xxx", 0);
    expected.write("end", 7_000);
    expect(await files.readWhole(file)).toEqual(expected);
  });

  test("Any writes and cuts leave what they leave in one long buffer", async () => {
    const change = fc.oneof(
      fc.record({ at: fc.nat(9_000), data: fc.uint8Array({ maxLength: 6_000 }) }),
      fc.record({ length: fc.nat(9_000) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 12 }), async (changes) => {
        await files.remove(file);
        const handle = await files.open(file, "create");
        let model = Buffer.alloc(0);
        const resize = (length: number) => {
          model = Buffer.concat([model, Buffer.alloc(Math.max(0, length - model.length))], length);
        };
        for (const change of changes) {
          if ("length" in change) {
            await handle.truncate(change.length);
            resize(change.length);
          } else {
            await handle.write([change.data], change.at);
            if (change.data.length === 0) continue;
            resize(Math.max(model.length, change.at + change.data.length));
            model.set(change.data, change.at);
          }
        }
        expect(await handle.sizeBytes()).toBe(model.length);
        await handle.close();
        expect(model.equals((await files.readWhole(file)) ?? bytes("missing"))).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  test("Replace puts one piece or several in the place of a file, and leaves nothing beside it", async () => {
    await files.replace(file, bytes("the first and longest"));
    expect(await files.readWhole(file)).toEqual(bytes("the first and longest"));
    await files.replace(file, [bytes("in "), bytes("two")]);
    expect(await files.readWhole(file)).toEqual(bytes("in two"));
    await files.replace(file, []);
    expect(await files.readWhole(file)).toEqual(Buffer.alloc(0));
    expect(await files.list(folder)).toEqual(["a"]);
  });

  test("A leftover of a replace that was cut short is written over", async () => {
    await files.replace(`${file}.new`, bytes("half of something that was longer"));
    await files.replace(file, bytes("whole"));
    expect(await files.readWhole(file)).toEqual(bytes("whole"));
    expect(await files.list(folder)).toEqual(["a"]);
  });

  for (const change of ["replace", "remove"] as const) {
    test(`A handle that was open before a ${change} keeps the file it was opened on`, async () => {
      await files.replace(file, bytes("old"));
      const handle = await files.open(file, "write");
      await (change === "replace" ? files.replace(file, bytes("new")) : files.remove(file));
      await handle.write([bytes("er")], 3);
      await handle.syncData();
      const target = Buffer.alloc(10);
      expect(await handle.read(target, 0)).toBe(5);
      expect(target.toString("latin1", 0, 5)).toBe("older");
      await handle.close();
      expect(await files.readWhole(file)).toEqual(change === "replace" ? bytes("new") : undefined);
    });
  }

  test("List gives the names of one folder, sorted; none if there is no such folder", async () => {
    for (const name of ["10.b", "9.a", "b", "B", "a"]) {
      await files.replace(path.join(folder, name), bytes(name));
    }
    expect(await files.list(folder)).toEqual(["10.b", "9.a", "B", "a", "b"]);
    expect(await files.list(`${folder}${path.sep}`)).toHaveLength(5);
    expect(await files.list(path.join(folder, "none"))).toEqual([]);
  });

  test("A file that was removed is gone, and removing it again is no failure", async () => {
    await files.replace(file, bytes("x"));
    await files.remove(file);
    expect(await files.readWhole(file)).toBeUndefined();
    await files.remove(file);
    expect(await files.list(folder)).toEqual([]);
    await files.syncFolder(folder);
  });

  test("Open tells by its code that a file is missing, or in the way", async () => {
    await expect(files.open(file, "read")).rejects.toMatchObject({ code: "ENOENT" });
    await expect(files.open(file, "write")).rejects.toMatchObject({ code: "ENOENT" });
    expect(await files.readWhole(file)).toBeUndefined();
    await (await files.open(file, "create")).close();
    await expect(files.open(file, "create")).rejects.toMatchObject({ code: "EEXIST" });
    expect(await files.readWhole(file)).toEqual(Buffer.alloc(0));
  });

  test("Two handles of a file see each other's writes", async () => {
    const one = await files.open(file, "create");
    const two = await files.open(file, "write");
    await one.write([bytes("one")], 0);
    await two.write([bytes("two")], 3);
    const target = Buffer.alloc(6);
    expect(one.readNow(target, 0)).toBe(6);
    expect(target.toString()).toBe("onetwo");
    await one.close();
    await two.close();
  });

  test("A handle to read does not write, and one that was closed does nothing", async () => {
    await files.replace(file, bytes("x"));
    const handle = await files.open(file, "read");
    await expect(handle.write([bytes("y")], 0)).rejects.toMatchObject({ code: "EBADF" });
    await expect(handle.truncate(0)).rejects.toMatchObject({ code: "EINVAL" });
    await handle.close();
    await expect(handle.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: "EBADF" });
    expect(() => handle.readNow(Buffer.alloc(1), 0)).toThrow(/EBADF/);
    await expect(handle.syncData()).rejects.toMatchObject({ code: "EBADF" });
    await expect(handle.close()).rejects.toMatchObject({ code: "EBADF" });
    expect(await files.readWhole(file)).toEqual(bytes("x"));
  });

  test("Space is a part of what there is in all", async () => {
    const { freeBytes, totalBytes } = await files.space(folder);
    expect(freeBytes).toBeGreaterThan(0);
    expect(totalBytes).toBeGreaterThanOrEqual(freeBytes);
  });
});

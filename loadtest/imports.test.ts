/**
 * Imports point left, and into another process only through its client: biome.json says so, folder by
 * folder, and this test shows that a wrong import is reported.
 *
 * The wrong lines are linted in a temporary folder under a copy of biome.json, so the tree is never
 * touched; then the tree itself is.
 */

import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const root = path.join(import.meta.dirname, "..");
const rule = "lint/style/noRestrictedImports";

interface Row {
  name: string;
  /** The file that the line stands in. */
  file: string;
  line: string;
  isReported: boolean;
}

const foldersInOrder = ["base", "directory", "store", "cache", "catalog", "gateway", "loadtest"];
const processes = ["directory", "store", "gateway"];

/** Every pair of folders: what lies right is out of reach, a process has one door, a library is open. */
const pairRows: Row[] = foldersInOrder.flatMap((from, fromAt) =>
  foldersInOrder.flatMap((to, toAt): Row[] => {
    if (from === to) return [];
    const row = (noun: string, isReported: boolean): Row => ({
      name: `${from}/ ${isReported ? "may not" : "may"} import ${to}/${noun}.ts`,
      file: `${from}/pair-${to}-${noun}.ts`,
      line: `import { noun } from "../${to}/${noun}.ts";\nconsole.log(noun);`,
      isReported,
    });
    const isRight = toAt > fromAt;
    return [row("client", isRight), row("noun", isRight || processes.includes(to))];
  }),
);

const reported = { isReported: true };
const rows: Row[] = [
  ...pairRows,
  {
    name: "A type that is imported from the right is reported",
    file: "store/type.ts",
    line: 'import type { Lru } from "../cache/lru.ts";\nexport type Alias = Lru;',
    ...reported,
  },
  {
    name: "A type out of another process is reported",
    file: "gateway/type.ts",
    line: 'import type { Volume } from "../store/volume/volume.ts";\nexport type Alias = Volume;',
    ...reported,
  },
  {
    name: "A re-export by name is reported",
    file: "store/re-export.ts",
    line: 'export { Catalog } from "../catalog/catalog.ts";',
    ...reported,
  },
  {
    name: "A re-export of everything is reported",
    file: "base/re-export-all.ts",
    line: 'export * from "../store/volume/volume.ts";',
    ...reported,
  },
  {
    name: "An import for its effects is reported",
    file: "cache/effect.ts",
    line: 'import "../gateway/main.ts";',
    ...reported,
  },
  {
    name: "A dynamic import is reported",
    file: "directory/dynamic.ts",
    line: 'console.log(await import("../store/client.ts"));',
    ...reported,
  },
  {
    name: "A wrong import in a subfolder is reported",
    file: "catalog/schema/deep.ts",
    line: 'import { route } from "../../gateway/routes.ts";\nconsole.log(route);',
    ...reported,
  },
  {
    name: "A wrong import in a test is reported",
    file: "store/volume/volume.test.ts",
    line: 'import { startCluster } from "../../loadtest/cluster.ts";\nconsole.log(startCluster);',
    ...reported,
  },
  {
    name: "What drives the engine without a server may import any file of it",
    file: "loadtest/engine/inside.ts",
    line: 'import { Volume } from "../../store/volume.ts";\nconsole.log(Volume);',
    isReported: false,
  },
  ...foldersInOrder.map((folder) => ({
    name: `${folder}/ may not import the command line`,
    file: `${folder}/command-line.ts`,
    line: 'import { program } from "../main.ts";\nconsole.log(program);',
    ...reported,
  })),
  ...foldersInOrder.map((folder) => ({
    name: `${folder}/ may import its own files, packages and Node`,
    file: `${folder}/own.ts`,
    line: 'import path from "node:path";\nimport { pino } from "pino";\nimport { noun } from "./noun.ts";\nconsole.log(path, pino, noun);',
    isReported: false,
  })),
];

let folder: string;
let reports: Map<string, string[]>;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "hayloft-imports-"));
  await copyFile(path.join(root, "biome.json"), path.join(folder, "biome.json"));
  for (const { file, line } of rows) {
    await mkdir(path.dirname(path.join(folder, file)), { recursive: true });
    await writeFile(path.join(folder, file), `${line}\n`);
  }
  reports = await lint(["--vcs-enabled=false", "."], folder);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

interface BiomeReport {
  diagnostics: { category: string; location: { path: string } }[];
}

/** What biome finds, by file: the rules that were broken. */
async function lint(args: string[], cwd: string): Promise<Map<string, string[]>> {
  const output = await new Promise<string>((resolve, reject) => {
    execFile(
      path.join(root, "node_modules", ".bin", "biome"),
      ["lint", "--reporter=json", "--max-diagnostics=none", ...args],
      { cwd, maxBuffer: 16 * 1024 * 1024 },
      (error, stdout) => {
        // Biome ends with 1 when it found something, which it is meant to.
        if (stdout === "") reject(error ?? new Error("biome printed nothing"));
        else resolve(stdout);
      },
    );
  });
  const found = new Map<string, string[]>();
  for (const { category, location } of (JSON.parse(output) as BiomeReport).diagnostics) {
    found.set(location.path, [...(found.get(location.path) ?? []), category]);
  }
  return found;
}

test.each(rows)("$name", ({ file, isReported }) => {
  expect(reports.get(file) ?? []).toEqual(isReported ? [rule] : []);
});

test("The project itself has no wrong import", async () => {
  expect(Object.fromEntries(await lint(["--only=style/noRestrictedImports", "."], root))).toEqual(
    {},
  );
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { type KeyPage, type ListQuery, listKeys, type Scan } from "./listing.ts";

interface Row {
  key: Buffer;
}

/** Rows of an array, and how many of them were looked at, in how many queries. */
function scanOf(keys: readonly string[]) {
  const rows = keys.map((key) => ({ key: Buffer.from(key) }));
  rows.sort((a, b) => a.key.compare(b.key));
  const seen = { rows: 0, queries: 0 };
  const scan: Scan<Row> = function* ({ from, end, limit }) {
    const isWithin = ({ key }: Row) => key.compare(from) >= 0 && key.compare(end) < 0;
    const found = rows.filter(isWithin).slice(0, limit);
    seen.rows += found.length;
    seen.queries += 1;
    return found;
  };
  return { scan, seen };
}

/** A page of it: the array asks nobody, so the work is done with its first step. */
function list(scan: Scan<Row>, query: ListQuery): KeyPage<Row> {
  const { done, value } = listKeys(scan, query).next();
  if (done !== true) throw new Error("an array has no questions");
  return value;
}

/** The obvious listing: every key, grouped, sorted. */
function modelOf(keys: readonly string[], prefix: string, delimiter: string): string[] {
  const items = new Set<string>();
  for (const key of keys) {
    if (!key.startsWith(prefix)) continue;
    const at = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
    items.add(at === -1 ? `key ${key}` : `group ${key.slice(0, at + delimiter.length)}`);
  }
  const nameOf = (item: string) => Buffer.from(item.slice(item.indexOf(" ") + 1));
  return [...items].sort((a, b) => nameOf(a).compare(nameOf(b)));
}

function pagesOf(keys: readonly string[], query: ListQuery): string[][] {
  const { scan } = scanOf(keys);
  const pages: string[][] = [];
  let startAfter = query.startAfter ?? "";
  for (;;) {
    const page = list(scan, { ...query, startAfter });
    const items = [
      ...page.rows.map(({ key }) => `key ${key}`),
      ...page.prefixes.map((prefix) => `group ${prefix}`),
    ];
    const nameOf = (item: string) => Buffer.from(item.slice(item.indexOf(" ") + 1));
    pages.push(items.sort((a, b) => nameOf(a).compare(nameOf(b))));
    if (!page.isTruncated) {
      expect(page.next).toBeUndefined();
      return pages;
    }
    startAfter = page.next ?? "";
  }
}

// Few enough that prefixes and delimiters meet; one to four bytes each, in an order that UTF-16 has wrong.
const unit = fc.constantFrom(
  "a",
  "b",
  "/",
  "-",
  "\x00",
  "\x7f",
  "é",
  "\uffff",
  "\ue000",
  "😀",
  "𐀀",
);
const text = fc.string({ unit, maxLength: 6 });
const key = fc.string({ unit, minLength: 1, maxLength: 6 });

test("Pages of every size, put together, are the whole listing", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(key, { maxLength: 20 }),
      fc.string({ unit, maxLength: 2 }),
      fc.string({ unit, maxLength: 2 }),
      (keys, prefix, delimiter) => {
        const model = modelOf(keys, prefix, delimiter);
        for (let maxKeys = 1; maxKeys <= model.length + 1; maxKeys++) {
          const pages = pagesOf(keys, { prefix, delimiter, maxKeys });
          expect(pages.flat()).toEqual(model);
          for (const page of pages.slice(0, -1)) expect(page.length).toBe(maxKeys);
        }
      },
    ),
    { numRuns: 1_000 },
  );
});

test("A start position anywhere is exclusive, and within a group still shows what follows in it", () => {
  fc.assert(
    fc.property(fc.uniqueArray(key, { maxLength: 20 }), text, text, (keys, prefix, startAfter) => {
      const start = Buffer.from(startAfter);
      const after = keys.filter((each) => Buffer.from(each).compare(start) > 0);
      const model = modelOf(after, prefix, "/").filter((item) => item !== `group ${startAfter}`);
      const pages = pagesOf(keys, { prefix, delimiter: "/", startAfter, maxKeys: 3 });
      expect(pages.flat()).toEqual(model);
    }),
    { numRuns: 1_000 },
  );
});

test("A common prefix costs one query of a few rows, however many keys it stands for", () => {
  const keys = Array.from({ length: 3_000 }, (_, index) => `${index % 3}/${index}`);
  const { scan, seen } = scanOf(keys);
  const page = list(scan, { delimiter: "/", maxKeys: 2 });
  expect(page).toEqual({ rows: [], prefixes: ["0/", "1/"], isTruncated: true, next: "1/" });
  expect(seen).toEqual({ rows: 3 * 8, queries: 3 });
});

test("Groups of a few keys share a query, and so do keys that stand for themselves", () => {
  const grouped = Array.from(
    { length: 999 },
    (_, at) => `${String(at >> 1).padStart(3, "0")}/${at}`,
  );
  const inGroups = scanOf(grouped);
  expect(list(inGroups.scan, { delimiter: "/", maxKeys: 1_000 }).prefixes.length).toBe(500);
  expect(inGroups.seen.queries).toBeLessThan(20);

  const flat = scanOf(grouped);
  expect(list(flat.scan, { maxKeys: 1_000 }).rows.length).toBe(999);
  expect(flat.seen.queries).toBe(1);
});

test("No keys asked for is an empty page that is not truncated", () => {
  const { scan } = scanOf(["a", "b"]);
  expect(list(scan, { maxKeys: 0 })).toEqual({ rows: [], prefixes: [], isTruncated: false });
});

test("Half a character is refused, not replaced", () => {
  const { scan } = scanOf(["a"]);
  expect(() => list(scan, { prefix: "\ud800", maxKeys: 1 })).toThrow("not valid Unicode");
});

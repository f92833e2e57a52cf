import fc from "fast-check";
import { expect, test } from "vitest";
import { type ListQuery, listKeys, type Scan } from "./listing.ts";

interface Row {
  key: Buffer;
}

/** Rows of an array, and how many of them were looked at. */
function scanOf(keys: readonly string[]): { scan: Scan<Row>; seen: { rows: number } } {
  const rows = keys.map((key) => ({ key: Buffer.from(key) }));
  rows.sort((a, b) => a.key.compare(b.key));
  const seen = { rows: 0 };
  const scan: Scan<Row> = function* ({ from, end }) {
    for (const row of rows) {
      if (row.key.compare(from) < 0 || row.key.compare(end) >= 0) continue;
      seen.rows += 1;
      yield row;
    }
  };
  return { scan, seen };
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
    const page = listKeys(scan, { ...query, startAfter });
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

test("A common prefix costs one row, however many keys it stands for", () => {
  const keys = Array.from({ length: 3_000 }, (_, index) => `${index % 3}/${index}`);
  const { scan, seen } = scanOf(keys);
  const page = listKeys(scan, { delimiter: "/", maxKeys: 2 });
  expect(page).toEqual({ rows: [], prefixes: ["0/", "1/"], isTruncated: true, next: "1/" });
  expect(seen.rows).toBe(3);
});

test("No keys asked for is an empty page that is not truncated", () => {
  const { scan } = scanOf(["a", "b"]);
  expect(listKeys(scan, { maxKeys: 0 })).toEqual({ rows: [], prefixes: [], isTruncated: false });
});

test("Half a character is refused, not replaced", () => {
  const { scan } = scanOf(["a"]);
  expect(() => listKeys(scan, { prefix: "\ud800", maxKeys: 1 })).toThrow("not valid Unicode");
});

import { XMLParser } from "fast-xml-parser";
import { expect, test } from "vitest";
import type { ObjectVersion } from "../catalog/model.ts";
import { encodeToken, formatListJson, formatListXml, readListRequest } from "./listing.ts";

const request = (text: string) => readListRequest(new URLSearchParams(text));

function objectOf(key: string): ObjectVersion {
  return {
    bucket: "photos",
    key,
    versionId: "null",
    isDeleteMarker: false,
    isLatest: true,
    size: 7,
    etag: "abc",
    contentType: "image/jpeg",
    meta: {},
    chunks: [],
    modifiedMs: 0,
  };
}

const parser = new XMLParser({
  parseTagValue: false,
  processEntities: true,
  htmlEntities: true,
  trimValues: false,
});

test("Keys survive XML, whatever is in them", () => {
  const keys = ["a&b", "<x>", "\"quoted' ", "é🐴", "]]>"];
  const page = { objects: keys.map(objectOf), prefixes: ["p&q/"], isTruncated: false };
  const list = parser.parse(formatListXml("photos", request(""), page)).ListBucketResult;
  expect(list.Contents.map(({ Key }: { Key: string }) => Key)).toEqual(keys);
  expect(list.CommonPrefixes.Prefix).toBe("p&q/");
  expect(list.KeyCount).toBe("6");
});

test("What XML can't hold is a character reference, or plain text under encoding-type=url", () => {
  const page = { objects: [objectOf("a\x01\r\ufffe")], prefixes: [], isTruncated: false };
  expect(formatListXml("photos", request(""), page)).toContain("<Key>a&#x1;&#xD;&#xFFFE;</Key>");
  const encoded = formatListXml("photos", request("encoding-type=url"), page);
  expect(encoded).toContain("<Key>a%01%0D%EF%BF%BE</Key>");
});

test("A continuation token leads back to its position, and nothing else is one", () => {
  for (const position of ["", "a/b", "é🐴\0", "z".repeat(1_024)]) {
    const token = encodeToken(position);
    expect(request(`continuation-token=${token}&start-after=q`).startAfter).toBe(position);
  }
  for (const token of ["", "x", "%%%", `${encodeToken("a")}=`, "Mf8"]) {
    const query = new URLSearchParams({ "continuation-token": token });
    expect(() => readListRequest(query), token).toThrow(/continuation token/);
  }
});

test("max-keys is a number from 0 to 1,000", () => {
  const rows: [string, number][] = [
    ["", 1_000],
    ["max-keys=", 1_000],
    ["max-keys=0", 0],
    ["max-keys=7", 7],
    ["max-keys=99999", 1_000],
  ];
  for (const [query, expected] of rows) expect(request(query).maxKeys, query).toBe(expected);
  for (const bad of ["-1", "1.5", "many", "1e3"]) {
    expect(() => request(`max-keys=${bad}`), bad).toThrow(/max-keys/);
  }
});

test("JSON has the same page", () => {
  const page = { objects: [objectOf("a")], prefixes: ["b/"], isTruncated: true, next: "b/" };
  expect(JSON.parse(formatListJson("photos", request("prefix=x"), page))).toEqual({
    bucket: "photos",
    prefix: "x",
    objects: [
      {
        key: "a",
        size: 7,
        etag: "abc",
        lastModified: "1970-01-01T00:00:00.000Z",
        type: "image/jpeg",
      },
    ],
    prefixes: ["b/"],
    isTruncated: true,
    nextContinuationToken: encodeToken("b/"),
  });
});

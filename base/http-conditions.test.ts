import { expect, test } from "vitest";
import { allowsRange, type ConditionHeaders, decideRead, parseEtags } from "./http-conditions.ts";

const state = { etag: "abc", modifiedMs: Date.parse("2026-11-21T10:00:00.700Z") };
const same = "Sat, 21 Nov 2026 10:00:00 GMT";
const before = "Sat, 21 Nov 2026 09:59:59 GMT";

test("A read's conditions come out as RFC 9110 orders them", () => {
  const rows: [ConditionHeaders, ReturnType<typeof decideRead>][] = [
    [{}, "send"],
    [{ "if-match": '"abc"' }, "send"],
    [{ "if-match": "*" }, "send"],
    [{ "if-match": "abc" }, "send"],
    [{ "if-match": '"x", "y"' }, "failed"],
    [{ "if-match": '"x,abc"' }, "failed"],
    [{ "if-match": 'W/"abc"' }, "failed"],
    [{ "if-match": 'W/"abc", "abc"' }, "send"],
    [{ "if-none-match": '"abc"' }, "not-modified"],
    [{ "if-none-match": 'W/"abc"' }, "not-modified"],
    [{ "if-none-match": '"x", "abc"' }, "not-modified"],
    [{ "if-none-match": "*" }, "not-modified"],
    [{ "if-none-match": '"x"' }, "send"],
    [{ "if-modified-since": same }, "not-modified"],
    [{ "if-modified-since": before }, "send"],
    [{ "if-modified-since": "yesterday" }, "send"],
    [{ "if-none-match": '"x"', "if-modified-since": same }, "send"],
    [{ "if-unmodified-since": same }, "send"],
    [{ "if-unmodified-since": before }, "failed"],
    [{ "if-match": '"abc"', "if-unmodified-since": before }, "send"],
    [{ "if-match": '"x"', "if-none-match": '"abc"' }, "failed"],
  ];
  for (const [headers, expected] of rows) {
    expect(decideRead(headers, state), JSON.stringify(headers)).toBe(expected);
  }
});

test("A range is a range only of the state that If-Range names", () => {
  const rows: [string | undefined, boolean][] = [
    [undefined, true],
    ['"abc"', true],
    ['W/"abc"', false],
    ['"x"', false],
    [same, true],
    [before, false],
    ["nonsense", false],
  ];
  for (const [condition, expected] of rows) {
    expect(allowsRange({ "if-range": condition }, state), condition).toBe(expected);
  }
});

test("ETags are read with and without quotes", () => {
  expect(parseEtags(undefined)).toBeUndefined();
  expect(parseEtags(" * ")).toBe("*");
  expect(parseEtags('"a", W/"b", c')).toEqual(["a", "b", "c"]);
  expect(parseEtags('"a,b" ,"", ,d')).toEqual(["a,b", "d"]);
});

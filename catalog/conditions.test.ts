import { expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { checkConditions } from "./conditions.ts";
import type { PutConditions } from "./model.ts";

const live = { etag: "e1" };

const cases: [string, { etag: string } | undefined, PutConditions, string | undefined][] = [
  ["nothing asked of nothing", undefined, {}, undefined],
  ["nothing asked of something", live, {}, undefined],
  ["if-match * of nothing", undefined, { ifMatch: "*" }, "NoSuchKey"],
  ["if-match of nothing", undefined, { ifMatch: ["e1"] }, "NoSuchKey"],
  ["if-match * of something", live, { ifMatch: "*" }, undefined],
  ["if-match of the same", live, { ifMatch: ["e0", "e1"] }, undefined],
  ["if-match of another", live, { ifMatch: ["e0"] }, "PreconditionFailed"],
  ["if-none-match * of nothing", undefined, { ifNoneMatch: "*" }, undefined],
  ["if-none-match * of something", live, { ifNoneMatch: "*" }, "PreconditionFailed"],
  ["if-none-match of the same", live, { ifNoneMatch: ["e1"] }, "PreconditionFailed"],
  ["if-none-match of another", live, { ifNoneMatch: ["e0"] }, undefined],
  ["if-none-match of nothing", undefined, { ifNoneMatch: ["e1"] }, undefined],
  ["both, unmet by the second", live, { ifMatch: "*", ifNoneMatch: "*" }, "PreconditionFailed"],
];

test.each(cases)("A PUT with %s", (_name, standing, conditions, code) => {
  let found: unknown;
  try {
    checkConditions('"b/k"', standing, conditions);
  } catch (error) {
    found = error instanceof Failure ? error.code : error;
  }
  expect(found).toBe(code);
});

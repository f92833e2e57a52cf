import { expect, test } from "vitest";
import { seededRandom } from "../base/random.ts";
import {
  checkRegister,
  type Recorded,
  type RegisterOperation,
  type Value,
} from "./linearizable.ts";

const put = (value: number): RegisterOperation => ({ kind: "put", value });
const get = (value: Value): RegisterOperation => ({ kind: "get", value });
const remove: RegisterOperation = { kind: "delete" };

/** Operations as `[called, answered, operation]`; -1 for no answer. */
function history(...steps: [number, number, RegisterOperation][]): Recorded[] {
  return steps.map(([calledMs, answeredMs, operation]) => ({
    operation,
    calledMs,
    answeredMs: answeredMs < 0 ? undefined : answeredMs,
  }));
}

const isLinearizable = (...steps: [number, number, RegisterOperation][]) =>
  checkRegister(history(...steps)).isLinearizable;

test("What happens one after the other has to be seen so", () => {
  expect(
    isLinearizable([0, 1, put(1)], [2, 3, get(1)], [4, 5, remove], [6, 7, get(undefined)]),
  ).toBe(true);
  expect(isLinearizable([0, 1, put(1)], [2, 3, get(undefined)])).toBe(false);
  expect(isLinearizable([0, 1, put(1)], [2, 3, put(2)], [4, 5, get(1)])).toBe(false);
  expect(isLinearizable([0, 1, put(1)], [2, 3, remove], [4, 5, get(1)])).toBe(false);
});

test("What overlaps may be seen in either order, but not in both", () => {
  expect(isLinearizable([0, 10, put(1)], [0, 10, put(2)], [11, 12, get(1)])).toBe(true);
  expect(isLinearizable([0, 10, put(1)], [0, 10, put(2)], [11, 12, get(1)], [13, 14, get(2)])).toBe(
    false,
  );
  // Once somebody has seen it, nobody may see what was before.
  expect(isLinearizable([0, 10, put(1)], [2, 3, get(1)], [4, 5, get(undefined)])).toBe(false);
  expect(isLinearizable([0, 10, put(1)], [2, 3, get(undefined)], [4, 5, get(1)])).toBe(true);
});

test("What has no answer may have happened late, or never, and once only", () => {
  expect(isLinearizable([0, -1, put(1)], [2, 3, get(undefined)], [9, 10, get(1)])).toBe(true);
  expect(isLinearizable([0, -1, put(1)], [2, 3, get(undefined)])).toBe(true);
  expect(isLinearizable([0, -1, put(1)], [2, 3, get(1)], [4, 5, remove], [6, 7, get(1)])).toBe(
    false,
  );
});

test("Of conditional puts the one that is let through is the one that was right", () => {
  const first = (value: number, isRefused: boolean): RegisterOperation => ({
    kind: "put-if-absent",
    value,
    isRefused,
  });
  expect(isLinearizable([0, 9, first(1, false)], [0, 9, first(2, true)], [10, 11, get(1)])).toBe(
    true,
  );
  expect(isLinearizable([0, 9, first(1, false)], [0, 9, first(2, false)])).toBe(false);
  expect(isLinearizable([0, 9, first(1, true)])).toBe(false);
  const change = (expected: number, value: number, isRefused: boolean): RegisterOperation => ({
    kind: "put-if-match",
    expected,
    value,
    isRefused,
  });
  const begin: [number, number, RegisterOperation] = [0, 1, put(1)];
  expect(isLinearizable(begin, [2, 9, change(1, 2, false)], [2, 9, change(1, 3, true)])).toBe(true);
  expect(isLinearizable(begin, [2, 9, change(1, 2, false)], [2, 9, change(1, 3, false)])).toBe(
    false,
  );
});

test("A listing after a put shows it", () => {
  const list = (isThere: boolean): RegisterOperation => ({ kind: "list", isThere });
  expect(isLinearizable([0, 1, put(1)], [2, 3, list(true)])).toBe(true);
  expect(isLinearizable([0, 1, put(1)], [2, 3, list(false)])).toBe(false);
});

/** What clients see of a register that works, some of whose answers are lost. */
function simulate(seed: number, count: number): Recorded[] {
  const random = seededRandom(seed);
  const clients = Array.from({ length: 6 }, () => 0);
  const planned = Array.from({ length: count }, (_, id) => {
    const client = random.u32() % clients.length;
    const calledMs = (clients[client] ?? 0) + random.fraction() * 5;
    const effectMs = calledMs + random.fraction() * 10;
    const answeredMs = effectMs + random.fraction() * 10;
    clients[client] = answeredMs;
    return {
      id,
      calledMs,
      effectMs,
      answeredMs,
      kind: random.u32() % 5,
      isLost: random.fraction() < 0.015,
    };
  });
  let value: Value;
  return planned
    .sort((one, other) => one.effectMs - other.effectMs)
    .map(({ id, calledMs, answeredMs, kind, isLost }): Recorded => {
      const before = value;
      let operation: RegisterOperation;
      if (kind === 0) operation = remove;
      else if (kind === 1) operation = put(id);
      else if (kind === 2) {
        operation = { kind: "put-if-absent", value: id, isRefused: before !== undefined };
      } else operation = get(before);
      if (kind === 0) value = undefined;
      if (kind === 1 || (kind === 2 && before === undefined)) value = id;
      return { operation, calledMs, answeredMs: isLost ? undefined : answeredMs };
    });
}

test("Histories of a register that works pass, and with one answer changed they do not", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const records = simulate(seed, 200);
    expect(checkRegister(records).isLinearizable, `seed ${seed}`).toBe(true);
    // A value that was put at the very beginning is seen at the end.
    const old = records.find(({ operation }) => operation.kind === "put");
    const late = [...records].reverse().find(({ operation, answeredMs }) => {
      return operation.kind === "get" && answeredMs !== undefined;
    });
    if (old?.operation.kind !== "put" || late === undefined) throw new Error("there is none");
    const changed = records.map((record) =>
      record === late
        ? {
            ...record,
            operation: get(old.operation.kind === "put" ? old.operation.value : undefined),
          }
        : record,
    );
    const verdict = checkRegister(changed);
    expect(verdict, `seed ${seed}, changed`).toMatchObject({
      isLinearizable: false,
      isDecided: true,
    });
    expect(verdict.stuckAt).toBeDefined();
  }
});

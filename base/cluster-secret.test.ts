import { createHmac } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { inspect } from "node:util";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ClusterSecret, SecretKey } from "./cluster-secret.ts";
import type { Failure } from "./failure.ts";

const secrets = { old: "0123456789abcdef".repeat(4), new: "fe".repeat(32), other: "5".repeat(64) };

let folder: string;
let file: string;
let monotonicMs: number;
const clock = { nowMs: () => 0, monotonicMs: () => monotonicMs };

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-secret-"));
  file = path.join(folder, "token");
  monotonicMs = 0;
});

afterEach(() => rmSync(folder, { recursive: true }));

function write(text: string): void {
  writeFileSync(file, text, { mode: 0o600 });
}

test("A MAC is HMAC-SHA256 with the digits as its key", () => {
  const hex = fc.array(fc.constantFrom(..."0123456789abcdef"), { minLength: 64, maxLength: 64 });
  fc.assert(
    fc.property(hex, fc.string({ unit: "binary" }), (digits, text) => {
      const secret = digits.join("");
      const expected = createHmac("sha256", secret).update(text).digest("base64url");
      expect(new SecretKey(secret).mac(text)).toBe(expected);
      expect(new SecretKey(secret).hasMade(text, expected)).toBe(true);
      expect(new SecretKey(secret).hasMade(`${text}.`, expected)).toBe(false);
    }),
  );
});

test("A secret is made once, 0600, in 64 digits", () => {
  const made = ClusterSecret.make(file);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(readFileSync(file, "utf8")).toMatch(/^[0-9a-f]{64}\n$/);
  expect(ClusterSecret.make(file).current.mac("x")).toBe(made.current.mac("x"));
});

test("A file that others can use is refused with what to do", () => {
  write(secrets.old);
  for (const mode of [0o644, 0o640, 0o604, 0o620, 0o660, 0o601]) {
    chmodSync(file, mode);
    expect(() => ClusterSecret.read(file), mode.toString(8)).toThrow(`run: chmod 600 ${file}`);
  }
  chmodSync(file, 0o400);
  expect(ClusterSecret.read(file).current).toBeDefined();
});

test("What is no secret is refused, and not shown", () => {
  const { old } = secrets;
  const texts = ["", "\n", old.slice(1), `${old}0`, old.toUpperCase(), `${old} x`];
  for (const text of [...texts, `${old}\n${old}\n${old}`]) {
    write(text);
    expect(() => ClusterSecret.read(file), text).toThrow(/64 hexadecimal digits/);
    expect(() => ClusterSecret.read(file), text).not.toThrow(new RegExp(old.slice(1, 60)));
  }
  expect(() => ClusterSecret.read(path.join(folder, "nothing"))).toThrow(/Cannot read/);
  const secret = ClusterSecret.of(old);
  expect(inspect(secret, { depth: 9, showHidden: true })).not.toContain(old.slice(0, 16));
  expect(JSON.stringify([secret, secret.current])).not.toContain(old.slice(0, 16));
});

test("Two lines are signed with the first and accepted with either", () => {
  write(`${secrets.new}\n${secrets.old}\n`);
  const secret = ClusterSecret.read(file);
  expect(secret.current.mac("x")).toBe(new SecretKey(secrets.new).mac("x"));
  expect(secret.keyOf("x", new SecretKey(secrets.old).mac("x"))).toBeDefined();
  expect(secret.keyOf("x", new SecretKey(secrets.new).mac("x"))).toBe(secret.current);
  expect(secret.keyOf("x", new SecretKey(secrets.other).mac("x"))).toBeUndefined();
});

test("A change of the file is seen within a second of use, and one that spoils it is not taken", () => {
  const problems: Failure[] = [];
  write(secrets.old);
  const secret = ClusterSecret.read(file, {
    clock,
    onProblem: (failure) => problems.push(failure),
  });
  const accepts = (digits: string) =>
    secret.keyOf("x", new SecretKey(digits).mac("x")) !== undefined;
  write(`${secrets.new}\n${secrets.old}\n`);
  monotonicMs += 999;
  expect(accepts(secrets.new)).toBe(false);
  monotonicMs += 1;
  expect(accepts(secrets.new)).toBe(true);
  expect(accepts(secrets.old)).toBe(true);
  write(secrets.new);
  monotonicMs += 1_000;
  expect(accepts(secrets.old)).toBe(false);

  for (const spoil of [() => write(secrets.other.slice(1)), () => rmSync(file)]) {
    const before = problems.length;
    spoil();
    monotonicMs += 1_000;
    expect(accepts(secrets.new)).toBe(true);
    expect(problems.length).toBe(before + 1);
    expect(problems.at(-1)?.message).not.toContain(secrets.other.slice(1));
  }
  write(secrets.other);
  monotonicMs += 1_000;
  expect(accepts(secrets.other)).toBe(true);
  expect(accepts(secrets.new)).toBe(false);
});

test("The bearer for native calls follows from either secret and is not one of them", () => {
  const bearer = (digits: string) => `Bearer ${ClusterSecret.of(digits).nativeBearer}`;
  const secret = ClusterSecret.of(secrets.new, secrets.old);
  expect(secret.isNativeBearer(bearer(secrets.new))).toBe(true);
  expect(secret.isNativeBearer(bearer(secrets.old).replace("Bearer", "bearer"))).toBe(true);
  for (const wrong of [
    ...[undefined, "", "Bearer", bearer(secrets.other), `Bearer ${secrets.new}`],
    ...[bearer(secrets.new).slice(0, -1), `${bearer(secrets.new)}A`, bearer(secrets.new).slice(7)],
  ]) {
    expect(secret.isNativeBearer(wrong), wrong).toBe(false);
  }
});

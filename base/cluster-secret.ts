/**
 * The cluster's secret: a file of 0600 that every process of a cluster shares and no user sees. It never
 * travels: it signs calls (call-signature.ts), and makes the bearer token for SeaweedFS's clients.
 *
 * The file holds 64 hexadecimal digits a line, one line or two. The first is signed with, either is
 * accepted. The file is looked at again at most once a second, when it is used: who changes it in three
 * steps on all machines (`old new`, `new old`, `new`) loses no call, and what is taken out of it is refused
 * within the second, without a signal or a restart.
 *
 * Invariant: no digit of a secret gets into a message, a log or an answer.
 */

import { hash, randomBytes, timingSafeEqual } from "node:crypto";
import { statSync } from "node:fs";
import { type Clock, systemClock } from "./clock.ts";
import { Failure, messageOf } from "./failure.ts";
import { createSecretFile, readSecretFile } from "./secret-file.ts";

const secretPattern = /^[0-9a-f]{64}$/;
const secretsMax = 2;
const lookAgainMs = 1_000;
const blockBytes = 64;
const macDigits = 43;
const bearerPattern = /^Bearer +([\w-]{43}) *$/i;

/** Keys for signing and checking what others signed. */
export class ClusterSecret {
  readonly #look: () => readonly SecretKey[];

  private constructor(look: () => readonly SecretKey[]) {
    this.#look = look;
  }

  /** One that does not change: the current secret, and perhaps the one before. */
  static of(...secrets: readonly string[]): ClusterSecret {
    const keys = secrets.map((secret) => new SecretKey(secret));
    return new ClusterSecret(() => keys);
  }

  /** What `file` holds now and later; a change that makes it unusable is told, and not taken. */
  static read(
    file: string,
    {
      clock = systemClock,
      onProblem = () => undefined,
    }: { clock?: Clock; onProblem?: (failure: Failure) => void } = {},
  ): ClusterSecret {
    let version = versionOf(file);
    let keys = readKeys(file);
    let lookedMs = clock.monotonicMs();
    return new ClusterSecret(() => {
      const nowMs = clock.monotonicMs();
      if (nowMs - lookedMs < lookAgainMs) return keys;
      lookedMs = nowMs;
      const found = versionOf(file);
      if (found === version) return keys;
      try {
        keys = readKeys(file);
        version = found;
      } catch (error) {
        // It may be half written just now: it is read again until it can be used.
        onProblem(error instanceof Failure ? error : new Failure("internal", messageOf(error)));
      }
      return keys;
    });
  }

  /** What `file` holds, which is made (0600) if it is not there. */
  static make(file: string): ClusterSecret {
    createSecretFile(file, `${randomBytes(32).toString("hex")}\n`);
    return ClusterSecret.read(file);
  }

  /** What to sign with. */
  get current(): SecretKey {
    const [key] = this.#look();
    if (key === undefined) throw new Failure("internal", "Cannot sign: there is no secret");
    return key;
  }

  /** Whether the key is still one of ours. */
  has(key: SecretKey): boolean {
    return this.#look().includes(key);
  }

  /** The key whose MAC of the text this is, if it is one of ours. */
  keyOf(text: string, mac: string): SecretKey | undefined {
    return this.#look().find((key) => key.hasMade(text, mac));
  }

  /**
   * What a client of SeaweedFS's calls shows where they are not open. It travels with its calls, which
   * is why it opens no others, and why the secret can't be worked out from it.
   */
  get nativeBearer(): string {
    return this.current.mac(nativeText);
  }

  /** Whether an `Authorization` header shows it. */
  isNativeBearer(authorization: string | undefined): boolean {
    const token = bearerPattern.exec(authorization ?? "")?.[1];
    return token !== undefined && this.keyOf(nativeText, token) !== undefined;
  }
}

const nativeText = "native";

/** One secret. Its texts begin with what they are for, so that no MAC can be used for anything else. */
export class SecretKey {
  readonly #innerPad: string;
  readonly #outer: Buffer = Buffer.alloc(blockBytes + 32);
  readonly #left: Buffer = Buffer.alloc(macDigits);
  readonly #right: Buffer = Buffer.alloc(macDigits);

  constructor(secret: string) {
    if (!secretPattern.test(secret)) {
      throw new Failure("bad-request", "Cannot use the secret: it is not 64 hexadecimal digits");
    }
    const key = Buffer.from(secret, "latin1");
    this.#innerPad = Buffer.from(key.map((byte) => byte ^ 0x36)).toString("latin1");
    this.#outer.set(key.map((byte) => byte ^ 0x5c));
  }

  /**
   * HMAC-SHA256 of the text in UTF-8, in base64url, with the 64 digits themselves as the key.
   *
   * Written out as two hashes because that is half the price of `createHmac`, which every call would
   * pay twice. The digits fill a block of SHA-256, and the inner pad of digits is ASCII again.
   */
  mac(text: string): string {
    this.#outer.write(hash("sha256", this.#innerPad + text, "binary"), blockBytes, "latin1");
    return hash("sha256", this.#outer, "base64url");
  }

  /** Whether this is the MAC of the text, in a time that does not tell how much of it is right. */
  hasMade(text: string, mac: string): boolean {
    if (mac.length !== macDigits) return false;
    this.#left.write(mac, "latin1");
    this.#right.write(this.mac(text), "latin1");
    return timingSafeEqual(this.#left, this.#right);
  }

  toJSON(): string {
    return "[left out]";
  }
}

function readKeys(file: string): SecretKey[] {
  const secrets = readSecretFile(file).split(/\s+/).filter(Boolean);
  if (
    secrets.length === 0 ||
    secrets.length > secretsMax ||
    !secrets.every((secret) => secretPattern.test(secret))
  ) {
    throw new Failure(
      "bad-request",
      `Cannot use ${file}: it does not hold 64 hexadecimal digits, or two lines of them`,
    );
  }
  return secrets.map((secret) => new SecretKey(secret));
}

/** Another whenever the file is. */
function versionOf(file: string): string {
  const stat = statSync(file, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? "" : `${stat.ino}:${stat.mtimeNs}:${stat.ctimeNs}:${stat.size}`;
}

/**
 * The files that `hayloft up` keeps in its data folder, for its children and for tools to find:
 *
 *   token              the cluster's secret (0600)
 *   credentials.json   key and secret of the root user (0600)
 *   run.json           addresses and process ids of what runs now
 *   directory/ store/ gateway/   what each role keeps
 */

import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Failure, messageOf } from "./base/failure.ts";
import type { RoleReady } from "./base/role.ts";
import { createSecretFile } from "./base/secret-file.ts";
import { type Credentials, readCredentials } from "./gateway/client.ts";

export const roleNames = ["directory", "store", "gateway"] as const;
export type RoleName = (typeof roleNames)[number];

export type RunFile = { pid: number } & Partial<Record<RoleName, RoleReady & { pid: number }>>;

export class Installation {
  readonly folder: string;
  readonly tokenFile: string;
  readonly credentialsFile: string;
  readonly #runFile: string;

  constructor(data: string) {
    this.folder = path.resolve(data);
    this.tokenFile = path.join(this.folder, "token");
    this.credentialsFile = path.join(this.folder, "credentials.json");
    this.#runFile = path.join(this.folder, "run.json");
  }

  roleFolder(role: RoleName): string {
    return path.join(this.folder, role);
  }

  /** Makes the root user's key and secret unless they are there; returns whether it did. */
  makeCredentials(): boolean {
    const credentials: Credentials = {
      accessKey: `HL${randomBytes(9).toString("hex").toUpperCase()}`,
      secretKey: randomBytes(30).toString("base64url"),
    };
    return createSecretFile(this.credentialsFile, `${JSON.stringify(credentials)}\n`);
  }

  readCredentials(): Credentials {
    return readCredentials(this.credentialsFile);
  }

  writeRun(run: RunFile): void {
    writeFileSync(`${this.#runFile}.new`, `${JSON.stringify(run)}\n`, { mode: 0o600 });
    renameSync(`${this.#runFile}.new`, this.#runFile);
  }

  readRun(): RunFile {
    try {
      return JSON.parse(readFileSync(this.#runFile, "utf8")) as RunFile;
    } catch (error) {
      throw new Failure(
        "unavailable",
        `Cannot find a running Hayloft in ${this.folder}: ${messageOf(error)}; start one with "hayloft up", or name its folder with --data`,
      );
    }
  }
}

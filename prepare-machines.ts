/** What all machines of a cluster share: the secret of its processes, and the root user's key. */

import { mkdirSync } from "node:fs";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure, messageOf, systemErrorCode } from "./base/failure.ts";
import { Installation } from "./installation.ts";

/** Makes what is not there yet. */
export function prepareMachines(folder: string): void {
  const installation = new Installation(folder);
  const { tokenFile, credentialsFile } = installation;
  let isNew: boolean;
  try {
    mkdirSync(installation.folder, { recursive: true, mode: 0o700 });
    ClusterSecret.make(tokenFile);
    isNew = installation.makeCredentials();
  } catch (error) {
    if (error instanceof Failure || systemErrorCode(error) === undefined) throw error;
    throw new Failure("bad-request", `Cannot prepare ${folder}: ${messageOf(error)}`);
  }
  process.stdout.write(`  ${tokenFile}   the secret of the processes
  ${credentialsFile}   the root user's key${isNew ? "" : ", as it was"}

Copy both to the same place on every machine. The user that Hayloft runs as owns them, and nobody
else may read them.
`);
}

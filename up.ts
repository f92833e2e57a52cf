/**
 * `hayloft up`: a directory, a store and a gateway as child processes on one machine, in one folder.
 *
 * Invariants:
 * - The folder is this process's alone (the kernel's lock); its children each lock their own part.
 * - A child that dies is started again on the address it had. One that can't run ends them all.
 * - A stop is drained: the gateway first, so that nothing it has taken in is lost on the way down.
 */

import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure, messageOf } from "./base/failure.ts";
import { type FolderLock, lockFolder } from "./base/lock.ts";
import { type Log, type LogLevel, makeLog } from "./base/log.ts";
import type { RoleReady } from "./base/role.ts";
import { Supervisor } from "./base/supervisor.ts";
import type { Credentials } from "./gateway/client.ts";
import { Installation, type RoleName, type RunFile, roleNames } from "./installation.ts";
import { makeFirstBucket } from "./operate.ts";

export interface UpOptions {
  data: string;
  host: string;
  port: number;
  directoryPort: number;
  storePort: number;
  reserve: number;
  volumeSize: number;
  cacheBytes: number;
  deleteDelay: number;
  catalog?: string | undefined;
  checkpointNeedles?: number | undefined;
  logLevel: LogLevel;
}

/** From the signal to the end: a user may count on 15 s. */
const stopLimitMs = 14_000;

export async function up(options: UpOptions): Promise<void> {
  const installation = new Installation(options.data);
  const log = makeLog("up", options.logLevel);
  const lock = lockFolder(installation.folder, "hayloft");
  ClusterSecret.make(installation.tokenFile);
  const isFirstStart = installation.makeCredentials();

  const supervisors = makeSupervisors(options, installation, log);
  const stop = stopOnSignals(supervisors, lock, log);
  let hasSaidWhy = false;
  for (const name of roleNames) {
    supervisors[name].on("ready", () => writeRun(installation, supervisors));
    supervisors[name].on("gaveUp", (failure) => {
      process.stderr.write(`hayloft: ${failure.message}\n`);
      hasSaidWhy = true;
      stop(1);
    });
  }
  try {
    await waitForLeftovers(installation);
    // In this order: each asks the one before it.
    for (const name of roleNames) await supervisors[name].start();
    const gateway = supervisors.gateway.ready;
    if (gateway === undefined)
      throw new Failure("unavailable", "Cannot start: the gateway has died");
    const credentials = installation.readCredentials();
    await waitUntilReady(gateway.opsAddress);
    await makeFirstBucket(gateway.address, credentials);
    process.stdout.write(
      banner({ folder: installation.folder, gateway, credentials, isFirstStart, supervisors }),
    );
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (!hasSaidWhy) process.stderr.write(`hayloft: ${error.message}\n`);
    stop(1);
  }
}

type Supervisors = Record<RoleName, Supervisor<RoleReady>>;

function makeSupervisors(options: UpOptions, installation: Installation, log: Log): Supervisors {
  const script = path.join(import.meta.dirname, `main${path.extname(import.meta.filename)}`);
  const make = (name: RoleName, port: number, args: () => string[], env?: Record<string, string>) =>
    new Supervisor<RoleReady>({
      name: `the ${name}`,
      log,
      readyLimitMs: 600_000, // recovery of a large store takes its time, and says so in the log
      stopLimitMs: 12_500,
      args: (last) => [
        script,
        name,
        ...["--data", installation.roleFolder(name)],
        ...["--token-file", installation.tokenFile],
        ...["--log-level", options.logLevel],
        // A restart takes the address that the others know.
        ...["--port", String(last === undefined ? port : portOf(last.address))],
        ...["--ops-port", String(last === undefined ? 0 : portOf(last.opsAddress))],
        ...args(),
      ],
      ...(env === undefined ? {} : { env }),
    });
  const supervisors: Supervisors = {
    directory: make("directory", options.directoryPort, () => []),
    store: make("store", options.storePort, () => [
      ...["--directory", addressOf(supervisors.directory)],
      ...["--reserve", String(options.reserve)],
      ...["--volume-size", String(options.volumeSize)],
      ...(options.checkpointNeedles === undefined
        ? []
        : ["--checkpoint-needles", String(options.checkpointNeedles)]),
    ]),
    gateway: make(
      "gateway",
      options.port,
      () => [
        ...["--directory", addressOf(supervisors.directory)],
        ...["--host", options.host],
        ...["--credentials", installation.credentialsFile],
        ...["--cache-bytes", String(options.cacheBytes)],
        ...["--delete-delay", String(options.deleteDelay)],
      ],
      // Not among the arguments, which all users of the machine can read: it may hold a password.
      options.catalog === undefined ? undefined : { HAYLOFT_CATALOG: options.catalog },
    ),
  };
  return supervisors;
}

/** The address of a child that was ready once: it keeps it over restarts. */
function addressOf(supervisor: Supervisor<RoleReady>): string {
  const ready = supervisor.last;
  if (ready === undefined)
    throw new Failure("internal", "Cannot start a role before the one it asks");
  return ready.address;
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(":") + 1));
}

function stopOnSignals(
  supervisors: Supervisors,
  lock: FolderLock,
  log: Log,
): (exitCode: number) => void {
  let isStopping = false;
  const stop = (exitCode: number) => {
    if (isStopping) return; // a signal to the group and one from npm arrive together
    isStopping = true;
    setTimeout(() => process.exit(1), stopLimitMs).unref();
    stopAll(supervisors).then(
      () => {
        lock.release();
        process.exit(exitCode);
      },
      (error: unknown) => {
        log.error({ err: error }, "stopping failed");
        process.exit(1);
      },
    );
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => stop(0));
  return stop;
}

/**
 * When this process is killed its children stop by themselves, but not at once: a start that comes
 * quickly waits for them, by the locks that they hold.
 */
async function waitForLeftovers(installation: Installation): Promise<void> {
  const deadlineMs = performance.now() + 13_000;
  for (const name of roleNames) {
    for (;;) {
      try {
        lockFolder(installation.roleFolder(name), name).release();
        break;
      } catch (error) {
        if (performance.now() > deadlineMs) throw error;
        await sleep(100);
      }
    }
  }
}

async function stopAll(supervisors: Supervisors): Promise<void> {
  for (const name of roleNames) supervisors[name].retire();
  await supervisors.gateway.stop();
  await supervisors.store.stop();
  await supervisors.directory.stop();
}

async function waitUntilReady(opsAddress: string): Promise<void> {
  const deadlineMs = performance.now() + 30_000;
  let reason = "it does not answer";
  while (performance.now() < deadlineMs) {
    try {
      const answer = await fetch(`http://${opsAddress}/readyz`, {
        signal: AbortSignal.timeout(2_000),
      });
      if (answer.ok) return;
      ({ reason } = (await answer.json()) as { reason: string });
    } catch (error) {
      reason = messageOf(error);
    }
    await sleep(50);
  }
  throw new Failure("timeout", `Cannot start: the gateway is not ready: ${reason}`);
}

function writeRun(installation: Installation, supervisors: Supervisors): void {
  const run: RunFile = { pid: process.pid };
  for (const name of roleNames) {
    const { ready, pid } = supervisors[name];
    if (ready !== undefined && pid !== undefined) run[name] = { pid, ...ready };
  }
  installation.writeRun(run);
}

function banner({
  folder,
  gateway,
  credentials: { accessKey, secretKey },
  isFirstStart,
  supervisors,
}: {
  folder: string;
  gateway: RoleReady;
  credentials: Credentials;
  isFirstStart: boolean;
  supervisors: Supervisors;
}): string {
  const url = `http://${gateway.address}`;
  const shown = path.relative(process.cwd(), folder);
  const data = shown.startsWith("..") ? folder : `./${shown}`;
  const ops = roleNames.map(
    (name) => `${name} http://${supervisors[name].ready?.opsAddress}/metrics`,
  );
  return `
Hayloft is up:  ${url}

  access key    ${accessKey}
  secret key    ${secretKey}
  data          ${data}${isFirstStart ? " (made just now; the key is in credentials.json there)" : ""}
  copies        one copy on one disk: a lost disk is a lost photo
  metrics       ${ops.join("\n                ")}

Try it, in this folder:

  curl -u ${accessKey}:${secretKey} -T samples/hayloft.jpg ${url}/photos/hayloft.jpg
  curl -o small.webp '${url}/photos/hayloft.jpg?w=640&f=webp'
  curl -u ${accessKey}:${secretKey} -X DELETE ${url}/photos/hayloft.jpg

Stop with Ctrl-C.
`;
}

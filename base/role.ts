/**
 * The life of a role's process: start, say that it is ready, run, and stop without dropping what runs.
 *
 * Alone, a process stops at SIGINT or SIGTERM. Under a supervisor it stops when that says so, and when it
 * is gone, so that killing the parent leaves no orphan; signals, which reach a whole group at once, are the
 * supervisor's to act on.
 */

import { messageOf, toFailure } from "./failure.ts";
import type { Log } from "./log.ts";

/** What a started role gives its supervisor to know. */
export interface RoleReady {
  /** `host:port` of the role's own server. */
  address: string;
  /** `host:port` of its metrics and health. */
  opsAddress: string;
}

export interface RunningRole {
  ready: RoleReady;
  /** Lets running requests end, `graceMs` at most. */
  close(graceMs: number): Promise<void>;
}

/** An exit code that says: starting again will not help (bad configuration, a taken port or folder). */
export const exitCodeHopeless = 78;

/** How long a stop may take: within the 15 s that a user may count on, with room for the parent. */
const stopLimitMs = 12_000;

/** How long running requests may take to end; and when the supervisor, and so the other roles, are gone. */
const drainMs = 8_000;
const orphanDrainMs = 500;

/** What a supervisor says to its child. */
export interface SupervisorMessage {
  stop?: boolean;
}

export async function runRole(log: Log, start: () => Promise<RunningRole>): Promise<void> {
  let role: RunningRole | undefined;
  let isStopping = false;

  const stop = (reason: string, exitCode: number, graceMs = drainMs) => {
    if (isStopping) return;
    isStopping = true;
    log.info({ reason }, "stopping");
    setTimeout(() => {
      log.error(`did not stop within ${stopLimitMs} ms`);
      process.exit(1);
    }, stopLimitMs).unref();
    Promise.resolve(role?.close(graceMs)).then(
      () => {
        log.info("stopped");
        process.exit(exitCode);
      },
      (error: unknown) => {
        log.error({ err: error }, "stopping failed");
        process.exit(1);
      },
    );
  };

  const isSupervised = process.send !== undefined;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      // A signal to the whole group is for the supervisor: it ends its children in the right order.
      if (!isSupervised) stop(signal, 0);
    });
  }
  process.on("message", (message: SupervisorMessage) => {
    if (message.stop) stop("the supervisor says so", 0);
  });
  // Whatever is asked for now has lost the other half of its way: there is little to drain.
  process.on("disconnect", () => stop("the supervisor is gone", 0, orphanDrainMs));
  process.on("uncaughtException", (error) => {
    // Nothing is known about the state after this: an orderly end, and a new start by the supervisor.
    log.fatal({ err: error }, "a mistake was not caught");
    stop("a mistake was not caught", 1);
  });

  try {
    role = await start();
  } catch (error) {
    const failure = toFailure(error);
    const isHopeless = failure.kind === "conflict" || failure.kind === "bad-request";
    const text = failure.kind === "internal" ? messageOf(error) : failure.message;
    // A supervisor tells its user; alone, the log is where a user looks.
    if (failure.kind === "internal") log.fatal({ err: failure.cause ?? error }, "start failed");
    else if (process.send === undefined) log.fatal(failure.message);
    process.send?.({ failed: text });
    process.exit(isHopeless ? exitCodeHopeless : 1);
  }
  log.info(role.ready, "ready");
  process.send?.({ ready: role.ready });
}

/** Logs: one JSON object a line on standard error, with the role that wrote it. Secrets are left out. */

import { type Logger, pino } from "pino";

export type Log = Logger;

export const logLevels = ["trace", "debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

export function makeLog(role: string, level: LogLevel): Log {
  return pino(
    {
      level,
      base: { role, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: ["*.authorization", "*.cookie", "*.secret", "*.token"],
        censor: "[left out]",
      },
    },
    // Synchronous: the last line before a crash is the one that matters.
    pino.destination({ dest: 2, sync: true }),
  );
}

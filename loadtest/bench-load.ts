/**
 * Load from outside on one address, by wrk where it is installed and by autocannon otherwise.
 * Every answer that is not 2xx counts as bad, and so does every cut or late one.
 */

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Failure, messageOf } from "../base/failure.ts";
import { pinPrefix } from "./bench-process.ts";

const execute = promisify(execFile);

export interface LoadSpec {
  address: string;
  method: "GET" | "POST";
  /** Asked for in turn. */
  paths: readonly string[];
  headers: Record<string, string>;
  body?: Buffer;
  connections: number;
  seconds: number;
}

export interface LoadResult {
  perSecond: number;
  latencyMsP50: number;
  latencyMsP99: number;
  bad: number;
  command: string;
}

export interface LoadTool {
  name: string;
  run(spec: LoadSpec): Promise<LoadResult>;
}

/** `scratch` is a folder for scripts; `core` is where the tool is pinned, if anywhere. */
export async function findLoadTool(scratch: string, core: number | undefined): Promise<LoadTool> {
  const pin = pinPrefix(core);
  // wrk has no option for its version alone: it prints that and its usage, and ends with 1.
  const version = await execute("wrk", ["-v"]).then(
    ({ stdout }) => stdout,
    (error: { stdout?: string; code?: string }) => (error.code === "ENOENT" ? "" : error.stdout),
  );
  if (version) {
    const name = version.split(" [")[0] ?? "wrk";
    return { name, run: (spec) => runWrk(spec, scratch, pin) };
  }
  return { name: "autocannon", run: (spec) => runAutocannon(spec, scratch, pin) };
}

async function runWrk(spec: LoadSpec, scratch: string, pin: string[]): Promise<LoadResult> {
  const { address, paths, seconds, connections, body } = spec;
  const script = path.join(scratch, "load.lua");
  await writeFile(path.join(scratch, "paths"), `${paths.join("\n")}\n`);
  await writeFile(path.join(scratch, "body"), body ?? "");
  await writeFile(script, wrkScript(spec, scratch));
  const args = [
    ...["-t1", `-c${connections}`, `-d${seconds}s`, "--timeout", "10s"],
    ...["-s", script, `http://${address}`],
  ];
  const { output, command } = await run([...pin, "wrk", ...args], seconds);
  const line = output.split("\n").find((text) => text.startsWith("result "));
  if (line === undefined) throw new Failure("internal", `Cannot read what wrk printed: ${output}`);
  const [requests = 0, microseconds = 1, bad = 0, p50 = 0, p99 = 0] = line
    .split(" ")
    .slice(1)
    .map(Number);
  return {
    perSecond: requests / (microseconds / 1e6),
    latencyMsP50: p50 / 1_000,
    latencyMsP99: p99 / 1_000,
    bad,
    command,
  };
}

function wrkScript({ method, headers, body }: LoadSpec, scratch: string): string {
  const headerLines = Object.entries(headers).map(
    ([name, value]) => `wrk.headers[${luaText(name)}] = ${luaText(value)}`,
  );
  // Requests are written once, before the load: what Lua does while it runs would slow the load down.
  return `
wrk.method = ${luaText(method)}
${headerLines.join("\n")}
${body === undefined ? "" : `wrk.body = io.open(${luaText(path.join(scratch, "body"))}, "rb"):read("*a")`}
local requests = {}
local at = 0
init = function()
  for line in io.lines(${luaText(path.join(scratch, "paths"))}) do
    requests[#requests + 1] = wrk.format(nil, line)
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format("result %d %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
`;
}

function luaText(text: string): string {
  return `"${text.replace(/[\\"\n]/g, (sign) => (sign === "\n" ? "\\n" : `\\${sign}`))}"`;
}

interface AutocannonReport {
  requests: { average: number };
  latency: { p50: number; p99: number };
  errors: number;
  timeouts: number;
  non2xx: number;
}

/** Autocannon's command asks for one path only, so it gets the first. */
async function runAutocannon(spec: LoadSpec, scratch: string, pin: string[]): Promise<LoadResult> {
  const { address, method, paths, headers, body, seconds, connections } = spec;
  const script = fileURLToPath(import.meta.resolve("autocannon/autocannon.js"));
  const input = path.join(scratch, "body");
  await writeFile(input, body ?? "");
  const args = [
    ...["--json", "--no-progress", "-c", String(connections), "-d", String(seconds), "-m", method],
    ...Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}=${value}`]),
    ...(body === undefined ? [] : ["-i", input]),
    `http://${address}${paths[0]}`,
  ];
  const { output, command } = await run([...pin, process.execPath, script, ...args], seconds);
  const { requests, latency, errors, timeouts, non2xx } = JSON.parse(output) as AutocannonReport;
  return {
    perSecond: requests.average,
    latencyMsP50: latency.p50,
    latencyMsP99: latency.p99,
    bad: errors + timeouts + non2xx,
    command,
  };
}

async function run(
  [file = "", ...args]: string[],
  seconds: number,
): Promise<{ output: string; command: string }> {
  // A header may carry the cluster's token: the command is shown without what is secret.
  const command = [path.basename(file), ...args].join(" ").replace(/=[0-9a-f]{64}\b/g, "=…");
  try {
    const { stdout } = await execute(file, args, { timeout: (seconds + 20) * 1_000 });
    return { output: stdout, command };
  } catch (error) {
    throw new Failure("internal", `Cannot run ${command}: ${messageOf(error)}`, { cause: error });
  }
}

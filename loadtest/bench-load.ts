/**
 * Load from outside on one address, by wrk where it is installed and by autocannon otherwise.
 * Every answer that is not 2xx counts as bad, and so does every cut or late one.
 */

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { isRead, signatureHeader } from "../base/call-signature.ts";
import { Failure, messageOf } from "../base/failure.ts";
import { pinPrefix } from "./bench-process.ts";
import type { SignedCalls } from "./signed-calls.ts";

/** So many calls are signed for a second of load that changes something: no store takes more. */
const changesPerSecondMax = 60_000;
const signatureMark = "@signature@";

const execute = promisify(execFile);

export interface LoadSpec {
  address: string;
  method: "GET" | "POST";
  /** Asked for in turn. */
  paths: readonly string[];
  /** With names in lower case. */
  headers: Record<string, string>;
  body?: Buffer;
  /** Signs each call as one of the cluster's own; a call that changes something is not sent twice. */
  signed?: SignedCalls;
  connections: number;
  seconds: number;
}

type SignedSpec = Omit<LoadSpec, "signed"> & {
  /** Of the calls in turn; none where all have the same headers. */
  signatures: readonly string[];
};

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

async function runWrk(unsigned: LoadSpec, scratch: string, pin: string[]): Promise<LoadResult> {
  const spec = await sign(unsigned);
  const { address, paths, seconds, connections, body } = spec;
  const script = path.join(scratch, "load.lua");
  await writeFile(path.join(scratch, "paths"), `${paths.join("\n")}\n`);
  await writeFile(path.join(scratch, "body"), body ?? "");
  await writeFile(path.join(scratch, "signatures"), spec.signatures.join("\n"));
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

/** The spec with what its calls are signed with: a read with a pass for all of them. */
async function sign({ signed, ...spec }: LoadSpec): Promise<SignedSpec> {
  const { address, method, headers, seconds } = spec;
  if (signed === undefined) return { ...spec, signatures: [] };
  if (isRead(method)) {
    return { ...spec, headers: { ...headers, ...(await signed.pass(address)) }, signatures: [] };
  }
  const signatures = await signed.signAhead({ ...spec, count: changesPerSecondMax * seconds });
  return { ...spec, headers: { ...headers, [signatureHeader]: signatureMark }, signatures };
}

function wrkScript({ method, headers, body }: SignedSpec, scratch: string): string {
  const headerLines = Object.entries(headers).map(
    ([name, value]) => `wrk.headers[${luaText(name)}] = ${luaText(value)}`,
  );
  // As much as can be is written before the load: what Lua does while it runs would slow the load down.
  return `
wrk.method = ${luaText(method)}
${headerLines.join("\n")}
${body === undefined ? "" : `wrk.body = io.open(${luaText(path.join(scratch, "body"))}, "rb"):read("*a")`}
local requests = {}
local signatures = {}
local at = 0
init = function()
  for line in io.lines(${luaText(path.join(scratch, "signatures"))}) do
    signatures[#signatures + 1] = line
  end
  for line in io.lines(${luaText(path.join(scratch, "paths"))}) do
    requests[#requests + 1] = wrk.format(nil, line)
  end
  for i, text in ipairs(requests) do
    local from, to = text:find(${luaText(signatureMark)}, 1, true)
    if from then requests[i] = { text:sub(1, from - 1), text:sub(to + 1) } end
  end
end
request = function()
  at = at + 1
  local one = requests[(at - 1) % #requests + 1]
  if #signatures == 0 then return one end
  return one[1] .. signatures[(at - 1) % #signatures + 1] .. one[2]
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
async function runAutocannon(
  unsigned: LoadSpec,
  scratch: string,
  pin: string[],
): Promise<LoadResult> {
  const spec = await sign(unsigned);
  const { address, method, paths, headers, body, seconds, connections, signatures } = spec;
  if (signatures.length > 0) {
    throw new Failure("unavailable", "Cannot sign each call with autocannon: install wrk");
  }
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
  const command = [path.basename(file), ...args].join(" ");
  try {
    const { stdout } = await execute(file, args, { timeout: (seconds + 20) * 1_000 });
    return { output: stdout, command };
  } catch (error) {
    throw new Failure("internal", `Cannot run ${command}: ${messageOf(error)}`, { cause: error });
  }
}

/** docs/machines.md, followed to the letter: its commands, on machines made of network namespaces. */

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lacksPostgres, postgresPrograms } from "../base/postgres-server.ts";
import { NetworkHosts } from "./network-hosts.ts";
import { type PageCommand, readPageCommands } from "./page-commands.ts";
import { PageMachine } from "./page-machine.ts";

const obstacle =
  NetworkHosts.obstacle() ??
  (lacksPostgres ? "PostgreSQL is not installed (Debian's package postgresql)" : undefined);
if (obstacle !== undefined) console.warn(`machines.test.ts is skipped: ${obstacle}`);

const names = ["one", "two", "three"];
const root = path.join(import.meta.dirname, "..");
/** The network of the page. */
const pagePrefix = "10.0.0.";

describe.skipIf(obstacle !== undefined)("Several machines (root on Linux, PostgreSQL)", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-machines-"));
  const machines: PageMachine[] = [];
  let hosts: NetworkHosts;
  let commands: PageCommand[] = [];

  beforeAll(() => {
    chmodSync(folder, 0o755);
    hosts = NetworkHosts.make(names);
    const prefix = hosts.ownAddress.replace(/[0-9]+$/, "");
    const tools = path.join(folder, "tools");
    mkdirSync(tools);
    writeTool(tools, "hayloft", `exec "${process.execPath}" "${root}/bin/hayloft.cjs" "$@"`);
    // All machines are this one: what is copied to another goes to the folder that is its /srv.
    writeTool(tools, "scp", `cp -pr "$2" "${folder}/\${3%%:*}\${3#*:}"`);
    for (const name of names) {
      const address = hosts.addressOf(name);
      machines.push(
        new PageMachine({
          address,
          folder: path.join(folder, address),
          inside: hosts.command(name),
          tools: [tools, postgresPrograms ?? ""],
        }),
      );
    }
    // The page's machines are .1 and .2, which here are the bridge and the first: one further each.
    const page = readFileSync(path.join(root, "docs", "machines.md"), "utf8")
      .replaceAll(/\b10\.0\.0\.([123])\b/g, (_, last) => `${pagePrefix}${Number(last) + 1}`)
      .replaceAll(pagePrefix, prefix);
    commands = readPageCommands(page);
  });

  afterAll(async () => {
    for (const machine of machines) await machine.kill();
    hosts.destroySync();
    if (process.env.KEEP === undefined) rmSync(folder, { recursive: true, force: true });
  });

  const machineAt = (address: string) => {
    const machine = machines.find((each) => each.address === address);
    if (machine === undefined) throw new Error(`the page names ${address}, which is no machine`);
    return machine;
  };

  /** As without power: nothing runs, and whoever calls hears nothing. */
  const die = async (address: string) => {
    await machineAt(address).kill();
    const name = names.find((each) => hosts.addressOf(each) === address) ?? "";
    for (const other of names.filter((each) => each !== name)) {
      hosts.cut(other, name);
      hosts.cut(name, other);
    }
  };

  test("keep every photo and every name while one of them is dead, by the page's commands", {
    timeout: 420_000,
  }, async () => {
    const services = commands.filter((each) => each.keepsRunning && each.on === undefined);
    let state: string | undefined;
    for (const [at, command] of commands.entries()) {
      const { when, script, as, keepsRunning } = command;
      if (when !== undefined && state !== `${when.address} ${when.is}`) {
        state = `${when.address} ${when.is}`;
        hosts.heal();
        if (when.is === "dead") await die(when.address);
      }
      const on = command.on === undefined ? machines.slice(0, 2) : [machineAt(command.on)];
      for (const machine of on) {
        if (keepsRunning) await machine.start(script);
        else await machine.run(script, as);
      }
      // The page says "as in 3" where the last of the databases is up.
      const next = commands[at + 1];
      const isDatabaseUp = when?.is === "back" && as !== undefined && next?.as === undefined;
      if (isDatabaseUp) {
        for (const service of services) await machineAt(when.address).start(service.script);
      }
    }
    const dead = new Set(commands.flatMap(({ when }) => (when?.is === "dead" ? when.address : [])));
    expect(dead.size).toBe(3);
  });
});

function writeTool(folder: string, name: string, line: string): void {
  const file = path.join(folder, name);
  writeFileSync(file, `#!/bin/sh\n${line}\n`);
  chmodSync(file, 0o755);
}

/** Hosts of a run: what they can reach, and what is cut. */

import { spawn } from "node:child_process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NetworkHosts } from "./network-hosts.ts";

const obstacle = NetworkHosts.obstacle();
if (obstacle !== undefined) console.warn(`network-hosts.test.ts is skipped: ${obstacle}`);

/** What comes of a TCP connection from one host to a server on another, or on this one. */
async function ask(hosts: NetworkHosts, from: string, address: string): Promise<string> {
  const [program, ...args] = hosts.command(from);
  const script = `
    const socket = require("node:net").connect({ host: "${address}", port: 7777, timeout: 400 });
    const end = (text) => { console.log(text); process.exit(); };
    socket.on("data", (data) => end(data.toString()));
    socket.on("timeout", () => end("silence"));
    socket.on("error", (error) => end(error.code));`;
  return await outputOf(spawn(program, [...args, process.execPath, "-e", script]));
}

async function outputOf(child: ReturnType<typeof spawn>): Promise<string> {
  let text = "";
  child.stdout?.on("data", (data: Buffer) => {
    text += data.toString();
  });
  await new Promise((resolve) => child.once("exit", resolve));
  return text.trim();
}

describe.skipIf(obstacle !== undefined)("Hosts in network namespaces (root on Linux)", () => {
  let hosts: NetworkHosts;
  const servers: ReturnType<typeof spawn>[] = [];

  beforeAll(async () => {
    hosts = NetworkHosts.make(["one", "two"]);
    for (const name of ["one", "two"]) {
      const [program, ...args] = hosts.command(name);
      const script = `require("node:net").createServer((socket) => socket.end("${name}"))
        .listen(7777, "${hosts.addressOf(name)}", () => console.log("up"));`;
      const server = spawn(program, [...args, process.execPath, "-e", script]);
      servers.push(server);
      await new Promise((resolve) => server.stdout?.once("data", resolve));
    }
  });

  afterAll(() => {
    for (const server of servers) server.kill("SIGKILL");
    hosts.destroySync();
  });

  test("They reach each other until they are cut, and again when that is healed", async () => {
    const [one, two] = [hosts.addressOf("one"), hosts.addressOf("two")];
    expect(await ask(hosts, "one", two)).toBe("two");
    expect(await ask(hosts, "two", one)).toBe("one");
    hosts.cut("one", "two");
    // What one sends is lost before it leaves; what it would answer is lost as well.
    expect(await ask(hosts, "one", two)).toBe("silence");
    expect(await ask(hosts, "two", one)).toBe("silence");
    hosts.heal();
    expect(await ask(hosts, "two", one)).toBe("one");
    expect(await ask(hosts, "one", two)).toBe("two");
  });
});

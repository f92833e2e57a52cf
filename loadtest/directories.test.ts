/** Several directories on one PostgreSQL, as processes: whatever becomes of the leader, another follows. */

import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { lacksPostgres, needsPostgres } from "../base/postgres-server.ts";
import { systemRandom } from "../base/random.ts";
import type { DirectoryClient, HeartbeatReply } from "../directory/client.ts";
import { Directories } from "./directories.ts";
import { basicAuth, request } from "./request.ts";

const limitMs = 180_000;

/** Lease and look together are under 5 s; how busy the machine is besides is not the directory's. */
const takeoverMsMax = 30_000;

describe.skipIf(lacksPostgres)(`Three directories ${needsPostgres}`, () => {
  let directories: Directories;

  beforeEach(async () => {
    directories = await Directories.start();
  }, limitMs);

  afterEach(async () => {
    await directories.destroy();
  }, limitMs);

  test(
    "A leader that is killed is succeeded in time, and no id or order is given out twice",
    async () => {
      const given = new Given();
      const load = startJoining(directories.client(), given);
      const measured: string[] = [];
      const leases: number[] = [];
      for (let round = 0; round < 5; round++) {
        const { process: leader, status } = await directories.untilLed();
        leases.push(status.lease ?? 0);
        await sleep(300 + round * 200);
        const killedMs = performance.now();
        const before = given.answerCount;
        await leader.kill();
        await directories.untilLed();
        const ledMs = performance.now() - killedMs;
        while (given.answerCount === before) await sleep(5);
        const answeredMs = performance.now() - killedMs;
        measured.push(`${Math.round(ledMs)}/${Math.round(answeredMs)}`);
        expect(answeredMs).toBeLessThan(takeoverMsMax);
        await leader.start();
      }
      await load.stop();
      console.log(`killed: led again/a store answered after ms: ${measured.join(" ")}`);
      expect(leases).toEqual(leases.toSorted((left, right) => left - right));
      expect(new Set(leases).size).toBe(leases.length);
      given.expectUnique();
    },
    limitMs,
  );

  test(
    "A leader that was frozen finds another in its place, and what it does late is refused",
    async () => {
      const given = new Given();
      for (let round = 0; round < 3; round++) {
        const { process: old } = await directories.untilLed();
        // In flight at the old one alone, whatever it was doing when it stopped.
        const late = startJoining(directories.client(old.address), given, { concurrency: 8 });
        await sleep(500);
        old.freeze();
        const frozenMs = performance.now();
        const { process: next } = await directories.untilLed({ but: old });
        console.log(`frozen: led again after ${Math.round(performance.now() - frozenMs)} ms`);
        const load = startJoining(directories.client(next.address), given);
        await sleep(500);
        old.thaw();
        // Not by a client, which would go where it is sent.
        const joining = directories.caller.callJson({
          method: "POST",
          address: old.address,
          path: "/heartbeat",
          body: newStore(),
          timeoutMs: 5_000,
        });
        await expect(joining).rejects.toMatchObject({ kind: "unavailable" });
        const whoLeads = () => directories.client(old.address).leader();
        await expect.poll(whoLeads, { timeout: 10_000 }).toEqual({
          isLeader: false,
          leader: next.address,
        });
        await Promise.all([late.stop(), load.stop()]);
      }
      given.expectUnique();
    },
    limitMs,
  );

  test(
    "A leader that is stopped in order gives way at once",
    async () => {
      const { process: leader } = await directories.untilLed();
      const stoppedMs = performance.now();
      await leader.stop();
      await directories.untilLed();
      // Not after a lease, which is 3 s: with room for a busy machine.
      const ledMs = performance.now() - stoppedMs;
      console.log(`stopped: led again after ${Math.round(ledMs)} ms`);
      expect(ledMs).toBeLessThan(takeoverMsMax);
    },
    limitMs,
  );

  test(
    "Without the database nobody leads, and when it is back one does, from what it has on record",
    async () => {
      const given = new Given();
      const load = startJoining(directories.client(), given);
      await directories.untilLed();
      await sleep(500);
      await directories.postgres.kill();
      const isLed = async () => {
        const asked = directories.all.map(({ address }) => directories.client(address).leader());
        return (await Promise.all(asked)).some(({ isLeader }) => isLeader);
      };
      while (await isLed()) await sleep(50);
      await expect(directories.client().heartbeat(newStore())).rejects.toMatchObject({
        kind: "unavailable",
      });
      await directories.postgres.restart();
      await directories.untilLed();
      const before = given.answerCount;
      while (given.answerCount === before) await sleep(20);
      await load.stop();
      given.expectUnique();
    },
    limitMs,
  );

  test(
    "Uploads and reads go on while leaders are killed, with any directory to be had and with none",
    async () => {
      const store = await directories.startStore();
      const gateway = await directories.startGateway();
      const { address } = gateway;
      const headers = { authorization: basicAuth(directories.credentials) };
      const call = (method: string, target: string, body?: Buffer) =>
        request({ address, method, path: target, headers, ...(body ? { body } : {}) });
      const giveUpAtMs = performance.now() + 20_000;
      while ((await call("PUT", "/photos")).status >= 500) {
        expect(performance.now()).toBeLessThan(giveUpAtMs);
        await sleep(50);
      }
      await untilStored(() => call("PUT", "/photos/first", Buffer.from("first")));
      let stored = 0;
      let longestMs = 0;
      const putOne = async () => {
        const startedMs = performance.now();
        const body = Buffer.from(`photo ${stored}`);
        await untilStored(() => call("PUT", `/photos/${stored}`, body));
        longestMs = Math.max(longestMs, performance.now() - startedMs);
        stored += 1;
      };
      for (let round = 0; round < 3; round++) {
        const { process: leader } = await directories.untilLed();
        await leader.kill();
        const endMs = performance.now() + 5_000;
        while (performance.now() < endMs) await putOne();
        await leader.start();
      }
      console.log(`${stored} uploads over 3 kills; the longest took ${Math.round(longestMs)} ms`);
      expect(longestMs).toBeLessThan(takeoverMsMax);

      // SeaweedFS's calls: found at a standby too, and what only the leader can do says who that is.
      const { process: leader } = await directories.untilLed();
      const assigned = await untilStored(() =>
        request({ address: leader.address, method: "GET", path: "/dir/assign" }),
      );
      const { fid } = JSON.parse(assigned.body.toString()) as { fid: string };
      for (const standby of directories.all.filter((each) => each !== leader)) {
        const found = await untilStored(() =>
          request({ address: standby.address, path: `/dir/lookup?volumeId=${fid.split(",")[0]}` }),
        );
        expect(JSON.parse(found.body.toString()).locations[0].url).toBe(store.address);
        const refused = await request({ address: standby.address, path: "/dir/assign" });
        expect(refused.status).toBe(503);
        expect(refused.headers["x-hayloft-leader"]).toBe(leader.address);
      }

      for (const each of directories.all) await each.kill();
      await putOne();
      for (let at = 0; at < stored; at++) {
        const { status, body } = await call("GET", `/photos/${at}`);
        expect([status, body.toString()]).toEqual([200, `photo ${at}`]);
      }
    },
    limitMs,
  );
});

/** What directories have given to stores that were never heard of before. */
class Given {
  answerCount = 0;
  readonly #orders: number[] = [];
  readonly #volumes: number[] = [];

  note({ orders }: HeartbeatReply): void {
    this.answerCount += 1;
    for (const { order, volume } of orders) {
      this.#orders.push(order);
      this.#volumes.push(volume);
    }
  }

  expectUnique(): void {
    console.log(`${this.answerCount} stores joined, ${this.#orders.length} orders given out`);
    expect(this.#orders.length).toBeGreaterThan(20);
    expect(new Set(this.#orders).size).toBe(this.#orders.length);
    expect(new Set(this.#volumes).size).toBe(this.#volumes.length);
  }
}

const hexDigits = (count: number) => systemRandom.bytes(count / 2).toString("hex");

/** The first report of a store that has nothing yet: it is ordered to make volumes. */
const newStore = () => ({
  store: hexDigits(16),
  run: hexDigits(16),
  address: "127.0.0.1:1",
  freeBytes: 1e12,
  totalBytes: 2e12,
  volumes: [],
  unreadable: [],
  done: [],
  failed: [],
  grants: [],
});

/** Stores that join, one after the other in each of `concurrency` lines, until it is stopped. */
function startJoining(
  client: DirectoryClient,
  given: Given,
  { concurrency = 4 }: { concurrency?: number } = {},
): { stop: () => Promise<void> } {
  let isOver = false;
  const join = async () => {
    while (!isOver) {
      const reply = await client.heartbeat(newStore()).catch(() => undefined);
      if (reply === undefined) await sleep(20);
      else given.note(reply);
    }
  };
  const joining = Array.from({ length: concurrency }, join);
  return {
    async stop() {
      isOver = true;
      await Promise.all(joining);
    },
  };
}

/** The answer once it is no 5xx: what clients that try again see. */
async function untilStored<Answer extends { status: number }>(
  call: () => Promise<Answer>,
): Promise<Answer> {
  const giveUpAtMs = performance.now() + 30_000;
  for (;;) {
    const answer = await call().catch(() => undefined);
    if (answer !== undefined && answer.status < 500) return answer;
    expect(performance.now()).toBeLessThan(giveUpAtMs);
    await sleep(20);
  }
}

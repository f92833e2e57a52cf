/** Two gateways on one catalog in PostgreSQL: what users may count on, whichever of them they ask. */

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeLog } from "../base/log.ts";
import { lacksPostgres, needsPostgres, PostgresServer } from "../base/postgres-server.ts";
import type { RoleReady } from "../base/role.ts";
import { Supervisor } from "../base/supervisor.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { type Answer, basicAuth, request } from "./request.ts";

const main = path.join(import.meta.dirname, "..", "main.ts");

describe.skipIf(lacksPostgres)(`Two gateways ${needsPostgres}`, () => {
  let postgres: PostgresServer;
  let cluster: Cluster;
  let folder: string;
  let second: Supervisor<RoleReady>;
  let addresses: string[];

  beforeAll(async () => {
    postgres = await PostgresServer.start();
    const env = { HAYLOFT_CATALOG: await postgres.freshDatabase() };
    cluster = await startCluster({ env });
    folder = mkdtempSync(path.join(tmpdir(), "hayloft-gateway-"));
    second = new Supervisor<RoleReady>({
      name: "the second gateway",
      log: makeLog("test", "silent"),
      env,
      args: () => [
        ...[main, "gateway", "--data", folder, "--port", "0"],
        ...["--directory", cluster.place("directory").address],
        ...["--credentials", path.join(cluster.folder, "credentials.json")],
        ...["--token-file", path.join(cluster.folder, "token")],
        ...["--log-level", "silent"],
      ],
    });
    const { address } = await second.start();
    addresses = [cluster.gatewayAddress, address];
  }, 120_000);

  afterAll(async () => {
    await second?.stop();
    await cluster?.close();
    await postgres?.destroy();
    rmSync(folder, { recursive: true });
  }, 60_000);

  function call(
    gateway: 0 | 1,
    method: string,
    target: string,
    { body, headers = {} }: { body?: string; headers?: Record<string, string> } = {},
  ): Promise<Answer> {
    return request({
      address: addresses[gateway] ?? "",
      method,
      path: target,
      headers: { authorization: basicAuth(cluster.credentials), ...headers },
      ...(body === undefined ? {} : { body }),
    });
  }

  test("What one was told is done, the other shows with its next answer", async () => {
    expect((await call(0, "PUT", "/shared")).status).toBe(200);
    for (let round = 0; round < 10; round++) {
      const body = `round ${round}`;
      expect((await call(1, "PUT", "/shared/k", { body })).status).toBe(200);
      expect((await call(0, "GET", "/shared/k")).body.toString()).toBe(body);
      expect((await call(0, "GET", "/shared")).body.toString()).toContain("<Key>k</Key>");
      expect((await call(0, "DELETE", "/shared/k")).status).toBe(204);
      expect((await call(1, "GET", "/shared/k")).status).toBe(404);
    }
    expect((await call(0, "DELETE", "/shared")).status).toBe(204);
    expect((await call(1, "PUT", "/shared/k", { body: "late" })).status).toBe(404);
  });

  test("A bucket that is opened at one is open at the other, and closed again", async () => {
    await call(0, "PUT", "/photos/open.txt", { body: "hay" });
    const read = () => request({ address: addresses[1] ?? "", path: "/photos/open.txt" });
    for (const publicRead of [false, true, false, true]) {
      await call(0, "PATCH", "/photos?settings", { body: JSON.stringify({ publicRead }) });
      expect((await read()).status).toBe(publicRead ? 200 : 403);
    }
  });

  test("Of many that create one object through both, exactly one succeeds, and is what is read", async () => {
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, at) =>
        call(at % 2 === 0 ? 0 : 1, "PUT", "/photos/once", {
          body: `from ${at}`,
          headers: { "if-none-match": "*" },
        }),
      ),
    );
    const won = answers.flatMap(({ status }, at) => (status === 200 ? [at] : []));
    expect(won).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 412)).toHaveLength(39);
    for (const gateway of [0, 1] as const) {
      const { body } = await call(gateway, "GET", "/photos/once");
      expect(body.toString()).toBe(`from ${won[0]}`);
    }
  });

  test("Copies are set from the command line, in our words and in SeaweedFS's", async () => {
    const set = async (...settings: string[]) => {
      const args = [main, "bucket", "set", "photos", ...settings, "--data", cluster.folder];
      const { stdout } = await promisify(execFile)(process.execPath, args);
      return JSON.parse(stdout) as unknown;
    };
    expect(await set("copies=2", "spread=rack", "min=1")).toMatchObject({
      copies: 2,
      spread: "rack",
      minCopies: 1,
    });
    expect(await set("copies=110")).toMatchObject({ copies: 3, spread: "data-centre" });
    await expect(set("copies=999")).rejects.toThrow("Cannot change the settings");
    const wrong = [
      { copies: 9 },
      { copies: 0 },
      { copies: "2" },
      { copies: "233" },
      { spread: "far" },
      { minCopies: 4 },
      { copies: 2, minCopies: 3 },
    ];
    for (const patch of wrong) {
      const answer = await call(0, "PATCH", "/photos?settings", { body: JSON.stringify(patch) });
      expect([patch, answer.status]).toEqual([patch, 400]);
    }
    const shown = await call(1, "GET", "/photos?settings");
    const settings = { copies: 3, spread: "data-centre", minCopies: 1 };
    expect(JSON.parse(shown.body.toString())).toMatchObject(settings);
  });

  test("While PostgreSQL is away both answer 503 soon and are not ready; when it is back they go on", async () => {
    await call(0, "PUT", "/photos/kept", { body: "hay" });
    const ops = [cluster.place("gateway").opsAddress, second.ready?.opsAddress ?? ""];
    const untilReadiness = async (status: number) => {
      for (const address of ops) {
        for (;;) {
          const answer = await request({ address, path: "/readyz" });
          if (answer.status === status) break;
          await sleep(50);
        }
      }
    };
    await postgres.kill();
    for (const gateway of [0, 1] as const) {
      for (const method of ["GET", "DELETE", "PUT"]) {
        const body = method === "PUT" ? { body: "hay" } : {};
        const answer = await call(gateway, method, "/photos/kept", body);
        expect(answer.status).toBe(503);
        expect(answer.headers["retry-after"]).toBe("1");
      }
    }
    await untilReadiness(503);

    await postgres.restart();
    await untilReadiness(200);
    for (const gateway of [0, 1] as const) {
      expect((await call(gateway, "GET", "/photos/kept")).body.toString()).toBe("hay");
      expect((await call(gateway, "PUT", "/photos/kept", { body: "hay" })).status).toBe(200);
    }
    expect(second.restarts).toBe(0);
  });

  test("A gateway that was stopped for too long is not believed any more, and starts anew by itself", async () => {
    const status = async () => (await call(1, "PUT", "/photos/fenced", { body: "hay" })).status;
    expect(await status()).toBe(200);
    const before = second.ready;
    // As the other gateway closes it, had it been silent.
    const sessions = "UPDATE sessions SET closed_ms = 1 WHERE closed_ms IS NULL";
    await postgres.query(sessions, "test_1");
    while (second.restarts === 0 || second.ready === undefined || second.ready === before) {
      await sleep(50);
    }
    addresses[1] = second.ready.address;
    expect(await status()).toBe(200);
    await cluster.untilReady();
    addresses[0] = cluster.gatewayAddress;
    expect((await call(0, "GET", "/photos/fenced")).status).toBe(200);
  });
});

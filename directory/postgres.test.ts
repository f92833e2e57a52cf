/** The tests of the directory once more, on PostgreSQL. */

import { afterAll, beforeAll, describe } from "vitest";
import { lacksPostgres, needsPostgres, PostgresServer } from "../base/postgres-server.ts";
import { runOn } from "./test-database.ts";

/** To make and end a server takes a while on a busy machine. */
const hookMsMax = 120_000;

describe.skipIf(lacksPostgres)(`On PostgreSQL ${needsPostgres}`, async () => {
  let server: PostgresServer;

  beforeAll(async () => {
    server = await PostgresServer.start();
    runOn(server);
  }, hookMsMax);

  afterAll(async () => {
    await server.destroy();
  }, hookMsMax);

  describe("directory", async () => void (await import("./directory.test.ts")));
  describe("server", async () => void (await import("./server.test.ts")));
  describe("assigner", async () => void (await import("./assigner.test.ts")));
});

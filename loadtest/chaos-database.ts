/**
 * The PostgreSQL of a chaos run: a primary, a synchronous standby, and one address in front of them that goes
 * with the primary, as a virtual address or a proxy does.
 */

import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { PostgresServer } from "../base/postgres-server.ts";

const standbyName = "standby";

export class ChaosDatabase {
  readonly address: string;
  #primary: PostgresServer;
  #standby: PostgresServer | undefined;
  readonly #front: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(
    primary: PostgresServer,
    standby: PostgresServer,
    front: Server,
    address: string,
  ) {
    this.#primary = primary;
    this.#standby = standby;
    this.#front = front;
    this.address = address;
  }

  static async start(host: string, port: number): Promise<ChaosDatabase> {
    const settings = { wal_level: "replica", max_wal_senders: 8 };
    const primary = await PostgresServer.start({ settings });
    const standby = await primary.startStandby({ name: standbyName });
    await requireStandby(primary);
    const front = createServer();
    await new Promise<void>((resolve) => front.listen(port, host, resolve));
    const database = new ChaosDatabase(primary, standby, front, `${host}:${port}`);
    front.on("connection", (socket) => database.#forward(socket));
    return database;
  }

  url(database: string): string {
    return `postgres://postgres@${this.address}/${database}`;
  }

  async create(database: string): Promise<void> {
    await this.#primary.query(`create database ${database}`);
  }

  /** As the operations page has it: the old primary is made sure to be dead, the standby promoted, the address moved. */
  async failOver(): Promise<void> {
    const standby = this.#standby;
    if (standby === undefined) return;
    this.#standby = undefined;
    const old = this.#primary;
    await old.kill();
    await standby.promote();
    this.#primary = standby;
    for (const socket of this.#sockets) socket.destroy();
    await old.destroy();
    // Whoever takes its place: copied anew, since the old one may have what the new one never got.
    this.#standby = await standby.startStandby({ name: standbyName });
    await requireStandby(standby);
  }

  async freeze(ms: number): Promise<void> {
    this.#primary.freeze();
    await sleep(ms);
    this.#primary.thaw();
  }

  async destroy(): Promise<void> {
    this.#front.close();
    for (const socket of this.#sockets) socket.destroy();
    await this.#standby?.destroy();
    await this.#primary.destroy();
  }

  #forward(socket: Socket): void {
    const onward = connect({ host: "127.0.0.1", port: this.#primary.port });
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      this.#sockets.add(one);
      one.setNoDelay(true);
      one.pipe(other);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }
}

/** From now on a commit is one of two machines before it is told. */
async function requireStandby(primary: PostgresServer): Promise<void> {
  await primary.query(`alter system set synchronous_standby_names = '${standbyName}'`);
  await primary.query("select pg_reload_conf()");
}

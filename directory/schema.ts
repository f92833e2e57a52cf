/** The directory's tables, and the migrations that make them. Only what every SQL dialect has. */

import { type Kysely, sql } from "kysely";
import type { Migration } from "kysely/migration";

export interface DirectoryTables {
  stores: {
    store: string;
    address: string;
    /** The run of its process that was last heard of. */
    run: string;
    joined_ms: number;
    machine: string;
    rack: string;
    data_centre: string;
    /** 0 or 1. */
    is_draining: number;
  };
  volumes: {
    volume: number;
    uuid: string;
    class: string;
    generation: number;
    record_magic: string;
    epoch: number;
    /** `VolumeState` of records.ts. A row stays for ever: so does its id. */
    state: string;
    sealed_length: number | null;
    /** Digest of the last batch before `sealed_length`. */
    sealed_digest: string | null;
    /** 0 if its needles live for ever. */
    ttl_seconds: number;
    /** `placementText` of placement.ts. */
    placement: string;
    /** 1 if it is not to be reopened. */
    is_final: number;
  };
  replicas: {
    volume: number;
    store: string;
    /** The primary has the lowest. */
    position: number;
    /** `ReplicaState` of records.ts. */
    state: string;
    /** The run of the store that the volume's epoch was given to; empty once it is sealed. */
    run: string;
  };
  orders: {
    order_number: number;
    store: string;
    volume: number;
    kind: string;
    /** The order as it is sent: JSON. */
    body: string;
  };
  /** Numbers that only grow, each in a row: the last volume id and the last order. */
  counters: {
    name: string;
    value: number;
  };
  /** Who leads, where several directories share a database: one row (lease.ts). */
  leases: {
    name: string;
    /** Grows with every holder. */
    number: number;
    /** The run of its process, and where it is reached. */
    holder: string;
    address: string;
    /** By the database's clock. */
    expires_ms: number;
  };
}

export const directoryMigrations: Record<string, Migration> = {
  "001-begin": {
    async up(database: Kysely<unknown>) {
      await database.schema
        .createTable("stores")
        .addColumn("store", "varchar(16)", (column) => column.primaryKey())
        .addColumn("address", "varchar(300)", (column) => column.notNull())
        .addColumn("run", "varchar(16)", (column) => column.notNull())
        .addColumn("joined_ms", "bigint", (column) => column.notNull())
        .execute();
      await database.schema
        .createTable("volumes")
        .addColumn("volume", "bigint", (column) => column.primaryKey())
        .addColumn("uuid", "varchar(32)", (column) => column.notNull().unique())
        .addColumn("class", "varchar(16)", (column) => column.notNull())
        .addColumn("generation", "integer", (column) => column.notNull())
        .addColumn("record_magic", "varchar(16)", (column) => column.notNull())
        .addColumn("epoch", "bigint", (column) => column.notNull())
        .addColumn("state", "varchar(16)", (column) => column.notNull())
        .addColumn("sealed_length", "bigint")
        .addColumn("store", "varchar(16)", (column) => column.notNull())
        .execute();
      await database.schema
        .createIndex("volumes_by_store")
        .on("volumes")
        .columns(["store", "volume"])
        .execute();
      await database.schema
        .createTable("orders")
        .addColumn("order_number", "bigint", (column) => column.primaryKey())
        .addColumn("store", "varchar(16)", (column) => column.notNull())
        .addColumn("volume", "bigint", (column) => column.notNull())
        .addColumn("kind", "varchar(16)", (column) => column.notNull())
        .addColumn("body", "text", (column) => column.notNull())
        .execute();
      await database.schema
        .createTable("counters")
        .addColumn("name", "varchar(16)", (column) => column.primaryKey())
        .addColumn("value", "bigint", (column) => column.notNull())
        .execute();
      await sql`insert into counters (name, value) values ('volume', 0), ('order', 0)`.execute(
        database,
      );
    },
  },
  "002-ttl": {
    async up(database: Kysely<unknown>) {
      await database.schema
        .alterTable("volumes")
        .addColumn("ttl_seconds", "bigint", (column) => column.notNull().defaultTo(0))
        .execute();
    },
  },
  "003-lease": {
    async up(database: Kysely<unknown>) {
      await database.schema
        .createTable("leases")
        .addColumn("name", "varchar(16)", (column) => column.primaryKey())
        .addColumn("number", "bigint", (column) => column.notNull())
        .addColumn("holder", "varchar(32)", (column) => column.notNull())
        .addColumn("address", "varchar(300)", (column) => column.notNull())
        .addColumn("expires_ms", "bigint", (column) => column.notNull())
        .execute();
      await sql`insert into leases (name, number, holder, address, expires_ms)
        values ('leader', 0, '', '', 0)`.execute(database);
    },
  },
  "004-replicas": {
    async up(database: Kysely<unknown>) {
      await database.schema
        .createTable("replicas")
        .addColumn("volume", "bigint", (column) => column.notNull())
        .addColumn("store", "varchar(16)", (column) => column.notNull())
        .addColumn("position", "integer", (column) => column.notNull())
        .addColumn("state", "varchar(16)", (column) => column.notNull())
        .addColumn("run", "varchar(16)", (column) => column.notNull())
        .addPrimaryKeyConstraint("replicas_by_volume", ["volume", "store"])
        .execute();
      // Epochs are begun anew: which runs the old ones belong to was not written down.
      await sql`insert into replicas (volume, store, position, state, run)
        select volume, store, 0, 'member', '' from volumes where state <> 'dropped'`.execute(
        database,
      );
      await database.schema.dropIndex("volumes_by_store").execute();
      await database.schema.alterTable("volumes").dropColumn("store").execute();
      for (const add of [
        sql`placement varchar(60) not null default 'copies=1 spread=machine'`,
        sql`is_final integer not null default 0`,
        sql`sealed_digest varchar(16)`,
      ]) {
        await sql`alter table volumes add column ${add}`.execute(database);
      }
      for (const name of ["machine", "rack", "data_centre"]) {
        await sql`alter table stores add column ${sql.ref(name)} varchar(100) not null default ''`.execute(
          database,
        );
      }
      await sql`alter table stores add column is_draining integer not null default 0`.execute(
        database,
      );
    },
  },
};

import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { lacksPostgres, needsPostgres, PostgresServer } from "../base/postgres-server.ts";
import { type Catalog, mayAbandon } from "./catalog.ts";
import { type CatalogPlace, deleteDelayMs, PostgresPlace, SqlitePlace } from "./catalog-place.ts";
import type { ImageFacts, NewVersion, Versioning } from "./model.ts";
import type { ListPage } from "./reads.ts";

let fids = 0;

function version(key: string, more: Partial<NewVersion> = {}): NewVersion {
  fids += 1;
  const fid = `1,${fids.toString(16).padStart(8, "0")}00000000`;
  const size = more.size ?? 10;
  return {
    bucket: "photos",
    key,
    versionId: `v${fids}`,
    size,
    etag: fids.toString(16).padStart(32, "0"),
    contentType: "image/jpeg",
    meta: {},
    chunks: [{ fid, length: size }],
    ...more,
  };
}

async function codeOf(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise;
  } catch (error) {
    return error instanceof Failure ? `${error.kind} ${error.code}` : String(error);
  }
  return undefined;
}

interface Held {
  versionId: string;
  etag: string | undefined;
  fid: string | undefined;
}

/** S3's rules on a plain list of versions, the newest first. */
class Model {
  versioning: Versioning = "off";
  readonly keys = new Map<string, Held[]>();
  readonly outbox: string[] = [];

  put(put: NewVersion): void {
    const etag = put.etag;
    this.#add(put.key, { versionId: put.versionId, etag, fid: put.chunks[0]?.fid });
  }

  delete(key: string, versionId: string | undefined): void {
    if (versionId === undefined && this.versioning !== "off") {
      this.#add(key, { versionId: "?", etag: undefined, fid: undefined });
    } else {
      this.#remove(key, versionId ?? "null");
    }
  }

  #add(key: string, held: Held): void {
    if (this.versioning !== "on") this.#remove(key, "null");
    const versionId = this.versioning === "on" ? held.versionId : "null";
    this.keys.set(key, [{ ...held, versionId }, ...(this.keys.get(key) ?? [])]);
  }

  #remove(key: string, versionId: string): void {
    const versions = this.keys.get(key) ?? [];
    const removed = versions.find((held) => held.versionId === versionId);
    if (removed?.fid !== undefined) this.outbox.push(removed.fid);
    this.keys.set(
      key,
      versions.filter((held) => held !== removed),
    );
  }
}

const key = fc.constantFrom("a", "b");
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ act: fc.constant("put" as const), key, size: fc.nat(99) }) },
  { weight: 3, arbitrary: fc.record({ act: fc.constant("delete" as const), key }) },
  {
    weight: 3,
    arbitrary: fc.record({ act: fc.constant("delete-version" as const), key, nth: fc.nat(3) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      act: fc.constant("set" as const),
      versioning: fc.constantFrom("off" as const, "on" as const, "suspended" as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      act: fc.constant("clock" as const),
      ms: fc.integer({ min: -50, max: 50 }),
    }),
  },
);

const kinds = [
  { kind: "SQLite", isLacking: false },
  { kind: `PostgreSQL ${needsPostgres}`, isLacking: lacksPostgres },
];

describe.each(kinds)("$kind", ({ kind, isLacking }) => {
  if (isLacking) {
    test.skip("the catalog", () => undefined);
    return;
  }

  let server: PostgresServer | undefined;
  let place: CatalogPlace;
  let catalog: Catalog;

  beforeAll(async () => {
    if (kind !== "SQLite") server = await PostgresServer.start();
  });

  afterAll(async () => {
    await server?.destroy();
  });

  beforeEach(async () => {
    place = server === undefined ? new SqlitePlace() : await PostgresPlace.make(server);
    catalog = await place.open();
  });

  afterEach(async () => {
    await catalog.close();
    await place.remove();
  });

  const find = async (bucket: string, key: string, versionId?: string) =>
    (await catalog.find({ bucket, key, versionId }))?.version;

  /** What usage would be if everything was counted. */
  const recount = () =>
    place.query(
      `SELECT name AS bucket,
         (SELECT count(*) FROM versions
          WHERE bucket_id = buckets.id AND is_latest = 1 AND is_delete_marker = 0) AS objects,
         (SELECT coalesce(sum(size), 0) FROM versions WHERE bucket_id = buckets.id) AS bytes
       FROM buckets ORDER BY name`,
    );

  test("A version comes back as it was put", async () => {
    const bucket = await catalog.createBucket("photos");
    const image: ImageFacts = {
      width: 4,
      height: 3,
      orientation: 6,
      format: "jpeg",
      pages: 1,
      hasAlpha: false,
    };
    const put = version("a b/\x00../é😀", {
      cacheControl: "no-store",
      contentDisposition: "inline",
      meta: { author: "Zoë", __proto__x: "\x00" },
      image,
      chunks: [
        { fid: "3,01637037d6", length: 8 },
        { fid: "4,02637037d6", length: 2 },
      ],
    });
    const { versionId, modifiedMs } = await catalog.putVersion(put);
    expect({ versionId, modifiedMs }).toEqual({ versionId: "null", modifiedMs: bucket.createdMs });
    const found = { ...put, versionId, modifiedMs, isDeleteMarker: false, isLatest: true };
    const name = { bucket: "photos", key: put.key };
    expect(await catalog.find(name)).toEqual({ bucket, version: found });
    expect(await catalog.find({ ...name, versionId: "null" })).toEqual({ bucket, version: found });
    expect(await catalog.find({ ...name, versionId: "v0" })).toEqual({
      bucket,
      version: undefined,
    });
    expect(await catalog.find({ ...name, key: "k" })).toEqual({ bucket, version: undefined });
    expect(await catalog.find({ ...name, bucket: "other" })).toBeUndefined();
  });

  test("Buckets are made, changed and removed, and refuse with their codes", async () => {
    const made = await catalog.createBucket("photos", { publicRead: true });
    expect(made).toEqual({
      name: "photos",
      createdMs: made.createdMs,
      settings: {
        publicRead: true,
        versioning: "off",
        images: "ladder",
        maxObjectBytes: 5 * 2 ** 30,
        durability: "disk",
        copies: 1,
        spread: "machine",
        minCopies: 1,
      },
    });
    expect(await codeOf(catalog.createBucket("photos"))).toBe("conflict BucketAlreadyOwnedByYou");
    expect(await codeOf(catalog.deleteBucket("other"))).toBe("not-found NoSuchBucket");
    expect(await codeOf(catalog.updateBucket("other", {}))).toBe("not-found NoSuchBucket");
    expect(await codeOf(catalog.putVersion(version("k", { bucket: "other" })))).toBe(
      "not-found NoSuchBucket",
    );
    expect(await codeOf(catalog.deleteObject({ bucket: "other", key: "k" }))).toBe(
      "not-found NoSuchBucket",
    );

    await catalog.updateBucket("photos", { versioning: "on" });
    const { settings } = await catalog.updateBucket("photos", { versioning: "off" });
    expect(settings).toMatchObject({ publicRead: true, versioning: "suspended" });
    expect((await catalog.bucket("photos"))?.settings).toEqual(settings);

    await catalog.deleteObject({ bucket: "photos", key: "k" });
    expect(await codeOf(catalog.deleteBucket("photos"))).toBe("conflict BucketNotEmpty");
    await catalog.deleteObject({ bucket: "photos", key: "k", versionId: "null" });
    await catalog.deleteBucket("photos");
    expect(await catalog.buckets()).toEqual([]);

    for (const name of ["b-b", "b.a", "ba"]) await catalog.createBucket(name);
    expect((await catalog.buckets()).map(({ name }) => name)).toEqual(["b-b", "b.a", "ba"]);
  });

  test("Keys have up to 1,024 bytes", async () => {
    await catalog.createBucket("photos");
    const longest = "é".repeat(512);
    await catalog.putVersion(version(longest));
    expect((await find("photos", longest))?.key).toBe(longest);
    const tooLong = catalog.putVersion(version(`${longest}x`));
    expect(await codeOf(tooLong)).toBe("bad-request KeyTooLongError");
    expect(await codeOf(catalog.putVersion(version("")))).toBe("bad-request InvalidArgument");
    expect(await codeOf(catalog.putVersion(version("\ud83d")))).toBe("bad-request InvalidURI");
  });

  test("Of many that create one key at once, exactly one wins", async () => {
    await catalog.createBucket("photos");
    const results = await Promise.allSettled(
      Array.from({ length: 50 }, () => catalog.putVersion(version("k"), { ifNoneMatch: "*" })),
    );
    const lost = results.filter(({ status }) => status === "rejected");
    expect(lost.length).toBe(49);
    for (const result of lost) {
      if (result.status === "rejected") expect(mayAbandon(result.reason)).toBe(true);
    }
  });

  test("Conditions look at the live object: a delete marker is none", async () => {
    await catalog.createBucket("photos", { versioning: "on" });
    const first = version("k");
    expect(await codeOf(catalog.putVersion(first, { ifMatch: "*" }))).toBe("not-found NoSuchKey");
    await catalog.putVersion(first);
    const second = version("k");
    expect(await codeOf(catalog.putVersion(second, { ifMatch: [second.etag] }))).toBe(
      "precondition-failed PreconditionFailed",
    );
    await catalog.putVersion(second, { ifMatch: [first.etag] });
    await catalog.deleteObject({ bucket: "photos", key: "k" });
    expect(await codeOf(catalog.putVersion(version("k"), { ifMatch: "*" }))).toBe(
      "not-found NoSuchKey",
    );
    expect(await codeOf(catalog.putVersion(version("k"), { ifNoneMatch: "*" }))).toBeUndefined();
  });

  test("A replaced version's blobs are due after the delay, an abandoned one's at once", async () => {
    await catalog.createBucket("photos");
    const first = version("k");
    await catalog.putVersion(first);
    await catalog.putVersion(version("k"));
    await catalog.abandon(["9,0000000000", { fid: "9,0100000000", length: 1 }]);
    const fidsDue = async () => (await catalog.dueDeletions(10)).map(({ fid }) => fid);
    expect(await fidsDue()).toEqual(["9,0000000000", "9,0100000000"]);
    place.pass(deleteDelayMs - 1);
    expect((await fidsDue()).length).toBe(2);
    place.pass(1);
    expect(await fidsDue()).toEqual(["9,0000000000", "9,0100000000", first.chunks[0]?.fid]);
    expect((await catalog.dueDeletions(1)).length).toBe(1);
    await catalog.finishDeletions((await catalog.dueDeletions(2)).map(({ id }) => id));
    expect(await fidsDue()).toEqual([first.chunks[0]?.fid]);
  });

  test("Everything is there after closing and opening again, under a new session", async () => {
    await catalog.createBucket("photos");
    await catalog.putAccessKey("ID", "old");
    await catalog.putAccessKey("ID", "secret");
    const unawaited = catalog.putVersion(version("k"));
    const { id, session } = catalog;
    expect(id).toMatch(/^[0-9a-f]{16}$/);
    await catalog.close();
    await unawaited;
    expect(await codeOf(catalog.putVersion(version("k")))).toBe("unavailable undefined");

    catalog = await place.open(2);
    expect({ id: catalog.id, session: catalog.session }).toEqual({ id, session: session + 1 });
    expect((await find("photos", "k"))?.size).toBe(10);
    expect(await catalog.accessKey("ID")).toEqual({ secret: "secret" });
    expect(await catalog.accessKey("id")).toBeUndefined();
  });

  test("A listing shows live objects and prefixes in byte order, page after page", async () => {
    await catalog.createBucket("photos", { versioning: "on" });
    await catalog.createBucket("other");
    const keys = ["a", "a\x00", "b/1", "b/2", "\uffff", "😀", "é/x"];
    const elsewhere = version("a", { bucket: "other" });
    await Promise.all([...keys, "gone", "a"].map((key) => catalog.putVersion(version(key))));
    await Promise.all([
      catalog.deleteObject({ bucket: "photos", key: "gone" }),
      catalog.putVersion(elsewhere),
    ]);

    const items: string[] = [];
    let startAfter: string | undefined = "";
    while (startAfter !== undefined) {
      const page: ListPage = await catalog.list({
        bucket: "photos",
        delimiter: "/",
        startAfter,
        maxKeys: 1,
      });
      items.push(...page.objects.map(({ key }) => key), ...page.prefixes);
      startAfter = page.next;
    }
    expect(items).toEqual(["a", "a\x00", "b/", "é/", "\uffff", "😀"]);
    expect((await catalog.list({ bucket: "none", maxKeys: 5 })).objects).toEqual([]);
  });

  test("Puts and deletes do what S3 does, whatever versioning is set to meanwhile", async () => {
    let round = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
        round += 1;
        const bucket = `bucket-${round}`;
        await catalog.createBucket(bucket);
        const model = new Model();
        for (const each of steps) {
          if (each.act === "clock") {
            place.pass(each.ms);
          } else if (each.act === "set") {
            const isOver = each.versioning === "off" && model.versioning !== "off";
            model.versioning = isOver ? "suspended" : each.versioning;
            const { settings } = await catalog.updateBucket(bucket, {
              versioning: each.versioning,
            });
            expect(settings.versioning).toBe(model.versioning);
          } else if (each.act === "put") {
            const put = version(each.key, { bucket, size: each.size });
            const { versionId } = await catalog.putVersion(put);
            expect(versionId).toBe(model.versioning === "on" ? put.versionId : "null");
            model.put(put);
          } else {
            const versions = model.keys.get(each.key) ?? [];
            const aim = each.act === "delete" ? undefined : versions[each.nth];
            const versionId = each.act === "delete" ? undefined : (aim?.versionId ?? "absent");
            const result = await catalog.deleteObject({ bucket, key: each.key, versionId });
            const isMarked = versionId === undefined && model.versioning !== "off";
            const victim = versionId === undefined ? versions[0] : aim;
            const removed = victim?.etag === undefined ? "marker-removed" : "version";
            expect(result.deleted).toBe(
              isMarked ? "marker-created" : victim === undefined ? "nothing" : removed,
            );
            model.delete(each.key, versionId);
            const marker = model.keys.get(each.key)?.[0];
            if (isMarked && marker !== undefined) {
              marker.versionId = result.versionId ?? "";
              expect(marker.versionId === "null").toBe(model.versioning === "suspended");
            }
          }

          for (const [eachKey, versions] of model.keys) {
            const latest = await find(bucket, eachKey);
            expect(latest?.versionId).toBe(versions[0]?.versionId);
            expect(latest?.isDeleteMarker).toBe(
              versions[0] === undefined ? undefined : versions[0].etag === undefined,
            );
            let newerMs = Number.POSITIVE_INFINITY;
            for (const [index, { versionId, etag }] of versions.entries()) {
              const found = await find(bucket, eachKey, versionId);
              expect(found).toMatchObject({ versionId, etag: etag ?? "", isLatest: index === 0 });
              expect(found?.modifiedMs).toBeLessThanOrEqual(newerMs);
              newerMs = found?.modifiedMs ?? 0;
            }
          }
          const live = [...model.keys].filter(([, versions]) => versions[0]?.etag !== undefined);
          const listed = (await catalog.list({ bucket, maxKeys: 100 })).objects;
          expect(listed.map((object) => object.key)).toEqual(live.map(([name]) => name).sort());
        }

        expect(await catalog.usage()).toEqual(await recount());
        place.pass(deleteDelayMs + 30 * 50); // as far as the steps can have turned the clock back
        const due = await catalog.dueDeletions(1_000);
        expect(due.map(({ fid }) => fid).sort()).toEqual(model.outbox.sort());
        await catalog.finishDeletions(due.map(({ id }) => id));
      }),
      { numRuns: 60 },
    );
  });
});

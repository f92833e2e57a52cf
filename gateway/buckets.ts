/** Buckets: making, removing, listing and setting them, and listing what is in one. */

import type { Context } from "koa";
import { z } from "zod";
import { Failure, messageOf } from "../base/failure.ts";
import { readBody } from "../base/http-serve.ts";
import type { Catalog } from "../catalog/catalog.ts";
import { parseReplication, spreads } from "../catalog/copies.ts";
import type { Bucket, BucketSettings } from "../catalog/model.ts";
import { copiesMax } from "../directory/client.ts";
import { answerEmpty, prefersJson } from "./answers.ts";
import { formatListJson, formatListXml, readListRequest } from "./listing.ts";
import { bucketNameFault } from "./target.ts";
import { formatXml } from "./xml.ts";

const settingsBytesMax = 65_536;
const objectBytesMax = 5 * 2 ** 30;

/** A number of copies, or SeaweedFS's three digits, which say how far apart they are too. */
const copiesSchema = z.union(
  [
    z.number().int().min(1).max(copiesMax),
    z.string().refine((text) => parseReplication(text) !== undefined),
  ],
  { error: `copies is a number from 1 to ${copiesMax}, or three digits of as many at most: 010` },
);

const patchSchema = z.strictObject({
  publicRead: z.boolean().optional(),
  versioning: z.enum(["off", "on", "suspended"]).optional(),
  images: z.enum(["ladder", "open", "off"]).optional(),
  maxObjectBytes: z.number().int().min(0).max(objectBytesMax).optional(),
  durability: z.enum(["disk", "memory"]).optional(),
  copies: copiesSchema.optional(),
  spread: z.enum(spreads).optional(),
  minCopies: z.number().int().min(1).max(copiesMax).optional(),
});

export class Buckets {
  readonly #catalog: Catalog;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /** Fails with `not-found` (NoSuchBucket) if there is none. */
  async require(name: string): Promise<Bucket> {
    const bucket = await this.#catalog.bucket(name);
    if (bucket === undefined) throw noBucket(name);
    return bucket;
  }

  async listAll(context: Context): Promise<void> {
    const buckets = await this.#catalog.buckets();
    if (prefersJson(context.req)) {
      context.body = `${JSON.stringify({
        buckets: buckets.map(({ name, createdMs, settings }) => ({
          name,
          created: new Date(createdMs).toISOString(),
          settings,
        })),
      })}\n`;
      context.type = "application/json";
      return;
    }
    context.body = formatXml("ListAllMyBucketsResult", {
      Owner: { ID: "root", DisplayName: "root" },
      Buckets: {
        Bucket: buckets.map(({ name, createdMs }) => ({
          Name: name,
          CreationDate: new Date(createdMs).toISOString(),
        })),
      },
    });
    context.type = "application/xml";
  }

  async create(context: Context, name: string): Promise<void> {
    const fault = bucketNameFault(name);
    if (fault !== undefined) {
      throw new Failure("bad-request", `Cannot make the bucket: ${fault}`, {
        code: "InvalidBucketName",
      });
    }
    await this.#catalog.createBucket(name);
    context.status = 200;
    context.set("Location", `/${name}`);
    answerEmpty(context);
  }

  async delete(context: Context, name: string): Promise<void> {
    await this.#catalog.deleteBucket(name);
    context.status = 204;
  }

  async list(context: Context, bucket: Bucket, query: URLSearchParams): Promise<void> {
    const request = readListRequest(query);
    const page = await this.#catalog.list({ bucket: bucket.name, ...request });
    const asJson = prefersJson(context.req);
    context.body = (asJson ? formatListJson : formatListXml)(bucket.name, request, page);
    context.type = asJson ? "application/json" : "application/xml";
  }

  showSettings(context: Context, { settings }: Bucket): void {
    answerSettings(context, settings);
  }

  async changeSettings(context: Context, { name }: Bucket): Promise<void> {
    const body = await readBody(context.req, { limitBytes: settingsBytesMax });
    const { settings } = await this.#catalog.updateBucket(name, parsePatch(body));
    answerSettings(context, settings);
  }
}

export function noBucket(name: string): Failure {
  return new Failure("not-found", `Cannot find the bucket "${name}"`, { code: "NoSuchBucket" });
}

function answerSettings(context: Context, settings: BucketSettings): void {
  context.body = `${JSON.stringify(settings)}\n`;
  context.type = "application/json";
}

function parsePatch(body: Buffer): Partial<BucketSettings> {
  try {
    const { copies, ...others } = patchSchema.parse(JSON.parse(body.toString()));
    const replication = typeof copies === "string" ? parseReplication(copies) : { copies };
    const patch = { ...replication, ...others };
    // Absent is not the same as undefined: the latter would take a setting away.
    return JSON.parse(JSON.stringify(patch)) as Partial<BucketSettings>;
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new Failure("bad-request", `Cannot change the settings: ${why}`, {
      code: "InvalidArgument",
    });
  }
}

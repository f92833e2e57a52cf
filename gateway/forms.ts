/**
 * Uploads as browsers send them: a multipart form (RFC 7578) with one or more files.
 *
 * Invariant: either all files of a form that can be read become objects, or none does; each is
 * committed only when the form has been read to its end.
 */

import type { Readable } from "node:stream";
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import type { Context } from "koa";
import type { Clock } from "../base/clock.ts";
import { Failure, messageOf } from "../base/failure.ts";
import type { Random } from "../base/random.ts";
import type { NewVersion } from "../catalog/model.ts";
import { newVersionId } from "../catalog/version-id.ts";
import type { Durability } from "../store/client.ts";
import { bucketPlacement } from "./bucket-placement.ts";
import { chooseDurability } from "./durability.ts";
import type { ObjectRequest } from "./object-request.ts";
import { formatTarget } from "./target.ts";
import { readParts, type Uploader } from "./upload.ts";

const filesMax = 1_000;
const fieldsMax = 100;
const fieldBytesMax = 4_096;

export interface FormsOptions {
  uploader: Uploader;
  clock: Clock;
  random: Random;
}

export type FormRequest = Omit<ObjectRequest, "key">;

interface FormFile {
  name: string;
  version: NewVersion;
}

export class Forms {
  readonly #options: FormsOptions;

  constructor(options: FormsOptions) {
    this.#options = options;
  }

  async post(context: Context, request: FormRequest): Promise<void> {
    const { uploader } = this.#options;
    const files = await this.#read(context, request);
    const answers = [];
    for (const [at, { name, version }] of files.entries()) {
      try {
        const { versionId } = await uploader.commit(version);
        answers.push(describe(context, { name, version, versionId }));
      } catch (error) {
        await uploader.abandon(files.slice(at + 1).flatMap(({ version: { chunks } }) => chunks));
        throw error;
      }
    }
    context.status = 200;
    context.body = `${JSON.stringify({ files: answers })}\n`;
    context.type = "application/json";
  }

  /** Stores every file of the form, under no name yet. If the form can't be read nothing stays. */
  async #read(context: Context, request: FormRequest): Promise<FormFile[]> {
    const { req } = context;
    const durability = chooseDurability(req.headers, request.bucket.settings.durability);
    const form = openForm(req.headers);
    const fields = new Map<string, string>();
    const files: Promise<FormFile>[] = [];
    const streams: Readable[] = [];
    const failed = Promise.withResolvers<never>();
    // It rejects whether or not somebody waits for it just then.
    failed.promise.catch(() => undefined);

    form.on("field", (name, value, nameCut, valueCut) => {
      if (nameCut || valueCut) failed.reject(malformed(`a field is over ${fieldBytesMax} bytes`));
      fields.set(name, value);
    });
    form.on("file", (_field, stream, fileName, _encoding, type) => {
      // One after the other: the next begins when this one was read.
      const file = this.#store({
        stream,
        fileName,
        type,
        prefix: fields.get("prefix") ?? "",
        durability,
        request,
      });
      file.catch((error: unknown) => {
        failed.reject(error);
        stream.resume();
      });
      files.push(file);
      streams.push(stream);
    });
    form.on("filesLimit", () => failed.reject(malformed(`it has over ${filesMax} files`)));
    form.on("fieldsLimit", () => failed.reject(malformed(`it has over ${fieldsMax} fields`)));
    form.on("error", (error) => failed.reject(malformed(messageOf(error))));
    const finished = new Promise<void>((resolve) => form.on("finish", () => resolve()));

    try {
      await Promise.race([feed(readParts(req), form), failed.promise]);
      await Promise.race([finished, failed.promise]);
      const stored = await Promise.race([Promise.all(files), failed.promise]);
      if (stored.length === 0) throw malformed("it has no file");
      return stored;
    } catch (error) {
      form.destroy();
      // The form's end is not the end of a file that is half read: each has to be told.
      for (const stream of streams) stream.destroy(new Error("the form was cut off"));
      // What is being stored is awaited, so that all of it is known and can be abandoned.
      for (const outcome of await Promise.allSettled(files)) {
        if (outcome.status === "fulfilled") {
          await this.#options.uploader.abandon(outcome.value.version.chunks);
        }
      }
      throw error;
    }
  }

  async #store({
    stream,
    fileName,
    type,
    prefix,
    durability,
    request: { bucket, requestId },
  }: {
    stream: AsyncIterable<Buffer>;
    fileName: string;
    type: string;
    prefix: string;
    durability: Durability;
    request: FormRequest;
  }): Promise<FormFile> {
    const { uploader, clock, random } = this.#options;
    if (!fileName) throw malformed("a file has no name");
    const key = `${prefix}${fileName}`;
    const versionId = newVersionId(random, clock);
    const stored = await uploader.store({
      parts: stream,
      declaredBytes: undefined,
      bytesMax: bucket.settings.maxObjectBytes,
      durability,
      placement: bucketPlacement(bucket.settings),
      bucket: bucket.name,
      key,
      version: versionId,
      // What browsers say when they don't know.
      contentType: type === "application/octet-stream" || type === "" ? undefined : type,
      requestId,
    });
    return {
      name: fileName,
      version: { ...stored, bucket: bucket.name, key, versionId, meta: {} },
    };
  }
}

function openForm(headers: Context["req"]["headers"]): BusboyInstance {
  const type = headers["content-type"];
  if (type === undefined || !/^multipart\/form-data/i.test(type)) {
    throw new Failure("bad-request", "Cannot read the upload: POST takes a multipart form", {
      code: "MalformedPOSTRequest",
    });
  }
  try {
    return new Busboy({
      headers: { ...headers, "content-type": type },
      limits: { files: filesMax, fields: fieldsMax, fieldSize: fieldBytesMax, headerPairs: 100 },
    });
  } catch (error) {
    throw malformed(messageOf(error));
  }
}

async function feed(parts: AsyncIterable<Buffer>, form: BusboyInstance): Promise<void> {
  for await (const part of parts) {
    if (form.destroyed) return;
    if (!form.write(part)) {
      await new Promise<void>((resolve) => {
        const settle = () => {
          form.off("drain", settle).off("close", settle).off("error", settle);
          resolve();
        };
        form.once("drain", settle).once("close", settle).once("error", settle);
      });
    }
  }
  form.end();
}

function describe(
  context: Context,
  { name, version, versionId }: { name: string; version: NewVersion; versionId: string },
): Record<string, unknown> {
  const { size, etag, contentType, image } = version;
  // As it is shown: orientations 5 to 8 lie on their side.
  const isTurned = (image?.orientation ?? 1) >= 5;
  return {
    name,
    key: version.key,
    size,
    etag,
    type: contentType,
    ...(image === undefined
      ? {}
      : {
          width: isTurned ? image.height : image.width,
          height: isTurned ? image.width : image.height,
        }),
    url: `${context.protocol}://${context.host}${formatTarget({ bucket: version.bucket, key: version.key })}`,
    ...(versionId === "null" ? {} : { versionId }),
  };
}

function malformed(why: string): Failure {
  return new Failure("bad-request", `Cannot read the form: ${why}`, {
    code: "MalformedPOSTRequest",
  });
}

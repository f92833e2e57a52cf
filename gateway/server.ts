/**
 * The gateway's routes, and what is done around each of them: request id, who asks, failures, metrics.
 *
 *   GET    /                      buckets
 *   GET    /_status               stores, volumes, buckets: for operators
 *   PUT    /{bucket}              make a bucket            DELETE, HEAD likewise
 *   GET    /{bucket}              list objects             ?settings: the bucket's settings
 *   POST   /submit                store a form's file under a fid, as SeaweedFS does (submit.ts)
 *   PATCH  /{bucket}?settings     change settings
 *   POST   /{bucket}              upload a form
 *   PUT    /{bucket}/{key}        store an object          GET, HEAD, DELETE likewise
 *   GET    /{bucket}/{key}?explain   where it is: for operators
 */

import { createServer, type IncomingMessage, type Server } from "node:http";
import Router from "@koa/router";
import Koa, { type Context } from "koa";
import { AnswerBatch } from "../base/answer-batch.ts";
import { Failure, systemErrorCode } from "../base/failure.ts";
import { newRequestId, requestIdHeader, requestIdOf } from "../base/http-serve.ts";
import type { Log } from "../base/log.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { DirectoryClient } from "../directory/client.ts";
import { prefersJson, sendFailure } from "./answers.ts";
import { authenticate, type Principal, requireRoot } from "./auth.ts";
import type { Buckets } from "./buckets.ts";
import type { GatewayStatus } from "./client.ts";
import type { Explainer } from "./explain.ts";
import type { Forms } from "./forms.ts";
import type { GatewayMetrics } from "./metrics.ts";
import type { ObjectRequest, ReadRequest } from "./object-request.ts";
import type { Objects } from "./objects.ts";
import { type Submitter, submitPath } from "./submit.ts";
import { readTarget, splitUrl } from "./target.ts";

export interface GatewayServerOptions {
  catalog: Catalog;
  buckets: Buckets;
  objects: Objects;
  explainer: Explainer;
  forms: Forms;
  submitter: Submitter;
  directory: DirectoryClient;
  metrics: GatewayMetrics;
  log: Log;
}

const answers = new AnswerBatch();

interface State {
  requestId: string;
  principal: Principal;
  query: URLSearchParams;
}

// One segment is a bucket, with or without a slash behind it; more is an object.
const bucketPath = /^\/[^/]+\/?$/;
const objectPath = /^\/[^/]+\/.+$/s;

export function makeGatewayServer(options: GatewayServerOptions): Server {
  const application = new Koa<State>();
  // Failures are answered here and logged here; koa's own words are for nobody.
  application.silent = true;
  const router = makeRouter(options);
  const metrics = options.metrics.requestSeconds;
  application.use(async (context, next) => {
    const startedMs = performance.now();
    const { req, res } = context;
    const requestId = requestIdOf(req);
    context.set(requestIdHeader, requestId);
    context.state.requestId = requestId;
    res.once("close", () => {
      const route = routeOf(req);
      const seconds = (performance.now() - startedMs) / 1_000;
      metrics.observe({ method: req.method ?? "", route, status: res.statusCode }, seconds);
      options.log.debug({
        requestId,
        method: req.method,
        url: req.url,
        status: res.statusCode,
        seconds,
      });
    });
    try {
      context.state.query = new URLSearchParams(splitUrl(req.url ?? "/").query);
      // A PUT would make a bucket, whose name is refused.
      if (req.method !== "PUT" && splitUrl(req.url ?? "/").path === submitPath) {
        context.respond = false;
        const { query } = context.state;
        const asked = { query, requestId, continueBody: () => continueBody(context) };
        await options.submitter.answer(req, res, asked);
        return;
      }
      const { authorization } = req.headers;
      context.state.principal = await authenticate(options.catalog, authorization);
      await next();
      await answers.turn();
    } catch (error) {
      context.respond = false;
      if (res.destroyed) return; // nobody is there any more
      sendFailure(req, res, error, { log: options.log, requestId, asJson: prefersJson(req) });
    }
  });
  application.use(router.routes());
  application.use((context) => {
    const { path } = splitUrl(context.req.url ?? "/");
    throw path === "/" || bucketPath.test(path) || objectPath.test(path)
      ? new Failure("method-not-allowed", `Cannot ${context.method} here`)
      : new Failure("not-found", "Cannot find anything here");
  });

  const handle = application.callback();
  const server = createServer(handle);
  // The credentials are looked at before a body is asked for: see `readParts` and `continueBody`.
  server.on("checkContinue", (request: IncomingMessage, response) => {
    waitingForContinue.add(request);
    handle(request, response).catch(() => response.destroy());
  });
  // What is no HTTP never gets to koa: it is answered here, and the connection ends.
  server.on("clientError", (error, socket) => {
    const code = systemErrorCode(error);
    if (!socket.writable || code === "ECONNRESET") {
      socket.destroy();
      return;
    }
    const requestId = newRequestId();
    options.log.debug({ requestId, code }, "a request could not be parsed");
    socket.end(formatParseFailure(code, requestId));
  });
  // A slow upload is an honest one while something comes: `readParts` watches for that.
  server.requestTimeout = 0;
  // A reader that takes nothing for so long keeps a store's connection for nothing.
  server.timeout = 120_000;
  server.headersTimeout = 30_000;
  server.keepAliveTimeout = 15_000;
  return server;
}

function formatParseFailure(code: string | undefined, requestId: string): string {
  const isLarge = code === "HPE_HEADER_OVERFLOW";
  const status = isLarge ? "431 Request Header Fields Too Large" : "400 Bad Request";
  const why = isLarge ? "its header is too large" : "it is not HTTP, or its URL is not encoded";
  const error = { code: "BadRequest", message: `Cannot read the request: ${why}`, requestId };
  const body = `${JSON.stringify({ error })}\n`;
  const head = [
    `HTTP/1.1 ${status}`,
    "connection: close",
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(body)}`,
    `${requestIdHeader}: ${requestId}`,
  ];
  return `${head.join("\r\n")}\r\n\r\n${body}`;
}

const waitingForContinue = new WeakSet<IncomingMessage>();

/** Tells a client that waits for it that its body is wanted (RFC 9110, 10.1.1). */
function continueBody({ req, res }: Context): void {
  if (waitingForContinue.delete(req)) res.writeContinue();
}

function makeRouter(options: GatewayServerOptions): Router<State> {
  const { catalog, buckets, objects, forms, directory, explainer } = options;
  const router = new Router<State>();

  const bucketOf = (context: Context & { state: State }) =>
    readTarget(splitUrl(context.req.url ?? "/").path).bucket;
  const objectOf = (context: Context & { state: State }): ReadRequest => {
    const { principal, query, requestId } = context.state;
    const { bucket: bucketName, key } = readTarget(splitUrl(context.req.url ?? "/").path);
    if (key === undefined) throw new Failure("bad-request", "Cannot use the key: it is empty");
    return { bucketName, key, query, requestId, principal };
  };
  /** For whom a change of an object is allowed, its bucket and key. */
  const changeOf = async (context: Context & { state: State }): Promise<ObjectRequest> => {
    requireRoot(context.state.principal);
    const { bucketName, principal: _, ...rest } = objectOf(context);
    return { ...rest, bucket: await buckets.require(bucketName) };
  };

  router.get("/", async (context) => {
    requireRoot(context.state.principal);
    await buckets.listAll(context);
  });
  router.get("/_status", async (context) => {
    requireRoot(context.state.principal);
    const { stores } = await directory.status(context.state.requestId);
    const usage = new Map((await catalog.usage()).map((each) => [each.bucket, each]));
    const status: GatewayStatus = {
      stores,
      buckets: (await catalog.buckets()).map(({ name, settings }) => {
        const { objects: count = 0, bytes = 0 } = usage.get(name) ?? {};
        return { name, objects: count, bytes, settings };
      }),
    };
    context.body = `${JSON.stringify(status)}\n`;
    context.type = "application/json";
  });

  router.put(bucketPath, async (context) => {
    requireRoot(context.state.principal);
    continueBody(context);
    await buckets.create(context, bucketOf(context));
  });
  router.delete(bucketPath, async (context) => {
    requireRoot(context.state.principal);
    await buckets.delete(context, bucketOf(context));
  });
  router.get(bucketPath, async (context) => {
    requireRoot(context.state.principal);
    const { query } = context.state;
    const bucket = await buckets.require(bucketOf(context));
    if (query.has("settings")) buckets.showSettings(context, bucket);
    else await buckets.list(context, bucket, query);
  });
  router.patch(bucketPath, async (context) => {
    requireRoot(context.state.principal);
    const bucket = await buckets.require(bucketOf(context));
    if (!context.state.query.has("settings")) {
      throw new Failure("method-not-allowed", "Cannot PATCH a bucket other than its ?settings");
    }
    continueBody(context);
    await buckets.changeSettings(context, bucket);
  });
  router.post(bucketPath, async (context) => {
    requireRoot(context.state.principal);
    const { query, requestId } = context.state;
    const bucket = await buckets.require(bucketOf(context));
    continueBody(context);
    await forms.post(context, { bucket, query, requestId });
  });

  router.put(objectPath, async (context) => {
    const request = await changeOf(context);
    continueBody(context);
    await objects.put(context, request);
  });
  router.get(objectPath, async (context) => {
    if (context.method === "GET" && context.state.query.has("explain")) {
      requireRoot(context.state.principal);
      context.body = `${JSON.stringify(await explainer.explain(objectOf(context)))}\n`;
      context.type = "application/json";
      return;
    }
    await objects.get(context, objectOf(context));
  });
  router.delete(objectPath, async (context) => {
    await objects.delete(context, await changeOf(context));
  });
  return router;
}

/** A route's name for metrics: few, and none with a user's words in it. */
function routeOf({ url = "/" }: IncomingMessage): string {
  const { path } = splitUrl(url);
  if (path === "/") return "service";
  if (path.startsWith("/_")) return "internal";
  return bucketPath.test(path) ? "bucket" : "object";
}

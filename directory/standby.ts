/**
 * What a directory answers that does not lead: the map and where volumes are, as the leader last told it, or
 * as it is on record before any leader has. Everything else is for the leader, whom the failure names.
 *
 *   GET /map?after=V&wait=MS     the volume map, as the leader numbers it
 *   GET /leader                  who leads
 *   /dir/lookup, /{fid}          SeaweedFS's calls for finding a volume
 *   /submit                      307 to a gateway that has called here
 *   /cluster/status              who leads, as SeaweedFS tells it
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import type { CallVerifier } from "../base/call-verifier.ts";
import type { ClusterSecret } from "../base/cluster-secret.ts";
import { Failure, toFailure } from "../base/failure.ts";
import { answerJson, leaderHeader, requestIdHeader, requestIdOf } from "../base/http-serve.ts";
import type { NativeAccess } from "../base/native-access.ts";
import type { FollowedMap } from "./followed-map.ts";
import type { Gateways } from "./gateways.ts";
import { admitNative, fidPath, redirectToGateway, submitPath } from "./native-calls.ts";
import type { LeaderStatus } from "./protocol.ts";
import { type Answers, readMapPoll, readUrl } from "./server.ts";

export interface StandbyOptions {
  map: FollowedMap;
  secret: ClusterSecret;
  verifier: CallVerifier;
  native: NativeAccess;
  /** Who leads, if that is known and another. */
  leader: () => string | undefined;
  /** Of the process: who has polled the map here. */
  gateways?: Gateways;
}

const nativePath =
  /^\/(dir\/(assign|lookup|status)|vol\/(grow|status|vacuum)|col\/delete|cluster\/status|submit)$/;

export function makeStandbyAnswers(options: StandbyOptions): Answers {
  const { map, secret, verifier, native, leader, gateways } = options;
  return async (request, response) => {
    const url = readUrl(request);
    if (nativePath.test(url.pathname) || fidPath.test(url.pathname)) {
      try {
        await admitNative(request, response, { access: native, secret, verifier });
        await answerNative(options, { request, response, url });
      } catch (error) {
        answerNativeFailure(request, response, error);
      }
      return;
    }
    await verifier.admit(request, response);
    switch (`${request.method} ${url.pathname}`) {
      case "GET /map": {
        const gone = new AbortController();
        response.once("close", () => gone.abort());
        const { after, waitMs, wants, gateways: said } = readMapPoll(url);
        gateways?.add(said);
        answerJson(response, 200, await map.after(after, waitMs, gone.signal, wants));
        return;
      }
      case "GET /leader": {
        const status: LeaderStatus = { isLeader: false, leader: leader() };
        answerJson(response, 200, status);
        return;
      }
      default:
        throw notLeading(leader());
    }
  };
}

interface NativeRequest {
  request: IncomingMessage;
  response: ServerResponse;
  url: URL;
}

async function answerNative(
  { map, native, leader, gateways }: StandbyOptions,
  { request, response, url }: NativeRequest,
): Promise<void> {
  if (native === "off") throw new Failure("not-found", "Cannot find this call: it is switched off");
  if (url.pathname === submitPath) {
    await redirectToGateway(request, response, { gateways, url });
    return;
  }
  if (url.pathname === "/cluster/status") {
    answerJson(response, 200, { Leader: leader() ?? "" });
    return;
  }
  const isLookup = url.pathname === "/dir/lookup";
  if (!isLookup && !fidPath.test(url.pathname)) throw notLeading(leader());
  const asked = isLookup
    ? url.searchParams.get("volumeId") || url.searchParams.get("fileId") || ""
    : url.pathname.slice(1);
  const volumeId = asked.split(/[,/]/, 1)[0] ?? "";
  const addresses = await addressesOf(map, volumeId);
  // That it is nowhere only the leader knows: a volume may be newer than the map.
  const [address] = addresses;
  if (address === undefined) throw notLeading(leader());
  if (isLookup) {
    const locations = addresses.map((each) => ({ url: each, publicUrl: each }));
    answerJson(response, 200, { volumeOrFileId: asked, volumeId, locations });
    return;
  }
  const location = `http://${address}${url.pathname}${url.search}`;
  answerJson(response, 308, { location }, { location });
}

async function addressesOf(map: FollowedMap, volumeId: string): Promise<readonly string[]> {
  const { volumes } = await map.current();
  const entry = volumes.find((each) => each.class === "native" && String(each.volume) === volumeId);
  return entry?.addresses ?? [];
}

function answerNativeFailure(
  request: IncomingMessage,
  response: ServerResponse,
  error: unknown,
): void {
  const { status, message, leader, retryAfterSeconds } = toFailure(error);
  answerJson(
    response,
    status,
    { error: message },
    {
      [requestIdHeader]: requestIdOf(request),
      ...(leader === undefined ? {} : { [leaderHeader]: leader }),
      ...(retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) }),
      ...(request.complete ? {} : { connection: "close" }),
    },
  );
}

function notLeading(leader: string | undefined): Failure {
  const who = leader === undefined ? "and who does is not known yet" : `but ${leader} does`;
  return new Failure("unavailable", `Cannot do that here: this directory does not lead, ${who}`, {
    retryAfterSeconds: 1,
    leader,
  });
}

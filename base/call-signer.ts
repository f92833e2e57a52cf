/**
 * Signs a process's calls to others (call-signature.ts). Of each address it knows which run answers there and
 * how late it is by that run's clock; both are learned from the refusal of a first call.
 */

import {
  anyRead,
  bodyDigest,
  type Challenge,
  challengeText,
  formatSignature,
  isRead,
  noBody,
  parseChallenge,
  parseSignature,
  type SignedCall,
  signedText,
  unknownRun,
} from "./call-signature.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { ClusterSecret, SecretKey } from "./cluster-secret.ts";
import { type Random, systemRandom } from "./random.ts";

export interface CallToSign extends SignedCall {
  /** `host:port` of one process. */
  address: string;
  body?: Uint8Array | string | undefined;
  /** SHA-256 of the body, hex, where it is known already. */
  bodySha256?: string | undefined;
}

interface Peer {
  run: string;
  /** The run's time less this process's. */
  offsetMs: number;
  /** Of calls to it that changed something. */
  count: number;
  pass: { text: string; key: SecretKey; madeMs: number } | undefined;
}

/** Far more than a cluster has; those forgotten are learned anew. */
const peersMax = 16_384;
/** Well under the time for which it is good. */
const passMs = 60_000;
/** How often a call is signed: once more for what was learned, and once for a restart in between. */
export const signingsMax = 3;

export class CallSigner {
  readonly #secret: ClusterSecret;
  readonly #clock: Clock;
  readonly #caller: string;
  readonly #peers = new Map<string, Peer>();

  constructor(
    secret: ClusterSecret,
    { clock = systemClock, random = systemRandom }: { clock?: Clock; random?: Random } = {},
  ) {
    this.#secret = secret;
    this.#clock = clock;
    this.#caller = random.bytes(8).toString("hex");
  }

  /** The signature of a call: its header's value. */
  sign(call: CallToSign): string {
    const { address, method, body, bodySha256 } = call;
    const peer = this.#peerAt(address);
    const parts = {
      run: peer.run,
      timeMs: this.#timeAt(peer),
      caller: this.#caller,
      count: isRead(method) ? 0 : ++peer.count,
      body: body === undefined ? noBody : (bodySha256 ?? bodyDigest(body)),
    };
    return formatSignature({ ...parts, mac: this.#secret.current.mac(signedText(parts, call)) });
  }

  /** What reads of blobs by their fids are signed with there, the same for a while. */
  pass(address: string): string {
    const peer = this.#peerAt(address);
    const key = this.#secret.current;
    const nowMs = this.#clock.monotonicMs();
    if (peer.pass?.key !== key || nowMs - peer.pass.madeMs > passMs) {
      const { run } = peer;
      const parts = {
        run,
        timeMs: this.#timeAt(peer),
        caller: this.#caller,
        count: 0,
        body: anyRead,
      };
      const mac = key.mac(signedText(parts, { method: "GET", path: "", headers: {} }));
      peer.pass = { text: formatSignature({ ...parts, mac }), key, madeMs: nowMs };
    }
    return peer.pass.text;
  }

  /** Takes in the refusal of a call with this signature; returns whether to sign the call anew. */
  learn(address: string, signature: string, challenge: string | undefined): boolean {
    const signed = parseSignature(signature);
    const told: Challenge | undefined = parseChallenge(challenge ?? "");
    if (signed === undefined || told === undefined) return false;
    const { run, timeMs, mac } = told;
    if (this.#secret.keyOf(challengeText(told, signed.mac), mac) === undefined) return false;
    const peer = this.#peerAt(address);
    peer.run = run;
    peer.offsetMs = timeMs - this.#clock.monotonicMs();
    peer.pass = undefined;
    return true;
  }

  #timeAt({ run, offsetMs }: Peer): number {
    if (run === unknownRun) return 0;
    return Math.max(0, Math.round(this.#clock.monotonicMs() + offsetMs));
  }

  #peerAt(address: string): Peer {
    let peer = this.#peers.get(address);
    if (peer === undefined) {
      if (this.#peers.size >= peersMax) this.#peers.clear();
      peer = { run: unknownRun, offsetMs: 0, count: 0, pass: undefined };
      this.#peers.set(address, peer);
    }
    return peer;
  }
}

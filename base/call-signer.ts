/**
 * Signs a process's calls to others (call-signature.ts). Of each address it knows which run answers there and
 * how late it is by that run's clock; both are learned from the refusal of a first call.
 */

import {
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
import type { ClusterSecret } from "./cluster-secret.ts";
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
}

/** Far more than a cluster has; those forgotten are learned anew. */
const peersMax = 16_384;
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
    const isKnown = peer.run !== unknownRun;
    const parts = {
      run: peer.run,
      timeMs: isKnown ? Math.max(0, Math.round(this.#clock.monotonicMs() + peer.offsetMs)) : 0,
      caller: this.#caller,
      count: isRead(method) ? 0 : ++peer.count,
      body: body === undefined ? noBody : (bodySha256 ?? bodyDigest(body)),
    };
    return formatSignature({ ...parts, mac: this.#secret.current.mac(signedText(parts, call)) });
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
    return true;
  }

  #peerAt(address: string): Peer {
    let peer = this.#peers.get(address);
    if (peer === undefined) {
      if (this.#peers.size >= peersMax) this.#peers.clear();
      peer = { run: unknownRun, offsetMs: 0, count: 0 };
      this.#peers.set(address, peer);
    }
    return peer;
  }
}

/** Calls to a store or directory as the cluster's own processes make them: signed, one by one or ahead. */

import { bodyDigest, challengeHeader, signatureHeader } from "../base/call-signature.ts";
import { CallSigner, signingsMax } from "../base/call-signer.ts";
import type { Cluster } from "./cluster.ts";
import { type Answer, type RequestOptions, request } from "./request.ts";

export class SignedCalls {
  readonly #signer: CallSigner;

  constructor({ secret }: Pick<Cluster, "secret">) {
    this.#signer = new CallSigner(secret);
  }

  /** A call whose header names are in lower case. */
  async request(options: RequestOptions): Promise<Answer> {
    const { address, method = "GET", headers = {} } = options;
    for (let signings = 1; ; signings++) {
      const signature = this.#signer.sign({ ...options, method, headers });
      const answer = await request({
        ...options,
        headers: { ...headers, [signatureHeader]: signature },
      });
      const challenge = answer.headers[challengeHeader];
      if (typeof challenge !== "string" || signings === signingsMax) return answer;
      if (!this.#signer.learn(address, signature, challenge)) return answer;
    }
  }

  /** Headers for reads of blobs by their fids, as the gateway makes them. */
  async pass(address: string): Promise<Record<string, string>> {
    await this.request({ address, path: "/" });
    return { [signatureHeader]: this.#signer.pass(address) };
  }

  /** Signatures of calls to come that change something, within the next minutes, for the paths in turn. */
  async signAhead({
    address,
    method,
    paths,
    headers = {},
    body,
    count,
  }: {
    address: string;
    method: string;
    paths: readonly string[];
    headers?: Record<string, string>;
    body?: Uint8Array;
    count: number;
  }): Promise<string[]> {
    // So that it is known which run answers there.
    await this.request({ address, path: "/" });
    const bodySha256 = body && bodyDigest(body);
    return Array.from({ length: count }, (_, at) => {
      const path = paths[at % paths.length] ?? "/";
      return this.#signer.sign({ address, method, path, headers, body, bodySha256 });
    });
  }
}

/** Who asks: the owner of an access key, or anybody. And what each may do. */

import { Failure } from "../base/failure.ts";
import { secretsEqual } from "../base/secret-file.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { Bucket } from "../catalog/model.ts";

export type Principal = "root" | "anybody";

/**
 * The principal of an `Authorization` header: HTTP Basic with access key and secret. Wrong credentials
 * are `forbidden` everywhere, even where none are needed: whoever gave them meant them.
 */
export async function authenticate(
  catalog: Catalog,
  authorization: string | undefined,
): Promise<Principal> {
  if (authorization === undefined) return "anybody";
  const [scheme = "", encoded = ""] = authorization.split(" ", 2);
  if (scheme.toLowerCase() !== "basic") {
    throw new Failure(
      "forbidden",
      "Cannot tell who asks: HTTP Basic with key and secret is needed",
      {
        code: "AccessDenied",
      },
    );
  }
  const text = Buffer.from(encoded, "base64").toString("utf8");
  const colon = text.indexOf(":");
  const id = colon < 0 ? text : text.slice(0, colon);
  const known = (await catalog.accessKey(id))?.secret;
  const given = colon < 0 ? "" : text.slice(colon + 1);
  // Compared against something in either case, so that the time does not tell which keys there are.
  const isRight = secretsEqual(given, known ?? "no such key");
  if (known === undefined) {
    throw new Failure("forbidden", "Cannot answer: there is no such access key", {
      code: "InvalidAccessKeyId",
    });
  }
  if (!isRight) {
    throw new Failure("forbidden", "Cannot answer: the secret is not that of the access key", {
      code: "SignatureDoesNotMatch",
    });
  }
  return "root";
}

export function requireRoot(principal: Principal): void {
  if (principal !== "root") throw denied();
}

/** Reading an object: anybody's right in a public-read bucket. */
export function requireRead(principal: Principal, bucket: Bucket): void {
  if (principal !== "root" && !bucket.settings.publicRead) throw denied();
}

function denied(): Failure {
  return new Failure("forbidden", "Cannot answer: credentials are needed", {
    code: "AccessDenied",
  });
}

/** Which address others are told. */

import { describe, expect, test } from "vitest";
import { advertisedAddress } from "./advertise.ts";

describe("The address that others are told", () => {
  test("is the one that was said, else the one listened on", () => {
    const peers = ["10.0.0.1:9333"];
    expect(advertisedAddress("10.0.0.2:8080", { peers })).toBe("10.0.0.2:8080");
    expect(advertisedAddress("127.0.0.1:8080", { peers, advertise: "a:1" })).toBe("a:1");
    expect(advertisedAddress("127.0.0.1:8080", { peers: ["localhost:9333", "[::1]:9333"] })).toBe(
      "127.0.0.1:8080",
    );
  });

  test("is refused where nobody else would reach the process by it", () => {
    const peers = ["127.0.0.1:9333", "10.0.0.1:9333"];
    expect(() => advertisedAddress("127.0.0.1:8080", { peers })).toThrow(
      "Cannot join 10.0.0.1:9333 as 127.0.0.1:8080",
    );
    for (const listening of ["0.0.0.0:8080", "[::]:8080"]) {
      expect(() => advertisedAddress(listening, { peers: [] })).toThrow("listens on all addresses");
    }
  });
});

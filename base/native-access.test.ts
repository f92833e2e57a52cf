import { expect, test } from "vitest";
import { defaultNativeAccess } from "./native-access.ts";

test("Calls without a token are for this machine alone, unless somebody says otherwise", () => {
  for (const host of ["localhost", "::1", "127.0.0.1", "127.8.9.10"]) {
    expect(defaultNativeAccess(host), host).toBe("open");
  }
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", ""]) {
    expect(defaultNativeAccess(host), host).toBe("token");
  }
});

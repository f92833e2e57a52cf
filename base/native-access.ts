/** Who may make SeaweedFS's calls, whose clients sign nothing. */

/** Whoever reaches the port, who shows the token that `hayloft token` prints, or nobody. */
export type NativeAccess = "open" | "token" | "off";

/** What goes without saying: open where nobody but this machine can call. */
export function defaultNativeAccess(host: string): NativeAccess {
  return isLoopback(host) ? "open" : "token";
}

/** Whether what listens on `host` can be reached from this machine alone. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.[0-9]{1,3}){3}$/.test(host);
}

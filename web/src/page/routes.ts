/** Where the page is, in the part of the address behind `#`. */

export type Route =
  | { view: "library" }
  | { view: "live" }
  | { view: "meeting"; id: string; segment: string | null }
  /** A meeting of somebody else's, by a link that opens it for reading. */
  | { view: "shared"; id: string; token: string; segment: string | null };

export function route(hash = location.hash): Route {
  const [, view, id, segment, last] = hash.replace(/^#/, "").split("/");
  if (view === "live") return { view: "live" };
  if (view === "shared" && id && segment) return { view: "shared", id, token: segment, segment: last ?? null };
  if (view === "meetings" && id) return { view: "meeting", id, segment: segment ?? null };
  return { view: "library" };
}

export const LIBRARY = "#/";
export const LIVE = "#/live";

export function meetingAddress(id: string, segment?: string): string {
  return `#/meetings/${id}${segment ? `/${segment}` : ""}`;
}

export function sharedAddress(id: string, token: string, segment?: string): string {
  return `#/shared/${id}/${token}${segment ? `/${segment}` : ""}`;
}

/** Where the page is, in the part of the address behind `#`. */

export type Route =
  | { view: "library" }
  | { view: "live" }
  | { view: "meeting"; id: string; segment: string | null };

export function route(hash = location.hash): Route {
  const [, view, id, segment] = hash.replace(/^#/, "").split("/");
  if (view === "live") return { view: "live" };
  if (view === "meetings" && id) return { view: "meeting", id, segment: segment ?? null };
  return { view: "library" };
}

export const LIBRARY = "#/";
export const LIVE = "#/live";

export function meetingAddress(id: string, segment?: string): string {
  return `#/meetings/${id}${segment ? `/${segment}` : ""}`;
}

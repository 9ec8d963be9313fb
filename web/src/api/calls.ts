/** The calls of the API that the page makes, and what they answer. */

import { ApiError, problem } from "./errors.ts";
import { accessToken } from "./login.ts";
import type { Segment } from "../live/wire.ts";

export interface Meeting {
  id: string;
  title: string;
  status: "created" | "live" | "processing" | "completed" | "failed";
  version: number;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  segments: number;
  draft_segments: number;
  healing_segments: number;
  audio_seconds: number;
  gap_seconds: number;
  coverage: number | null;
  /** Where the words of a search were found. */
  hits?: Hit[];
}

export interface Hit {
  kind: "title" | "minutes" | "segment";
  /** The text around it; `match`: one of the words. */
  snippet: { text: string; match: boolean }[];
  segment_id: string | null;
  speaker: string | null;
  start: number | null;
}

export interface Point {
  text: string;
  segment_ids: string[];
}

export interface Insights {
  status: "pending" | "ready" | "failed";
  quality: "draft" | "final" | null;
  summary: string;
  key_points: Point[];
  decisions: Point[];
}

export interface Task {
  id: string;
  title: string;
  meeting_id: string | null;
  assignee: string | null;
  due: string | null;
  status: "open" | "done";
  source_segment_id: string | null;
  version: number;
}

export interface Job {
  status: "pending" | "running" | "retry" | "completed" | "failed" | "dead";
  progress: number;
  error?: string | null;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export interface Filter {
  q?: string;
  from?: string;
  to?: string;
  status?: string;
  cursor?: string;
}

interface Options {
  body?: object;
  version?: number;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** The token of the shared meeting that is looked at; null for one's own. Live audio never goes by it. */
let visiting: string | null = null;

export function visit(token: string | null): void {
  visiting = token;
}

async function credential(renew: boolean): Promise<string> {
  if (!visiting) return accessToken(renew);
  if (renew) throw new ApiError(401, "unauthorized", "This link has ended. Ask whoever gave it to you for another one.");
  return visiting;
}

/** Make a call with the login's token, renewed once if it is refused. Throws ApiError, TypeError (unreachable). */
export async function answer(method: string, path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers };
  if (options.body) headers["Content-Type"] = "application/json";
  if (options.version !== undefined) headers["If-Match"] = `"${options.version}"`;
  const init: RequestInit = { method, headers };
  if (options.body) init.body = JSON.stringify(options.body);
  if (options.signal) init.signal = options.signal;
  for (const renew of [false, true]) {
    headers.Authorization = `Bearer ${await credential(renew)}`;
    const response = await fetch(path, init);
    if (response.ok) return response;
    if (response.status !== 401 || renew) throw await problem(response);
  }
  throw new ApiError(401, "unauthorized", "You are signed out.");
}

async function json<T>(method: string, path: string, options: Options = {}): Promise<T> {
  return (await (await answer(method, path, options)).json()) as T;
}

function query(fields: Record<string, string | number | undefined>): string {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined && value !== "");
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

export const meetings = (filter: Filter, signal?: AbortSignal) =>
  json<Page<Meeting>>("GET", `/api/meetings?${query({ limit: 20, ...filter })}`, signal ? { signal } : {});

export const meeting = (id: string) => json<Meeting>("GET", `/api/meetings/${id}`);

export const rename = (one: Meeting, title: string) =>
  json<Meeting>("PATCH", `/api/meetings/${one.id}`, { body: { title }, version: one.version });

export const correct = (meetingId: string, segment: Segment, change: { text?: string | null; speaker?: string | null }) =>
  json<Segment>("PATCH", `/api/meetings/${meetingId}/segments/${segment.id}`, {
    body: change,
    version: segment.version ?? segment.revision,
  });

/** Give a speaker another name in all that was said and is yet to be said. */
export const renameSpeaker = (one: Meeting, speaker: string | null, name: string) =>
  json<Meeting>("PATCH", `/api/meetings/${one.id}/speakers`, { body: { speaker, name }, version: one.version });

export const remove = (one: Meeting) => answer("DELETE", `/api/meetings/${one.id}`, { version: one.version });

export interface Share {
  path: string;
  expires_at: string;
}

export const share = (one: Meeting) => json<Share>("POST", `/api/meetings/${one.id}/share`);

export const insights = (id: string) => json<Insights>("GET", `/api/insights/${id}`);

export const askInsights = (id: string) => json<Job>("POST", `/api/insights/${id}`);

export const job = (id: string) => json<Job>("GET", `/api/jobs/${id}`);

export const changeTask = (task: Task, change: Partial<Pick<Task, "title" | "assignee" | "due" | "status">>) =>
  json<Task>("PATCH", `/api/tasks/${task.id}`, { body: change, version: task.version });

export const removeTask = (task: Task) => answer("DELETE", `/api/tasks/${task.id}`, { version: task.version });

export const addTask = (meetingId: string, title: string) =>
  json<Task>("POST", "/api/tasks", {
    body: { title, meeting_id: meetingId },
    headers: { "Idempotency-Key": crypto.randomUUID() },
  });

export async function tasks(meetingId: string): Promise<Task[]> {
  const found: Task[] = [];
  let cursor: string | undefined;
  do {
    const page = await json<Page<Task>>("GET", `/api/tasks?${query({ meeting_id: meetingId, limit: 200, cursor })}`);
    found.push(...page.items);
    cursor = page.next_cursor ?? undefined;
  } while (cursor);
  return found.reverse();
}

/** The transcript of a meeting, page by page. */
export async function* segments(meetingId: string): AsyncGenerator<Segment[]> {
  let cursor: string | undefined;
  do {
    const path = `/api/meetings/${meetingId}/segments?${query({ limit: 200, cursor })}`;
    const page = await json<Page<Segment>>("GET", path);
    yield page.items;
    cursor = page.next_cursor ?? undefined;
  } while (cursor);
}

export const EXPORTS = ["txt", "md", "srt", "vtt", "json"] as const;

/** Fetch an export and hand it to the browser as a download. */
export async function download(one: Meeting, format: (typeof EXPORTS)[number]): Promise<string> {
  const response = await answer("GET", `/api/meetings/${one.id}/export?format=${format}`);
  const named = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "");
  const name = named ? decodeURIComponent(named[1]!) : `meeting.${format}`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return name;
}

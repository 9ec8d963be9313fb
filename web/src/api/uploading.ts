/** Sending a recording over a network that breaks (tus 1.0, docs/uploads.md): gone on with where it stopped. */

import { Backoff } from "../live/backoff.ts";
import { answer } from "./calls.ts";
import { ApiError, problem } from "./errors.ts";
import { accessToken } from "./login.ts";

const PATH = "/api/uploads/tus";
const TUS = { "Tus-Resumable": "1.0.0" };
const RETRYABLE: ReadonlySet<number> = new Set([0, 400, 401, 409, 423, 429, 500, 502, 503, 504]);

export interface Outcome {
  jobId: string;
  meetingId: string;
}

export interface Progress {
  sent: number;
  total: number;
  /** Why it waits, in words; empty while it goes on. */
  waiting: string;
}

/**
 * Send a file and give its job. The same file chosen again goes on where it broke off, even in another page.
 *
 * Throws ApiError when it is refused for good, or the last fault when trying is over; AbortError.
 */
export async function upload(
  file: File,
  title: string,
  progress: (now: Progress) => void,
  signal: AbortSignal,
): Promise<Outcome> {
  const key = `verbatim.upload.${file.name}.${file.size}.${file.lastModified}`;
  let place = localStorage.getItem(key);
  let backoff = newBackoff();
  let reached = 0;
  for (;;) {
    try {
      if (!place) {
        place = await create(file, title);
        localStorage.setItem(key, place);
      }
      const told = await answer("HEAD", place, { headers: TUS, signal });
      const offset = Number(told.headers.get("Upload-Offset"));
      if (offset > reached) backoff = newBackoff();
      reached = offset;
      progress({ sent: offset, total: file.size, waiting: "" });
      const outcome = outcomeOf((name) => told.headers.get(name)) ?? (await rest(file, place, offset, progress, signal));
      if (outcome) {
        localStorage.removeItem(key);
        return outcome;
      }
    } catch (fault) {
      if (signal.aborted) throw fault;
      if (fault instanceof ApiError && [404, 410].includes(fault.status) && place) {
        // It was begun too long ago, or by somebody else.
        place = null;
        localStorage.removeItem(key);
        continue;
      }
      if (fault instanceof ApiError && !RETRYABLE.has(fault.status)) {
        localStorage.removeItem(key);
        throw fault;
      }
      const waitS = backoff.lost((fault instanceof ApiError && fault.retryAfterS) || undefined);
      if (waitS === null) throw fault;
      progress({ sent: reached, total: file.size, waiting: "The connection broke off; it goes on by itself." });
      await new Promise((resolve) => setTimeout(resolve, waitS * 1000));
    }
  }
}

function newBackoff(): Backoff {
  return new Backoff(() => performance.now() / 1000);
}

async function create(file: File, title: string): Promise<string> {
  const said = { filename: file.name, ...(title ? { title } : {}) };
  const metadata = Object.entries(said).map(([name, value]) => `${name} ${base64(value)}`);
  const headers = { ...TUS, "Upload-Length": String(file.size), "Upload-Metadata": metadata.join(",") };
  const made = await answer("POST", PATH, { headers });
  return made.headers.get("Location")!;
}

/** Send what is missing. XMLHttpRequest, because fetch does not tell how far it came. */
async function rest(
  file: File,
  place: string,
  offset: number,
  progress: (now: Progress) => void,
  signal: AbortSignal,
): Promise<Outcome | null> {
  const request = new XMLHttpRequest();
  request.open("PATCH", place);
  const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  request.setRequestHeader("Authorization", `Bearer ${await accessToken()}`);
  request.upload.onprogress = ({ loaded }) => progress({ sent: offset + loaded, total: file.size, waiting: "" });
  const abort = () => request.abort();
  signal.addEventListener("abort", abort);
  try {
    await new Promise<void>((resolve, reject) => {
      request.onload = () => resolve();
      request.onerror = () => reject(new ApiError(0, "unreachable", "The connection broke off."));
      request.onabort = () => reject(new DOMException("stopped", "AbortError"));
      request.send(file.slice(offset));
    });
  } finally {
    signal.removeEventListener("abort", abort);
  }
  if (request.status < 200 || request.status >= 300) {
    const retryAfter = request.getResponseHeader("Retry-After");
    throw await problem(
      new Response(request.responseText, {
        status: request.status,
        headers: retryAfter ? { "Retry-After": retryAfter } : {},
      }),
    );
  }
  return outcomeOf((name) => request.getResponseHeader(name));
}

function outcomeOf(header: (name: string) => string | null): Outcome | null {
  const jobId = header("Verbatim-Job-Id");
  return jobId ? { jobId, meetingId: header("Verbatim-Meeting-Id") ?? "" } : null;
}

function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

/** Who is signed in, in all tabs of this browser, and the tokens that show it. */

import { ApiError, problem } from "./errors.ts";

const KEY = "verbatim.login";
/** Seconds before its end at which an access token counts as used up. */
const MARGIN_S = 20;

export interface Account {
  id: string;
  email: string;
  username: string;
  role: string;
}

interface Tokens {
  access_token: string;
  refresh_token: string;
  expires_in: number;
}

interface Kept {
  access: string;
  refresh: string;
  /** Milliseconds since 1970. */
  expiresAt: number;
  account: Account | null;
}

/** Told when somebody signs in or out, here or in another tab. */
export const logins = new EventTarget();

window.addEventListener("storage", ({ key }) => {
  if (key === KEY || key === null) logins.dispatchEvent(new Event("change"));
});

export function account(): Account | null {
  return kept()?.account ?? null;
}

export async function signIn(email: string, password: string): Promise<void> {
  const tokens = await post<Tokens>("/api/auth/login", { email, password });
  const answer = await fetch("/api/auth/me", { headers: { Authorization: `Bearer ${tokens.access_token}` } });
  if (!answer.ok) throw await problem(answer);
  keep(tokens, (await answer.json()) as Account);
}

export async function register(email: string, username: string, password: string): Promise<void> {
  await post("/api/auth/register", { email, username, password });
  await signIn(email, password);
}

export async function signOut(): Promise<void> {
  const login = kept();
  forget();
  // Whether it arrives or not: here the login is over.
  if (login) await post("/api/auth/logout", { refresh_token: login.refresh }).catch(() => undefined);
}

/**
 * Return an access token; `renew`: another one than before, which was refused.
 *
 * Throws ApiError 401 if there is no login any more, TypeError if the platform cannot be reached.
 */
export async function accessToken(renew = false): Promise<string> {
  const login = kept();
  if (login && !renew && Date.now() < login.expiresAt) return login.access;
  // One tab at a time: a refresh token is used up by its use.
  return exclusively(async () => {
    const now = kept();
    if (!now) throw new ApiError(401, "unauthorized", "You are signed out.");
    if (now.access !== login?.access && Date.now() < now.expiresAt) return now.access;
    try {
      const tokens = await post<Tokens>("/api/auth/refresh", { refresh_token: now.refresh });
      keep(tokens, now.account);
      return tokens.access_token;
    } catch (fault) {
      if (fault instanceof ApiError && fault.status === 401) forget();
      throw fault;
    }
  });
}

async function exclusively<T>(task: () => Promise<T>): Promise<T> {
  if (!navigator.locks) return task();
  return (await navigator.locks.request("verbatim-login", task)) as T;
}

function kept(): Kept | null {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "null") as Kept | null;
  } catch {
    return null;
  }
}

function keep(tokens: Tokens, who: Account | null): void {
  const login: Kept = {
    access: tokens.access_token,
    refresh: tokens.refresh_token,
    expiresAt: Date.now() + (tokens.expires_in - MARGIN_S) * 1000,
    account: who,
  };
  const changed = account()?.id !== who?.id;
  localStorage.setItem(KEY, JSON.stringify(login));
  if (changed) logins.dispatchEvent(new Event("change"));
}

function forget(): void {
  localStorage.removeItem(KEY);
  logins.dispatchEvent(new Event("change"));
}

async function post<T>(path: string, body: object): Promise<T> {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw await problem(answer);
  return (answer.status === 204 ? null : await answer.json()) as T;
}

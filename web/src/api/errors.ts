/** What the platform answers when it does not do what was asked. */

export interface FieldProblem {
  field: string;
  problem: string;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterS: number | null = null,
    readonly details: FieldProblem[] = [],
    readonly requestId = "",
  ) {
    super(message);
  }
}

/** Read a failed answer, from the platform or from a proxy before it. */
export async function problem(answer: Response): Promise<ApiError> {
  const body = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  const wait = Number(answer.headers.get("Retry-After"));
  return new ApiError(
    answer.status,
    String(body.error ?? "unknown"),
    String(body.message ?? `The server answered ${answer.status}.`),
    wait > 0 ? wait : null,
    (body.details as FieldProblem[] | undefined) ?? [],
    String(body.request_id ?? answer.headers.get("X-Request-ID") ?? ""),
  );
}

/** Say in words for a person why something did not work. */
export function inWords(fault: unknown): string {
  if (fault instanceof ApiError) {
    const wait = fault.retryAfterS ? ` Try again in ${waitWords(fault.retryAfterS)}.` : "";
    const fields = fault.details.map(({ field, problem: why }) => `${field}: ${why}`).join("; ");
    return `${fault.message}${fields ? ` (${fields})` : ""}${wait}`;
  }
  if (fault instanceof TypeError) {
    return navigator.onLine ? "The server cannot be reached." : "You are offline.";
  }
  return fault instanceof Error ? fault.message : "Something went wrong.";
}

function waitWords(seconds: number): string {
  return seconds < 120 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}

"""REST calls of the public contract, and the door to live sessions.

Answers are the platform's JSON objects as dicts, as PROTOCOL.md names their fields: a client that copied
them into classes would break, or hide, what a newer platform adds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from verbatim_client.backoff import Backoff
from verbatim_client.errors import ApiError
from verbatim_client.live import LiveSession
from verbatim_client.settings import Buffering, LiveSettings, buffering_at
from verbatim_client.speaking import in_frames, speak
from verbatim_client.uploading import Begun, Progress, Upload
from verbatim_client.watch import Watch
from verbatim_client.wire import Event

Json = dict[str, Any]

CALL_WITHIN_S = 15.0
PAGE = 100
JOB_OVER = frozenset({"completed", "failed", "dead"})
# How often one looks at a job: at first often, then so that an hour of it stays below the limit of an hour.
JOB_LOOK_S = 0.5
JOB_LOOK_S_MAX = 5.0
JOB_LOOKS_REFUSED_MAX = 5
JOB_REFUSED_S_MAX = 60.0
WITHOUT_TOKEN = frozenset({"/api/auth/login", "/api/auth/logout", "/api/auth/refresh", "/api/auth/register"})


class VerbatimClient:
    """One account's view of a platform.

    Every call raises ApiError when it is refused and httpx2.TransportError when the platform cannot be reached. An
    access token that is refused is renewed once, where there is a refresh token.
    """

    def __init__(
        self,
        base_url: str,
        *,
        access_token: str | None = None,
        refresh_token: str | None = None,
        within_s: float = CALL_WITHIN_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the platform's address, and an access token or API key if there is one already."""
        self.base_url = base_url.rstrip("/")
        self.access_token = access_token
        self.refresh_token = refresh_token
        self._renewing = asyncio.Lock()
        self._http = httpx2.AsyncClient(base_url=self.base_url, timeout=within_s, transport=transport)

    async def __aenter__(self) -> Self:
        """Give the client itself; it connects with the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def ws_url(self) -> str:
        """Where live audio goes."""
        return f"{self.base_url.replace('http', 'ws', 1)}/transcribe"

    # Accounts.

    async def register(self, email: str, username: str, password: str) -> Json:
        """Make an account and give it. It is not logged in by that."""
        account = {"email": email, "username": username, "password": password}
        return await self.call("POST", "/api/auth/register", json=account)

    async def login(self, email: str, password: str) -> Json:
        """Log in; later calls carry the access token."""
        return self._keep(await self.call("POST", "/api/auth/login", json={"email": email, "password": password}))

    async def refresh(self) -> Json:
        """Trade the refresh token for new tokens."""
        return self._keep(await self.call("POST", "/api/auth/refresh", json={"refresh_token": self.refresh_token}))

    async def logout(self) -> None:
        """End the login."""
        await self.call("POST", "/api/auth/logout", json={"refresh_token": self.refresh_token})
        self.access_token = self.refresh_token = None

    async def me(self) -> Json:
        """Give the account."""
        return await self.call("GET", "/api/auth/me")

    async def change_password(self, current: str, new: str) -> None:
        """Change the password; every other login ends."""
        await self.call("POST", "/api/auth/password", json={"current_password": current, "new_password": new})

    async def delete_account(self) -> None:
        """Delete the account with all that belongs to it. Needs a login of the last quarter of an hour."""
        await self.call("DELETE", "/api/auth/me")
        self.access_token = self.refresh_token = None

    async def logins(self) -> list[Json]:
        """Give the logins that are open, the one used last first."""
        return list((await self.call("GET", "/api/auth/logins"))["items"])

    async def end_login(self, login_id: str) -> None:
        """End one login."""
        await self.call("DELETE", f"/api/auth/logins/{login_id}")

    async def logout_everywhere(self) -> None:
        """End every login of the account, this one too."""
        await self.call("DELETE", "/api/auth/logins")
        self.access_token = self.refresh_token = None

    async def ticket(self) -> str:
        """Give a ticket that opens `/transcribe?ticket=` once, within half a minute: for what can send no header."""
        return str((await self.call("POST", "/api/auth/ticket"))["ticket"])

    async def create_api_key(self, name: str, scopes: list[str] | None = None, expires_at: str | None = None) -> Json:
        """Make an API key; its `key` is shown this once. A client takes it as `access_token`."""
        wanted = {"name": name, "scopes": scopes, "expires_at": expires_at}
        given = {field: value for field, value in wanted.items() if value is not None}
        return await self.call("POST", "/api/auth/api-keys", json=given)

    def api_keys(self) -> AsyncGenerator[Json, None]:
        """Give all API keys, without what opens anything."""
        return self.pages("/api/auth/api-keys", {})

    async def delete_api_key(self, key_id: str) -> None:
        """Delete an API key."""
        await self.call("DELETE", f"/api/auth/api-keys/{key_id}")

    # Accounts of others, for admins.

    def accounts(self, email: str | None = None) -> AsyncGenerator[Json, None]:
        """Give all accounts, or those of one address."""
        return self.pages("/api/admin/accounts", {"email": email})

    async def update_account(self, account_id: str, version: int, **fields: object) -> Json:
        """Change the `role` of an account, or whether it is `disabled`."""
        return await self.call("PATCH", f"/api/admin/accounts/{account_id}", version=version, json=fields)

    async def remove_account(self, account_id: str, version: int) -> None:
        """Delete an account of somebody else with all that belongs to it."""
        await self.call("DELETE", f"/api/admin/accounts/{account_id}", version=version)

    # Meetings.

    async def create_meeting(self, title: str, **fields: object) -> Json:
        """Create a meeting; `language` and `participants` may be given."""
        return await self.call("POST", "/api/meetings", json={"title": title} | fields)

    async def meeting(self, meeting_id: str) -> Json:
        """Give one meeting."""
        return await self.call("GET", f"/api/meetings/{meeting_id}")

    def meetings(self, query: str | None = None, *, status: str | None = None) -> AsyncGenerator[Json, None]:
        """Give all meetings, or those of a status; with words those that hold them, best first, with their `hits`."""
        return self.pages("/api/meetings", {"q": query, "status": status})

    async def update_meeting(self, meeting_id: str, version: int, **fields: object) -> Json:
        """Change a meeting whose version is still this one."""
        return await self.call("PATCH", f"/api/meetings/{meeting_id}", version=version, json=fields)

    async def delete_meeting(self, meeting_id: str, version: int) -> None:
        """Delete a meeting with everything that belongs to it."""
        await self.call("DELETE", f"/api/meetings/{meeting_id}", version=version)

    async def segments(self, meeting_id: str) -> list[Json]:
        """Give the whole transcript."""
        return [segment async for segment in self.pages(f"/api/meetings/{meeting_id}/segments", {})]

    async def segment(self, meeting_id: str, segment_id: str) -> Json:
        """Give one segment."""
        return await self.call("GET", f"/api/meetings/{meeting_id}/segments/{segment_id}")

    async def update_segment(self, meeting_id: str, segment_id: str, version: int, **fields: str | None) -> Json:
        """Write `text` or `speaker` of a segment oneself; None gives one back. The version must still be this."""
        path = f"/api/meetings/{meeting_id}/segments/{segment_id}"
        return await self.call("PATCH", path, version=version, json=fields)

    async def rename_speaker(self, meeting_id: str, version: int, speaker: str | None, name: str) -> Json:
        """Rename a speaker (None: who has no name) in a meeting whose version is still this one; give the meeting."""
        wanted = {"speaker": speaker, "name": name}
        return await self.call("PATCH", f"/api/meetings/{meeting_id}/speakers", version=version, json=wanted)

    async def export(self, meeting_id: str, format_: str) -> str:
        """Give the transcript as a file: txt, md, srt, vtt or json."""
        answer = await self.answer("GET", f"/api/meetings/{meeting_id}/export", params={"format": format_})
        return answer.text

    async def share(self, meeting_id: str) -> Json:
        """Make a link that shows a meeting for a day: `path` of the page, `token` for programs, `expires_at`."""
        return await self.call("POST", f"/api/meetings/{meeting_id}/share")

    # Tasks, insights, analytics.

    def tasks(self, **filters: str) -> AsyncGenerator[Json, None]:
        """Give all tasks."""
        return self.pages("/api/tasks", filters)

    async def create_task(self, title: str, **fields: object) -> Json:
        """Create a task; `meeting_id`, `assignee` and `due` may be given."""
        return await self.call("POST", "/api/tasks", json={"title": title} | fields)

    async def update_task(self, task_id: str, version: int, **fields: object) -> Json:
        """Change a task whose version is still this one."""
        return await self.call("PATCH", f"/api/tasks/{task_id}", version=version, json=fields)

    async def delete_task(self, task_id: str, version: int) -> None:
        """Delete a task."""
        await self.call("DELETE", f"/api/tasks/{task_id}", version=version)

    async def insights(self, meeting_id: str) -> Json:
        """Give a meeting's minutes as far as they are made."""
        return await self.call("GET", f"/api/insights/{meeting_id}")

    async def update_insights(self, meeting_id: str, version: int, **fields: object) -> Json:
        """Write `summary`, `key_points` or `decisions` oneself; None gives one back. The version must still be this."""
        return await self.call("PATCH", f"/api/insights/{meeting_id}", version=version, json=fields)

    async def request_insights(self, meeting_id: str) -> Json:
        """Have the minutes made again; give the job."""
        return await self.call("POST", f"/api/insights/{meeting_id}")

    async def analytics(self, from_: str | None = None, to: str | None = None, tz: str | None = None) -> Json:
        """Give the figures of a period: days of the zone (2026-11-23) or times; the last thirty days unless given."""
        asked = {"from": from_, "to": to, "tz": tz}
        given = {name: value for name, value in asked.items() if value}
        return await self.call("GET", "/api/analytics", params=given)

    # Webhooks and usage.

    async def create_webhook(
        self, url: str, events: list[str] | None = None, *, idempotency_key: str | None = None, **fields: object
    ) -> Json:
        """Make a webhook that is told of events (without: of all); its `secret` is shown this once."""
        wanted: Json = {"url": url} | fields | ({"events": events} if events else {})
        return await self.call("POST", "/api/webhooks", json=wanted, idempotency_key=idempotency_key)

    def webhooks(self) -> AsyncGenerator[Json, None]:
        """Give all webhooks, without their secrets."""
        return self.pages("/api/webhooks", {})

    async def webhook(self, webhook_id: str) -> Json:
        """Give one webhook."""
        return await self.call("GET", f"/api/webhooks/{webhook_id}")

    async def update_webhook(self, webhook_id: str, version: int, **fields: object) -> Json:
        """Change the `url`, `events` or `description` of a webhook, or whether it is `enabled`."""
        return await self.call("PATCH", f"/api/webhooks/{webhook_id}", version=version, json=fields)

    async def rotate_webhook_secret(self, webhook_id: str, version: int) -> Json:
        """Give a webhook another `secret`, shown this once; the one before signs too until `previous_until`."""
        return await self.call("POST", f"/api/webhooks/{webhook_id}/rotate-secret", version=version)

    async def delete_webhook(self, webhook_id: str, version: int) -> None:
        """Delete a webhook."""
        await self.call("DELETE", f"/api/webhooks/{webhook_id}", version=version)

    async def test_webhook(self, webhook_id: str) -> Json:
        """Send a webhook an event that tells of nothing; give the delivery."""
        return await self.call("POST", f"/api/webhooks/{webhook_id}/test")

    def deliveries(self, webhook_id: str, status: str | None = None) -> AsyncGenerator[Json, None]:
        """Give what was sent to a webhook, newest first, or those in a state, as `dead`."""
        return self.pages(f"/api/webhooks/{webhook_id}/deliveries", {"status": status})

    async def redeliver(self, webhook_id: str, delivery_id: str) -> Json:
        """Send what was delivered or given up once more, under the same id."""
        return await self.call("POST", f"/api/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")

    async def usage(self) -> Json:
        """Give what the account has used this month, and what it may."""
        return await self.call("GET", "/api/usage")

    # Jobs.

    async def job(self, job_id: str) -> Json:
        """Give one background job."""
        return await self.call("GET", f"/api/jobs/{job_id}")

    async def cancel_job(self, job_id: str) -> Json:
        """End a background job that is not over; give it."""
        return await self.call("POST", f"/api/jobs/{job_id}/cancel")

    async def upload(
        self,
        recording: Path,
        *,
        progress: Progress | None = None,
        begun: Begun | None = None,
        place: str | None = None,
        **fields: str,
    ) -> Json:
        """Upload a recording, over as many connections as it takes; give `job_id` and `meeting_id`.

        `meeting_id`, `title` and `language` may be given. `begun` is told the place where the upload goes on if this
        process ends before it does: that is what `place` takes.
        """
        return await Upload(self, recording, fields, progress=progress, begun=begun).send(place)

    async def job_done(self, job_id: str, *, progress: Callable[[Json], None] | None = None) -> Json:
        """Wait until a job is over and give it; `progress` is told of it again and again.

        A platform that asks for patience is given it, a few times in a row and a minute at most each time.
        """
        look_s, refused = JOB_LOOK_S, 0
        while True:
            pause_s = look_s
            try:
                job = await self.job(job_id)
            except ApiError as fault:
                refused += 1
                pause_s = max(look_s, fault.retry_after_s or 0.0)
                if not fault.retryable or refused > JOB_LOOKS_REFUSED_MAX or pause_s > JOB_REFUSED_S_MAX:
                    raise
            else:
                refused = 0
                if progress is not None:
                    progress(job)
                if job["status"] in JOB_OVER:
                    return job
            await asyncio.sleep(pause_s)
            look_s = min(JOB_LOOK_S_MAX, look_s * 1.2)

    # For those who look after the platform.

    def dead_letters(self, kind: str | None = None) -> AsyncGenerator[Json, None]:
        """Give what was given up, the oldest first."""
        return self.pages("/api/admin/dlq", {"kind": kind})

    async def dead_letter(self, letter_id: str) -> Json:
        """Give one of them, with the message that was given up."""
        return await self.call("GET", f"/api/admin/dlq/{letter_id}")

    async def retry_dead_letter(self, letter_id: str) -> Json:
        """Send one of them on its way again."""
        return await self.call("POST", f"/api/admin/dlq/{letter_id}/retry")

    async def retry_dead_letters(self, kind: str | None = None) -> Json:
        """Send all of them on their way again, or those of a kind; give how many were, and how many cannot be."""
        return await self.call("POST", "/api/admin/dlq/retry", json={"kind": kind} if kind else {})

    async def discard_dead_letter(self, letter_id: str) -> None:
        """Forget one of them."""
        await self.call("DELETE", f"/api/admin/dlq/{letter_id}")

    # Switches, for admins.

    async def controls(self) -> list[Json]:
        """Give the switches that are set: `name`, `value`, `who`, `why`, `set_at`, `until`."""
        items: list[Json] = (await self.call("GET", "/api/admin/controls"))["items"]
        return items

    async def set_control(self, name: str, value: str | None, *, why: str, for_s: float | None = None) -> None:
        """Set a switch for all services, for so many seconds or until it is changed; None: back to its default."""
        wish: Json = {"name": name, "value": value, "why": why}
        await self.call("PUT", "/api/admin/controls", json=wish | ({"for_s": for_s} if for_s else {}))

    # Live audio.

    def live(
        self, settings: LiveSettings, *, backoff: Backoff | None = None, buffering: Buffering | None = None
    ) -> LiveSession:
        """Prepare a live session; entering it connects."""
        return LiveSession(self.ws_url, self._token, settings, backoff=backoff, buffering=buffering)

    async def stream(
        self,
        pcm: bytes,
        settings: LiveSettings,
        *,
        speed: float | None = 1.0,
        finish_within_s: float = 60.0,
        buffering: Buffering | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Speak a whole PCM recording into a live session and give the server's events, `finished` last.

        `speed` is a multiple of real time; None is as fast as the platform takes it. Raises StreamError, or
        TimeoutError when `finished` does not come within `finish_within_s` of the end of the audio.
        """
        rate = settings.bytes_per_second
        async with self.live(settings, buffering=buffering or buffering_at(speed)) as session:
            frames = in_frames(pcm, rate)
            speaking = asyncio.create_task(speak(session, frames, rate, speed=speed, finish_within_s=finish_within_s))
            # Without this, a fault in speaking would leave the iteration below waiting.
            speaking.add_done_callback(
                lambda task: session.leave() if not task.cancelled() and task.exception() else None
            )
            try:
                async for event in session:
                    yield event
                await speaking
            finally:
                speaking.cancel()
                await asyncio.wait([speaking])

    def watch(self, meeting_id: str, *, last_event_id: str = "", backoff: Backoff | None = None) -> Watch:
        """Follow a meeting as it is spoken: iterate for its events, what was said before first.

        `last_event_id` is where an earlier watch had come to.
        """
        path = f"/api/meetings/{meeting_id}/live"
        return Watch(self._http, path, self._token, _error, last_event_id=last_event_id, backoff=backoff)

    # Any call.

    async def call(
        self,
        method: str,
        path: str,
        *,
        version: int | None = None,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> Json:
        """Make a call and give its JSON object, empty where there is no content."""
        headers = {}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        answer = await self.answer(method, path, headers=headers, **more)
        body: Json = answer.json() if answer.content else {}
        return body

    async def answer(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> httpx2.Response:
        """Make a call and give the whole answer. Raises ApiError for anything but success."""
        refused_token = self.access_token
        answer = await self._request(method, path, headers, more)
        if answer.status_code == httpx2.codes.UNAUTHORIZED and self.refresh_token and path not in WITHOUT_TOKEN:
            await self._renew(refused_token)
            answer = await self._request(method, path, headers, more)
        if answer.is_success:
            return answer
        raise _error(answer)

    async def pages(self, path: str, params: Mapping[str, str | None]) -> AsyncGenerator[Json, None]:
        """Give the items of a list, page after page."""
        query: dict[str, str | int] = {name: value for name, value in params.items() if value is not None}
        query["limit"] = PAGE
        while True:
            page = await self.call("GET", path, params=query)
            for item in page["items"]:
                yield item
            if not page["next_cursor"]:
                return
            query["cursor"] = page["next_cursor"]

    def _keep(self, tokens: Json) -> Json:
        self.access_token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]
        return tokens

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None, more: dict[str, Any]
    ) -> httpx2.Response:
        credential = {"Authorization": f"Bearer {self.access_token}"} if self.access_token else {}
        return await self._http.request(method, path, headers=credential | dict(headers or {}), **more)

    async def _renew(self, refused_token: str | None) -> None:
        # A refresh token is good once, and using it twice ends the login: of several refused calls one renews.
        async with self._renewing:
            if self.access_token == refused_token:
                await self.refresh()

    async def _token(self, renew: bool) -> str:
        if renew and self.refresh_token:
            await self._renew(self.access_token)
        return self.access_token or ""


def _error(answer: httpx2.Response) -> ApiError:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    retry_after = answer.headers.get("Retry-After", "")
    return ApiError(
        answer.status_code,
        body if isinstance(body, dict) else {},
        answer.headers.get("X-Request-ID", ""),
        float(retry_after) if retry_after.isdigit() else None,
    )

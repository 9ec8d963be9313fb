"""The client for programs that do not use asyncio. Written by `python -m dev.sync_client`: do not edit.

with SyncVerbatimClient("http://localhost:8000", access_token=key) as client:
    for event in client.stream(pcm, LiveSettings(title="Planning")):
        if event["type"] == "segment":
            print(event["text"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from verbatim_client.backoff import Backoff
from verbatim_client.client import Json
from verbatim_client.settings import Buffering, LiveSettings
from verbatim_client.uploading import Begun, Progress
from verbatim_client.waiting import Waiting
from verbatim_client.wire import Event


class SyncVerbatimClient(Waiting):
    """One account's view of a platform; every call waits for its answer.

    The same calls as VerbatimClient, which works in a thread of its own: live audio flows while your program does
    something else. Lists, `stream` and `watch` are iterators. Not for use from several threads at once.
    """

    def register(self, email: str, username: str, password: str) -> Json:
        """Make an account and give it. It is not logged in by that."""
        return self._wait(self._client.register(email, username, password))

    def login(self, email: str, password: str) -> Json:
        """Log in; later calls carry the access token."""
        return self._wait(self._client.login(email, password))

    def refresh(self) -> Json:
        """Trade the refresh token for new tokens."""
        return self._wait(self._client.refresh())

    def logout(self) -> None:
        """End the login."""
        self._wait(self._client.logout())

    def me(self) -> Json:
        """Give the account."""
        return self._wait(self._client.me())

    def change_password(self, current: str, new: str) -> None:
        """Change the password; every other login ends."""
        self._wait(self._client.change_password(current, new))

    def delete_account(self) -> None:
        """Delete the account with all that belongs to it. Needs a login of the last quarter of an hour."""
        self._wait(self._client.delete_account())

    def logins(self) -> list[Json]:
        """Give the logins that are open, the one used last first."""
        return self._wait(self._client.logins())

    def end_login(self, login_id: str) -> None:
        """End one login."""
        self._wait(self._client.end_login(login_id))

    def logout_everywhere(self) -> None:
        """End every login of the account, this one too."""
        self._wait(self._client.logout_everywhere())

    def ticket(self) -> str:
        """Give a ticket that opens `/transcribe?ticket=` once, within half a minute: for what can send no header."""
        return self._wait(self._client.ticket())

    def create_api_key(self, name: str, scopes: list[str] | None = None, expires_at: str | None = None) -> Json:
        """Make an API key; its `key` is shown this once. A client takes it as `access_token`."""
        return self._wait(self._client.create_api_key(name, scopes, expires_at))

    def api_keys(self) -> Iterator[Json]:
        """Give all API keys, without what opens anything."""
        return self._each(self._client.api_keys())

    def delete_api_key(self, key_id: str) -> None:
        """Delete an API key."""
        self._wait(self._client.delete_api_key(key_id))

    def accounts(self, email: str | None = None) -> Iterator[Json]:
        """Give all accounts, or those of one address."""
        return self._each(self._client.accounts(email))

    def update_account(self, account_id: str, version: int, **fields: object) -> Json:
        """Change the `role` of an account, or whether it is `disabled`."""
        return self._wait(self._client.update_account(account_id, version, **fields))

    def remove_account(self, account_id: str, version: int) -> None:
        """Delete an account of somebody else with all that belongs to it."""
        self._wait(self._client.remove_account(account_id, version))

    def create_meeting(self, title: str, **fields: object) -> Json:
        """Create a meeting; `language` and `participants` may be given."""
        return self._wait(self._client.create_meeting(title, **fields))

    def meeting(self, meeting_id: str) -> Json:
        """Give one meeting."""
        return self._wait(self._client.meeting(meeting_id))

    def meetings(self, query: str | None = None, *, status: str | None = None) -> Iterator[Json]:
        """Give all meetings, or those of a status; with words those that hold them, best first, with their `hits`."""
        return self._each(self._client.meetings(query, status=status))

    def update_meeting(self, meeting_id: str, version: int, **fields: object) -> Json:
        """Change a meeting whose version is still this one."""
        return self._wait(self._client.update_meeting(meeting_id, version, **fields))

    def delete_meeting(self, meeting_id: str, version: int) -> None:
        """Delete a meeting with everything that belongs to it."""
        self._wait(self._client.delete_meeting(meeting_id, version))

    def segments(self, meeting_id: str) -> list[Json]:
        """Give the whole transcript."""
        return self._wait(self._client.segments(meeting_id))

    def segment(self, meeting_id: str, segment_id: str) -> Json:
        """Give one segment."""
        return self._wait(self._client.segment(meeting_id, segment_id))

    def update_segment(self, meeting_id: str, segment_id: str, version: int, **fields: str | None) -> Json:
        """Write `text` or `speaker` of a segment oneself; None gives one back. The version must still be this."""
        return self._wait(self._client.update_segment(meeting_id, segment_id, version, **fields))

    def rename_speaker(self, meeting_id: str, version: int, speaker: str | None, name: str) -> Json:
        """Rename a speaker (None: who has no name) in a meeting whose version is still this one; give the meeting."""
        return self._wait(self._client.rename_speaker(meeting_id, version, speaker, name))

    def export(self, meeting_id: str, format_: str) -> str:
        """Give the transcript as a file: txt, md, srt, vtt or json."""
        return self._wait(self._client.export(meeting_id, format_))

    def share(self, meeting_id: str) -> Json:
        """Make a link that shows a meeting for a day: `path` of the page, `token` for programs, `expires_at`."""
        return self._wait(self._client.share(meeting_id))

    def tasks(self, **filters: str) -> Iterator[Json]:
        """Give all tasks."""
        return self._each(self._client.tasks(**filters))

    def create_task(self, title: str, **fields: object) -> Json:
        """Create a task; `meeting_id`, `assignee` and `due` may be given."""
        return self._wait(self._client.create_task(title, **fields))

    def update_task(self, task_id: str, version: int, **fields: object) -> Json:
        """Change a task whose version is still this one."""
        return self._wait(self._client.update_task(task_id, version, **fields))

    def delete_task(self, task_id: str, version: int) -> None:
        """Delete a task."""
        self._wait(self._client.delete_task(task_id, version))

    def insights(self, meeting_id: str) -> Json:
        """Give a meeting's minutes as far as they are made."""
        return self._wait(self._client.insights(meeting_id))

    def update_insights(self, meeting_id: str, version: int, **fields: object) -> Json:
        """Write `summary`, `key_points` or `decisions` oneself; None gives one back. The version must still be this."""
        return self._wait(self._client.update_insights(meeting_id, version, **fields))

    def request_insights(self, meeting_id: str) -> Json:
        """Have the minutes made again; give the job."""
        return self._wait(self._client.request_insights(meeting_id))

    def analytics(self, from_: str | None = None, to: str | None = None, tz: str | None = None) -> Json:
        """Give the figures of a period: days of the zone (2026-11-23) or times; the last thirty days unless given."""
        return self._wait(self._client.analytics(from_, to, tz))

    def create_webhook(
        self, url: str, events: list[str] | None = None, *, idempotency_key: str | None = None, **fields: object
    ) -> Json:
        """Make a webhook that is told of events (without: of all); its `secret` is shown this once."""
        return self._wait(self._client.create_webhook(url, events, idempotency_key=idempotency_key, **fields))

    def webhooks(self) -> Iterator[Json]:
        """Give all webhooks, without their secrets."""
        return self._each(self._client.webhooks())

    def webhook(self, webhook_id: str) -> Json:
        """Give one webhook."""
        return self._wait(self._client.webhook(webhook_id))

    def update_webhook(self, webhook_id: str, version: int, **fields: object) -> Json:
        """Change the `url`, `events` or `description` of a webhook, or whether it is `enabled`."""
        return self._wait(self._client.update_webhook(webhook_id, version, **fields))

    def rotate_webhook_secret(self, webhook_id: str, version: int) -> Json:
        """Give a webhook another `secret`, shown this once; the one before signs too until `previous_until`."""
        return self._wait(self._client.rotate_webhook_secret(webhook_id, version))

    def delete_webhook(self, webhook_id: str, version: int) -> None:
        """Delete a webhook."""
        self._wait(self._client.delete_webhook(webhook_id, version))

    def test_webhook(self, webhook_id: str) -> Json:
        """Send a webhook an event that tells of nothing; give the delivery."""
        return self._wait(self._client.test_webhook(webhook_id))

    def deliveries(self, webhook_id: str, status: str | None = None) -> Iterator[Json]:
        """Give what was sent to a webhook, newest first, or those in a state, as `dead`."""
        return self._each(self._client.deliveries(webhook_id, status))

    def redeliver(self, webhook_id: str, delivery_id: str) -> Json:
        """Send what was delivered or given up once more, under the same id."""
        return self._wait(self._client.redeliver(webhook_id, delivery_id))

    def usage(self) -> Json:
        """Give what the account has used this month, and what it may."""
        return self._wait(self._client.usage())

    def job(self, job_id: str) -> Json:
        """Give one background job."""
        return self._wait(self._client.job(job_id))

    def cancel_job(self, job_id: str) -> Json:
        """End a background job that is not over; give it."""
        return self._wait(self._client.cancel_job(job_id))

    def upload(
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
        return self._wait(self._client.upload(recording, progress=progress, begun=begun, place=place, **fields))

    def job_done(self, job_id: str, *, progress: Callable[[Json], None] | None = None) -> Json:
        """Wait until a job is over and give it; `progress` is told of it again and again.

        A platform that asks for patience is given it, a few times in a row and a minute at most each time.
        """
        return self._wait(self._client.job_done(job_id, progress=progress))

    def dead_letters(self, kind: str | None = None) -> Iterator[Json]:
        """Give what was given up, the oldest first."""
        return self._each(self._client.dead_letters(kind))

    def dead_letter(self, letter_id: str) -> Json:
        """Give one of them, with the message that was given up."""
        return self._wait(self._client.dead_letter(letter_id))

    def retry_dead_letter(self, letter_id: str) -> Json:
        """Send one of them on its way again."""
        return self._wait(self._client.retry_dead_letter(letter_id))

    def retry_dead_letters(self, kind: str | None = None) -> Json:
        """Send all of them on their way again, or those of a kind; give how many were, and how many cannot be."""
        return self._wait(self._client.retry_dead_letters(kind))

    def discard_dead_letter(self, letter_id: str) -> None:
        """Forget one of them."""
        self._wait(self._client.discard_dead_letter(letter_id))

    def controls(self) -> list[Json]:
        """Give the switches that are set: `name`, `value`, `who`, `why`, `set_at`, `until`."""
        return self._wait(self._client.controls())

    def set_control(self, name: str, value: str | None, *, why: str, for_s: float | None = None) -> None:
        """Set a switch for all services, for so many seconds or until it is changed; None: back to its default."""
        self._wait(self._client.set_control(name, value, why=why, for_s=for_s))

    def stream(
        self,
        pcm: bytes,
        settings: LiveSettings,
        *,
        speed: float | None = 1.0,
        finish_within_s: float = 60.0,
        buffering: Buffering | None = None,
    ) -> Iterator[Event]:
        """Speak a whole PCM recording into a live session and give the server's events, `finished` last.

        `speed` is a multiple of real time; None is as fast as the platform takes it. Raises StreamError, or
        TimeoutError when `finished` does not come within `finish_within_s` of the end of the audio.
        """
        return self._each(
            self._client.stream(pcm, settings, speed=speed, finish_within_s=finish_within_s, buffering=buffering)
        )

    def watch(self, meeting_id: str, *, last_event_id: str = "", backoff: Backoff | None = None) -> Iterator[Event]:
        """Follow a meeting as it is spoken: iterate for its events, what was said before first.

        `last_event_id` is where an earlier watch had come to.
        """
        return self._each(self._client.watch(meeting_id, last_event_id=last_event_id, backoff=backoff))

    def call(
        self, method: str, path: str, *, version: int | None = None, idempotency_key: str | None = None, **more: Any
    ) -> Json:
        """Make a call and give its JSON object, empty where there is no content."""
        return self._wait(self._client.call(method, path, version=version, idempotency_key=idempotency_key, **more))

    def pages(self, path: str, params: Mapping[str, str | None]) -> Iterator[Json]:
        """Give the items of a list, page after page."""
        return self._each(self._client.pages(path, params))

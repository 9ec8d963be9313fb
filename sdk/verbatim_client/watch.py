"""Following a meeting: its events in order, each durable one once, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx2

from verbatim_client.backoff import Backoff
from verbatim_client.errors import RETRYABLE_STATUS, ApiError, ConnectionGivenUpError
from verbatim_client.wire import Event

CONNECT_WITHIN_S = 10.0
# Three heartbeats of the platform: a connection that is silent for longer is dead.
SILENT_AT_MOST_S = 45.0
OVER_STATUS = 204
UNAUTHORIZED_STATUS = 401

TokenSource = Callable[[bool], Awaitable[str]]
Refusal = Callable[[httpx2.Response], ApiError]


class EventParser:
    """Turns the bytes of an event stream into events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    A line ends with a line feed only: what else Python's splitlines takes for one may be part of what was said.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[tuple[str, Event]]:
        """Take bytes; give (id, event) of each event that is complete. The id is empty where there is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                self._id = value
            elif name == "data":
                self._data.append(value)
            elif not line:
                if self._data:
                    yield self._id, json.loads("\n".join(self._data))
                self._id, self._data = "", []


class Watch:
    """One viewer. `last_event_id` is where it stands: another one may go on from there."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        path: str,
        token: TokenSource,
        refusal: Refusal,
        *,
        last_event_id: str = "",
        backoff: Backoff | None = None,
    ) -> None:
        """Take what is needed to connect; nothing happens before the iteration."""
        self.last_event_id = last_event_id
        self.reconnects = 0
        self._http = http
        self._path = path
        self._token = token
        self._refusal = refusal
        self._backoff = backoff or Backoff()
        self._over = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give events until the meeting is over; a durable one has its id as `event_id`.

        Raises ApiError when the platform refuses for good, ConnectionGivenUpError when it cannot be reached for long.
        """
        renew = False
        while True:
            retry_after_s: float | None = None
            last: Exception | None = None
            renewed, renew = renew, False
            try:
                async for event in self._one_connection(renewed):
                    if event["type"] == "error":
                        retry_after_s = event.get("retry_after")
                        if not event.get("retryable"):
                            # The login may have ended, and another one begun: a new token is worth a try.
                            status = UNAUTHORIZED_STATUS if event.get("error") == "unauthorized" else 0
                            raise ApiError(status, event, str(event.get("request_id", "")), None)
                    else:
                        yield event
                if self._over:
                    return
            except ApiError as refusal:
                renew = refusal.status == UNAUTHORIZED_STATUS and not renewed
                if not renew and refusal.status not in RETRYABLE_STATUS:
                    raise
                retry_after_s, last = refusal.retry_after_s, refusal
            except httpx2.TransportError as fault:
                last = fault
            wait_s = self._backoff.lost(retry_after_s)
            if wait_s is None:
                raise ConnectionGivenUpError("the connection failed too often in a row", None) from last
            self.reconnects += 1
            await asyncio.sleep(wait_s)

    async def _one_connection(self, renew_token: bool) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {await self._token(renew_token)}"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        timeout = httpx2.Timeout(CONNECT_WITHIN_S, read=SILENT_AT_MOST_S)
        async with self._http.stream("GET", self._path, headers=headers, timeout=timeout) as answer:
            if answer.status_code == OVER_STATUS:
                self._over = True
                return
            if not answer.is_success:
                await answer.aread()
                raise self._refusal(answer)
            self._backoff.connected()
            parser = EventParser()
            async for data in answer.aiter_bytes():
                for event_id, event in parser.feed(data):
                    if event_id:
                        self.last_event_id = event_id
                        event["event_id"] = event_id
                    self._over = event["type"] == "finished"
                    yield event
                    if self._over:
                        return

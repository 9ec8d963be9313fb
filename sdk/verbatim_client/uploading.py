"""Sending a recording over a network that breaks: in pieces as large as it bears, gone on with where it stopped.

Speaks tus 1.0 (https://tus.io/protocols/resumable-upload), so an upload that was begun here can be ended by any of its
clients, and the other way round.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import httpx2

from verbatim_client.backoff import Backoff
from verbatim_client.errors import ApiError

PATH = "/api/uploads/tus"
PIECE_BYTES = 256 * 1024
OVER_STATUS = frozenset({404, 410})
AGAIN_STATUS = frozenset({400, 409})  # the connection broke; somebody else was faster

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are on their way."""
Begun = Callable[[str], None]
"""Told where the upload goes on, as soon as that is known."""


class Caller(Protocol):
    """Makes calls of the platform's API."""

    async def answer(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        """Make a call and give the whole answer. Raises ApiError, httpx2.TransportError."""


class Upload:
    """One recording on its way. Raises ApiError when it is refused for good, or the last fault when trying is over."""

    def __init__(
        self,
        caller: Caller,
        recording: Path,
        fields: Mapping[str, str],
        *,
        progress: Progress | None = None,
        begun: Begun | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """`fields` are `title`, `language` and `meeting_id`, any of them."""
        self._caller = caller
        self._recording = recording
        self._fields = fields
        self._progress = progress or (lambda _sent, _total: None)
        self._begun = begun or (lambda _place: None)
        self._backoff = backoff or Backoff()
        self._reached = 0

    async def send(self, place: str | None = None) -> dict[str, str]:
        """Send the recording, or the rest of it at the place where an earlier upload began.

        Give `job_id` and `meeting_id`.
        """
        with await asyncio.to_thread(self._recording.open, "rb") as file:
            total = await asyncio.to_thread(file.seek, 0, 2)
            while True:
                try:
                    if place is None:
                        place = await self._create(total)
                        self._begun(place)
                    done = await self._go_on(file, place, total)
                except ApiError as fault:
                    if fault.status in OVER_STATUS and place is not None and self._reached == 0:
                        place = None  # it was begun too long ago
                        continue
                    broken = place is not None and fault.status in AGAIN_STATUS
                    if not (fault.retryable or broken):
                        raise
                    await self._pause(fault, fault.retry_after_s)
                except httpx2.TransportError as fault:
                    await self._pause(fault, None)
                else:
                    if done is not None:
                        return done

    async def _pause(self, fault: Exception, wait_s: float | None) -> None:
        pause_s = self._backoff.lost(wait_s)
        if pause_s is None:
            raise fault
        await asyncio.sleep(pause_s)

    async def _create(self, total: int) -> str:
        said = {"filename": self._recording.name, **self._fields}
        pairs = (f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in said.items())
        headers = _speaking({"Upload-Length": str(total), "Upload-Metadata": ",".join(pairs)})
        answer = await self._caller.answer("POST", PATH, headers=headers)
        return str(answer.headers["Location"])

    async def _go_on(self, file: IO[bytes], place: str, total: int) -> dict[str, str] | None:
        """Ask how far it came and send the rest. Give the outcome when all of it is there."""
        told = await self._caller.answer("HEAD", place, headers=_speaking({}))
        self._backoff.connected()
        offset = int(told.headers["Upload-Offset"])
        if offset > self._reached:
            # It goes on: what failed before does not count any more.
            self._backoff = Backoff()
        self._reached = offset
        self._progress(offset, total)
        if offset == total:
            return _outcome(told)
        headers = _speaking(
            {
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(total - offset),
            }
        )
        answer = await self._caller.answer("PATCH", place, headers=headers, content=self._rest(file, offset, total))
        return _outcome(answer)

    async def _rest(self, file: IO[bytes], offset: int, total: int) -> AsyncIterator[bytes]:
        await asyncio.to_thread(file.seek, offset)
        while offset < total:
            piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, total - offset))
            if not piece:
                return  # the file has become shorter meanwhile: the platform sees that it is not all
            yield piece
            offset += len(piece)
            self._progress(offset, total)


def _speaking(headers: dict[str, str]) -> dict[str, str]:
    return {"Tus-Resumable": "1.0.0", **headers}


def _outcome(answer: httpx2.Response) -> dict[str, str] | None:
    if "Verbatim-Job-Id" not in answer.headers:
        return None
    return {"job_id": answer.headers["Verbatim-Job-Id"], "meeting_id": answer.headers["Verbatim-Meeting-Id"]}

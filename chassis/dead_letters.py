"""Dead letters: messages that were given up, with what is known about why, until somebody decides.

They are in one stream, whoever put them there. A letter holds the message as it was: to retry one is to publish that
again and to remove the letter. A job that is sent back begins anew; an event reaches whoever has not had it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats.js.errors
import orjson
from nats.js.api import RawStreamMsg
from prometheus_client import Counter

from chassis import bus, outbox, telemetry
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

# A letter that is sent twice, because its acknowledgement was lost, is kept once within the window.
DLQ = bus.Stream("DLQ", ("dlq.>",), max_bytes=256 * 1024**2, duplicate_window_s=3600.0)
LETTER_HEADER = "verbatim-letter"

RESOLVED = Counter("dead_letters_resolved_total", "Dead letters that somebody decided on.", ["how"])
for _how in ("retried", "discarded"):
    RESOLVED.labels(_how)

_AT_ONCE = 32
_NOT_IN_ADDRESSES = re.compile(r"[^A-Za-z0-9_.:-]")
_NO_SUCH_MESSAGE = frozenset({10043, 10057})


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `about` is what its kind tells besides; `payload` may hold what people said."""

    id: str
    kind: str
    subject: str
    error: str
    history: list[dict[str, Any]]
    about: dict[str, Any]
    at: datetime
    payload: bytes
    headers: dict[str, str]
    sequence: int

    @property
    def retryable(self) -> bool:
        """Whether it can be published again. The log of a session takes entries from its owner only."""
        return bool(self.subject) and not self.subject.startswith("transcript.")


def letter(
    letter_id: str,
    *,
    kind: str,
    subject: str,
    payload: bytes,
    error: str,
    headers: Mapping[str, str] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
) -> outbox.Event:
    """Return a letter, to be put into the outbox; `publish` is for those who have none.

    `subject`, `payload` and `headers` are the message that was given up; `error` is safe to show. The id becomes part
    of addresses, so what may not stand there is replaced.
    """
    body = {
        "kind": kind, "subject": subject, "payload": payload.hex(), "headers": dict(headers or {}), "error": error,
        "history": list(history), "about": dict(about or {}), "at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    return outbox.Event(f"dlq.{kind}", orjson.dumps(body), _NOT_IN_ADDRESSES.sub("-", letter_id))


async def publish(broker: bus.Bus, one: outbox.Event) -> None:
    """Put a letter into the stream now. Raises AppError(UNAVAILABLE)."""
    await broker.publish(one.subject, one.payload, message_id=one.id)


class DeadLetters:
    """The stream, for those who decide. Raises AppError(UNAVAILABLE) while the broker is away."""

    def __init__(self, connection: Callable[[], bus.Bus]) -> None:
        self._connection = connection

    async def count(self) -> int:
        """Return how many there are."""
        state = await self._state()
        return state[0]

    async def count_of(self, kind: str) -> int:
        """Return how many there are of a kind."""
        subject = f"dlq.{kind}"
        try:
            info = await self._connection().js.stream_info(DLQ.name, subjects_filter=subject)
        except nats.js.errors.NotFoundError:
            return 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return (info.state.subjects or {}).get(subject, 0)

    async def list(self, *, kind: str = "", after: int = 0, most: int = 50) -> tuple[list[Letter], int | None]:
        """Return letters, the oldest first, after a place in the stream; and the place from which there may be more."""
        _, first, last = await self._state()
        found: list[Letter] = []
        place = max(after + 1, first)
        while place <= last and len(found) < most:
            places = range(place, min(place + _AT_ONCE, last + 1))
            for read in await asyncio.gather(*(self._read(one) for one in places)):
                if read is not None and len(found) < most and kind in {"", read.kind}:
                    found.append(read)
            place = places[-1] + 1
        if len(found) == most:
            place = found[-1].sequence + 1
        return found, place - 1 if place <= last else None

    async def get(self, letter_id: str) -> Letter:
        """Return one letter. Raises AppError(NOT_FOUND)."""
        after: int | None = 0
        while after is not None:
            page, after = await self.list(after=after, most=200)
            for one in page:
                if one.id == letter_id:
                    return one
        raise AppError(Kind.NOT_FOUND, "There is no such letter.")

    async def retry(self, one: Letter, *, who: str) -> None:
        """Send what was given up on its way again, and remove the letter, at somebody's word. Safe to repeat.

        Raises AppError(CONFLICT) for one that cannot be.
        """
        if not one.retryable:
            raise AppError(Kind.CONFLICT, "This letter cannot be sent again, only discarded.")
        headers = {**one.headers, LETTER_HEADER: one.id, "Nats-Msg-Id": f"{one.id}/again"}
        headers.setdefault("x-request-id", telemetry.request_id())
        try:
            await self._connection().js.publish(one.subject, one.payload, headers=headers, timeout=5.0)
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        await self._remove(one)
        RESOLVED.labels("retried").inc()
        log.warning("letter retried", letter_id=one.id, letter_kind=one.kind, who=who)

    async def retry_all(self, *, kind: str = "", who: str) -> tuple[int, int]:
        """Retry the letters that are there now; return how many were and how many cannot be.

        What dies again meanwhile has a new letter, behind those.
        """
        _, _, last = await self._state()
        retried = kept = 0
        after: int | None = 0
        while after is not None and after < last:
            page, after = await self.list(kind=kind, after=after, most=200)
            for one in page:
                if one.retryable and one.sequence <= last:
                    await self.retry(one, who=who)
                    retried += 1
                kept += not one.retryable
        return retried, kept

    async def discard(self, one: Letter, *, who: str) -> None:
        """Remove a letter for good, at somebody's word. Safe to repeat."""
        await self._remove(one)
        RESOLVED.labels("discarded").inc()
        log.warning("letter discarded", letter_id=one.id, letter_kind=one.kind, who=who)

    async def _state(self) -> tuple[int, int, int]:
        """Return the number of letters, and the first and last place in the stream."""
        try:
            state = (await self._connection().js.stream_info(DLQ.name)).state
        except nats.js.errors.NotFoundError:
            return 0, 1, 0
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return state.messages, state.first_seq, state.last_seq

    async def _read(self, place: int) -> Letter | None:
        try:
            return _letter(await self._connection().js.get_msg(DLQ.name, place))
        except nats.js.errors.NotFoundError:
            return None
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault

    async def _remove(self, one: Letter) -> None:
        try:
            await self._connection().js.delete_msg(DLQ.name, one.sequence)
        except nats.js.errors.NotFoundError:
            return
        except nats.js.errors.APIError as fault:
            if fault.err_code not in _NO_SUCH_MESSAGE:
                raise AppError(Kind.UNAVAILABLE, "The broker refuses.", log=repr(fault)) from fault
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault


def _letter(raw: RawStreamMsg) -> Letter:
    """Return what a message of the stream says; one that we have not written is a letter of which little is known."""
    headers, place = raw.headers or {}, raw.seq or 0
    letter_id = headers.get("ce-id") or headers.get("Nats-Msg-Id") or f"{DLQ.name}-{place}"
    try:
        body = orjson.loads(raw.data or b"")
        return Letter(
            id=letter_id,
            kind=body["kind"],
            subject=body["subject"],
            error=body["error"],
            history=body["history"],
            about=body["about"],
            at=datetime.fromisoformat(body["at"]),
            payload=bytes.fromhex(body["payload"]),
            headers=body["headers"],
            sequence=place,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return Letter(
            id=letter_id,
            kind=(raw.subject or "").removeprefix("dlq."),
            subject="",
            error=headers.get("verbatim-error", "not known"),
            history=[],
            about={},
            at=raw.time if isinstance(raw.time, datetime) else datetime.now(UTC),
            payload=raw.data or b"",
            headers={},
            sequence=place,
        )

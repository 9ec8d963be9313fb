"""Meetings that people delete: the logs of their sessions go at once, before anybody heals what nobody wants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from verbatim.meetings.v1.events_pb2 import MeetingDeleted

from chassis import bus, ids, outbox, telemetry
from chassis.broker import Broker
from chassis.dead_letters import DeadLetters
from chassis.errors import AppError
from chassis.objects import Objects
from services.janitor import metrics
from services.janitor.session_logs import SessionLogs
from services.janitor.uploaded import BUCKET

log = telemetry.logger(__name__)

SUBJECT = "events.meeting.deleted"
_DURABLE = "janitor"
_DEAD = "dlq.event.janitor"
_AGAIN_S = 1.0


class Deletions:
    """Removes what the broker holds of deleted meetings: logs of closed sessions, files, dead letters.

    The log of a session that is open goes when it is over and old.
    """

    def __init__(self, broker: Broker, logs: SessionLogs) -> None:
        self._broker = broker
        self._logs = logs
        self._objects = Objects(lambda: broker.bus, BUCKET)
        self._letters = DeadLetters(lambda: broker.bus)

    async def run(self) -> None:
        """Consume for the life of the process, from when there is a broker."""
        while True:
            try:
                broker = self._broker.bus
            except AppError:
                await asyncio.sleep(_AGAIN_S)
            else:
                await broker.consume(
                    stream=outbox.EVENTS.name, durable=_DURABLE, subject=SUBJECT, handle=self.handle, batch=10
                )

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Remove what these tell of. Raises AppError(UNAVAILABLE); safe to repeat."""
        for message in messages:
            try:
                fact = MeetingDeleted.FromString(message.data)
                session_ids = list(fact.session_ids)
            except DecodeError:
                sequence = message.metadata.sequence.stream
                log.warning("deletion cannot be read", sequence=sequence)
                await self._broker.bus.publish(_DEAD, message.data, message_id=f"letter-deleted-{sequence}")
                continue
            for session_id in filter(ids.is_id, session_ids):
                await self._objects.remove(session_id)  # of an upload, whose file may not have been read yet
                if await self._logs.is_closed(session_id):
                    await self._logs.purge(session_id)
                    metrics.LOGS_PURGED.inc()
            await self._discard_letters([one for one in (fact.meeting_id, *session_ids) if ids.is_id(one)])
            await bus.quietly(message.in_progress())

    async def _discard_letters(self, about: Sequence[str]) -> None:
        """Discard the dead letters in which one of some ids stands: they may hold what was said."""
        after: int | None = 0
        while after is not None:
            page, after = await self._letters.list(after=after, most=200)
            for letter in page:
                told = b" ".join((letter.payload, letter.subject.encode(), repr(letter.about).encode()))
                if any(one.encode() in told for one in about):
                    await self._letters.discard(letter, who="deletion of a meeting")

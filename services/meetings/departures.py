"""Accounts that were deleted: what belonged to them goes too."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from verbatim.meetings.v1.events_pb2 import AccountDeleted

from chassis import bus, dead_letters, ids, outbox, telemetry
from services.meetings import metrics
from services.meetings.accounts_store import DELETED
from services.meetings.meetings_store import MeetingsStore
from services.meetings.remains_store import RemainsStore
from services.meetings.tasks_store import TasksStore

log = telemetry.logger(__name__)

CONSUMER = "meetings-departures"
_BATCH = 20


class DepartureConsumer:
    """Deletes what belonged to accounts that are no more, meetings some at a time.

    Each meeting's own deletion tells who else keeps something of it. Nothing new can come behind us: what is made for
    an account that is buried is refused.
    """

    def __init__(self, meetings: MeetingsStore, tasks: TasksStore, rest: RemainsStore, broker: bus.Bus) -> None:
        self._meetings = meetings
        self._tasks = tasks
        self._rest = rest
        self._letters = dead_letters.DeadLetters(lambda: broker)
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        await self._bus.consume(
            stream=outbox.EVENTS.name, durable=CONSUMER, subject=DELETED, handle=self.handle, batch=1, ack_wait_s=60.0
        )

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Delete what belonged to each account; safe to repeat. Raises AppError if database or broker cannot be had."""
        for message in messages:
            fact = AccountDeleted()
            try:
                fact.ParseFromString(message.data)
            except DecodeError:
                fact.Clear()
            if not ids.is_id(fact.account_id):
                event_id = outbox.event_id(message)
                log.error("deletion cannot be read", event_id=event_id)
                letter = dead_letters.letter(
                    f"{CONSUMER}-{event_id}",
                    kind="account-deleted",
                    subject=message.subject,
                    payload=message.data,
                    headers=message.headers,
                    error="It cannot be read.",
                )
                await dead_letters.publish(self._bus, letter)
                continue
            while deleted := await self._meetings.delete_some(fact.account_id, _BATCH):
                metrics.MEETINGS_OF_DEPARTED.inc(deleted)
                await bus.quietly(message.in_progress())
            await self._tasks.delete_all(fact.account_id)
            await self._rest.delete_all(fact.account_id)
            await self._discard_letters(fact.account_id)
            log.info("account's meetings deleted", account=fact.account_id)

    async def _discard_letters(self, account_id: str) -> None:
        """Discard what was given up of an account: nobody will ask for it again."""
        after: int | None = 0
        while after is not None:
            page, after = await self._letters.list(after=after, most=200)
            for one in page:
                if one.about.get("owner_id") == account_id:
                    await self._letters.discard(one, who=CONSUMER)

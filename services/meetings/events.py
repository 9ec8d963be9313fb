"""Facts that come in from the broker: what was said in sessions, and what insights found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from verbatim.captions.v1.captions_pb2 import Caption, EntriesStored
from verbatim.insights.v1.insights_pb2 import InsightsReady
from verbatim.meetings.v1.events_pb2 import SegmentsStored

from chassis import bus, dead_letters, ids, outbox, telemetry, tracing
from services.meetings import metrics
from services.meetings.leadership import Leadership
from services.meetings.sessions_store import Stored
from services.meetings.tasks import found_tasks
from services.meetings.tasks_store import INSIGHTS, TasksStore
from services.meetings.transcript import Delivered, delivered, recorded_at
from services.meetings.transcript_store import CONSUMER, Applied, TranscriptStore

log = telemetry.logger(__name__)

TRANSCRIPT = "TRANSCRIPT"
TRANSCRIPT_LOCK = 0x7472_6E73  # "trns"
# A batch is eight statements, however many segments are in it.
_GATHER_S = 0.1
_STORED = Caption(stored=EntriesStored()).SerializeToString()


class TranscriptConsumer:
    """Carries the transcript log into the database and tells how far it has come."""

    def __init__(self, store: TranscriptStore, broker: bus.Bus, leadership: Leadership) -> None:
        self._store = store
        self._bus = broker
        self._leadership = leadership

    async def run(self) -> None:
        """Consume whenever this replica is the one that does; for ever. Waits for the stream if it is not there yet."""
        await self._leadership.run(self._consume)

    async def _consume(self) -> None:
        metrics.CONSUMING.set(1)
        try:
            await self._bus.consume(
                stream=TRANSCRIPT,
                durable=CONSUMER,
                subject="transcript.*",
                handle=self.handle,
                start=self.start,
                gather_s=_GATHER_S,
            )
        finally:
            metrics.CONSUMING.set(0)

    async def start(self) -> int:
        """Return the stream sequence to begin at, and tell again how far sessions are stored.

        The sequence is committed with the effect, so what was handed out and not committed comes first, in its order.
        """
        state = (await self._bus.js.stream_info(TRANSCRIPT)).state
        sequence, stored = await self._store.progress()
        await self._announce(stored)
        if sequence > state.last_seq:
            log.error("the transcript stream is younger than what is stored, reading all of it", applied=sequence)
            return 1
        return sequence + 1

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Apply messages; commit, then tell. Raises AppError if the database cannot be had: then nothing happened."""
        read = [
            delivered(m.metadata.sequence.stream, m.subject, m.data, (m.headers or {}).get(tracing.HEADER, ""))
            for m in messages
        ]
        with tracing.many("store transcript", [m.headers for m in messages], destination="transcript"):
            recorded = [recorded_at(m.entry).timestamp() for m in read if m.entry is not None]
            try:
                await self._apply(read)
            except BaseException:
                # What cannot be stored waits, and has to be seen to.
                if recorded:
                    metrics.STORED_LAG_S.set(max(0.0, time.time() - min(recorded)))
                raise
        if recorded:
            metrics.STORED_LAG_S.set(max(0.0, time.time() - max(recorded)))

    async def _apply(self, read: Sequence[Delivered]) -> None:
        try:
            await self._done(await self._store.apply(read))
        except (sa.exc.DataError, sa.exc.IntegrityError) as fault:
            # Only the state: the fault's text quotes the row.
            state = getattr(fault.orig, "sqlstate", None)
            log.warning("batch refused by the database, applying one by one", state=state)
            for message in read:
                await self._done(await self._apply_one(message))

    async def _apply_one(self, message: Delivered) -> Applied:
        """Apply one message; one that the tables refuse in spite of all checks goes to the dead letters."""
        try:
            return await self._store.apply([message])
        except (sa.exc.DataError, sa.exc.IntegrityError) as fault:
            state = getattr(fault.orig, "sqlstate", None)
            refused = Delivered(message.sequence, message.subject, message.payload, None, "refused", str(state))
            return await self._store.apply([refused])

    async def _done(self, applied: Applied) -> None:
        for quality, count in applied.segments.items():
            metrics.SEGMENTS_STORED.labels(quality).inc(count)
        metrics.REPEATS.inc(applied.repeats)
        metrics.CLOSED_AUDIO_S.inc(applied.closed_audio_s)
        metrics.UNACCOUNTED_S.inc(applied.unaccounted_s)
        metrics.MEETINGS_COMPLETED.inc(applied.completed)
        for session_id, count in applied.lost.items():
            metrics.SEGMENTS_LOST.inc(count)
            log.error("segments lost: the session's log had more than was stored", session=session_id, segments=count)
        for reason, message in applied.letters:
            metrics.DEAD_LETTERS.labels(reason).inc()
            log.error(
                "entry sent to the dead letters", reason=reason, sequence=message.sequence, problem=message.problem
            )
        await self._announce(applied.stored)
        await wake_viewers(self._bus, applied.noticed)

    async def _announce(self, stored: Sequence[Stored]) -> None:
        """Tell who waits. Nobody relies on it: the next entry, or the next start of this consumer, tells again."""
        try:
            for s in stored:
                fact = SegmentsStored(session_id=s.session_id, end_offset=s.end_offset, event=s.event, closed=s.closed)
                await self._bus.client.publish(f"stored.{s.session_id}", fact.SerializeToString())
        except bus.FAULTS as fault:
            log.info("stored watermarks not told", fault=repr(fault))


class InsightsConsumer:
    """Makes tasks of what insights found."""

    def __init__(self, store: TasksStore, broker: bus.Bus) -> None:
        self._store = store
        self._bus = broker

    async def run(self) -> None:
        """Consume for ever, also with others of its kind."""
        await self._bus.consume(
            stream=outbox.EVENTS.name, durable=INSIGHTS, subject="events.insights.ready", handle=self.handle
        )

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Store the tasks of each message once. Raises AppError if database or broker cannot be had."""
        for message in messages:
            kind = tracing.SpanKind.CONSUMER
            with tracing.serve(message.subject, message.headers, kind=kind, destination="events"):
                await self._take(message)

    async def _take(self, message: Msg) -> None:
        message_id = outbox.event_id(message)
        fact = InsightsReady()
        try:
            fact.ParseFromString(message.data)
        except DecodeError:
            fact.Clear()
        if not ids.is_id(fact.meeting_id) or not ids.is_id(fact.owner_id):
            log.error("insights cannot be read", event_id=message_id)
            letter = dead_letters.letter(
                f"letter-{message_id}",
                kind="insights-ready",
                subject=message.subject,
                payload=message.data,
                headers=message.headers,
                error="It cannot be read.",
            )
            await dead_letters.publish(self._bus, letter)
            return
        found = found_tasks(fact.meeting_id, fact.owner_id, fact.action_items)
        stored = await self._store.store_found(
            message_id, fact.owner_id, fact.meeting_id, found, version=fact.version, minutes=fact.text
        )
        metrics.TASKS_FOUND.inc(stored)
        await wake_viewers(self._bus, [fact.meeting_id])


async def wake_viewers(broker: bus.Bus, meeting_ids: Iterable[str]) -> None:
    """Tell viewers of meetings to look for what is new. Nobody relies on it: they look now and then without it."""
    try:
        for meeting_id in meeting_ids:
            await broker.client.publish(f"captions.{meeting_id}", _STORED)
    except bus.FAULTS as fault:
        log.info("viewers not woken", fault=repr(fault))

"""A round over the sessions, on a real broker: audio is kept until it is healed, and what is given up is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from verbatim.meetings.v1.events_pb2 import MeetingDeleted
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids, outbox, rpc
from chassis.broker import Broker
from chassis.dead_letters import DLQ, DeadLetters, letter, publish
from chassis.errors import AppError, Kind
from chassis.objects import Held, Objects
from chassis.tests.servers import NatsServer
from services.janitor.deletions import SUBJECT, Deletions
from services.janitor.keeping import Keep, keep_sessions
from services.janitor.session_logs import SessionLogs, Transcribers
from services.janitor.uploaded import BUCKET

pytestmark = pytest.mark.req("R-STT-5", "R-RES-1")

AUDIO_BYTES_MAX = 1024 * 1024
KEEP = Keep(
    orphan_idle_s=1000.0, unhealed_idle_s=0.0, logs_s=1000.0, draft_logs_s=1000.0, most=10,
    audio_share_max=0.8, audio_share_low=0.5,
)  # fmt: skip


class Transcriber(transcriber_pb2_grpc.TranscriberServiceServicer):
    """Notes what it is asked, and gives drafts up as a transcriber does: by an entry in the log."""

    def __init__(self, broker: bus.Bus) -> None:
        self.healed: list[str] = []
        self.given_up: list[tuple[str, pb.GivenUpReason.ValueType]] = []
        self._bus = broker

    async def HealSession(self, request: relay.HealSessionRequest, _: Any) -> relay.HealSessionResponse:  # noqa: N802
        """Note it."""
        self.healed.append(request.session_id)
        return relay.HealSessionResponse(queued=True)

    async def GiveUpDrafts(self, request: relay.GiveUpDraftsRequest, _: Any) -> relay.GiveUpDraftsResponse:  # noqa: N802
        """Write the entry."""
        self.given_up.append((request.session_id, request.reason))
        entry = pb.TranscriptEntry(session_id=request.session_id, position=3, given_up=pb.GivenUp(indexes=[0]))
        entry.after_close.drafts_left = 0
        await self._bus.js.publish(f"transcript.{request.session_id}", entry.SerializeToString())
        return relay.GiveUpDraftsResponse(given_up=1)


class House:
    """The broker with the logs, and what the janitor works with."""

    def __init__(
        self, broker: bus.Bus, broker_door: Broker, logs: SessionLogs, transcriber: Transcriber, peers: list[rpc.Peer]
    ) -> None:
        self.bus = broker
        self.logs = logs
        self.transcriber = transcriber
        self.transcribers = Transcribers(peers)
        self.deletions = Deletions(broker_door, logs)

    async def closed(self, drafts: int, *, audio_bytes: int = 1000, over: bool = True) -> str:
        """Write the logs of a session; without its end if it is not over."""
        session_id = ids.new_id()
        await self.bus.js.publish(f"audio.{session_id}", bytes(audio_bytes))
        closed = pb.Closed(draft_segments=drafts, heals=True)
        for position, kind in enumerate(({"opened": pb.Opened()}, {"closed": closed})[: 2 if over else 1], 1):
            entry = pb.TranscriptEntry(session_id=session_id, position=position, **kind)
            await self.bus.js.publish(f"transcript.{session_id}", entry.SerializeToString())
        return session_id

    async def store(self) -> None:
        """Take everything in, as meetings does."""
        taken = await self.bus.js.pull_subscribe("transcript.*", durable="meetings", stream="TRANSCRIPT")
        for message in await taken.fetch(100):
            await message.ack_sync()

    async def kept(self, stream: str) -> set[str]:
        info = await self.bus.js.stream_info(stream, subjects_filter=">")
        return {subject.partition(".")[2] for subject in info.state.subjects or {}}

    async def round(self, keep: Keep) -> None:
        await keep_sessions(self.logs, self.transcribers, keep)


@asynccontextmanager
async def house(server: NatsServer) -> AsyncIterator[House]:
    identity = rpc.Identity("janitor", "k" * 32)
    broker = Broker(server.url, "janitor")
    connecting = asyncio.create_task(broker.keep_connected())
    async with bus.connect(server.url, name="test", replicas=1) as mine:
        await mine.declare(bus.Stream("AUDIO", ("audio.*",), max_bytes=AUDIO_BYTES_MAX))
        for stream in (outbox.EVENTS, DLQ):
            await mine.declare(stream)
        await mine.declare(bus.Stream("TRANSCRIPT", ("transcript.*",), max_bytes=AUDIO_BYTES_MAX))
        transcriber = Transcriber(mine)  # type: ignore[abstract]
        grpc_server = rpc.Server("127.0.0.1", 0, identity)
        grpc_server.add(transcriber_pb2_grpc.add_TranscriberServiceServicer_to_server, transcriber)
        await grpc_server.start()
        try:
            async with asyncio.timeout(10), rpc.peer(f"127.0.0.1:{grpc_server.port}", identity) as peer:
                while not _connected(broker):
                    await asyncio.sleep(0.01)
                yield House(mine, broker, SessionLogs(broker), transcriber, [peer])
        finally:
            await grpc_server.stop(0.0)
            connecting.cancel()


def _connected(broker: Broker) -> bool:
    try:
        return broker.bus.client.is_connected
    except AppError as fault:
        assert fault.kind is Kind.UNAVAILABLE
        return False


async def test_drafts_are_asked_to_be_healed_and_keep_their_audio_however_old_and_stored(
    nats_server: NatsServer,
) -> None:
    async with house(nats_server) as one:
        final, draft = await one.closed(0), await one.closed(3)
        await one.store()
        await one.round(replace(KEEP, logs_s=0.0))
        assert one.transcriber.healed == [draft]
        assert await one.kept("AUDIO") == await one.kept("TRANSCRIPT") == {draft}
        assert final != draft


async def test_drafts_that_waited_too_long_are_given_up_and_then_nothing_keeps_their_logs(
    nats_server: NatsServer,
) -> None:
    async with house(nats_server) as one:
        session_id = await one.closed(3)
        old = replace(KEEP, logs_s=0.0, draft_logs_s=0.0)
        await one.store()
        await one.round(old)
        assert one.transcriber.given_up == [(session_id, pb.GIVEN_UP_REASON_AGE)]
        assert one.transcriber.healed == []
        await one.round(old)
        assert await one.kept("TRANSCRIPT") == {session_id}  # that they were given up is not stored yet
        await one.store()
        await one.round(old)
        assert await one.kept("TRANSCRIPT") == set()
        assert len(one.transcriber.given_up) == 1


async def test_full_log_gives_up_drafts_last_the_oldest_first_and_no_more_than_it_must(
    nats_server: NatsServer,
) -> None:
    async with house(nats_server) as one:
        third = AUDIO_BYTES_MAX // 3 - 20_000
        final, old, young = [await one.closed(drafts, audio_bytes=third) for drafts in (0, 2, 2)]
        await one.round(KEEP)  # nothing is stored, so only drafts can make room
        assert one.transcriber.given_up == [(old, pb.GIVEN_UP_REASON_SPACE), (young, pb.GIVEN_UP_REASON_SPACE)]
        assert await one.kept("AUDIO") == {final}
        assert await one.kept("TRANSCRIPT") == {final, old, young}


async def test_full_log_frees_first_what_nobody_needs(nats_server: NatsServer) -> None:
    async with house(nats_server) as one:
        half = AUDIO_BYTES_MAX // 2 - 20_000
        await one.closed(0, audio_bytes=half)
        draft = await one.closed(2, audio_bytes=half - 50_000)
        await one.store()
        await one.round(KEEP)
        assert one.transcriber.given_up == []
        assert await one.kept("AUDIO") == {draft}


async def test_without_a_transcriber_nothing_is_given_up(nats_server: NatsServer) -> None:
    async with house(nats_server) as one:
        session_id = await one.closed(2)
        one.transcribers = Transcribers([])
        await one.store()
        await one.round(replace(KEEP, logs_s=0.0, draft_logs_s=0.0))
        assert await one.kept("AUDIO") == {session_id}


@pytest.mark.req("R-API-1")
async def test_logs_of_a_deleted_meeting_go_at_once_but_not_under_who_is_speaking(nats_server: NatsServer) -> None:
    async with house(nats_server) as one:
        gone, other, speaking = await one.closed(2), await one.closed(2), await one.closed(0, over=False)
        await one.bus.publish(SUBJECT, b"\xff", message_id="bad")
        told = MeetingDeleted(meeting_id=ids.new_id(), session_ids=[gone, speaking, ids.new_id(), "no id"])
        await one.bus.publish(SUBJECT, told.SerializeToString(), message_id="good")
        consuming = asyncio.create_task(one.deletions.run())
        async with asyncio.timeout(20):
            while await one.kept("TRANSCRIPT") != {other, speaking}:
                await asyncio.sleep(0.02)
        assert await one.kept("AUDIO") == {other, speaking}
        consuming.cancel()
        await asyncio.wait([consuming])


@pytest.mark.req("R-API-1")
async def test_files_and_dead_letters_of_a_deleted_meeting_go_and_others_stay(nats_server: NatsServer) -> None:
    async with house(nats_server) as one:
        meeting_id, session_id, other = ids.new_id(), ids.new_id(), ids.new_id()
        objects = Objects(lambda: one.bus, BUCKET)
        await one.bus.declare(objects.stream(16 * 1024**2))
        for name in (session_id, other):
            await objects.append(name, Held(), b"file")
        entry = pb.TranscriptEntry(session_id=session_id, position=1).SerializeToString()
        for number, (payload, about) in enumerate(
            ((entry, {}), (b"{}", {"key": meeting_id}), (b"{}", {"key": other}), (other.encode(), {}))
        ):
            await publish(one.bus, letter(f"l{number}", kind="k", subject="s", payload=payload, error="e", about=about))
        told = MeetingDeleted(meeting_id=meeting_id, session_ids=[session_id])
        await one.bus.publish(SUBJECT, told.SerializeToString())
        consuming = asyncio.create_task(one.deletions.run())
        letters = DeadLetters(lambda: one.bus)
        async with asyncio.timeout(30):
            while await letters.count() != 2 or await objects.names() != [other]:
                await asyncio.sleep(0.02)
        assert [found.id for found in (await letters.list())[0]] == ["l2", "l3"]
        consuming.cancel()
        await asyncio.wait([consuming])

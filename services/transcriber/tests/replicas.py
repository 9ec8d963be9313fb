"""A transcriber without its edge, on a real broker; and what tests ask of its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from nats.aio.msg import Msg
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids
from chassis.jobs import JOBS
from chassis.tests.servers import NatsServer
from services.transcriber import transcript
from services.transcriber.aftercare import Aftercare
from services.transcriber.audio_log import AudioLog
from services.transcriber.captions import Captions
from services.transcriber.ears import Ears
from services.transcriber.heal_jobs import HealJobs, HealJobSettings
from services.transcriber.logs import streams
from services.transcriber.recognition import Recogniser, RecognitionSettings
from services.transcriber.session import LiveSession, Ports, SessionSettings
from services.transcriber.sessions import Sessions
from services.transcriber.tests.fakes import Client, CountingSpeech
from services.transcriber.transcript_log import TranscriptLog
from services.transcriber.vendor import Vendor

OWNER = "01930000-0000-7000-8000-00000000000a"
SETTINGS = SessionSettings(stored_wait_s=0.05)
FRAME_BYTES = 3200


class Replica:
    """One transcriber without its gRPC edge."""

    def __init__(
        self,
        broker: bus.Bus,
        name: str,
        settings: SessionSettings,
        vendor: Vendor | None = None,
        engine: CountingSpeech | None = None,
    ) -> None:
        self.deaf = False
        """Whether it misses that its sessions are adopted by others."""
        self.engine = engine or CountingSpeech("embedded", "draft" if vendor else "final")
        self.transcripts = TranscriptLog(broker)
        self.audio = AudioLog(broker, coalesce_s=0.05, tick_s=0.01)
        self.captions = Captions(broker.client.publish)
        recogniser = Recogniser(self.engine, vendor, RecognitionSettings(embedded_workers=4, embedded_s_max=5.0))
        self.aftercare = Aftercare(self.transcripts, self.audio, recogniser, name)
        self.heal_jobs = HealJobs(broker, self.aftercare, HealJobSettings(again_s=0.1))
        self.ears = Ears()
        self.ports = Ports(
            self.transcripts, self.audio, recogniser, broker.client.publish, self.captions, name, time.monotonic,
            self.ears, self.heal_jobs.ask,
        )  # fmt: skip
        self.sessions = Sessions(self.ports, settings, sessions_max=50)
        self.broker = broker

    async def open(self, client: Client) -> LiveSession:
        opened = pb.Opened(meeting_id=ids.new_id(), owner_id=OWNER, sample_rate=16_000, channels=1)
        return await self.sessions.open(ids.new_id(), opened, client)

    async def resume(self, session_id: str, token: str, client: Client, last_event: int = 0) -> LiveSession:
        """Resume and wait for the answer; the session may have been read from the logs twice for it."""
        request = relay.Resume(session_id=session_id, owner_id=OWNER, resume_token=token, last_event=last_event)
        session = await self.sessions.resume(request, client)
        await client.until(lambda c: c.of("restored"))
        return client.session or session


@asynccontextmanager
async def replica(
    server: NatsServer,
    name: str,
    settings: SessionSettings = SETTINGS,
    vendor: Vendor | None = None,
    engine: CountingSpeech | None = None,
) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(bus.connect(server.url, name=name, replicas=1))
        for stream in (*streams(64 * 1024**2, 16 * 1024**2, 86_400.0), JOBS):
            await broker.declare(stream)
        one = Replica(broker, name, settings, vendor, engine)

        async def note(message: Msg) -> None:
            if not one.deaf:
                one.sessions.note_adopted(message.data)

        await broker.client.subscribe("sessions.adopted", cb=note)
        tasks = [
            asyncio.create_task(one.audio.run()),
            asyncio.create_task(one.captions.run()),
            asyncio.create_task(one.ears.run()),
            asyncio.create_task(one.sessions.run()),
        ]
        try:
            yield one
        finally:
            for task in tasks:
                task.cancel()
            await one.sessions.drain(0.1)


def speak(session: LiveSession, pcm: bytes, start: int = 0, end: int | None = None) -> None:
    for offset in range(start, len(pcm) if end is None else end, FRAME_BYTES):
        session.receive(offset, pcm[offset : min(offset + FRAME_BYTES, end or len(pcm))])


def token_of(client: Client) -> str:
    told = client.events[0]
    return told.started.resume_token or told.restored.resume_token


async def log_of(one: Replica, session_id: str) -> list[pb.TranscriptEntry]:
    return [entry for _, entry in await one.transcripts.read(session_id)]


def check_accounts(entries: list[pb.TranscriptEntry], received: int) -> None:
    """Every byte is accounted for once, every index is there once, and positions have no holes."""
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    segments = [entry.segment for entry in entries if entry.HasField("segment")]
    assert [segment.index for segment in segments] == list(range(len(segments)))
    ledger = transcript.fold(entries[0].session_id, entries)
    assert ledger.closed is not None
    assert ledger.closed.received_bytes == received
    assert ledger.closed.coverage == 1.0

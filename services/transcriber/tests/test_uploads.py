"""Uploads on a real broker: the same log as live audio, gone on with by whoever comes next, each utterance once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids
from chassis.errors import AppError, Kind
from chassis.objects import Held, Objects
from chassis.tests.servers import NatsServer
from services.transcriber import transcript
from services.transcriber.audio_log import AudioLog
from services.transcriber.containers import UnreadableError
from services.transcriber.cutting import CuttingSettings
from services.transcriber.logs import streams
from services.transcriber.media import MediaDecoder, MediaLimits
from services.transcriber.recall import recall
from services.transcriber.recognition import Recogniser, RecognitionSettings
from services.transcriber.recordings import Recordings, RecordingSettings
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import CountingSpeech
from services.transcriber.transcript_log import Fenced, TranscriptLog
from services.transcriber.transcription import Transcription
from services.transcriber.uploads import BUCKET, AudioStreamDrafts, Upload, Uploads

OWNER = "01930000-0000-7000-8000-00000000000a"
RECORDING = Path(__file__).parents[3] / "dev/assets/meeting.wav"
PCM = RECORDING.read_bytes()[-2_707_992:]


class HaltingSpeech(CountingSpeech):
    """Hears `before_halt` utterances, then no more until the gate is opened."""

    before_halt = 10**6

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """See `CountingSpeech`."""
        self.before_halt -= 1
        if self.before_halt == 0:
            self.gate.clear()
        return await super().transcribe(pcm, language=language, prompt=prompt, deadline_s=deadline_s)


class HaltingObjects(Objects):
    """Reads nothing until it may."""

    def __init__(self, broker: bus.Bus) -> None:
        super().__init__(lambda: broker, BUCKET)
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.wanted = asyncio.Event()

    async def read(self, name: str, size: int) -> AsyncIterator[bytes]:
        """See `Objects`."""
        self.wanted.set()
        await self.may_read.wait()
        async for piece in super().read(name, size):
            yield piece


class Replica:
    """One transcriber without its gRPC edge, for files only."""

    def __init__(self, broker: bus.Bus, name: str, folder: Path, quality: Literal["final", "draft"]) -> None:
        self.folder = folder
        self.engine = HaltingSpeech(quality=quality)
        self.broker = broker
        self.objects = HaltingObjects(broker)
        self.transcripts = TranscriptLog(broker)
        self.audio = AudioLog(broker, coalesce_s=0.05)
        settings = RecognitionSettings(embedded_workers=8, embedded_attempts=1)
        recogniser = Recogniser(self.engine, settings=settings)
        self.uploads = Uploads(
            self.objects,
            MediaDecoder(folder, MediaLimits(), CuttingSettings()),
            Recordings(recogniser, RecordingSettings(parallel=3)),
            self.transcripts,
            AudioStreamDrafts(broker, heals=False),
            self._ask_to_heal,
            name,
        )
        self.to_heal: list[str] = []
        self.progress: list[float] = []

    async def _ask_to_heal(self, session_id: str) -> None:
        self.to_heal.append(session_id)

    async def receive(self, data: bytes) -> Upload:
        """Store a file as a gateway does."""
        upload_id, held = ids.new_id(), Held()
        for start in range(0, len(data), 300_000):
            held = await self.objects.append(upload_id, held, data[start : start + 300_000])
        opened = pb.Opened(meeting_id=ids.new_id(), owner_id=OWNER, encoding=pb.ENCODING_PCM_S16LE, language="en")
        return Upload(upload_id, len(data), "wav", opened, last_attempt=False)

    async def transcribe(self, upload: Upload) -> pb.Closed:
        return await self.uploads.transcribe(upload, self.progress.append)

    async def log_of(self, upload: Upload) -> list[pb.TranscriptEntry]:
        return [entry for _, entry in await self.transcripts.read(upload.id)]


@asynccontextmanager
async def replica(
    server: NatsServer, folder: Path, name: str = "a", quality: Literal["final", "draft"] = "final"
) -> AsyncIterator[Replica]:
    async with bus.connect(server.url, name=name, replicas=1) as broker:
        one = Replica(broker, name, folder, quality)
        for stream in (*streams(64 * 1024**2, 16 * 1024**2, 86_400.0), one.objects.stream(64 * 1024**2)):
            await broker.declare(stream)
        yield one


@pytest.fixture(scope="module")
def recording() -> bytes:
    return RECORDING.read_bytes()


def segments_of(entries: list[pb.TranscriptEntry]) -> list[pb.Segment]:
    """Return the segments of a log, after checking that it is whole: every byte accounted for, nothing twice."""
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    segments = [entry.segment for entry in entries if entry.HasField("segment")]
    assert [segment.index for segment in segments] == list(range(len(segments)))
    ends = [0, *(segment.end_offset for segment in segments)]
    assert all(segment.start_offset >= end for segment, end in zip(segments, ends, strict=False))
    ledger = transcript.fold(entries[0].session_id, entries)
    assert ledger.closed is not None
    assert ledger.closed.coverage == 1.0
    return segments


def told(entries: list[pb.TranscriptEntry]) -> list[tuple[int, int, str]]:
    return [(s.start_offset, s.end_offset, s.text) for s in segments_of(entries)]


@pytest.mark.req("R-UP-3")
async def test_a_recording_becomes_a_session_and_its_file_is_gone(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path) as a:
        upload = await a.receive(recording)
        closed = await a.transcribe(upload)
        entries = await a.log_of(upload)
        assert len(segments_of(entries)) == closed.segments >= 15
        assert closed.audio_s == pytest.approx(84.62, abs=0.01)
        assert entries[0].opened.upload
        assert a.progress == sorted(a.progress)
        assert a.progress[-1] == 1.0
        assert await a.objects.names() == []
        assert left_in(tmp_path) == []
        assert (await a.audio.read(upload.id, 0, 0))[0] == b"", "only drafts need their audio again"
        # What is done is done: the job may come again, though the file is gone.
        assert await a.transcribe(upload) == closed
        assert await a.log_of(upload) == entries


@pytest.mark.req("R-UP-3", "R-JOB-1")
async def test_a_successor_goes_on_where_a_dead_one_stopped(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path, "a") as a, replica(nats_server, tmp_path, "b") as b:
        undisturbed = await b.receive(recording)
        await b.transcribe(undisturbed)

        upload = await a.receive(recording)
        a.engine.before_halt = 8
        work = asyncio.create_task(a.transcribe(upload))
        async with asyncio.timeout(60):
            while len(await a.log_of(upload)) < 6:
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait([work])
        before = await a.log_of(upload)
        assert not any(entry.HasField("closed") for entry in before), "it was over already: nothing was proved"
        heard_before = len(b.engine.heard_bytes)

        await b.transcribe(upload)
        after = await b.log_of(upload)
        assert after[: len(before)] == before
        assert after[len(before)].resumed.adopted
        assert told(after) == told(await b.log_of(undisturbed))
        assert len(b.engine.heard_bytes) - heard_before < len(segments_of(after)), "all of it was heard again"
        assert await b.objects.names() == []


@pytest.mark.req("R-UP-3")
async def test_of_two_that_work_on_one_upload_the_later_wins_and_nothing_is_doubled(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path, "a") as a, replica(nats_server, tmp_path, "b") as b:
        upload = await a.receive(recording)
        a.engine.gate.clear()
        first = asyncio.create_task(a.transcribe(upload))
        async with asyncio.timeout(60):
            while not await a.log_of(upload):
                await asyncio.sleep(0.01)
        await b.transcribe(upload)
        a.engine.gate.set()
        with pytest.raises(Fenced):
            await first
        segments_of(await b.log_of(upload))


@pytest.mark.req("R-UP-3")
async def test_who_comes_for_a_file_that_another_has_just_finished_tells_what_became_of_it(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path, "a") as a, replica(nats_server, tmp_path, "b") as b:
        upload = await a.receive(recording)
        b.objects.may_read.clear()
        second = asyncio.create_task(b.transcribe(upload))
        await b.objects.wanted.wait()
        closed = await a.transcribe(upload)
        b.objects.may_read.set()
        assert await second == closed
        gone = Upload(ids.new_id(), upload.size_bytes, "wav", upload.opened, last_attempt=False)
        with pytest.raises(AppError) as caught:
            await b.transcribe(gone)
        assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.req("R-UP-3", "R-STT-5")
async def test_drafts_can_be_heard_again_from_their_audio(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path, quality="draft") as a:
        upload = await a.receive(recording)
        closed = await a.transcribe(upload)
        drafts = segments_of(await a.log_of(upload))
        assert closed.draft_segments == len(drafts) > 0
        assert a.to_heal == [upload.id]
        ledger = transcript.fold(upload.id, await a.log_of(upload))
        for index in ledger.drafts.indexes:
            draft = ledger.drafts[index]
            start, end = draft.context_offset, draft.segment.end_offset
            heard = await recall(a.audio, upload.id, ledger.opened.encoding, draft.place, start, end)
            assert heard == PCM[start:end]


@pytest.mark.req("R-STT-5", "R-RES-3")
@pytest.mark.parametrize("heals", [True, False])
async def test_uploads_leave_half_of_the_audio_log_to_what_is_said_now(
    nats_server: NatsServer, tmp_path: Path, heals: bool
) -> None:
    async with replica(nats_server, tmp_path) as a:
        drafts = AudioStreamDrafts(a.broker, heals=heals, room_share=0.001)
        assert await drafts.keep("01930000-0000-7000-8000-00000000000b", 0, bytes(100_000)) > 0
        drafts._room_until = 0.0
        if heals:
            with pytest.raises(AppError) as failure:
                await drafts.keep("01930000-0000-7000-8000-00000000000b", 0, b"more")
            assert failure.value.kind is Kind.INSUFFICIENT_STORAGE
        else:
            assert await drafts.keep("01930000-0000-7000-8000-00000000000b", 0, b"more") == 0


@pytest.mark.req("R-UP-2")
async def test_a_file_that_cannot_be_read_opens_no_session(nats_server: NatsServer, tmp_path: Path) -> None:
    async with replica(nats_server, tmp_path) as a:
        upload = await a.receive(RECORDING.read_bytes()[:100_000])
        with pytest.raises(UnreadableError):
            await a.transcribe(upload)
        assert await a.log_of(upload) == []
        assert left_in(tmp_path) == []


@pytest.mark.req("R-UP-3", "R-STT-2")
async def test_engines_that_fail_cost_an_attempt_and_at_last_a_gap(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path) as a:
        upload = await a.receive(recording)
        a.engine.failures = [SpeechError("no", retryable=True, reason="server") for _ in range(3)]
        with pytest.raises(AppError):
            await a.transcribe(upload)
        a.engine.failures = [SpeechError("no", retryable=False, reason="rejected")]
        await a.transcribe(upload)
        gaps = [entry.gap for entry in await a.log_of(upload) if entry.HasField("gap")]
        assert [gap.reason for gap in gaps] == [pb.GAP_REASON_UNDECODABLE]


@pytest.mark.req("R-UP-3", "R-HEAL-2")
async def test_a_broker_that_dies_on_the_way_changes_nothing(
    nats_server: NatsServer, tmp_path: Path, recording: bytes
) -> None:
    async with replica(nats_server, tmp_path) as a:
        upload = await a.receive(recording)
        a.engine.before_halt = 7
        work = asyncio.create_task(a.transcribe(upload))
        async with asyncio.timeout(60):
            while len(await a.log_of(upload)) < 4:
                await asyncio.sleep(0.01)
            nats_server.kill()
            a.engine.gate.set()
            nats_server.start()
            with suppress(AppError):
                await work
            while True:
                try:
                    await a.transcribe(upload)
                    break
                except AppError:
                    await asyncio.sleep(0.1)
        assert len(segments_of(await a.log_of(upload))) >= 15


def left_in(folder: Path) -> list[Path]:
    """Return what lies in a folder."""
    return list(folder.iterdir())

"""Uploads in the database: quotas, meetings and jobs made once, and what a job does with what a transcriber tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from verbatim.idempotency.v1.claim_pb2 import Claim
from verbatim.meetings.v1 import uploads_pb2 as uploads_pb
from verbatim.transcriber.v1 import recordings_pb2 as pb
from verbatim.transcript.v1 import transcript_pb2

from chassis import bus, ids
from chassis.dead_letters import DLQ
from chassis.errors import AppError, Kind
from chassis.idempotency import IdempotencyKeys
from chassis.jobs import JOBS, Job, Queue, Status
from chassis.outbox import EVENTS
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.tests.servers import NatsServer
from chassis.worker import Policy, Worker
from services.meetings.meetings import MeetingFilter
from services.meetings.meetings_store import MeetingsStore
from services.meetings.segments_store import SegmentsStore
from services.meetings.store import SOURCE, outbox_rows, streams_seen
from services.meetings.tests.logbook import Logbook, numbered
from services.meetings.transcript_store import TranscriptStore
from services.meetings.upload_jobs import UploadJobs
from services.meetings.upload_tables import job_rows
from services.meetings.uploads import KIND, NewUpload, Upload, UploadLimits, new_upload, title_of_file
from services.meetings.uploads_api import UploadsApi
from services.meetings.uploads_store import UploadsStore

pytestmark = pytest.mark.req("R-UP-3")

MIB = 1024**2
QUICK = Policy(delays_s=(0.05,), jitter=0.0, deadline_s=20.0, concurrency=1, ack_wait_s=1.0, undecided_delay_s=0.1)


def queue() -> Queue:
    return Queue(job_rows, outbox_rows, source=SOURCE)


def store_of(database: Database, **limits: Any) -> UploadsStore:
    return UploadsStore(database, queue(), UploadLimits(**limits))


@pytest.fixture
def uploads(database: Database) -> UploadsStore:
    return store_of(database)


def new(owner: str, *, meeting_id: str = "", size_bytes: int = MIB, name: str = "Weekly_sync.mp3") -> NewUpload:
    return new_upload(
        ids.new_id(),
        owner,
        meeting_id=meeting_id,
        title="",
        language="en",
        file_name=name,
        container="mp3",
        size_bytes=size_bytes,
    )


async def arrived(uploads: UploadsStore, asked: NewUpload) -> Upload:
    begun = await uploads.begin(asked)
    return await uploads.complete(begun.owner_id, begun.id, begun.size_bytes, "mp3")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Weekly_sync.mp3", "Weekly sync"),
        ("C:\\calls\\board meeting.m4a", "board meeting"),
        ("../../etc/passwd", "passwd"),
        (".mp3", "mp3"),
        ("a\x00b\r\nX-Evil: 1.wav", "ab X-Evil: 1"),
        ("", "Untitled meeting"),
    ],
)
def test_a_meeting_is_called_after_its_file(name: str, title: str) -> None:
    assert title_of_file(name) == title


async def test_a_file_that_has_arrived_has_one_meeting_and_one_job(
    uploads: UploadsStore, meetings: MeetingsStore, owner: str
) -> None:
    asked = new(owner)
    assert await uploads.begin(asked) == await uploads.begin(asked)
    done = await uploads.complete(owner, asked.id, 123, "wav")
    assert await uploads.complete(owner, asked.id, 123, "wav") == done
    assert (done.size_bytes, done.container) == (123, "wav")
    meeting = await meetings.get(owner, done.meeting_id)
    assert (meeting.status, meeting.title, meeting.language) == ("processing", "Weekly sync", "en")
    job = await uploads.job(owner, done.job_id or "")
    assert (job.kind, job.status, job.key) == ("upload", Status.PENDING, asked.id)


@pytest.mark.req("R-API-6")
async def test_copies_of_a_file_that_arrive_at_once_with_one_key_become_one_meeting(
    uploads: UploadsStore, meetings: MeetingsStore, keys: IdempotencyKeys, owner: str
) -> None:
    api = UploadsApi(uploads, keys)
    copies = [(await uploads.begin(new(owner, name=f"{number}.mp3"))).id for number in range(8)]

    async def complete(upload_id: str, asked: bytes = b"asked") -> uploads_pb.CompleteUploadResponse | AppError:
        claim = Claim(key="mine", fingerprint=asked)
        request = uploads_pb.CompleteUploadRequest(
            owner_id=owner, upload_id=upload_id, size_bytes=MIB, container="mp3", claim=claim
        )
        try:
            return await api.CompleteUpload(request, None)
        except AppError as refusal:
            return refusal

    answers = await asyncio.gather(*(complete(one) for one in copies))
    # One is still under way when another asks: that is told to come back, and told the same then.
    answers += [await complete(one) for one in copies]
    done = [one for one in answers if not isinstance(one, AppError)]
    assert {one.kind for one in answers if isinstance(one, AppError)} <= {Kind.CONFLICT}
    assert len({(one.upload.id, one.upload.job_id, one.upload.meeting_id) for one in done}) == 1
    assert sum(not one.replayed for one in done) == 1
    assert len((await meetings.list(owner, MeetingFilter(), 10, "")).items) == 1
    refusal = await complete(copies[0], b"something else")
    assert isinstance(refusal, AppError)
    assert refusal.kind is Kind.VALIDATION_FAILED


async def test_a_recording_can_be_added_to_a_meeting_that_is_there(
    uploads: UploadsStore, transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    log = Logbook(owner)
    log.say("before", length_s=7.0)
    log.close()
    await transcripts.apply(numbered(log.entries))
    done = await arrived(uploads, new(owner, meeting_id=log.meeting_id))
    assert done.meeting_id == log.meeting_id
    spoken = recorded(done, owner)
    await transcripts.apply(numbered(spoken.entries[:1]))
    assert (await meetings.get(owner, log.meeting_id)).status == "processing"
    await transcripts.apply(numbered(spoken.entries))
    meeting = await meetings.get(owner, log.meeting_id)
    assert (meeting.status, meeting.audio_s) == ("completed", 9.0)


async def test_what_was_sent_later_follows_what_was_said_before(
    uploads: UploadsStore, transcripts: TranscriptStore, segments: SegmentsStore, owner: str
) -> None:
    first = await arrived(uploads, new(owner))
    await transcripts.apply(numbered(recorded(first, owner).entries))
    second = await arrived(uploads, new(owner, meeting_id=first.meeting_id))
    await transcripts.apply(numbered(recorded(second, owner).entries))
    page = await segments.list(owner, first.meeting_id, 10, "")
    assert [segment.start_s for segment in page.items] == [0.0, 2.0]


@pytest.mark.req("R-AUTH-2")
async def test_what_is_anothers_is_not_there(uploads: UploadsStore, owner: str) -> None:
    asked, stranger = new(owner), ids.new_id()
    await uploads.begin(asked)
    done = await uploads.complete(owner, asked.id, 1, "mp3")
    calls = (
        uploads.get(stranger, asked.id),
        uploads.complete(stranger, asked.id, 1, "mp3"),
        uploads.job(stranger, done.job_id or ""),
        uploads.begin(new(stranger, meeting_id=done.meeting_id)),
    )
    for call in calls:
        with pytest.raises(AppError) as caught:
            await call
        assert caught.value.kind is Kind.NOT_FOUND
    await uploads.abandon(stranger, asked.id)
    assert (await uploads.get(owner, asked.id)).job_id == done.job_id


@pytest.mark.req("R-UP-1")
async def test_one_account_has_only_so_much_under_way(database: Database, owner: str) -> None:
    uploads = store_of(database, uploads_max=5, bytes_max=100 * MIB)
    results = await asyncio.gather(*(uploads.begin(new(owner)) for _ in range(12)), return_exceptions=True)
    taken = [result for result in results if isinstance(result, Upload)]
    refused = [result for result in results if isinstance(result, AppError)]
    assert (len(taken), {error.kind for error in refused}) == (5, {Kind.RATE_LIMIT_EXCEEDED})
    await uploads.begin(new(ids.new_id()))
    await uploads.abandon(owner, taken[0].id)
    with pytest.raises(AppError):
        await uploads.begin(new(owner, size_bytes=97 * MIB))
    await uploads.begin(new(owner, size_bytes=96 * MIB))


async def test_a_file_that_does_not_arrive_in_time_counts_no_more(database: Database, owner: str) -> None:
    late = await store_of(database, uploads_max=1, life_s=-1.0).begin(new(owner))
    uploads = store_of(database, uploads_max=1)
    await uploads.begin(new(owner))
    with pytest.raises(AppError) as caught:
        await uploads.get(owner, late.id)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_only_files_that_are_needed_are_kept(uploads: UploadsStore, database: Database, owner: str) -> None:
    arriving = await uploads.begin(new(owner))
    waiting = await arrived(uploads, new(owner))
    refused = await arrived(uploads, new(owner))
    await uploads.refuse(refused, "No.")
    late = await store_of(database, life_s=-1.0).begin(new(owner))
    asked = [arriving.id, waiting.id, refused.id, late.id, ids.new_id()]
    assert set(await uploads.needed(asked)) == {arriving.id, waiting.id}


@pytest.mark.req("R-JOB-1")
async def test_a_cancelled_upload_needs_its_file_no_more_and_its_meeting_has_failed(
    uploads: UploadsStore, meetings: MeetingsStore, owner: str
) -> None:
    upload = await arrived(uploads, new(owner))
    assert upload.job_id is not None
    with pytest.raises(AppError) as caught:
        await uploads.cancel(ids.new_id(), upload.job_id)
    assert caught.value.kind is Kind.NOT_FOUND
    cancelled = await uploads.cancel(owner, upload.job_id)
    assert (cancelled.status, cancelled.error) == (Status.FAILED, "Cancelled.")
    assert await uploads.needed([upload.id]) == []
    assert (await meetings.get(owner, upload.meeting_id)).status == "failed"
    with pytest.raises(AppError) as caught:
        await uploads.cancel(owner, upload.job_id)
    assert caught.value.kind is Kind.CONFLICT


async def test_a_deleted_meeting_takes_its_uploads_along(
    uploads: UploadsStore, meetings: MeetingsStore, owner: str
) -> None:
    done = await arrived(uploads, new(owner))
    meeting = await meetings.get(owner, done.meeting_id)
    await meetings.delete(owner, meeting.id, meeting.version)
    assert await uploads.of_job(done.id) is None
    assert await uploads.needed([done.id]) == []
    with pytest.raises(AppError):
        await uploads.job(owner, done.job_id or "")


# -- the job ---------------------------------------------------------------------------------------------------------


def recorded(upload: Upload, owner: str) -> Logbook:
    """Return the log that a transcriber writes of an upload: one sentence of two seconds."""
    log = Logbook(owner, upload.meeting_id)
    log.session_id = upload.id
    log.entries[0].session_id = upload.id
    log.entries[0].opened.upload = True
    log.say("what the file says")
    log.close()
    return log


class ScriptedTranscriber:
    """Answers each call with the next of its scripts: responses, and failures among them."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.requests: list[pb.TranscribeUploadRequest] = []

    async def transcribe(self, request: pb.TranscribeUploadRequest) -> AsyncIterator[pb.TranscribeUploadResponse]:
        self.requests.append(request)
        for step in self.scripts.pop(0):
            if isinstance(step, AppError):
                raise step
            yield step


def progress(value: float) -> pb.TranscribeUploadResponse:
    return pb.TranscribeUploadResponse(progress=value)


CLOSED = pb.TranscribeUploadResponse(closed=transcript_pb2.Closed())
AWAY = AppError(Kind.UNAVAILABLE, "A part of the service does not answer.", retry_after_s=0.0)


class Workshop:
    """Works on upload jobs with a scripted transcriber."""

    def __init__(self, database: Database, broker: bus.Bus, uploads: UploadsStore) -> None:
        self.database = database
        self.broker = broker
        self.uploads = uploads
        self.removed: list[str] = []

    async def _remove(self, upload_id: str) -> None:
        self.removed.append(upload_id)

    async def ends(self, upload: Upload, transcriber: ScriptedTranscriber, *statuses: Status) -> Job:
        """Let a worker work until the job is over, or has one of the statuses."""
        jobs = UploadJobs(self.uploads, transcriber, self._remove, postpone_s=0.05)
        worker = Worker(
            KIND, jobs.handle, database=self.database, queue=queue(), broker=self.broker, policy=QUICK
        )  # fmt: skip
        working = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(20):
                while True:
                    job = await self.uploads.job(upload.owner_id, upload.job_id or "")
                    if job.status in (statuses or (Status.COMPLETED, Status.FAILED, Status.DEAD)):
                        return job
                    await asyncio.sleep(0.02)
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working


@pytest.fixture
async def workshop(database: Database, nats_server: NatsServer) -> AsyncIterator[Workshop]:
    uploads = store_of(database, attempts_max=3)
    async with bus.connect(nats_server.url, name="test", replicas=1) as broker:
        for stream in (EVENTS, JOBS, DLQ):
            await broker.declare(stream)
        relay = asyncio.create_task(Relay(database, outbox_rows, streams_seen, broker, (EVENTS, JOBS, DLQ)).run())
        try:
            yield Workshop(database, broker, uploads)
        finally:
            relay.cancel()
            with suppress(asyncio.CancelledError):
                await relay


@pytest.mark.req("R-JOB-1")
async def test_a_job_is_completed_when_the_transcript_can_be_read(
    workshop: Workshop, transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    upload = await arrived(workshop.uploads, new(owner))
    transcriber = ScriptedTranscriber([progress(0.0), progress(0.5), CLOSED])
    ending = asyncio.create_task(workshop.ends(upload, transcriber))
    async with asyncio.timeout(10):
        while (await workshop.uploads.job(owner, upload.job_id or "")).progress < 0.4:
            await asyncio.sleep(0.02)
    assert (await workshop.uploads.job(owner, upload.job_id or "")).status is Status.RUNNING
    await transcripts.apply(numbered(recorded(upload, owner).entries))
    job = await ending
    assert (job.status, job.progress, job.error) == (Status.COMPLETED, 1.0, "")
    [request] = transcriber.requests
    assert (request.upload_id, request.container, request.size_bytes) == (upload.id, "mp3", MIB)
    assert (request.session.meeting_id, request.session.owner_id) == (upload.meeting_id, owner)
    assert (await meetings.get(owner, upload.meeting_id)).status == "completed"


@pytest.mark.req("R-UP-2")
async def test_a_file_that_cannot_be_read_fails_with_a_reason_for_people(
    workshop: Workshop, meetings: MeetingsStore, owner: str
) -> None:
    upload = await arrived(workshop.uploads, new(owner))
    refusal = pb.TranscribeUploadResponse(refused="The end of the file is missing.")
    job = await workshop.ends(upload, ScriptedTranscriber([progress(0.0), refusal]))
    assert (job.status, job.error, job.attempts) == (Status.FAILED, "The end of the file is missing.", 1)
    assert (await meetings.get(owner, upload.meeting_id)).status == "failed"
    assert await workshop.uploads.needed([upload.id]) == []
    assert workshop.removed == [upload.id]


@pytest.mark.req("R-JOB-1", "R-HEAL-2")
async def test_transcribers_that_are_away_or_die_on_the_way_cost_no_attempt(
    workshop: Workshop, transcripts: TranscriptStore, owner: str
) -> None:
    upload = await arrived(workshop.uploads, new(owner))
    await transcripts.apply(numbered(recorded(upload, owner).entries))
    transcriber = ScriptedTranscriber(
        [AWAY], [AWAY], [AWAY], [AWAY],
        [progress(0.0), progress(0.3), AWAY], [progress(0.3), progress(0.6), AWAY],
        [progress(0.9), CLOSED],
    )  # fmt: skip
    job = await workshop.ends(upload, transcriber)
    assert (job.status, job.attempts, job.history) == (Status.COMPLETED, 1, [])


@pytest.mark.req("R-JOB-1", "R-JOB-2")
async def test_a_file_at_which_transcribers_die_is_given_up_and_can_be_tried_again(
    workshop: Workshop, transcripts: TranscriptStore, meetings: MeetingsStore, owner: str
) -> None:
    upload = await arrived(workshop.uploads, new(owner))
    transcriber = ScriptedTranscriber(*([progress(0.0), AWAY] for _ in range(3)))
    job = await workshop.ends(upload, transcriber)
    assert (job.status, job.attempts) == (Status.DEAD, 3)
    assert [request.last_attempt for request in transcriber.requests] == [False, False, True]
    assert (await meetings.get(owner, upload.meeting_id)).status == "failed"
    assert await workshop.uploads.needed([upload.id]) == [upload.id], "an operator may try again"
    await transcripts.apply(numbered(recorded(upload, owner).entries))
    assert (await meetings.get(owner, upload.meeting_id)).status == "completed"


async def test_a_job_whose_meeting_was_deleted_ends_without_a_word(
    workshop: Workshop, meetings: MeetingsStore, owner: str
) -> None:
    upload = await arrived(workshop.uploads, new(owner))
    await meetings.delete(owner, upload.meeting_id, 1)
    assert await workshop.uploads.of_job(upload.id) is None
    assert int((await workshop.broker.js.stream_info("JOBS")).state.messages) <= 1

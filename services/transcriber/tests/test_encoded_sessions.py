"""Sessions whose audio comes as a browser records it, on a real broker: offsets and acks count the client's bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from chassis.tests.servers import NatsServer
from services.transcriber import transcript
from services.transcriber.session import LiveSession, SessionSettings
from services.transcriber.tests import signals
from services.transcriber.tests.fakes import Client
from services.transcriber.tests.recorder import CONTAINERS, Container, record
from services.transcriber.tests.replicas import (
    OWNER,
    SETTINGS,
    Replica,
    check_accounts,
    log_of,
    replica,
    token_of,
)

ENCODINGS = {"webm": pb.ENCODING_WEBM_OPUS, "ogg": pb.ENCODING_OGG_OPUS}
SPEECH = signals.meeting()[: 20 * 32_000]
PIECE_BYTES = 777
FRAME_BYTES = 960
both = pytest.mark.parametrize("container", CONTAINERS)


@pytest.fixture(scope="module", params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> Container:
    chosen: Container = request.param
    return chosen


@pytest.fixture(scope="module")
def recording(container: Container) -> bytes:
    """The first 20 s of the bundled meeting, as a browser records them."""
    return record(SPEECH, container, channels=2)


async def begin(one: Replica, container: Container, client: Client) -> LiveSession:
    opened = pb.Opened(meeting_id=ids.new_id(), owner_id=OWNER, encoding=ENCODINGS[container], interim=False)
    return await one.sessions.open(ids.new_id(), opened, client)


def send(session: LiveSession, data: bytes, start: int = 0, end: int | None = None) -> None:
    end = len(data) if end is None else end
    for offset in range(start, end, PIECE_BYTES):
        session.receive(offset, data[offset : min(offset + PIECE_BYTES, end)])


async def kill(session: LiveSession) -> None:
    """End the session's owner as SIGKILL does: no farewell, nothing flushed."""
    for task in asyncio.all_tasks():
        if task.get_name() == f"session {session.id}":
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def acked(offset: int) -> Callable[[Client], bool]:
    return lambda client: client.acked_offset >= offset


def segments(entries: list[pb.TranscriptEntry]) -> list[tuple[int, int, int]]:
    rows = [entry.segment for entry in entries if entry.HasField("segment")]
    return [(row.index, row.start_offset, row.end_offset) for row in rows]


def check_alike(found: list[tuple[int, int, int]], wanted: list[tuple[int, int, int]]) -> None:
    """The same utterances. Who adopts looks for speech from its checkpoint on, in frames that begin there: where that
    lies depends on how much was committed, and moves an edge by less than a frame."""
    assert [row[0] for row in found] == [row[0] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert abs(ours[1] - theirs[1]) < FRAME_BYTES
        assert abs(ours[2] - theirs[2]) < FRAME_BYTES


async def uninterrupted(server: NatsServer, container: Container, data: bytes) -> list[pb.TranscriptEntry]:
    async with replica(server, "alone") as alone:
        client = Client()
        session = await begin(alone, container, client)
        send(session, data)
        session.finish(len(data))
        await client.until(lambda c: c.of("finished"))
        return await log_of(alone, session.id)


@pytest.mark.req("R-WS-1")
async def test_encoded_audio_becomes_segments_and_the_accounts_are_in_seconds_heard(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await begin(a, container, client)
        send(session, recording)
        session.finish(len(recording))
        await client.until(lambda c: c.of("finished"))
        assert client.acked_offset == len(recording)
        assert (await a.audio.read(session.id, 0, 0))[0] == recording
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.audio_s == pytest.approx(20.0, abs=0.05)
        assert accounts.transcribed_s + accounts.silence_s == pytest.approx(accounts.audio_s)
        assert len(client.indexes) >= 4
        check_accounts(await log_of(a, session.id), len(recording))


@pytest.mark.req("R-WS-4")
@pytest.mark.parametrize("share", [0.2, 0.55, 0.9])
async def test_adopted_session_has_the_segments_of_one_that_was_never_interrupted(
    nats_server: NatsServer, container: Container, recording: bytes, share: float
) -> None:
    wanted = segments(await uninterrupted(nats_server, container, recording))
    cut = int(len(recording) * share)
    async with replica(nats_server, "b") as b:
        client = Client()
        async with replica(nats_server, "a") as a:
            session = await begin(a, container, client)
            send(session, recording, end=cut)
            await client.until(acked(cut))
            await kill(session)
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back)
        assert back.of("restored")[0].restored.offset == cut
        send(adopted, recording, start=cut)
        adopted.finish(len(recording))
        await back.until(lambda c: c.of("finished"))
        entries = await log_of(b, session.id)
        check_accounts(entries, len(recording))
        check_alike(segments(entries), wanted)


@pytest.mark.req("R-WS-4")
async def test_adoption_reads_seconds_of_the_log_and_not_all_of_it(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    async with replica(nats_server, "b") as b:
        client = Client()
        async with replica(nats_server, "a") as a:
            session = await begin(a, container, client)
            for end in range(10_000, len(recording), 10_000):
                send(session, recording, start=end - 10_000, end=end)
                await client.until(acked(end))
            await client.until(lambda c: len(c.indexes) >= 4)
            await kill(session)
        ledger = transcript.fold(session.id, await log_of(b, session.id))
        assert ledger.source_offset > len(recording) / 2
        data, sequence = await b.audio.read(session.id, ledger.source_offset, ledger.audio_sequence)
        assert sequence > 1
        assert recording[:end].endswith(data)


@pytest.mark.req("R-WS-2", "R-WS-4")
async def test_a_hole_that_the_client_declares_outlives_its_owner(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    first, second, end = 30_000, 38_000, 60_000
    async with replica(nats_server, "b") as b:
        client = Client()
        async with replica(nats_server, "a") as a:
            session = await begin(a, container, client)
            send(session, recording, end=first)
            session.declare_gap(first, second)
            send(session, recording, start=second, end=end)
            await client.until(acked(end))
            await kill(session)
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back)
        assert back.of("restored")[0].restored.offset == end
        send(adopted, recording, start=end)
        adopted.finish(len(recording))
        await back.until(lambda c: c.of("finished"))
        entries = await log_of(b, session.id)
        gaps = [entry.gap for entry in entries if entry.HasField("gap")]
        (declared,) = [gap for gap in gaps if gap.reason == pb.GAP_REASON_CLIENT_MISSING]
        assert declared.end_s - declared.start_s == pytest.approx(8_000 / len(recording) * 20, rel=0.3)
        accounts = back.of("finished")[0].finished.accounts
        assert accounts.gap_s >= declared.end_s - declared.start_s
        assert accounts.audio_s == pytest.approx(20.0, abs=1.0)
        assert accounts.coverage == pytest.approx(1 - accounts.gap_s / accounts.audio_s)


@pytest.mark.req("R-WS-3")
async def test_a_recorder_that_was_started_anew_goes_on_after_a_resume(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    cut = len(recording) // 2
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        client = Client()
        session = await begin(a, container, client)
        send(session, recording, end=cut)
        await client.until(acked(cut))
        await kill(session)
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back)
        anew = recording[:cut] + record(SPEECH[: 6 * 32_000], container)
        send(adopted, anew, start=cut)
        adopted.finish(len(anew))
        await back.until(lambda c: c.of("finished"))
        accounts = back.of("finished")[0].finished.accounts
        assert accounts.audio_s == pytest.approx(16.0, abs=0.5)
        assert accounts.gap_s < 0.5


@pytest.mark.req("R-WS-2")
async def test_what_is_no_such_stream_is_refused_and_its_session_closed(
    nats_server: NatsServer, container: Container
) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await begin(a, container, client)
        send(session, SPEECH[:32_000])
        await client.until(lambda c: c.of("problem"))
        problem = client.of("problem")[0].problem
        assert (problem.code, problem.close_code) == ("unsupported_media_type", 4400)
        await session.until_quiet()
        closed = (await log_of(a, session.id))[-1].closed
        assert (closed.received_bytes, closed.segments, closed.coverage) == (32_000, 0, 0.0)


@pytest.mark.req("R-WS-2")
async def test_damage_is_told_as_a_gap_and_the_session_goes_on(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    middle = len(recording) // 2
    hurt = recording[:middle] + bytes(500) + recording[middle + 500 :]
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await begin(a, container, client)
        send(session, hurt)
        session.finish(len(hurt))
        await client.until(lambda c: c.of("finished"))
        gaps = [event.entry.gap for event in client.of("entry") if event.entry.HasField("gap")]
        assert {gap.reason for gap in gaps} == {pb.GAP_REASON_UNDECODABLE}
        problem = client.of("problem")[0].problem
        assert (problem.code, problem.close_code) == ("unsupported_media_type", 0)
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.coverage == pytest.approx(1 - accounts.gap_s / accounts.audio_s)
        assert 0.8 < accounts.coverage < 1.0


@pytest.mark.req("R-WS-2")
async def test_a_client_that_never_heeds_is_cut_off(nats_server: NatsServer, container: Container) -> None:
    long = record(SPEECH * 3, container, bit_rate=64_000)
    settings = SessionSettings(window_bytes=100_000, stored_wait_s=0.05)
    async with replica(nats_server, "a", settings) as a:
        client = Client()
        session = await begin(a, container, client)
        assert client.of("started")[0].started.window_bytes == 50_000
        send(session, long)  # a minute at once
        assert relay.STATE_HOLD in [event.status.state for event in client.of("status")]
        assert client.of("problem")[0].problem.close_code == 4429


async def test_audio_waits_undecoded_while_no_engine_takes_it(nats_server: NatsServer, container: Container) -> None:
    minute = record(SPEECH * 3, container)
    settings = SessionSettings(buffer_bytes_max=10 * 32_000, stored_wait_s=0.05)
    async with replica(nats_server, "a", settings) as a:
        a.engine.gate.clear()
        client = Client()
        session = await begin(a, container, client)
        send(session, minute)
        session.finish(len(minute))
        await client.until(acked(len(minute)))
        async with asyncio.timeout(4):
            while session.buffered_bytes <= 5 * 32_000:
                await asyncio.sleep(0.02)
        assert session.buffered_bytes <= 20 * 32_000
        a.engine.gate.set()
        await client.until(lambda c: c.of("finished"))
        assert client.of("finished")[0].finished.accounts.audio_s == pytest.approx(60.0, abs=0.1)
        check_accounts(await log_of(a, session.id), len(minute))


async def test_stored_offset_counts_the_clients_bytes(
    nats_server: NatsServer, container: Container, recording: bytes
) -> None:
    async with replica(nats_server, "a", SETTINGS) as a:
        client = Client()
        session = await begin(a, container, client)
        send(session, recording)
        await client.until(lambda c: len(c.indexes) >= 3)
        last = [entry.segment for entry in await log_of(a, session.id) if entry.HasField("segment")][2]
        session.note_stored(last.end_offset, 4)
        stored = client.of("ack")[-1].ack.stored_offset
        assert stored / len(recording) == pytest.approx(last.end_s / 20.0, abs=0.1)
        assert stored <= client.acked_offset

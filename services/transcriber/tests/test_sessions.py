"""Sessions on a real broker: acknowledged means durable, and any replica can go on where another stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from verbatim.captions.v1.captions_pb2 import Caption
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer
from services.transcriber import transcript
from services.transcriber.logs import streams
from services.transcriber.session import SessionSettings
from services.transcriber.sessions import Sessions
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import Client
from services.transcriber.tests.replicas import (
    FRAME_BYTES,
    OWNER,
    SETTINGS,
    check_accounts,
    log_of,
    replica,
    speak,
    token_of,
)
from services.transcriber.transcript_log import Fenced, TranscriptLog


def _has_acknowledged(offset: int, client: Client) -> bool:
    return client.acked_offset == offset


@pytest.mark.req("R-WS-1", "R-SVC-2")
async def test_audio_becomes_segments_and_the_accounts_add_up(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        assert client.acked_offset == len(speech)
        assert client.indexes == list(range(len(client.indexes)))
        assert len(client.indexes) >= 4
        events = [event.entry.event for event in client.of("entry")]
        assert events == list(range(2, 2 + len(events)))
        check_accounts(await log_of(a, session.id), len(speech))


@pytest.mark.req("R-WS-4")
async def test_acknowledged_audio_is_in_the_log(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech, end=64_000)
        await client.until(lambda c: c.acked_offset == 64_000)
        held, sequence = await a.audio.read(session.id, 0, 0)
        assert held == speech[:64_000]
        assert sequence


@pytest.mark.req("R-WS-4", "R-HEAL-2")
async def test_a_transcript_log_that_was_deleted_under_a_session_is_written_again(
    nats_server: NatsServer, speech: bytes
) -> None:
    """Its owner knows what was in it: it says so, goes on, and whoever adopts the session goes on from there."""
    half = len(speech) // 2 // FRAME_BYTES * FRAME_BYTES
    async with replica(nats_server, "b") as b:
        client, again = Client(), Client()
        async with replica(nats_server, "a") as a:
            session = await a.open(client)
            speak(session, speech, end=half)
            await client.until(lambda c: c.acked_offset == half and len(c.indexes) >= 2)
            before = client.indexes
            await a.broker.js.delete_stream("TRANSCRIPT")
            await a.broker.declare(streams(64 * 1024**2, 16 * 1024**2, 86_400.0)[1])
            speak(session, speech, half, half + 160_000)
            await client.until(lambda c: len(c.indexes) > len(before))
            rows = await log_of(a, session.id)
            assert [row.WhichOneof("kind") for row in rows[:2]] == ["snapshot", "segment"]
            assert [row.segment.index for row in rows[0].snapshot.recent if row.HasField("segment")] == before
        assert not client.of("problem") or client.of("problem")[-1].problem.close_code != 4409
        adopted = await b.resume(session.id, token_of(client), again)
        speak(adopted, speech, start=again.of("restored")[0].restored.offset)
        adopted.finish(len(speech))
        await again.until(lambda c: c.of("finished"))
        accounts = again.of("finished")[0].finished.accounts
        assert accounts.transcribed_s + accounts.silence_s == pytest.approx(accounts.audio_s)
        assert accounts.segments == max(client.indexes + again.indexes) + 1


@pytest.mark.req("R-WS-4")
async def test_a_session_that_was_taken_out_of_the_log_is_not_written_again(
    nats_server: NatsServer, speech: bytes
) -> None:
    """Its meeting was deleted: what is deleted stays deleted."""
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech, end=64_000)
        await client.until(lambda c: c.acked_offset == 64_000)
        await a.broker.js.purge_stream("TRANSCRIPT", subject=f"transcript.{session.id}")
        speak(session, speech, start=64_000)
        await client.until(lambda c: c.of("problem"))
        assert client.of("problem")[0].problem.close_code == 4409
        assert await log_of(a, session.id) == []


@pytest.mark.req("R-WS-4", "R-WS-3")
async def test_another_replica_adopts_a_session_whose_owner_died(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "b") as b:
        client = Client()
        async with replica(nats_server, "a") as a:
            session = await a.open(client)
            speak(session, speech, end=320_000)
            await client.until(lambda c: c.acked_offset == 320_000 and c.indexes)
            seen = client.of("entry")[0].entry
            for task in asyncio.all_tasks():
                if task.get_name() == f"session {session.id}":
                    task.cancel()  # as a SIGKILL: no farewell, nothing flushed
                    with suppress(asyncio.CancelledError):
                        await task
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back, last_event=seen.event)
        restored = back.of("restored")[0].restored
        assert restored.offset == 320_000
        assert all(entry.event > seen.event for entry in restored.entries)
        speak(adopted, speech, start=restored.offset)
        adopted.finish(len(speech))
        await back.until(lambda c: c.of("finished"))
        check_accounts(await log_of(b, session.id), len(speech))


@pytest.mark.req("R-WS-4")
async def test_deposed_owner_cannot_write_and_tells_its_client(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        first = Client()
        session = await a.open(first)
        a.engine.gate.clear()
        speak(session, speech, end=320_000)
        await first.until(lambda c: c.acked_offset == 320_000)
        second = Client()
        adopted = await b.resume(session.id, token_of(first), second)
        await first.until(lambda c: c.of("problem"))
        assert first.of("problem")[0].problem.close_code == 4409
        a.engine.gate.set()
        speak(adopted, speech, start=320_000)
        adopted.finish(len(speech))
        await second.until(lambda c: c.of("finished"))
        entries = await log_of(b, session.id)
        check_accounts(entries, len(speech))
        assert {entry.writer for entry in entries if entry.HasField("segment")} == {"b"}


@pytest.mark.req("R-WS-3")
async def test_deposed_owner_that_never_heard_of_it_takes_the_session_back(
    nats_server: NatsServer, speech: bytes
) -> None:
    """A frozen replica missed that its session went elsewhere. When the client came back to it, it compared the token
    with those of its own memory and said "Session expired"."""
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        b.sessions = Sessions(replace(b.ports, announce=_unheard), SETTINGS, sessions_max=50)
        first, second, third, fourth = Client(), Client(), Client(), Client()
        session = await a.open(first)
        speak(session, speech, end=3200)
        await b.resume(session.id, token_of(first), second)
        await b.resume(session.id, token_of(second), third)
        back = await a.resume(session.id, token_of(third), fourth)
        speak(back, speech, start=fourth.of("restored")[0].restored.offset)
        back.finish(len(speech))
        await fourth.until(lambda c: c.of("finished"))
        check_accounts(await log_of(a, session.id), len(speech))


async def _unheard(_subject: str, _payload: bytes) -> None:
    """Announce to nobody."""


class BrokenTranscriptLog(TranscriptLog):
    """Fails in a way that nobody expected, after the first entry."""

    async def append(self, entry: pb.TranscriptEntry, last_sequence: int) -> int:
        """Append what opens the session, nothing else."""
        if last_sequence:
            raise LookupError("unexpected")
        return await super().append(entry, last_sequence)


@pytest.mark.req("R-WS-3", "R-ERR-1")
async def test_client_of_a_session_that_fails_is_told_to_resume(nats_server: NatsServer, speech: bytes) -> None:
    """The line to the client was cut before the farewell was said: it went on talking to nobody, unacknowledged."""
    async with replica(nats_server, "a") as a:
        broken = replace(a.ports, transcripts=BrokenTranscriptLog(a.broker))
        a.sessions = Sessions(broken, SETTINGS, sessions_max=50)
        client = Client()
        speak(await a.open(client), speech)
        await client.until(lambda c: c.of("problem"))
        assert client.of("problem")[0].problem.close_code == 1011


@pytest.mark.req("R-WS-4")
async def test_stale_append_is_fenced(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        ledger = transcript.Ledger(ids.new_id())
        opened = ledger.draft("a", opened=pb.Opened(owner_id=OWNER))
        sequence = await a.transcripts.append(opened, 0)
        ledger.apply(opened)
        mine, theirs = (ledger.draft(writer, checkpoint=pb.Checkpoint()) for writer in ("a", "b"))
        assert await a.transcripts.append(theirs, sequence) > sequence
        with pytest.raises(Fenced):
            await a.transcripts.append(mine, sequence)


async def test_append_that_is_repeated_is_one_entry(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        opened = transcript.Ledger(ids.new_id()).draft("a", opened=pb.Opened(owner_id=OWNER))
        assert await a.transcripts.append(opened, 0) == await a.transcripts.append(opened, 0)
        assert len(await log_of(a, opened.session_id)) == 1


@pytest.mark.req("R-WS-4", "R-HEAL-2")
async def test_broker_killed_under_speech_loses_nothing(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech, end=160_000)
        await client.until(lambda c: c.acked_offset > 0)
        nats_server.kill()
        speak(session, speech, start=160_000)
        await client.until(lambda c: any(e.status.state == relay.STATE_HOLD for e in c.of("status")))
        acked = client.acked_offset
        assert acked < len(speech)
        nats_server.start()
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"), within_s=20)
        check_accounts(await log_of(a, session.id), len(speech))
        assert (await a.audio.read(session.id, 0, 0))[0] == speech


@pytest.mark.req("R-WS-3")
async def test_token_before_the_last_still_resumes_and_a_wrong_one_does_not(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        first_token = token_of(client)
        for _ in range(2):  # the answer to the first resume was lost: the client shows the same token again
            back = Client()
            await a.resume(session.id, first_token, back)
        assert token_of(back) != first_token
        for session_id, token in ((session.id, "wrong"), (ids.new_id(), first_token)):
            with pytest.raises(AppError) as refused:
                await a.resume(session_id, token, Client())
            assert refused.value.kind is Kind.NOT_FOUND


@pytest.mark.req("R-AUTH-2")
async def test_another_account_cannot_resume_with_a_stolen_token(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        request = relay.Resume(session_id=session.id, owner_id="thief", resume_token=token_of(client))
        with pytest.raises(AppError) as refused:
            await a.sessions.resume(request, Client())
        assert refused.value.kind is Kind.NOT_FOUND


@pytest.mark.req("R-WS-3")
async def test_client_that_missed_the_end_gets_it_on_resume(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        back = Client()
        await a.resume(session.id, token_of(client), back, last_event=2)
        await back.until(lambda c: c.of("finished"))
        assert next(entry.event for entry in back.of("restored")[0].restored.entries) == 3


@pytest.mark.req("R-WS-2")
async def test_bad_audio_is_refused_by_name_and_harms_nothing(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        session.receive(0, b"odd")
        session.receive(3200, speech[3200:6400])
        problems = [event.problem for event in client.of("problem")]
        assert [(p.code, p.close_code) for p in problems] == [("validation_failed", 0), ("offset_gap", 0)]
        assert problems[1].expected_offset == 0
        speak(session, speech, end=6400)
        session.receive(0, speech[:6400])  # a resend
        session.receive(3200, speech[3200:9600])  # one that overlaps
        await client.until(lambda c: c.acked_offset == 9600)
        assert (await a.audio.read(session.id, 0, 0))[0] == speech[:9600]


async def test_client_that_never_heeds_is_cut_off(nats_server: NatsServer, speech: bytes) -> None:
    settings = SessionSettings(window_bytes=32_000, stored_wait_s=0.05)
    async with replica(nats_server, "a", settings) as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech)  # 20 s at once: nothing can be acknowledged in between
        states = [event.status.state for event in client.of("status")]
        assert relay.STATE_HOLD in states
        assert client.of("problem")[0].problem.close_code == 4429


@pytest.mark.req("R-STT-6")
async def test_silence_and_nothing_are_honest_empty_sessions(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        for silence in (b"", bytes(320_000)):
            client = Client()
            session = await a.open(client)
            speak(session, silence)
            session.finish(len(silence))
            await client.until(lambda c: c.of("finished"))
            accounts = client.of("finished")[0].finished.accounts
            assert (accounts.segments, accounts.coverage) == (0, 1.0)
            assert accounts.silence_s == pytest.approx(len(silence) / 32_000)


async def test_long_silence_moves_the_checkpoint(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a", SessionSettings(checkpoint_every_s=2.0)) as a:
        client = Client()
        session = await a.open(client)
        for offset in range(0, 320_000, 32_000):
            session.receive(offset, bytes(32_000))
            await client.until(partial(_has_acknowledged, offset + 32_000))
        assert session.ledger.accounted_offset >= 5 * 32_000
        assert session.buffered_bytes <= 4 * 32_000


@pytest.mark.req("R-STT-4")
async def test_failing_engine_is_asked_again_and_what_nobody_hears_is_a_gap(
    nats_server: NatsServer, speech: bytes
) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        a.engine.failures = [
            SpeechError("busy", retryable=True, reason="server"),
            SpeechError("bad audio", retryable=False, reason="rejected"),
        ]
        speak(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.gap_s > 0
        assert accounts.coverage == pytest.approx(1 - accounts.gap_s / accounts.audio_s)
        gaps = [event.entry.gap for event in client.of("entry") if event.entry.HasField("gap")]
        assert [gap.reason for gap in gaps] == [pb.GAP_REASON_UNDECODABLE]


@pytest.mark.req("R-WS-5")
async def test_session_without_a_client_is_finished_not_forgotten(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a", SessionSettings(idle_s=0.5, stored_wait_s=0.05)) as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech)
        session.detach(client)
        async with asyncio.timeout(10):
            while a.sessions.get(session.id):
                await asyncio.sleep(0.02)
        check_accounts(await log_of(a, session.id), len(speech))


@pytest.mark.req("R-SVC-7")
async def test_drain_does_not_wait_until_people_stop_talking(nats_server: NatsServer, speech: bytes) -> None:
    """Audio kept coming in while a replica drained, so it was never quiet, and waited for as long as it was allowed."""
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)

        async def talk() -> None:
            for offset in range(0, len(speech), FRAME_BYTES):
                session.receive(offset, speech[offset : offset + FRAME_BYTES])
                await asyncio.sleep(0.01)

        talking = asyncio.create_task(talk())
        await client.until(lambda c: c.acked_offset)
        async with asyncio.timeout(2.0):
            await a.sessions.drain(5.0)
        talking.cancel()
        assert client.of("problem")[0].problem.close_code == 1012


@pytest.mark.req("R-SVC-7")
async def test_drain_commits_what_was_cut_and_sends_clients_away(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        client = Client()
        session = await a.open(client)
        speak(session, speech, end=320_000)
        await a.sessions.drain(5.0)
        assert client.acked_offset == 320_000
        assert client.indexes
        assert client.of("problem")[-1].problem.close_code == 1012
        with pytest.raises(AppError):
            await a.open(Client())
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back, last_event=2)
        speak(adopted, speech, start=320_000)
        adopted.finish(len(speech))
        await back.until(lambda c: c.of("finished"))
        check_accounts(await log_of(b, session.id), len(speech))


@pytest.mark.req("R-WS-2", "R-WS-4")
async def test_gap_that_the_client_declares_is_part_of_the_transcript(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        speak(session, speech, end=224_000)
        session.declare_gap(224_000, 288_000)
        speak(session, speech, start=288_000)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        gaps = [event.entry.gap for event in client.of("entry") if event.entry.HasField("gap")]
        assert [(gap.start_offset, gap.end_offset, gap.reason) for gap in gaps] == [
            (224_000, 288_000, pb.GAP_REASON_CLIENT_MISSING)
        ]
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.gap_s == 2.0
        assert accounts.coverage == pytest.approx(1 - 64_000 / len(speech))
        assert client.acked_offset == len(speech)


@pytest.mark.req("R-WS-4")
async def test_audio_behind_a_gap_is_not_acknowledged_before_the_gap_is_recorded(
    nats_server: NatsServer, speech: bytes
) -> None:
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        client = Client()
        session = await a.open(client)
        a.engine.gate.clear()  # the utterance before the gap cannot be committed, so neither can the gap
        speak(session, speech, end=224_000)
        session.declare_gap(224_000, 288_000)
        speak(session, speech, start=288_000, end=320_000)
        await client.until(partial(_has_acknowledged, 224_000))
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back)
        assert back.of("restored")[0].restored.offset == 224_000
        assert client.acked_offset == 224_000
        adopted.declare_gap(224_000, 288_000)
        speak(adopted, speech, start=288_000)
        adopted.finish(len(speech))
        await back.until(lambda c: c.of("finished"))
        assert back.of("finished")[0].finished.accounts.gap_s == 2.0


@pytest.mark.req("R-WS-2")
@pytest.mark.parametrize(
    ("start", "end", "code"), [(0, 3, "validation_failed"), (6400, 9600, "offset_gap"), (4, 2, "validation_failed")]
)
async def test_gap_that_makes_no_sense_is_refused(nats_server: NatsServer, start: int, end: int, code: str) -> None:
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await a.open(client)
        session.declare_gap(start, end)
        assert [event.problem.code for event in client.of("problem")] == [code]


@pytest.mark.req("R-WS-5")
async def test_orphan_is_finished_by_whoever_is_asked(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "b") as b:
        async with replica(nats_server, "a") as a:
            client = Client()
            session = await a.open(client)
            speak(session, speech, end=320_000)
            await client.until(partial(_has_acknowledged, 320_000))
            await a.sessions.drain(0.0)  # its client never comes back
        assert await b.sessions.finish_orphan(session.id)
        async with asyncio.timeout(10):
            while b.sessions.get(session.id):
                await asyncio.sleep(0.02)
        entries = await log_of(b, session.id)
        check_accounts(entries, 320_000)
        assert entries[-1].closed.reason == pb.CLOSE_REASON_IDLE
        assert not await b.sessions.finish_orphan(session.id)
        with pytest.raises(AppError):
            await b.sessions.finish_orphan(ids.new_id())


@pytest.mark.req("R-WS-6")
async def test_viewers_who_come_late_are_told_the_state_of_a_session_again(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a", SessionSettings(viewers_reminded_s=0.2)) as a:
        client = Client()
        session = await a.open(client)
        told = await a.broker.client.subscribe(f"captions.{session.ledger.opened.meeting_id}")
        captions = [Caption.FromString((await told.next_msg(timeout=5)).data) for _ in range(2)]
        assert {(caption.session_id, caption.status.state) for caption in captions} == {(session.id, relay.STATE_OK)}


async def test_quiet_session_with_a_client_shows_that_it_has_an_owner(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a", SessionSettings(sign_of_life_s=0.3)) as a:
        client = Client()
        session = await a.open(client)
        before = session.ledger.position
        async with asyncio.timeout(5):
            while session.ledger.position < before + 2:
                await asyncio.sleep(0.02)


@pytest.mark.req("R-RES-3", "R-WS-4")
async def test_full_log_holds_the_client_and_goes_on_when_there_is_room(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a:
        full, _ = streams(256 * 1024, 16 * 1024**2, 86_400.0)
        await a.broker.declare(full)
        client = Client()
        session = await a.open(client)
        speak(session, speech)
        await client.until(lambda c: any(e.status.state == relay.STATE_HOLD for e in c.of("status")))
        acked = client.acked_offset
        assert acked <= 256 * 1024
        assert (await a.audio.read(session.id, 0, 0))[0][:acked] == speech[:acked]
        roomy, _ = streams(64 * 1024**2, 16 * 1024**2, 86_400.0)
        await a.broker.declare(roomy)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"), within_s=20)
        check_accounts(await log_of(a, session.id), len(speech))
        assert client.acked_offset == len(speech)


@pytest.mark.req("R-STT-4")
async def test_client_of_an_adopted_session_is_told_that_captions_are_drafts(nats_server: NatsServer) -> None:
    """An adopted session began as ok, whatever the engine."""
    async with replica(nats_server, "b") as b:
        b.engine.quality = "draft"
        async with replica(nats_server, "a") as a:
            client = Client()
            session = await a.open(client)
            await a.sessions.drain(1.0)
        back = Client()
        await b.resume(session.id, token_of(client), back)
        await back.until(lambda c: c.of("status"))
        assert back.of("status")[0].status.state == relay.STATE_DEGRADED

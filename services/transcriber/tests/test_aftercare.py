"""Closed sessions heal on a real broker: whoever does it, however often it is cut short, the result is the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids
from chassis.errors import AppError, Kind
from chassis.jobs import JOBS
from chassis.tests.servers import NatsServer
from services.transcriber import audio
from services.transcriber.aftercare import Aftercare, Outcome
from services.transcriber.audio_log import AudioLog
from services.transcriber.heal_jobs import HealJobs, HealJobSettings
from services.transcriber.healing import HealingSettings
from services.transcriber.logs import streams
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import CountingSpeech, OneEngine
from services.transcriber.transcript import Ledger, fold
from services.transcriber.transcript_log import TranscriptLog
from tests.chaos.without.fence import UnfencedTranscriptLog

pytestmark = pytest.mark.req("R-STT-5")

DRAFTS = 6
LENGTH = 32_000
DOWN = SpeechError("scripted", retryable=True, reason="server")
REFUSED = SpeechError("scripted", retryable=False, reason="rejected")


@dataclass
class Ward:
    """One transcriber, as far as it deals with closed sessions."""

    broker: bus.Bus
    engine: CountingSpeech
    transcripts: TranscriptLog
    aftercare: Aftercare
    jobs: HealJobs

    async def log(self, session_id: str) -> list[pb.TranscriptEntry]:
        return [entry for _, entry in await self.transcripts.read(session_id)]

    async def ledger(self, session_id: str) -> Ledger:
        return fold(session_id, await self.log(session_id))


@asynccontextmanager
async def ward(
    server: NatsServer, name: str, *, fenced: bool = True, embedded_only: bool = False
) -> AsyncIterator[Ward]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(bus.connect(server.url, name=name, replicas=1))
        for stream in (*streams(64 * 1024**2, 16 * 1024**2, 86_400.0), JOBS):
            await broker.declare(stream)
        engine = CountingSpeech("embedded" if embedded_only else "api", "draft" if embedded_only else "final")
        transcripts = (TranscriptLog if fenced else UnfencedTranscriptLog)(broker)
        aftercare = Aftercare(
            transcripts, AudioLog(broker, coalesce_s=0.05), OneEngine(engine),
            name, HealingSettings(pause_s=0.05),
        )  # fmt: skip
        yield Ward(broker, engine, transcripts, aftercare, HealJobs(broker, aftercare, HealJobSettings(again_s=0.1)))


async def closed_session(one: Ward, *, drafts: int = DRAFTS, with_audio: bool = True, closed: bool = True) -> str:
    """Write the logs of a session: a final segment, drafts, a final segment."""
    ledger, sequence = Ledger(ids.new_id()), 0
    spoken = [pb.QUALITY_FINAL, *[pb.QUALITY_DRAFT] * drafts, pb.QUALITY_FINAL]
    kinds: list[dict[str, object]] = [
        {"opened": pb.Opened(owner_id="o", meeting_id="m", encoding=pb.ENCODING_PCM_S16LE)}
    ]
    for index, quality in enumerate(spoken):
        start = index * LENGTH
        segment = pb.Segment(
            segment_id=f"s{index}", index=index, revision=1, text=f"text {index}", engine="embedded", quality=quality,
            start_offset=start, end_offset=start + LENGTH, context_offset=start, audio_sequence=0,
        )  # fmt: skip
        kinds.append({"segment": segment})
        if with_audio:
            pcm = (index + 1).to_bytes(2, "little") * (LENGTH // 2)
            await one.broker.js.publish(f"audio.{ledger.session_id}", audio.pack(start, pcm))
    for kind in kinds:
        sequence = await append(one, ledger, sequence, **kind)
    if closed:
        length = len(spoken) * LENGTH
        accounts = ledger.accounts(pb.CLOSE_REASON_FINISHED, length, length, heals=True)
        await append(one, ledger, sequence, closed=accounts)
    return ledger.session_id


async def append(one: Ward, ledger: Ledger, sequence: int, **kind: object) -> int:
    entry = ledger.draft("writer", **kind)
    ledger.apply(entry)
    return await one.transcripts.append(entry, sequence)


@asynccontextmanager
async def at_work(jobs: HealJobs) -> AsyncIterator[None]:
    """Have the jobs worked on inside."""
    working = asyncio.create_task(jobs.run())
    try:
        yield
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def eventually(holds: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def check_healed(entries: list[pb.TranscriptEntry], drafts: int = DRAFTS) -> None:
    """Each draft was revised once, in order; nothing was numbered twice; the last entry says that all is done."""
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    events = [entry.event for entry in entries if entry.event]
    assert events == list(range(1, len(events) + 1))
    revised = [entry.segment for entry in entries if entry.segment.revision > 1]
    assert [(segment.index, segment.revision) for segment in revised] == [(n + 1, 2) for n in range(drafts)]
    assert {segment.quality for segment in revised} == {pb.QUALITY_FINAL}
    assert entries[-1].after_close.drafts_left == 0


async def test_drafts_of_a_closed_session_are_heard_again_in_order_each_once(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a)
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        check_healed(await a.log(session_id))
        assert a.engine.heard_bytes == [LENGTH] * DRAFTS
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED  # nothing is left to do
        assert len(a.engine.heard_bytes) == DRAFTS


async def test_engine_that_fails_leaves_the_rest_for_another_time(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a)
        a.engine.failures.append(DOWN)
        assert await a.aftercare.heal(session_id) is Outcome.LATER
        left = (await a.ledger(session_id)).drafts.indexes
        assert left == [1, 2, 3, 4, 5, 6][-len(left) :]
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        check_healed(await a.log(session_id))


async def test_of_two_that_heal_the_same_session_each_append_is_of_one(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a, ward(nats_server, "b") as b:
        session_id = await closed_session(a)
        both = await asyncio.gather(a.aftercare.heal(session_id), b.aftercare.heal(session_id))
        assert set(both) == {Outcome.SETTLED}
        check_healed(await a.log(session_id))


async def test_without_the_fence_two_healers_would_be_noticed(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a", fenced=False) as a, ward(nats_server, "b", fenced=False) as b:
        session_id = await closed_session(a)
        await asyncio.gather(a.aftercare.heal(session_id), b.aftercare.heal(session_id), return_exceptions=True)
        entries = await a.log(session_id)
        with pytest.raises(AssertionError):
            check_healed(entries)


async def test_healer_that_dies_in_the_midst_changes_nothing_in_the_end(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a, ward(nats_server, "b") as b:
        session_id = await closed_session(a)
        working = asyncio.create_task(a.aftercare.heal(session_id))
        await eventually(lambda: len(a.engine.heard_bytes) >= 2)
        working.cancel()  # as a SIGKILL: an append may be on its way
        with suppress(asyncio.CancelledError):
            await working
        assert await b.aftercare.heal(session_id) is Outcome.SETTLED
        check_healed(await b.log(session_id))


async def test_job_comes_back_until_it_is_done_and_is_there_once(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a, ward(nats_server, "b") as b:
        session_id = await closed_session(a)
        for one in (a, b, a):
            assert await one.jobs.ask(session_id)
        assert await a.jobs.queued() == 1
        a.engine.failures += [DOWN] * 3
        async with at_work(a.jobs), asyncio.timeout(30):
            while await a.jobs.queued():
                await asyncio.sleep(0.05)
        check_healed(await a.log(session_id))


async def test_job_of_a_killed_healer_is_taken_by_another(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a, ward(nats_server, "b") as b:
        session_id = await closed_session(a)
        await a.jobs.ask(session_id)
        a.engine.gate.clear()
        first = asyncio.create_task(a.jobs.run())
        await eventually(lambda: a.engine.asked)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        async with at_work(b.jobs), asyncio.timeout(30):
            while await b.jobs.queued():
                await asyncio.sleep(0.05)
        check_healed(await b.log(session_id))


async def test_draft_that_is_refused_while_others_are_taken_is_given_up(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a)
        a.engine.failures.append(REFUSED)
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        last = (await a.log(session_id))[-1]
        assert (len(last.given_up.indexes), last.given_up.reason) == (1, pb.GIVEN_UP_REASON_REFUSED)
        assert last.after_close.drafts_left == 0
        assert (await a.ledger(session_id)).drafts_given_up == 1


async def test_engine_that_takes_none_makes_nobody_give_up(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a)
        a.engine.failures += [REFUSED] * DRAFTS
        assert await a.aftercare.heal(session_id) is Outcome.REFUSED
        assert len((await a.ledger(session_id)).drafts) == DRAFTS


async def test_drafts_whose_audio_is_gone_are_given_up(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a, with_audio=False)
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        last = (await a.log(session_id))[-1]
        assert (len(last.given_up.indexes), last.given_up.reason) == (DRAFTS, pb.GIVEN_UP_REASON_NO_AUDIO)


async def test_what_the_janitor_gives_up_is_recorded_once(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a)
        assert await a.aftercare.give_up(session_id, pb.GIVEN_UP_REASON_AGE) == DRAFTS
        assert await a.aftercare.give_up(session_id, pb.GIVEN_UP_REASON_AGE) == 0
        assert (await a.log(session_id))[-1].after_close.drafts_left == 0
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        assert a.engine.heard_bytes == []


async def test_open_session_is_its_owners(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a") as a:
        session_id = await closed_session(a, closed=False)
        assert await a.aftercare.heal(session_id) is Outcome.SETTLED
        assert a.engine.heard_bytes == []
        with pytest.raises(AppError) as refused:
            await a.aftercare.give_up(session_id, pb.GIVEN_UP_REASON_AGE)
        assert refused.value.kind is Kind.NOT_FOUND


async def test_without_a_better_engine_nobody_asks(nats_server: NatsServer) -> None:
    async with ward(nats_server, "a", embedded_only=True) as a:
        session_id = await closed_session(a)
        assert not await a.jobs.ask(session_id)
        assert await a.jobs.queued() == 0
        assert await a.aftercare.heal(session_id) is Outcome.LATER

"""Live sessions heal: what the lesser engine wrote is heard again while people go on speaking."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.breaker import BreakerSettings
from chassis.retry import RetrySettings
from chassis.tests.servers import NatsServer
from services.transcriber import transcript
from services.transcriber.healing import HealingSettings
from services.transcriber.limits import SessionSettings
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import Client, CountingSpeech
from services.transcriber.tests.replicas import Replica, log_of, replica, speak, token_of
from services.transcriber.tests.test_aftercare import at_work
from services.transcriber.vendor import Vendor, VendorSettings

pytestmark = pytest.mark.req("R-STT-5", "R-STT-4")

QUICK = SessionSettings(stored_wait_s=0.05, healing=HealingSettings(pause_s=0.1, pause_s_max=0.1))
DOWN = SpeechError("scripted", retryable=True, reason="server")


@asynccontextmanager
async def healer(server: NatsServer, name: str) -> AsyncIterator[tuple[Replica, CountingSpeech]]:
    """A replica with a speech API before its embedded engine."""
    api = CountingSpeech("api")
    settings = VendorSettings(
        retry=RetrySettings(attempts=1),
        breaker=BreakerSettings(failures_in_row=2, open_s=0.2, probes=1, probes_needed=1, ramp_s=0.0),
    )
    vendor = Vendor(api, settings, chance=lambda: 0.5)
    async with replica(server, name, QUICK, vendor) as one:
        yield one, api


def revised(client: Client) -> list[int]:
    return [e.entry.segment.index for e in client.of("entry") if e.entry.segment.revision > 1]


def has_drafts(count: int) -> Callable[[Client], bool]:
    def holds(client: Client) -> bool:
        segments = [event.entry.segment for event in client.of("entry")]
        return sum(one.quality == pb.QUALITY_DRAFT for one in segments) >= count

    return holds


def check(entries: list[pb.TranscriptEntry], received: int) -> None:
    """Every byte is accounted for once, every segment is final in the end, revised at most once, in order."""
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    events = [entry.event for entry in entries if entry.event]
    assert events == list(range(1, len(events) + 1))
    ledger = transcript.fold(entries[0].session_id, entries)
    assert ledger.closed is not None
    assert (ledger.closed.received_bytes, ledger.closed.coverage, ledger.closed.gap_s) == (received, 1.0, 0.0)
    told = [entry.segment for entry in entries if entry.HasField("segment")]
    first = [one.index for one in told if one.revision == 1]
    assert first == list(range(len(first)))
    again = [one.index for one in told if one.revision > 1]
    assert again == sorted(set(again))
    newest = {one.index: one for one in told}
    assert {one.quality for one in newest.values()} == {pb.QUALITY_FINAL}
    for one, other in itertools.pairwise(newest[index] for index in sorted(newest)):
        assert one.end_offset <= other.start_offset


async def healed(one: Replica, session_id: str, within_s: float = 30.0) -> list[pb.TranscriptEntry]:
    """Return the log when nothing is left to heal."""
    async with asyncio.timeout(within_s):
        while True:
            entries = await log_of(one, session_id)
            ledger = transcript.fold(session_id, entries)
            if ledger.closed is not None and not ledger.drafts:
                return entries
            await asyncio.sleep(0.05)


async def test_drafts_heal_while_the_session_goes_on_and_its_client_is_told(
    nats_server: NatsServer, speech: bytes
) -> None:
    half = len(speech) // 2
    async with healer(nats_server, "a") as (a, api):
        client = Client()
        session = await a.open(client)
        api.failures = [DOWN] * 1000
        speak(session, speech, end=half)
        await client.until(has_drafts(2))
        api.failures.clear()
        await client.until(lambda c: revised(c)[:2] == [0, 1], within_s=30)
        speak(session, speech, start=half)
        await client.until(lambda c: not session.ledger.drafts and c.acked_offset == len(speech), within_s=30)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        assert client.of("finished")[0].finished.accounts.draft_segments == 0
        events = [event.entry.event for event in client.of("entry")]
        assert events == list(range(2, 2 + len(events)))
        check(await log_of(a, session.id), len(speech))
        assert await a.heal_jobs.queued() == 0


async def test_what_is_left_when_the_session_closes_heals_afterwards(nats_server: NatsServer, speech: bytes) -> None:
    async with healer(nats_server, "a") as (a, api):
        client = Client()
        session = await a.open(client)
        api.failures = [DOWN] * 1000
        speak(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.heals
        assert accounts.draft_segments == accounts.segments > 3
        assert await a.heal_jobs.queued() == 1
        api.failures.clear()
        async with at_work(a.heal_jobs):
            check(await healed(a, session.id), len(speech))
        back = Client()
        await a.resume(session.id, token_of(client), back, last_event=client.of("finished")[0].finished.event)
        missed = [(e.segment.index, e.segment.revision) for e in back.of("restored")[0].restored.entries]
        assert missed == [(index, 2) for index in range(accounts.segments)]


async def test_owner_killed_while_it_heals_changes_nothing_in_the_end(nats_server: NatsServer, speech: bytes) -> None:
    async with healer(nats_server, "b") as (b, _):
        client = Client()
        async with healer(nats_server, "a") as (a, api):
            session = await a.open(client)
            api.failures = [DOWN] * 1000
            speak(session, speech)
            await client.until(lambda c: has_drafts(4)(c) and c.acked_offset == len(speech))
            api.failures.clear()
            await client.until(revised, within_s=30)
            await killed(session.id)
        seen = max(event.entry.event for event in client.of("entry"))
        back = Client()
        adopted = await b.resume(session.id, token_of(client), back, last_event=seen)
        adopted.finish(len(speech))
        await back.until(lambda c: c.of("finished"))
        async with at_work(b.heal_jobs):
            check(await healed(b, session.id), len(speech))


async def test_client_that_was_away_gets_the_revisions_it_missed(nats_server: NatsServer, speech: bytes) -> None:
    async with healer(nats_server, "a") as (a, api):
        client = Client()
        session = await a.open(client)
        api.failures = [DOWN] * 1000
        speak(session, speech)
        await client.until(has_drafts(4))
        seen = max(event.entry.event for event in client.of("entry"))
        session.detach(client)
        api.failures.clear()
        async with asyncio.timeout(30):
            while session.ledger.drafts:
                await asyncio.sleep(0.02)
        back = Client()
        await a.resume(session.id, token_of(client), back, last_event=seen)
        told = [e.segment for e in back.of("restored")[0].restored.entries]
        told = [one for one in told if one.index < 4]
        assert [(one.index, one.revision) for one in told] == [(n, 2) for n in range(4)]


async def test_words_before_a_draft_are_asked_with_and_drafts_are_not(nats_server: NatsServer, speech: bytes) -> None:
    async with healer(nats_server, "a") as (a, api):
        client = Client()
        session = await a.open(client)
        api.failures = [DOWN] * 1000
        speak(session, speech)
        await client.until(has_drafts(4))
        assert session.ledger.tail
        assert session.ledger.trusted_tail == ""


async def test_call_that_goes_on_behind_a_draft_heals_it_and_is_not_made_twice(
    nats_server: NatsServer, speech: bytes
) -> None:
    async with healer(nats_server, "a") as (a, api):
        client = Client()
        session = await a.open(client)
        api.gate.clear()
        speak(session, speech)
        session.finalize()
        await client.until(has_drafts(2), within_s=20)
        api.gate.set()
        await client.until(lambda c: len(revised(c)) >= 2 and c.acked_offset == len(speech))
        async with asyncio.timeout(20):
            while session.ledger.drafts:
                await asyncio.sleep(0.02)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        entries = await log_of(a, session.id)
        check(entries, len(speech))
        assert api.asked == client.of("finished")[0].finished.accounts.segments


async def test_without_a_better_engine_drafts_stay_and_nothing_is_asked(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a", QUICK) as a:
        a.engine.quality = "draft"
        client = Client()
        session = await a.open(client)
        speak(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        accounts = client.of("finished")[0].finished.accounts
        assert accounts.draft_segments == accounts.segments
        assert not accounts.heals
        assert revised(client) == []
        assert await a.heal_jobs.queued() == 0


async def killed(session_id: str) -> None:
    """End the session's owner as SIGKILL does."""
    for task in asyncio.all_tasks():
        if task.get_name() == f"session {session_id}":
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

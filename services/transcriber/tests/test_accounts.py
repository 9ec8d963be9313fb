"""The conservation law: what came is durable, repeated, refused, dropped or on its way; what was heard likewise."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis import ids
from chassis.tests.servers import NatsServer
from services.transcriber import metrics
from services.transcriber.backlog import Hole, Work
from services.transcriber.session import LiveSession
from services.transcriber.sessions import Sessions
from services.transcriber.speech import SpeechError
from services.transcriber.tests.accounts import WITHIN_S, Accounts, say
from services.transcriber.tests.fakes import Client, CountingSpeech
from services.transcriber.tests.replicas import FRAME_BYTES, SETTINGS, replica, speak, token_of
from services.transcriber.tests.test_api import opening, relay_of


def talk(session: LiveSession, pcm: bytes, start: int = 0, end: int | None = None) -> None:
    for offset in range(start, end or len(pcm), FRAME_BYTES):
        say(session, offset, pcm[offset : min(offset + FRAME_BYTES, end or len(pcm))])


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_every_byte_that_came_is_in_one_account(nats_server: NatsServer, speech: bytes) -> None:
    engine = CountingSpeech()
    engine.failures = [SpeechError("bad audio", retryable=False, reason="rejected")]
    async with replica(nats_server, "a", engine=engine) as a:
        accounts, client = Accounts([a]), Client()
        session = await a.open(client)
        talk(session, speech, end=160_000)
        assert accounts.undurable == 0, "at any moment, not in the end only"
        assert accounts.untold == 0
        say(session, 160_000 - 3200, speech[160_000 - 3200 : 160_000 + 3200])  # half of it again
        say(session, 0, speech[:3200])
        say(session, 200_000, speech[200_000:203_200])  # leaves a hole
        say(session, 163_200, speech[163_200:163_301])  # half a sample
        session.declare_gap(163_200, 190_000)
        talk(session, speech, start=190_000)
        await client.until(lambda c: c.indexes)
        await accounts.settle()
        session.finish(len(speech))
        say(session, len(speech), bytes(3200))
        await client.until(lambda c: c.of("finished"))
        await accounts.settle()
        assert accounts["repeated"] == 6400
        assert accounts["refused"] == 3200 + 101 + 3200
        assert accounts["durable"] == accounts["heard"] == len(speech) - (190_000 - 163_200)
        assert accounts["gap"] == 190_000 - 163_200
        assert accounts["unrecognised"] > 0
        assert accounts["transcribed"] > accounts["silence"] > 0
        assert accounts["dropped"] == accounts["handed_over"] == 0
        assert (a.audio.pending_bytes, a.sessions.pending_bytes) == (0, 0)


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_what_a_deposed_owner_held_is_handed_over_and_heard_again(nats_server: NatsServer, speech: bytes) -> None:
    async with replica(nats_server, "a") as a, replica(nats_server, "b") as b:
        accounts, first, second = Accounts([a, b]), Client(), Client()
        session = await a.open(first)
        a.engine.gate.clear()
        talk(session, speech, end=320_000)
        await first.until(lambda c: c.acked_offset == 320_000)
        say(session, 320_000, speech[320_000:323_200])  # not durable yet when the other comes
        adopted = await b.resume(session.id, token_of(first), second)
        await first.until(lambda c: c.of("problem"))
        talk(adopted, speech, start=second.of("restored")[0].restored.offset)
        adopted.finish(len(speech))
        await second.until(lambda c: c.of("finished"))
        await accounts.settle()
        assert accounts["handed_over"] > 0
        assert accounts["heard"] == 323_200 + len(speech), "all that the first one heard is heard again"


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_what_is_said_to_nobody_is_refused_at_the_relay(nats_server: NatsServer) -> None:
    audio = relay.Audio(offset=0, data=bytes(3200))
    async with replica(nats_server, "a") as one, relay_of(one) as call:
        accounts = Accounts([one])
        said = [opening(1, ids.new_id()), relay.ClientEvent(channel=7, audio=audio)]
        await call.write(relay.RelayRequest(events=said))
        assert (await call.read()).events[0].WhichOneof("kind") == "started"
        await call.write(relay.RelayRequest(events=[relay.ClientEvent(channel=1, audio=audio)]))
        async with asyncio.timeout(WITHIN_S):
            while accounts["durable"] < 3200:
                await asyncio.sleep(0.02)
        await accounts.settle()
        assert (accounts["received"], accounts["refused"]) == (6400, 3200)


class ForgetfulSession(LiveSession):
    """Lets the second utterance fall through the cracks: the bug that the second law is there for."""

    forgotten: Work | None = None

    async def _commit(self, work: Work | Hole, tasks: asyncio.TaskGroup) -> None:
        if isinstance(work, Work) and self.ledger.next_index == 1 and self.forgotten is None:
            self.forgotten = work
            return
        await super()._commit(work, tasks)


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_an_utterance_that_is_forgotten_is_missing_in_the_accounts(
    nats_server: NatsServer, speech: bytes
) -> None:
    """The accounts that the client is told call it silence: they are made of what is in the transcript."""
    async with replica(nats_server, "a") as a:
        a.sessions = Sessions(a.ports, SETTINGS, sessions_max=1, live_session=ForgetfulSession)
        accounts, client = Accounts([a]), Client()
        session = await a.open(client)
        talk(session, speech)
        session.finish(len(speech))
        await client.until(lambda c: c.of("finished"))
        assert client.of("finished")[0].finished.accounts.coverage == 1.0
        assert isinstance(session, ForgetfulSession)
        assert session.forgotten is not None
        lost = session.forgotten.utterance
        assert accounts.untold == lost.end_byte - lost.start_byte > 0
        assert accounts.undurable == 0


@pytest.mark.req("R-WS-4", "R-OBS-1")
async def test_audio_that_is_forgotten_before_it_is_durable_is_missing_too(
    nats_server: NatsServer, speech: bytes
) -> None:
    async with replica(nats_server, "a") as a:
        accounts, client = Accounts([a]), Client()
        session = await a.open(client)
        talk(session, speech, end=64_000)
        await client.until(lambda c: c.acked_offset == 64_000)
        speak(session, speech, start=64_000, end=67_200)
        metrics.AUDIO_RECEIVED.inc(3200 + 3200)  # another frame came, and nobody took it
        await client.until(partial(_has_acknowledged, 67_200))
        assert accounts.undurable == 3200


def _has_acknowledged(offset: int, client: Client) -> bool:
    return client.acked_offset == offset

"""The speaker is told when captions are drafts, why, and when they are not any more; the accounts count them."""

from __future__ import annotations

import pytest
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.tests.servers import NatsServer
from services.transcriber.speech import SpeechError
from services.transcriber.tests.fakes import Client
from services.transcriber.tests.replicas import speak
from services.transcriber.tests.signals import meeting
from services.transcriber.tests.test_healing import has_drafts, healer

QUOTA = SpeechError("scripted", retryable=False, reason="quota")
DOWN = SpeechError("scripted", retryable=True, reason="server")


def states(client: Client) -> list[tuple[int, str]]:
    """Return the states that the client was told, without repetitions."""
    told = [(event.status.state, event.status.reason) for event in client.of("status")]
    return [one for place, one in enumerate(told) if place == 0 or told[place - 1] != one]


@pytest.mark.req("R-STT-4")
@pytest.mark.parametrize(("fault", "reason"), [(DOWN, "speech_api"), (QUOTA, "quota")])
async def test_the_client_is_told_degraded_and_ok_again(
    nats_server: NatsServer, fault: SpeechError, reason: str
) -> None:
    client, pcm = Client(), meeting()
    async with healer(nats_server, "one") as (one, api):
        session = await one.open(client)
        api.failures = [fault] * 1000
        speak(session, pcm, 0, 640_000)
        await client.until(has_drafts(2), 30.0)
        await client.until(lambda c: (relay.STATE_DEGRADED, reason) in states(c), 30.0)
        api.failures = []
        await client.until(lambda c: states(c)[-1][0] == relay.STATE_OK, 30.0)
        speak(session, pcm, 640_000, 960_000)
        session.finish(960_000)
        await client.until(lambda c: c.of("finished"), 30.0)
        newest = [event.entry.segment for event in client.of("entry") if event.entry.HasField("segment")]
        assert newest[-1].quality == pb.QUALITY_FINAL

"""Stored audio is found again: any stretch, in any encoding, from the place that the log names."""

from __future__ import annotations

import numpy as np
import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from chassis.tests.servers import NatsServer
from services.transcriber import audio
from services.transcriber.drafts import Place
from services.transcriber.recall import AudioGone, recall
from services.transcriber.tests.fakes import Client
from services.transcriber.tests.recorder import CONTAINERS, Container, record
from services.transcriber.tests.replicas import replica
from services.transcriber.tests.test_encoded_sessions import SPEECH, acked, begin, send
from services.transcriber.transcript import Ledger, fold

pytestmark = pytest.mark.req("R-STT-5")
PCM = pb.ENCODING_PCM_S16LE


async def test_a_stretch_is_read_from_any_message_at_or_before_it(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        session_id = ids.new_id()
        pcm = SPEECH[:320_000]
        for start, part in audio.pieces(pcm, 0, 3200):
            await a.broker.js.publish(f"audio.{session_id}", audio.pack(start, part))
            if start == 160_000:  # what a resend leaves in the log
                await a.broker.js.publish(f"audio.{session_id}", audio.pack(150_000, pcm[150_000:160_000]))
        for sequence in (0, 1, 20):
            place = Place(0, sequence, None)
            assert await recall(a.audio, session_id, PCM, place, 100_000, 260_000) == pcm[100_000:260_000]
        assert await recall(a.audio, session_id, PCM, Place(0, 0, None), 319_998, 320_000) == pcm[-2:]


async def test_what_the_log_does_not_hold_is_not_guessed(nats_server: NatsServer) -> None:
    async with replica(nats_server, "a") as a:
        session_id = ids.new_id()
        place = Place(0, 0, None)
        with pytest.raises(AudioGone):
            await recall(a.audio, session_id, PCM, place, 0, 100)
        for start in (0, 200):
            await a.broker.js.publish(f"audio.{session_id}", audio.pack(start, bytes(100)))
        for start, end in ((50, 150), (100, 200), (250, 350)):
            with pytest.raises(AudioGone):
                await recall(a.audio, session_id, PCM, place, start, end)


@pytest.mark.parametrize("container", CONTAINERS)
async def test_stretches_of_encoded_audio_sound_as_they_did(nats_server: NatsServer, container: Container) -> None:
    recording = record(SPEECH, container, channels=2)
    async with replica(nats_server, "a") as a:
        client = Client()
        session = await begin(a, container, client)
        send(session, recording)
        await client.until(acked(len(recording)))
        session.finish(len(recording))
        await client.until(lambda c: c.of("finished"))
        entries = [entry for _, entry in await a.transcripts.read(session.id)]
        opened = entries[0].opened
        whole = await recall(a.audio, session.id, opened.encoding, Place(0, 0, None), 0, 600_000)
        compared = 0
        ledger = Ledger(session.id)
        for entry in entries:
            if entry.HasField("segment"):
                told = entry.segment
                place = Place(ledger.accounted_offset, ledger.audio_sequence, ledger.entry_point)
                if told.end_offset <= len(whole):
                    pcm = await recall(
                        a.audio, session.id, opened.encoding, place, told.start_offset, told.end_offset
                    )  # fmt: skip
                    difference = _samples(pcm) - _samples(whole[told.start_offset : told.end_offset])
                    assert np.abs(difference).max() < 400
                    compared += 1
            ledger.apply(entry)
        assert compared >= 4
        assert ledger == fold(session.id, entries)


def _samples(pcm: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.frombuffer(pcm, dtype="<i2").astype(np.int32)

"""What was said in a stretch of a session, read back from the audio log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.audio_log import AudioLog
from services.transcriber.decoding import Decoder, Heard
from services.transcriber.drafts import Place
from services.transcriber.opus_decoding import decoder_from


class AudioGone(Exception):
    """The log does not hold the stretch any more, or holds it with a hole."""


async def recall(
    audio: AudioLog, session_id: str, encoding: pb.Encoding.ValueType, place: Place, start: int, end: int
) -> bytes:
    """Return the PCM [start, end), read from a place at or before it.

    Raises AudioGone, AppError(UNAVAILABLE) if the broker does not answer.
    """
    decoder = decoder_from(encoding, place.entry_point, start)
    source_offset = start
    if not decoder.instant:
        source_offset = place.entry_point.encoded_offset if place.entry_point is not None else 0
    pcm = bytearray()
    wanted = end - start
    async with aclosing(audio.follow(session_id, source_offset, place.audio_sequence)) as pieces:
        async for piece in pieces:
            decoder.feed(piece)
            if not await _take(decoder, pcm, wanted) or len(pcm) >= wanted:
                break
        else:
            decoder.end()
            await _take(decoder, pcm, wanted)
    if len(pcm) < wanted:
        raise AudioGone
    return bytes(pcm[:wanted])


async def _take(decoder: Decoder, pcm: bytearray, wanted: int) -> bool:
    """Decode what was fed until there is enough; False at audio that is missing."""
    while decoder.pending and len(pcm) < wanted:
        for stretch in decoder.decode():
            if not isinstance(stretch, Heard):
                return False
            pcm += stretch.pcm
        await asyncio.sleep(0)
    return True

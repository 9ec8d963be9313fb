"""Speaking a recording or a live source into a session, at the pace of speech or a multiple of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from verbatim_client.live import LiveSession
from verbatim_client.wire import Event

FRAME_S = 0.1


async def in_frames(pcm: bytes, bytes_per_second: int) -> AsyncIterator[bytes]:
    """Give a recording in frames of a tenth of a second."""
    frame_bytes = int(bytes_per_second * FRAME_S)
    for start in range(0, len(pcm), frame_bytes):
        yield pcm[start : start + frame_bytes]


async def speak(
    session: LiveSession,
    frames: AsyncIterable[bytes],
    bytes_per_second: int,
    *,
    speed: float | None = 1.0,
    finish_within_s: float = 60.0,
    source_can_wait: bool = True,
) -> Event:
    """Hand frames over as they fall due, finish, and give the accounts.

    `speed` is a multiple of real time; None is as fast as the platform takes it. A source that cannot wait is
    read on while there is no connection: see `LiveSession.offer`. What is still to be sent at the end adds its
    own length to `finish_within_s`. Raises StreamError, or TimeoutError if `finished` does not come.
    """
    loop = asyncio.get_running_loop()
    started, spoken_bytes = loop.time(), 0
    async for frame in frames:
        spoken_bytes += len(frame)
        if speed is not None:
            # Audio exists only once it was spoken: a frame is due at its end.
            due = started + spoken_bytes / bytes_per_second / speed
            await asyncio.sleep(max(0.0, due - loop.time()))
        if source_can_wait:
            await session.send(frame)
        else:
            await session.offer(frame)
    unsent_s = (session.written_offset - session.acked_offset) / bytes_per_second
    return await session.finish(finish_within_s + unsent_s)

"""A meetings service that goes on with what is new in the transcript log when the database did not take something.

Both halves are left out: a batch is not repeated, and who takes over does not begin where the database is. (A cut from
the database costs the consumer its lead as well, and the next one would read everything again.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nats.aio.msg import Msg

from chassis import lifecycle
from chassis.errors import AppError
from chassis.settings import load
from services.meetings.__main__ import start
from services.meetings.events import TRANSCRIPT, TranscriptConsumer
from services.meetings.settings import Settings


class CarelessTranscriptConsumer(TranscriptConsumer):
    """Tries once."""

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Apply messages, or forget them."""
        try:
            await super().handle(messages)
        except AppError:
            return

    async def start(self) -> int:
        """Begin behind all that there is."""
        await super().start()
        return int((await self._bus.js.stream_info(TRANSCRIPT)).state.last_seq) + 1


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run(
        "meetings", settings, partial(start, settings=settings, transcript_consumer=CarelessTranscriptConsumer)
    )

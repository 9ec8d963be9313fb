"""A meetings service that goes on with the next batch of the transcript log when the database did not take one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nats.aio.msg import Msg

from chassis import lifecycle
from chassis.errors import AppError
from chassis.settings import load
from services.meetings.__main__ import start
from services.meetings.events import TranscriptConsumer
from services.meetings.settings import Settings


class CarelessTranscriptConsumer(TranscriptConsumer):
    """Tries once."""

    async def handle(self, messages: Sequence[Msg]) -> None:
        """Apply messages, or forget them."""
        try:
            await super().handle(messages)
        except AppError:
            return


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run(
        "meetings", settings, partial(start, settings=settings, transcript_consumer=CarelessTranscriptConsumer)
    )

"""A transcriber that takes every frame for new audio, also one that it holds already."""

from __future__ import annotations

from functools import partial

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.session import LiveSession
from services.transcriber.settings import Settings


class CredulousSession(LiveSession):
    """Does not look at offsets that lie behind."""

    def receive(self, offset: int, data: bytes) -> None:
        """Take audio as if it came next."""
        super().receive(max(offset, self._intake.held_offset), data)


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, live_session=CredulousSession))

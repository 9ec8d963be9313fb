"""A transcriber that never lets go of a session that is over."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.session import LiveSession
from services.transcriber.settings import Settings


class KeptSession(LiveSession):
    """Is remembered for ever."""

    kept: ClassVar[list[LiveSession]] = []

    async def run(self) -> None:
        """Serve as ever."""
        self.kept.append(self)
        await super().run()


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("transcriber", settings, partial(start, settings, live_session=KeptSession))

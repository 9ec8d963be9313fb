"""A meetings service that stops without telling its callers."""

from __future__ import annotations

from functools import partial

from chassis import lifecycle, rpc
from chassis.settings import load
from services.meetings.__main__ import start
from services.meetings.settings import Settings


class CurtServer(rpc.Server):
    """Goes without a word."""

    async def retire(self) -> None:
        """Tell nobody."""


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("meetings", settings, partial(start, settings=settings, grpc_server=CurtServer))

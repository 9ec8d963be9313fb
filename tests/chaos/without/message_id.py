"""A meetings service whose events have no id by which the broker would know that it has one already."""

from __future__ import annotations

from functools import partial
from typing import Any

from chassis import lifecycle
from chassis.relay import Relay
from chassis.settings import load
from services.meetings.__main__ import start
from services.meetings.settings import Settings


class NamelessRelay(Relay):
    """Publishes again what was not acknowledged, as if for the first time."""

    def _headers(self, row: Any) -> dict[str, str]:
        """Return the headers without the id."""
        return {name: value for name, value in super()._headers(row).items() if name != "Nats-Msg-Id"}


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("meetings", settings, partial(start, settings=settings, relay=NamelessRelay))

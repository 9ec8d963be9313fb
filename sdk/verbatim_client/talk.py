"""One connection's side of a session: what it hears reaches the session only while it is the current one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verbatim_client.errors import StreamError
from verbatim_client.outbox import Outbox
from verbatim_client.wire import Event

DEFAULT_HEARTBEAT_S = 20.0


class Talk:
    """Made anew for each connection, with the generation that the outbox gave it."""

    def __init__(
        self, greeting: Event, outbox: Outbox, changed: asyncio.Condition, on_event: Callable[[Event], bool]
    ) -> None:
        """Begin a connection from its greeting. Raises StreamError if it asks for what cannot be.

        `on_event` gets what the current connection hears and says whether more is wanted.
        """
        self._outbox = outbox
        self._changed = changed
        self._on_event = on_event
        try:
            self.heartbeat_s = float(greeting.get("heartbeat_s", DEFAULT_HEARTBEAT_S))
            window = greeting.get("window_bytes")
            self._generation = outbox.begin(int(greeting["offset"]), None if window is None else int(window))
        except (KeyError, TypeError, ValueError) as nonsense:
            raise broken(greeting, nonsense) from nonsense

    async def hear(self, event: Event) -> bool:
        """Let an event have its effect; False when nothing more is wanted. Raises StreamError for nonsense."""
        try:
            is_current = self._outbox.take(self._generation, event)
        except (KeyError, TypeError, ValueError) as nonsense:
            raise broken(event, nonsense) from nonsense
        wants_more = is_current and self._on_event(event)
        async with self._changed:
            self._changed.notify_all()
        return wants_more

    async def next_message(self) -> str | bytes | None:
        """Wait until something may be said, and give it; None once another connection is the current one."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._outbox.has_something(self._generation))
                pause_s = self._outbox.pause_s()
                if pause_s <= 0.0:
                    return self._outbox.next_message(self._generation)
            await asyncio.sleep(pause_s)


def broken(event: Event, nonsense: Exception) -> StreamError:
    """Give the error for an event that cannot be true."""
    return StreamError(f"the platform broke the protocol with '{event['type']}': {nonsense}", None)

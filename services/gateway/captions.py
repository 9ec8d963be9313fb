"""The door to live captions: what transcribers and meetings say of a meeting at once, and may be lost on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from verbatim.captions.v1.captions_pb2 import Caption

from chassis import bus, telemetry
from services.gateway.broker import Broker

log = telemetry.logger(__name__)

Hear = Callable[[Caption], None]

_PENDING_MESSAGES = 1024
_PENDING_BYTES = 1024 * 1024


class Captions(Protocol):
    """Where captions come from."""

    @property
    def connected(self) -> bool:
        """Whether captions come at all now; without, whoever waits must look for himself more often."""

    def follow(self, meeting_id: str, hear: Hear) -> AbstractAsyncContextManager[None]:
        """Hand over the captions of a meeting. Neither the broker's absence nor its return is an error."""


class NatsCaptions:
    """Captions from the broker's core subjects `captions.<meeting>`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._followers: dict[_Follower, None] = {}
        broker.when_connected(self._subscribe)

    @property
    def connected(self) -> bool:
        return self._broker.connected

    async def _subscribe(self, connection: bus.Bus) -> None:
        for follower in list(self._followers):
            await follower.subscribe(connection)

    @asynccontextmanager
    async def follow(self, meeting_id: str, hear: Hear) -> AsyncIterator[None]:
        """Hand over the captions of a meeting."""
        follower = _Follower(meeting_id, hear)
        self._followers[follower] = None
        try:
            if (connection := self._broker.get()) is not None:
                await follower.subscribe(connection)
            yield
        finally:
            del self._followers[follower]
            await follower.leave()


class _Follower:
    """One subscription. The client renews it by itself when the connection was lost."""

    def __init__(self, meeting_id: str, hear: Hear) -> None:
        self._subject = f"captions.{meeting_id}"
        self._hear = hear
        self._subscription: Subscription | None = None
        self._left = False

    async def subscribe(self, broker: bus.Bus) -> None:
        if self._left:
            return
        try:
            self._subscription = await broker.client.subscribe(
                self._subject, cb=self._take, pending_msgs_limit=_PENDING_MESSAGES, pending_bytes_limit=_PENDING_BYTES
            )
        except bus.FAULTS as fault:
            log.warning("not subscribed", fault=repr(fault))

    async def leave(self) -> None:
        self._left = True
        if self._subscription is not None:
            await bus.quietly(self._subscription.unsubscribe())

    async def _take(self, message: Msg) -> None:
        try:
            caption = Caption.FromString(message.data)
        except DecodeError:
            log.warning("caption cannot be read")
            return
        self._hear(caption)

"""Large things in JetStream, in the layout of its object store, written piece by piece and fenced.

The library's own `put` reads a blocking file and cannot go on where another process stopped. Here an object grows: each
piece names the message that it follows, so of two writers one wins, a piece whose acknowledgement was lost is not
stored twice, and any process can go on from what the broker holds. What is sealed is read by every client of the object
store.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import nats.js.errors
import orjson
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis import bus
from chassis.errors import AppError, Kind

PIECE_BYTES = 512 * 1024
"""Half of what the broker takes in one message as it ships."""

_OFFSET = "Verbatim-Offset"
_WRONG_LAST_SEQUENCE = 10071
_NO_SPACE = frozenset({10023, 10047, 10077, 10122})
_PUBLISH_S = 5.0
_READ_BATCH = 4
_READ_S = 5.0


class Overtaken(Exception):
    """Somebody else has written to the object since it was looked at."""


@dataclass(frozen=True, slots=True)
class Held:
    """How much of an object the broker holds (bytes), and in which message that ends (0: nothing yet)."""

    offset: int = 0
    sequence: int = 0


class Objects:
    """The objects of one bucket. Names are UUIDs, so that their age can be read from them."""

    def __init__(self, connection: Callable[[], bus.Bus], bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"

    def stream(self, bytes_max: int) -> bus.Stream:
        """Return the declaration of the bucket's stream."""
        return bus.Stream(self._stream, (f"$O.{self._bucket}.C.>", f"$O.{self._bucket}.M.>"), max_bytes=bytes_max)

    async def held(self, name: str) -> Held:
        """Return how much of an object there is. Raises AppError(UNAVAILABLE)."""
        last = await self._last(name)
        return last[0] if last is not None else Held()

    async def append(self, name: str, held: Held, piece: bytes) -> Held:
        """Add a piece behind what is held and return what is held then.

        Raises Overtaken, AppError: INSUFFICIENT_STORAGE if the bucket is full, UNAVAILABLE if the broker does not
        answer. To try the same piece again after UNAVAILABLE is safe.
        """
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(held.sequence),
            _OFFSET: str(held.offset),
        }
        connection = self._connection()
        if not connection.client.is_connected:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="not connected")
        try:
            ack = await connection.js.publish(self._pieces(name), piece, timeout=_PUBLISH_S, headers=headers)
        except nats.js.errors.APIError as fault:
            if fault.err_code in _NO_SPACE:
                raise AppError(Kind.INSUFFICIENT_STORAGE, "There is no space left.", retry_after_s=60.0) from fault
            if fault.err_code != _WRONG_LAST_SEQUENCE:
                raise AppError(Kind.UNAVAILABLE, "The broker refuses.", log=repr(fault)) from fault
            last = await self._last(name)
            if last is not None and last[1] == piece and last[0].offset == held.offset + len(piece):
                return last[0]  # its acknowledgement was lost
            raise Overtaken(name) from fault
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return Held(held.offset + len(piece), ack.seq)

    async def seal(self, name: str, size: int, digest: bytes | None = None) -> None:
        """Tell clients of the object store of an object. Without its SHA-256 all of it is read for that.

        Raises AppError(UNAVAILABLE). Safe to repeat.
        """
        if digest is None:
            sha = hashlib.sha256()
            async for piece in self.read(name, size):
                sha.update(piece)
            digest = sha.digest()
        info = {
            "name": name,
            "bucket": self._bucket,
            "nuid": name,
            "size": size,
            "chunks": (await self._counts(name))[name],
            "digest": f"SHA-256={base64.urlsafe_b64encode(digest).decode()}",
        }
        await self._connection().publish(self._meta(name), orjson.dumps(info), message_id=f"{name}/sealed")

    async def read(self, name: str, size: int) -> AsyncIterator[bytes]:
        """Yield the object's pieces in order, never more than a few in memory.

        Raises AppError: NOT_FOUND if there are not `size` bytes of it, UNAVAILABLE if the broker does not answer.
        """
        config = ConsumerConfig(
            filter_subject=self._pieces(name),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30,
            mem_storage=True,
        )
        if (await self.held(name)).offset < size:
            raise AppError(Kind.NOT_FOUND, "The file is not there any more.")
        js = self._connection().js
        position = 0
        try:
            subscription = await js.pull_subscribe(self._pieces(name), stream=self._stream, config=config)
            try:
                while position < size:
                    batch: list[Msg] = await subscription.fetch(_READ_BATCH, timeout=_READ_S)
                    for message in batch:
                        if int((message.headers or {}).get(_OFFSET, "-1")) != position:
                            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log="pieces do not follow")
                        position += len(message.data)
                        yield message.data
            finally:
                await bus.quietly(subscription.unsubscribe())
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{name}: {fault!r}") from fault

    async def remove(self, name: str) -> None:
        """Remove all of an object, if there is anything. Raises AppError(UNAVAILABLE)."""
        js = self._connection().js
        try:
            await js.purge_stream(self._stream, subject=self._meta(name))
            await js.purge_stream(self._stream, subject=self._pieces(name))
        except nats.js.errors.NotFoundError:
            return
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{name}: {fault!r}") from fault

    async def names(self) -> list[str]:
        """Return the names of all objects, also of those that are being written. Raises AppError(UNAVAILABLE)."""
        return sorted(await self._counts("*"))

    async def _counts(self, name: str) -> dict[str, int]:
        prefix = self._pieces("")
        try:
            info = await self._connection().js.stream_info(self._stream, subjects_filter=self._pieces(name))
        except nats.js.errors.NotFoundError:
            return {}
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        return {subject.removeprefix(prefix): pieces for subject, pieces in (info.state.subjects or {}).items()}

    def _pieces(self, name: str) -> str:
        return f"$O.{self._bucket}.C.{name}"

    def _meta(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _last(self, name: str) -> tuple[Held, bytes] | None:
        try:
            message = await self._connection().js.get_last_msg(self._stream, self._pieces(name))
        except nats.js.errors.NotFoundError:
            return None
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        data = message.data or b""
        offset = int((message.headers or {}).get(_OFFSET, "0"))
        return Held(offset + len(data), message.seq or 0), data

"""What lets a program without asyncio use the client: a loop in a thread of its own, and waiting for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from verbatim_client.client import CALL_WITHIN_S, VerbatimClient

T = TypeVar("T")


class Waiting:
    """A client in a thread. Use it as a context manager: the thread and its connections end with it."""

    def __init__(
        self,
        base_url: str,
        *,
        access_token: str | None = None,
        refresh_token: str | None = None,
        within_s: float = CALL_WITHIN_S,
    ) -> None:
        """Take the platform's address, and an access token or API key if there is one already."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="verbatim", daemon=True)
        self._client = VerbatimClient(
            base_url, access_token=access_token, refresh_token=refresh_token, within_s=within_s
        )

    def __enter__(self) -> Self:
        """Start the thread; the client connects with the first call."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections and end the thread."""
        self._wait(self._client.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def access_token(self) -> str | None:
        """What later calls carry; None while nobody is logged in."""
        return self._client.access_token

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("use the client in a with statement")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C interrupts the waiting; what is waited for ends with it.
            future.cancel()
            raise

    def _each(self, items: AsyncIterable[T]) -> Iterator[T]:
        end = object()

        async def following() -> Any:
            return await anext(steps, end)

        steps = items.__aiter__()
        try:
            while (item := self._wait(following())) is not end:
                yield item
        finally:
            if isinstance(steps, AsyncGenerator):
                self._wait(steps.aclose())

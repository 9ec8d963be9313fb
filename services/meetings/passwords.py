"""Passwords: hashed with argon2id, away from the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import argon2
import argon2.exceptions

from chassis.errors import AppError, Kind
from chassis.threads import ready_pool
from services.meetings.settings import Settings

_BUSY_RETRY_S = 2.0
_LANES = 4

T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords.

    One hash takes, as it ships, 64 MiB and some 0.2 s of a core (RFC 9106, second recommended option): without limits a
    few dozen logins at once would be an outage. Beyond `queue_max` that wait, callers get
    AppError(RATE_LIMIT_EXCEEDED). Where the system has no threads left for it, they get AppError(UNAVAILABLE).
    """

    def __init__(self, hasher: argon2.PasswordHasher, *, workers: int, queue_max: int) -> None:
        self._hasher = hasher
        self._threads = ready_pool(workers, "password")
        self._most = workers + queue_max
        self._under_way = 0
        # Checked for accounts that do not exist, so that they take as long as those that do.
        self._nobody = hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """Return the hash to keep."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Tell whether the password belongs to the hash; False, as slowly, if there is no hash."""

        def check() -> bool:
            try:
                self._hasher.verify(kept or self._nobody, password)
            except argon2.exceptions.VerifyMismatchError:
                return False
            return kept is not None

        return await self._run(check)

    def is_outdated(self, kept: str) -> bool:
        """Tell whether a hash was made with less work than we ask for now."""
        return self._hasher.check_needs_rehash(kept)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._most:
            raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many people log in right now.", retry_after_s=_BUSY_RETRY_S)
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # A caller that gives up does not free its thread: only the end of the work does.
        future.add_done_callback(self._finished)
        try:
            return await asyncio.shield(future)
        except (argon2.exceptions.HashingError, argon2.exceptions.VerificationError) as fault:
            # A mismatch is no fault (see `matches`): this is want of threads or of memory, each hash takes both.
            raise AppError(
                Kind.UNAVAILABLE, "Passwords cannot be checked right now.", log=repr(fault), retry_after_s=_BUSY_RETRY_S
            ) from fault

    def _finished(self, future: asyncio.Future[T]) -> None:
        self._under_way -= 1
        if not future.cancelled():
            future.exception()  # seen, also when nobody waits any more

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def password_hasher(settings: Settings) -> argon2.PasswordHasher:
    """Return what makes hashes as the settings say."""
    return argon2.PasswordHasher(
        time_cost=settings.password_hash_passes, memory_cost=settings.password_hash_mib * 1024, parallelism=_LANES
    )


@contextmanager
def passwords(settings: Settings) -> Iterator[Passwords]:
    """Open the threads and close them at the end."""
    opened = Passwords(
        password_hasher(settings), workers=settings.password_workers, queue_max=settings.password_queue_max
    )
    try:
        yield opened
    finally:
        opened.close()

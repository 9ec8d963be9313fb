"""Accounts that a stack has from its start: opened by the operator's command, as in any installation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OPENED_WITHIN_S = 180.0


@dataclass(frozen=True)
class Person:
    """Who can log in. The password is no secret: it opens a platform on loopback with a recording in it."""

    email: str
    username: str
    password: str
    admin: bool = False


DEMO = Person("demo@verbatim.example", "demo", "verbatim-demo-1")
ADMIN = Person("admin@verbatim.example", "admin", "verbatim-admin-1", admin=True)


class NotOpenedError(Exception):
    """An account could not be opened. The message says why."""


async def open_accounts(people: Sequence[Person], env: Mapping[str, str], code: Path) -> None:
    """Open accounts with the environment of the meetings service. Raises NotOpenedError, TimeoutError."""
    async with asyncio.timeout(OPENED_WITHIN_S), asyncio.TaskGroup() as group:
        for person in people:
            group.create_task(_open(person, env, code))


async def _open(person: Person, env: Mapping[str, str], code: Path) -> None:
    command = ["-m", "services.meetings", "add-account", person.email, person.username]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *(["--admin"] if person.admin else []), env=dict(env), cwd=code,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate(f"{person.password}\n".encode())
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0:
        raise NotOpenedError(f"{person.email}: {said.decode(errors='replace').strip()[-500:]}")

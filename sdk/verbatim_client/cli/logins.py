"""The logins of this person on this machine, in a file that only they can read."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verbatim_client.cli.edge import CliError, Exit
from verbatim_client.cli.settings import DEFAULT_URL, CliSettings
from verbatim_client.client import VerbatimClient

LOCKED_WITHIN_S = 30.0
ASK_EVERY_S = 0.05


@dataclass(frozen=True)
class Login:
    """Tokens, and whose they are."""

    email: str
    access_token: str
    refresh_token: str


class Logins:
    """One login per platform. A token goes to the platform that gave it, to no other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "logins.json"

    def current_url(self) -> str | None:
        """Give the platform of the last login."""
        url = self._read().get("current")
        return str(url) if url else None

    def at(self, url: str) -> Login | None:
        """Give the login at a platform, if there is one."""
        kept = self._read().get("logins", {}).get(url)
        return Login(**kept) if kept else None

    def keep(self, url: str, login: Login) -> None:
        """Keep a login, and make its platform the current one."""
        content = self._read()
        self._write({"current": url, "logins": content.get("logins", {}) | {url: asdict(login)}})

    def forget(self, url: str) -> None:
        """Forget a login."""
        logins = {known: login for known, login in self._read().get("logins", {}).items() if known != url}
        self._write({"current": next(iter(logins), None), "logins": logins})

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep other commands of this person from changing logins meanwhile. Raises CliError if one never ends."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "logins.lock").open("w") as lock:
            deadline = time.monotonic() + LOCKED_WITHIN_S
            while not _taken(lock.fileno()):
                if time.monotonic() > deadline:
                    raise CliError("another verbatim command holds the logins")
                await asyncio.sleep(ASK_EVERY_S)
            yield

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as fault:
            raise CliError(f"{self._file} is damaged; remove it and log in again") from fault
        return content if isinstance(content, dict) else {}

    def _write(self, content: dict[str, Any]) -> None:
        new = self._file.with_suffix(f".{os.getpid()}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
        finally:
            new.unlink(missing_ok=True)


class KeptClient(VerbatimClient):
    """A client whose new tokens are kept for the next command."""

    def __init__(self, url: str, logins: Logins, login: Login) -> None:
        super().__init__(url, access_token=login.access_token, refresh_token=login.refresh_token)
        self._logins = logins
        self._email = login.email

    async def refresh(self) -> dict[str, Any]:
        """Trade the refresh token for new tokens, unless another command has done so already."""
        async with self._logins.locked():
            kept = self._logins.at(self.base_url)
            if kept is not None and kept.refresh_token != self.refresh_token:
                self.access_token, self.refresh_token = kept.access_token, kept.refresh_token
                return {"access_token": kept.access_token, "refresh_token": kept.refresh_token}
            tokens = await super().refresh()
            self._logins.keep(self.base_url, Login(self._email, tokens["access_token"], tokens["refresh_token"]))
            return tokens


def platform_url(settings: CliSettings) -> str:
    """Give the platform that is meant."""
    return settings.url or Logins(settings.folder).current_url() or DEFAULT_URL


def logged_in(settings: CliSettings) -> VerbatimClient:
    """Give a client with the person's tokens. Raises CliError if there are none for that platform."""
    url = platform_url(settings)
    if settings.token:
        return VerbatimClient(url, access_token=settings.token)
    logins = Logins(settings.folder)
    if login := logins.at(url):
        return KeptClient(url, logins, login)
    raise CliError(f"not logged in at {url}: verbatim --url {url} login", Exit.NOT_LOGGED_IN)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

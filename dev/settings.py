"""What the caller's environment may say to the local platform: the only place that reads it."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_PORT = 8000
ELSEWHERE = Path("/var/lib/verbatim")
PASSED_ON = (
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "WHISPER_MODEL", "LLM_MODEL"),
    *("SENTRY_DSN", "OTEL_EXPORTER_OTLP_ENDPOINT", "LOG_LEVEL"),
)


class SettingsError(Exception):
    """A variable has a value that cannot be used. The message names it."""


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m dev`. `passed_on` goes to every service as it is."""

    port: int
    data_folder: Path
    nats_server: str | None
    passed_on: Mapping[str, str]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read the caller's environment. Raises SettingsError."""
        port = environ.get("PORT") or str(DEFAULT_PORT)
        if not port.isascii() or not port.isdigit() or not 1024 <= int(port) <= 65535:
            raise SettingsError(f"PORT: {port!r} is not a port between 1024 and 65535")
        named = environ.get("VERBATIM_DATA_DIR")
        return cls(
            port=int(port),
            data_folder=Path(named).absolute() if named else default_data_folder(),
            nats_server=environ.get("VERBATIM_NATS_SERVER") or None,
            passed_on={name: environ[name] for name in PASSED_ON if environ.get(name)},
        )


def default_data_folder(root: Path = ROOT) -> Path:
    """Give `.run` of the checkout, or a folder below /var/lib for a checkout in root's closed home.

    PostgreSQL does not run as root, and another user cannot reach what is below a home of mode 0700.
    """
    if not needs_other_user() or closed_to_others(root) is None:
        return root / ".run"
    return ELSEWHERE / hashlib.sha256(str(root).encode()).hexdigest()[:12]


def needs_other_user() -> bool:
    """Say whether PostgreSQL must run as another user than the caller."""
    return os.geteuid() == 0


def closed_to_others(path: Path) -> Path | None:
    """Name the folder on the way to `path` that the user postgres may not pass, if there is one."""
    for folder in (path, *path.parents):
        if folder.exists() and not _may_pass(folder):
            return folder
    return None


def _may_pass(folder: Path) -> bool:
    status = folder.stat()
    if status.st_mode & 0o001:
        return True
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        return False
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return bool(
        (status.st_uid == account.pw_uid and status.st_mode & 0o100)
        or (status.st_gid in groups and status.st_mode & 0o010)
    )

"""Where the command finds the platform and the login."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

DEFAULT_URL = "http://localhost:8000"


@dataclass(frozen=True)
class CliSettings:
    """What the command line and the environment say. `url` None: the one of the last login."""

    url: str | None
    token: str | None
    folder: Path

    @classmethod
    def of(cls, environ: Mapping[str, str], url: str | None) -> CliSettings:
        """Read the environment; the command line wins."""
        named = url or environ.get("VERBATIM_URL") or None
        folder = Path(typer.get_app_dir("verbatim"))
        return cls(named.rstrip("/") if named else None, environ.get("VERBATIM_TOKEN") or None, folder)

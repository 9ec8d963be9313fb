"""`verbatim backup`, `verify`, `restore`: where the platform itself is installed, as in its image.

They speak to databases and broker, not to the platform's front door: the work is done by its module `recovery`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from verbatim_client.cli.printing import note

Place = Annotated[Path, typer.Argument(metavar="DIR", help="A backup, or a folder of backups: then its newest.")]


def backup(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of backups.")],
    keep: Annotated[int, typer.Option(min=1, help="Backups kept.")] = 14,
) -> None:
    """Save both databases and the broker's streams into a new folder below DIR."""
    _run("backup", "--keep", str(keep), str(place))


def verify(place: Place) -> None:
    """Read every byte of a backup and compare it with what was written."""
    _run("verify", str(place))


def restore(
    place: Place, force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False
) -> None:
    """Make empty databases and streams what they were."""
    _run("restore", *(["--force"] if force else []), str(place))


def _run(*arguments: str) -> None:
    if importlib.util.find_spec("recovery") is None:
        note("the platform is not installed here; run it in its image: recovery " + " ".join(arguments[:1]) + " DIR")
        raise typer.Exit(2)
    raise typer.Exit(subprocess.run([sys.executable, "-m", "recovery", *arguments], check=False).returncode)

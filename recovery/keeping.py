"""Backups in one folder: one folder each, named by its moment, whole or not there at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from recovery.manifest import BackupUnusable

_NAME = re.compile(r"\d{8}T\d{6}Z")
_UNDER_WAY = ".part"


@contextmanager
def new(home: Path, moment: datetime) -> Iterator[Path]:
    """Yield an empty folder, which is given its name when the block ends well and goes when it does not.

    Only its owner can read it. Raises BackupUnusable if there is one of this second.
    """
    name = moment.strftime("%Y%m%dT%H%M%SZ")
    aside = home / f"{name}{_UNDER_WAY}"
    home.mkdir(parents=True, exist_ok=True)
    if (home / name).exists() or aside.exists():
        raise BackupUnusable(f"there is a backup {name} already")
    aside.mkdir(mode=0o700)
    try:
        yield aside
        aside.rename(home / name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def there(home: Path) -> list[Path]:
    """Return the backups of a folder, the newest first."""
    found = (path for path in home.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)) if home.is_dir() else ()
    return sorted(found, reverse=True)


def chosen(place: Path) -> Path:
    """Return the backup that is meant: the folder itself, or the newest in it. Raises BackupUnusable."""
    if (place / "manifest.json").exists():
        return place
    backups = there(place)
    if not backups:
        raise BackupUnusable(f"there is no backup in {place}")
    return backups[0]


def thin_out(home: Path, keep: int) -> list[str]:
    """Remove all but the newest, and what was broken off before them; return the names."""
    kept = there(home)[:keep]
    gone = there(home)[keep:]
    if kept:
        gone += [path for path in home.glob(f"*Z{_UNDER_WAY}") if path.name < kept[0].name]
    for path in gone:
        shutil.rmtree(path)
    return [path.name for path in gone]

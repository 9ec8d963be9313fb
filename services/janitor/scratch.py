"""The folder of temporary files, through its descriptor only: nothing outside of it can be reached by any name."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.janitor import open_files
from services.janitor.sweep import Entry


class Scratch:
    """An open folder. Every name is looked up in this very folder and never followed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def entries(self) -> Iterator[Entry]:
        """Yield what is in the folder. Names that vanish meanwhile are left out."""
        with os.scandir(self._descriptor) as names:
            for name in names:
                entry = self._entry(name.name)
                if entry is not None:
                    yield entry

    def remove(self, entry: Entry) -> bool:
        """Remove a file if it is still the one that was looked at; False if another was faster or changed it."""
        if self._entry(entry.name) != entry:
            return False
        try:
            os.unlink(entry.name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return False
        return True

    def in_use(self, entry: Entry, open_elsewhere: Collection[open_files.Place]) -> bool:
        """Tell whether somebody has the file open or has locked it; if that cannot be told, it is in use."""
        if (entry.device, entry.inode) in open_elsewhere:
            return True
        try:
            return open_files.locked(entry.name, self._descriptor)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _entry(self, name: str) -> Entry | None:
        try:
            found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Entry(name, found.st_ino, stat.S_ISREG(found.st_mode), found.st_mtime, found.st_size, found.st_dev)


@contextmanager
def opened(folder: Path) -> Iterator[Scratch | None]:
    """Open a folder that is really one; None if there is none yet. Raises OSError for a link or a file in its place."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield Scratch(descriptor)
    finally:
        os.close(descriptor)

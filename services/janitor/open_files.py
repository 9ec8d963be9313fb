"""Which files somebody has open or has locked, as far as one can see from here.

Processes are seen that share our view of processes and that we may look at; a lock is seen by whoever shares the disk.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

Place = tuple[int, int]
"""Device and inode: a file whatever its names are."""


def seen(proc: Path = Path("/proc")) -> set[Place]:
    """Return the files that processes have open, without ours. Takes time in proportion to their number."""
    own = str(os.getpid())
    found: set[Place] = set()
    for process in proc.iterdir():
        if not process.name.isdigit() or process.name == own:
            continue
        # It may end meanwhile, or not be ours to look at.
        with suppress(OSError), os.scandir(process / "fd") as files:
            for file in files:
                with suppress(OSError):
                    there = file.stat()
                    found.add((there.st_dev, there.st_ino))
    return found


def locked(name: str, folder: int) -> bool:
    """Tell whether somebody holds a lock (flock) on a file of an open folder. A name that is a link is never followed.

    Raises OSError.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

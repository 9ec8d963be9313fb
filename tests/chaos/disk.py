"""A file system of a process's own that can be made full and large again. Only root may mount one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_LARGE = "64g"
_WITHIN_S = 20.0


class Disk:
    """A tmpfs at a folder; a context manager. It takes memory only for what is in it, whatever its size; it is as large
    as the broker wants its disk to be to reserve all streams."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        """Mount it. Raises PermissionError if we may not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            _run("mount", "-t", "tmpfs", "-o", f"size={_LARGE},mode=0755", "verbatim-chaos", str(self.folder))
        except (subprocess.CalledProcessError, FileNotFoundError) as fault:
            raise PermissionError(f"no file system of its own can be mounted: {fault}") from fault
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmount it, whatever still uses it."""
        _run("umount", "-l", str(self.folder))

    def fill(self, left_bytes: int) -> None:
        """Leave so much room."""
        state = os.statvfs(self.folder)
        used_bytes = (state.f_blocks - state.f_bfree) * state.f_frsize
        self._resize(str(used_bytes + left_bytes))

    def enlarge(self) -> None:
        """Have room again."""
        self._resize(_LARGE)

    def _resize(self, size: str) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.folder))


def may_mount() -> str:
    """Say why no disk can be had; empty if one can."""
    return "" if os.geteuid() == 0 else "only root may mount a file system"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_WITHIN_S)

"""Processes that get no thread and no child any more, by a control group. Only root may make one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# cgroup v1 has a tree for each resource, v2 one for all.
_TREES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


def may_limit() -> str:
    """Say why no control group can be had; empty if one can."""
    try:
        with _group("try") as group:
            return "" if (group / "pids.max").exists() else "no control group here counts processes"
    except OSError as fault:
        return f"no control group can be made: {fault.strerror}"


@contextmanager
def exhausted(pids: Sequence[int]) -> Iterator[None]:
    """Let processes have the threads and children that they have, and no more, while the context lasts."""
    with contextlib.ExitStack() as groups:
        for pid in pids:
            group = groups.enter_context(_group(str(pid)))
            groups.callback(_empty, group)
            _put(group, pid)
            (group / "pids.max").write_text((group / "pids.current").read_text())
        yield


def _tree() -> Path:
    return next(tree for tree in _TREES if (tree / "cgroup.procs").exists())


@contextmanager
def _group(name: str) -> Iterator[Path]:
    group = _tree() / f"verbatim-{name}-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()


def _empty(group: Path) -> None:
    while pids := (group / "cgroup.procs").read_text().split():  # with children that one has had since
        for pid in pids:
            _put(_tree(), int(pid))


def _put(group: Path, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))

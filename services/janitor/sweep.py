"""Which temporary files are left-overs. Pure decisions; the files are touched elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "upload_"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder says of one name in it, without following it. `inode` tells whether it is still the same."""

    name: str
    inode: int
    regular: bool
    modified_s: float
    size_bytes: int
    device: int = 0


def left_over(entries: Iterable[Entry], *, now_s: float, age_s: float, most: int) -> list[Entry]:
    """Return at most `most` left-overs, the oldest first.

    A left-over is a regular file of an upload that nobody has written to for `age_s`. A time in the future (a clock
    was set back) makes a file young: rather kept too long than taken from under an upload.
    """
    old = [
        entry
        for entry in entries
        if entry.regular and entry.name.startswith(PREFIX) and now_s - entry.modified_s > age_s
    ]
    return sorted(old, key=lambda entry: (entry.modified_s, entry.name))[:most]

"""Which files are recordings: by name, by what they are said to be, and by their first bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from chassis.errors import AppError, Kind, Problem

HEAD_BYTES = 4096
"""Enough of a file to tell what it is."""

_UNDECLARED = frozenset({"", "application/octet-stream", "binary/octet-stream"})


@dataclass(frozen=True, slots=True)
class MediaType:
    """One kind of file. `container` is what the transcriber calls it."""

    suffix: str
    container: str
    declared_as: frozenset[str]
    begins: Callable[[bytes], bool]


def _is_mp3(head: bytes) -> bool:
    # A tag, or a frame of MPEG audio layer III.
    return head[:3] == b"ID3" or (len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2)


def _is_wav(head: bytes) -> bool:
    return head[:4] in {b"RIFF", b"RF64"} and head[8:12] == b"WAVE"


def _is_ogg(head: bytes) -> bool:
    return head[:4] == b"OggS"


def _is_webm(head: bytes) -> bool:
    return head[:4] == b"\x1a\x45\xdf\xa3" and b"\x42\x82" in head[:64] and b"webm" in head[:64]


def _is_mp4(head: bytes) -> bool:
    return head[4:8] == b"ftyp"


def _types(*names: str) -> frozenset[str]:
    return frozenset(names)


MEDIA_TYPES = {
    one.suffix: one
    for one in (
        MediaType("mp3", "mp3", _types("audio/mpeg", "audio/mp3", "audio/x-mp3", "audio/mpeg3"), _is_mp3),
        MediaType("wav", "wav", _types("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"), _is_wav),
        MediaType("ogg", "ogg", _types("audio/ogg", "application/ogg", "audio/opus", "video/ogg"), _is_ogg),
        MediaType("webm", "webm", _types("audio/webm", "video/webm"), _is_webm),
        MediaType("mp4", "mp4", _types("video/mp4", "audio/mp4", "application/mp4"), _is_mp4),
        MediaType("m4a", "mp4", _types("audio/mp4", "audio/x-m4a", "audio/m4a", "audio/mp4a-latm"), _is_mp4),
    )
}  # fmt: skip
SUFFIXES = ", ".join(MEDIA_TYPES)

_SEPARATORS = re.compile(r"[/\\]")


def media_type(file_name: str, declared: str | None) -> MediaType:
    """Return what kind of file a name and a declared type (None or too general: not told) stand for.

    Raises AppError(UNSUPPORTED_MEDIA_TYPE) if it is none that we take, or if the two do not agree.
    """
    last = _SEPARATORS.split(file_name)[-1]
    _, dot, suffix = last.rpartition(".")
    found = MEDIA_TYPES.get(suffix.strip().lower()) if dot else None
    if found is None:
        raise _unsupported(f"Should end in one of {SUFFIXES}")
    told = (declared or "").partition(";")[0].strip().lower()
    if told not in _UNDECLARED and told not in found.declared_as:
        raise _unsupported("Its type and the end of its name do not agree")
    return found


def check_head(expected: MediaType, head: bytes) -> None:
    """Check the first bytes of a file (HEAD_BYTES, or all of it).

    Raises AppError: VALIDATION_FAILED if there are none, UNSUPPORTED_MEDIA_TYPE if they are of another kind.
    """
    if not head:
        problem = Problem("file", "Is empty")
        raise AppError(Kind.VALIDATION_FAILED, "The file is empty.", details=(problem,))
    if not expected.begins(head):
        raise _unsupported("Its content is not what its name says")


def _unsupported(problem: str) -> AppError:
    words = f"Only recordings can be taken: {SUFFIXES}."
    return AppError(Kind.UNSUPPORTED_MEDIA_TYPE, words, details=(Problem("file", problem),))

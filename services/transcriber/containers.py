"""Whether a file is what it says from the first byte to the last: whole, and nothing but a recording. Pure.

A decoder takes what it finds and passes over the rest, so a file that was cut in half would lose words without a trace,
and one that is a recording and something else at once would go through. Here the parts of a container are laid end to
end; no sound is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Literal

Container = Literal["mp3", "wav", "ogg", "webm", "mp4"]
CONTAINERS: tuple[Container, ...] = ("mp3", "wav", "ogg", "webm", "mp4")
Data = bytes | mmap


class UnreadableError(Exception):
    """The file cannot be transcribed. `reason` is a word for figures; the message is for the person who sent it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def not_that() -> UnreadableError:
    """Return what to say of a file of another kind."""
    return UnreadableError("mismatch", "The content of the file is not what its name says.")


def truncated() -> UnreadableError:
    """Return what to say of a file without its end."""
    return UnreadableError("truncated", "The end of the file is missing: it was not recorded or not sent completely.")


def foreign() -> UnreadableError:
    """Return what to say of a file that holds something else too."""
    return UnreadableError("foreign", "The file holds something besides a recording.")


def damaged() -> UnreadableError:
    """Return what to say of a file that does not hold together."""
    return UnreadableError("damaged", "The file is damaged and cannot be decoded.")


def unsupported() -> UnreadableError:
    """Return what to say of sound that is written in a way we do not read."""
    return UnreadableError("codec", "The sound in the file is coded in a way that is not supported.")


def no_sound() -> UnreadableError:
    """Return what to say of a file in which nothing can be heard."""
    return UnreadableError("no_sound", "There is no sound in the file.")


def too_costly() -> UnreadableError:
    """Return what to say of a file that takes more than there is for one."""
    return UnreadableError("too_costly", "The file takes too much to decode.")


def check(container: Container, data: Data) -> None:
    """Raise UnreadableError unless the parts of the container follow each other to the very end."""
    if not len(data):
        raise UnreadableError("empty", "The file is empty.")
    _CHECKS[container](data)


# -- WAV (RIFF, RF64) ------------------------------------------------------------------------------------------------

_OPEN = 0xFFFFFFFF
# What writes to a pipe cannot know the size and names one that no file has.
_OPEN_MIN = 0x7FFFF000
_WAV_FORMATS = frozenset({1, 3, 6, 7, 0xFFFE})  # PCM, float, A-law, mu-law, extensible


def _check_wav(data: Data) -> None:
    if data[:4] not in {b"RIFF", b"RF64"} or data[8:12] != b"WAVE":
        raise not_that()
    end, offset, has_format, has_sound = len(data), 12, False, False
    long_size: int | None = None
    padding = 0
    while offset < end:
        if end - offset < 8:
            raise foreign() if has_sound else truncated()
        name, size = bytes(data[offset : offset + 4]), _u32le(data, offset + 4)
        if name in {b"RIFF", b"RF64"} or not all(0x20 <= byte < 0x7F for byte in name):
            raise foreign() if has_sound else damaged()
        if name == b"ds64" and size >= 28 and end - offset >= 36:
            long_size = struct.unpack_from("<Q", data, offset + 16)[0]
        elif name == b"fmt ":
            _check_wav_format(bytes(data[offset + 8 : offset + 8 + min(size, 40)]))
            has_format = True
        elif name == b"data":
            if not has_format:
                raise damaged()
            has_sound = True
            if size == _OPEN and long_size is not None:
                size = long_size
            elif size >= _OPEN_MIN and end < _OPEN_MIN:
                return  # goes on to the end
        padding = size & 1
        offset += 8 + size + padding
    # Some writers forget to fill up the very last part.
    if offset - padding > end or not has_sound:
        raise truncated()


def _check_wav_format(head: bytes) -> None:
    if len(head) < 16:
        raise damaged()
    tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", head)
    if tag not in _WAV_FORMATS:
        raise unsupported()
    if not (1 <= channels <= 32 and 4000 <= rate <= 384_000 and bits in {8, 16, 24, 32, 64}):
        raise damaged()
    if block != channels * bits // 8:
        raise damaged()


# -- MP4, M4A --------------------------------------------------------------------------------------------------------

_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx", b"styp", b"meta",
     b"pdin", b"emsg", b"prft", b"ssix", b"udta"}
)  # fmt: skip


def _check_mp4(data: Data) -> None:
    end, offset = len(data), 0
    seen: set[bytes] = set()
    if data[4:8] != b"ftyp":
        raise not_that()
    while offset < end:
        if end - offset < 8:
            raise truncated()
        size, name = struct.unpack_from(">I4s", data, offset)
        head = 8
        if name not in _BOXES or (name in {b"ftyp", b"moov"} and name in seen):
            raise foreign() if b"moov" in seen and seen & {b"mdat", b"moof"} else damaged()
        if size == 1 and end - offset >= 16:
            size, head = struct.unpack_from(">Q", data, offset + 8)[0], 16
        elif size == 0:
            size = end - offset
        if size < head:
            raise damaged()
        seen.add(name)
        offset += size
    if offset > end or b"moov" not in seen or not seen & {b"mdat", b"moof"}:
        raise truncated()


# -- Ogg -------------------------------------------------------------------------------------------------------------

_PAGE_HEAD_BYTES = 27
_FIRST_PAGE = 2


def _check_ogg(data: Data) -> None:
    end, offset, streams = len(data), 0, 0
    if data[:4] != b"OggS":
        raise not_that()
    while offset < end:
        if data[offset : offset + 4] != b"OggS":
            raise truncated() if b"OggS".startswith(data[offset : offset + 4]) else foreign()
        if end - offset < _PAGE_HEAD_BYTES:
            raise truncated()
        if data[offset + 4] != 0:
            raise damaged()
        streams += bool(data[offset + 5] & _FIRST_PAGE)
        if not streams:
            raise damaged()
        lacing = data[offset + _PAGE_HEAD_BYTES : offset + _PAGE_HEAD_BYTES + data[offset + 26]]
        offset += _PAGE_HEAD_BYTES + len(lacing) + sum(lacing)
    if offset > end:
        raise truncated()


# -- WebM (EBML) -----------------------------------------------------------------------------------------------------

_EBML, _SEGMENT, _CLUSTER, _TRACKS, _DOC_TYPE = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0x4282
# Info, SeekHead, Cues, Tags, Chapters, Attachments, Void, CRC-32
_IN_SEGMENT = frozenset({_CLUSTER, _TRACKS, 0x1549A966, 0x114D9B74, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469,
                         0xEC, 0xBF})  # fmt: skip
# Timestamp, Position, PrevSize, SilentTracks, SimpleBlock, BlockGroup, EncryptedBlock
_IN_CLUSTER = frozenset({0xE7, 0xA7, 0xAB, 0x5854, 0xA3, 0xA0, 0xAF})


def _check_webm(data: Data) -> None:
    name, size, offset = _element(data, 0)
    if name != _EBML or size is None or not _is_webm(bytes(data[offset : offset + min(size, 4096)])):
        raise not_that()
    offset += size
    name, size, offset = _element(data, offset)
    if name != _SEGMENT:
        raise damaged()
    end = len(data) if size is None else offset + size
    if end > len(data):
        raise truncated()
    if end < len(data):
        raise foreign()
    seen: set[int] = set()
    in_open_cluster = False
    while offset < end:
        name, size, offset = _element(data, offset)
        if name not in _IN_SEGMENT and not (in_open_cluster and name in _IN_CLUSTER):
            raise foreign() if _CLUSTER in seen else damaged()
        seen.add(name)
        if size is None:
            # Recorders leave the size of a cluster open; what is in it follows.
            if name != _CLUSTER:
                raise damaged()
            in_open_cluster = True
            continue
        if name == _CLUSTER:
            in_open_cluster = False
        offset += size
    if offset > end or not {_TRACKS, _CLUSTER} <= seen:
        raise truncated()


def _is_webm(head: bytes) -> bool:
    offset = 0
    while offset < len(head):
        name, size, offset = _element(head, offset)
        if name == _DOC_TYPE and size is not None:
            return head[offset : offset + size].rstrip(b"\x00") == b"webm"
        offset += size or 0
    return False


def _element(data: Data, offset: int) -> tuple[int, int | None, int]:
    """Return the id, the size (None: open) and where the content begins."""
    name, offset = _number(data, offset, longest=4, keep_marker=True)
    size, after = _number(data, offset, longest=8, keep_marker=False)
    is_open = size == (1 << (7 * (after - offset))) - 1
    return name, None if is_open else size, after


def _number(data: Data, offset: int, *, longest: int, keep_marker: bool) -> tuple[int, int]:
    if offset >= len(data):
        raise truncated()
    length = 9 - data[offset].bit_length()
    if length > longest:
        raise damaged()
    raw = bytes(data[offset : offset + length])
    if len(raw) < length:
        raise truncated()
    value = int.from_bytes(raw, "big")
    return (value if keep_marker else value & ~(1 << (7 * length))), offset + length


# -- MP3 -------------------------------------------------------------------------------------------------------------

_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES_1 = (44_100, 48_000, 32_000, 0)
_MPEG_1, _MPEG_2, _RESERVED = 3, 2, 1
# What is neither a frame nor a known tag: cameras and editors leave some bytes. A second file is longer.
_STRAY_BYTES_MAX = 2048


def _frame_bytes(data: Data, offset: int) -> int:
    """Return the length of the MPEG audio layer III frame at the offset; 0 if there is none."""
    first, second, third = data[offset : offset + 3]
    version = second >> 3 & 3
    if first != 0xFF or second & 0xE0 != 0xE0 or version == _RESERVED or second >> 1 & 3 != 1:
        return 0
    kbits = (_KBITS_1 if version == _MPEG_1 else _KBITS_2)[third >> 4]
    rate = _RATES_1[third >> 2 & 3] >> (0 if version == _MPEG_1 else 1 if version == _MPEG_2 else 2)
    if not kbits or not rate:
        return 0
    return (144_000 if version == _MPEG_1 else 72_000) * kbits // rate + (third >> 1 & 1)


def _check_mp3(data: Data) -> None:
    end, offset = len(data), _after_leading_tags(data)
    frames = stray = 0
    promised: int | None = None
    while offset < end:
        length = _frame_bytes(data, offset) if end - offset >= 4 else 0
        if length:
            if offset + length > end:
                raise truncated()
            if not frames:
                promised = _promised_frames(bytes(data[offset : offset + length]))
            frames += 1
            offset += length
        elif tag_bytes := _trailing_tag_bytes(data, offset):
            offset += tag_bytes
        else:
            skipped = _zeros(data, offset) or _bytes_to_next_frame(data, offset)
            stray += skipped if data[offset] else 0
            if not frames and stray:
                raise not_that()
            if stray > _STRAY_BYTES_MAX:
                raise foreign()
            offset += skipped
    if not frames:
        raise not_that()
    # The frame that promises is not among those that it counts.
    if promised is not None and frames - 1 < promised - 1:
        raise truncated()


def _after_leading_tags(data: Data) -> int:
    offset = 0
    while data[offset : offset + 3] == b"ID3":
        head = bytes(data[offset : offset + 10])
        if len(head) < 10 or any(byte & 0x80 for byte in head[6:]):
            raise damaged()
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
    if offset >= len(data):
        raise truncated()
    return offset


def _promised_frames(frame: bytes) -> int | None:
    """Return how many frames the first one says will follow (Xing, LAME), or None."""
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark, 4, 4 + 36 + 4)
        if at >= 0 and len(frame) >= at + 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    return None


def _trailing_tag_bytes(data: Data, offset: int) -> int:
    left = len(data) - offset
    head = bytes(data[offset : offset + 32])
    if head[:4] == b"TAG+" and left >= 227:
        return 227
    if head[:3] == b"TAG" and left == 128:
        return 128
    if head[:8] == b"APETAGEX" and left >= 32:
        with_header = bool(head[23] & 0x80)
        is_header = bool(head[23] & 0x20)
        size = _u32le(head, 12) + (32 if is_header and with_header else 0)
        return size if is_header and size <= left else 0
    if head[:11] == b"LYRICSBEGIN":
        found = data.find(b"LYRICS200", offset, offset + 128 * 1024)
        return found + 9 - offset if found >= 0 else 0
    return 0


def _zeros(data: Data, offset: int) -> int:
    """Return how many bytes from the offset on are zero: padding, at most 64 KiB of it at once."""
    part = bytes(data[offset : offset + 64 * 1024])
    return len(part) - len(part.lstrip(b"\x00"))


def _bytes_to_next_frame(data: Data, offset: int) -> int:
    """Return how many bytes lie before two frames that follow each other, a tag or padding, if there is any."""
    end = len(data)
    limit = min(end, offset + _STRAY_BYTES_MAX + 1)
    for place in range(offset + 1, limit):
        length = _frame_bytes(data, place) if end - place >= 4 else 0
        if length and (place + length == end or (place + length + 4 <= end and _frame_bytes(data, place + length))):
            return place - offset
        if _trailing_tag_bytes(data, place) or not data[place]:
            return place - offset
    return limit - offset


def _u32le(data: Data, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


_CHECKS: dict[str, Callable[[Data], None]] = {
    "wav": _check_wav,
    "mp4": _check_mp4,
    "ogg": _check_ogg,
    "webm": _check_webm,
    "mp3": _check_mp3,
}

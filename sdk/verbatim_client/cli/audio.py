"""Audio for `verbatim stream`: WAV or raw PCM, from a file or a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
from collections.abc import AsyncIterator

from verbatim_client.cli.edge import CliError
from verbatim_client.speaking import FRAME_S

CHUNK = struct.Struct("<4sI")
FORMAT = struct.Struct("<HHIIHH")
PCM, EXTENSIBLE = 1, 0xFFFE
SAMPLE_BYTES = 2
SNIFF_BYTES = 12
HEADER_MAX_BYTES = 1024 * 1024
# Writers to a pipe do not know the length: they leave one of these.
LENGTH_UNKNOWN = frozenset({0, 0x7FFFFFFF, 0xFFFFFFFF})
QUEUED_FRAMES_MAX = 50
CONVERT = "convert it first: ffmpeg -i IN -ar 16000 -ac 1 -c:a pcm_s16le OUT.wav"
OTHER_FORMATS = ((0, b"ID3"), (0, b"OggS"), (0, b"fLaC"), (0, b"\x1a\x45\xdf\xa3"), (4, b"ftyp"), (0, b"\xff\xfb"))


class Audio:
    """A source of 16-bit PCM. Nothing after the header is read before `frames` is iterated."""

    def __init__(self, source: int, sample_rate: int, channels: int) -> None:
        """Read the header, if there is one; rate and channels count where there is none.

        `source` is a file descriptor: a reader that is stuck in it must not hold a lock when the process ends. Raises
        CliError for what is neither WAV with 16-bit samples nor raw PCM.
        """
        self.sample_rate = sample_rate
        self.channels = channels
        self._source = source
        self._head = _exactly(source, SNIFF_BYTES)
        self._left_bytes: int | None = None
        if self._head[:4] == b"RIFF" and self._head[8:] == b"WAVE":
            self._head = b""
            self._read_wave_header()
        elif any(self._head[at : at + len(magic)] == magic for at, magic in OTHER_FORMATS):
            raise CliError(f"this is neither WAV nor raw PCM; {CONVERT}")

    @property
    def is_over(self) -> bool:
        """Whether the source ended before it gave anything."""
        return not self._head and self._left_bytes is None

    @property
    def bytes_per_second(self) -> int:
        """Rate of the audio."""
        return self.sample_rate * self.channels * SAMPLE_BYTES

    async def frames(self, stop: asyncio.Event) -> AsyncIterator[bytes]:
        """Give frames of a tenth of a second, in whole samples, until the end or until `stop` is set."""
        queue: asyncio.Queue[bytes | OSError] = asyncio.Queue(QUEUED_FRAMES_MAX)
        room = threading.Semaphore(QUEUED_FRAMES_MAX)
        # Not a task or an executor's thread: one that waits for a silent pipe would keep the process from ending.
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._pump, args=(queue, room, loop), name="audio", daemon=True).start()
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stopped.done():
                frame = asyncio.create_task(queue.get())
                await asyncio.wait([frame, stopped], return_when=asyncio.FIRST_COMPLETED)
                room.release()
                if not frame.done():
                    frame.cancel()
                elif isinstance(data := frame.result(), OSError):
                    raise data
                elif data:
                    yield data
                else:
                    return
        finally:
            stopped.cancel()

    def _pump(
        self, queue: asyncio.Queue[bytes | OSError], room: threading.Semaphore, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Read in a thread as long as the queue has room; an empty frame is the end. Ends with the loop."""
        sample_bytes = self.channels * SAMPLE_BYTES
        frame_bytes = int(self.sample_rate * FRAME_S) * sample_bytes
        with contextlib.suppress(RuntimeError):  # the loop is closed
            frame: bytes | OSError = b"..."
            while frame and not isinstance(frame, OSError):
                try:
                    frame = self._read(frame_bytes)
                    frame = frame[: len(frame) - len(frame) % sample_bytes]
                except OSError as fault:
                    frame = fault
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, frame)

    def _read(self, size: int) -> bytes:
        if self._left_bytes is not None:
            size = min(size, self._left_bytes)
        head, self._head = self._head[:size], self._head[size:]
        data = head + _exactly(self._source, size - len(head))
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
        return data

    def _read_wave_header(self) -> None:
        known = False
        read_bytes = 0
        while read_bytes < HEADER_MAX_BYTES:
            head = _exactly(self._source, CHUNK.size)
            if len(head) < CHUNK.size:
                break
            name, size = CHUNK.unpack(head)
            if name == b"data" and known:
                self._left_bytes = None if size in LENGTH_UNKNOWN else size
                return
            body = _exactly(self._source, min(size + size % 2, HEADER_MAX_BYTES))
            read_bytes += CHUNK.size + len(body)
            if name == b"fmt " and len(body) >= FORMAT.size:
                self._set_format(body)
                known = True
        raise CliError("this WAV file has no audio")

    def _set_format(self, body: bytes) -> None:
        kind, self.channels, self.sample_rate, _, _, bits = FORMAT.unpack_from(body)
        if kind not in (PCM, EXTENSIBLE) or bits != SAMPLE_BYTES * 8 or not self.channels or not self.sample_rate:
            raise CliError(f"this WAV file does not have 16-bit PCM; {CONVERT}")


def _exactly(source: int, size: int) -> bytes:
    """Read so many bytes, fewer only at the end."""
    data = bytearray()
    while len(data) < size and (more := os.read(source, size - len(data))):
        data += more
    return bytes(data)

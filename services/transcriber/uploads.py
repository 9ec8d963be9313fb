"""An uploaded file becomes a session, in the same transcript log as what is said live.

The log is the checkpoint: whoever gets the job next decodes the file again, takes the session over as after any death
of an owner, and hears what is not told yet. The audio of drafts goes to the audio log, so that they heal as all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, ids, telemetry
from chassis.errors import AppError, Kind
from chassis.objects import Objects
from services.transcriber import audio, metrics
from services.transcriber.containers import Container, UnreadableError
from services.transcriber.filters import FilterSettings
from services.transcriber.media import MediaDecoder, write_all
from services.transcriber.recordings import Recordings, Told
from services.transcriber.segments import entry_kind
from services.transcriber.transcript import Ledger, fold, token_hash
from services.transcriber.transcript_log import Fenced, TranscriptLog

log = telemetry.logger(__name__)

BUCKET = "UPLOADS"
_DECODED_SHARE = 0.05
_MESSAGE_BYTES_MAX = 128 * 1024
_APPEND_WITHIN_S = 30.0
_PAUSE_S_MAX = 2.0
_ROOM_S = 2.0
_OPENING_ATTEMPTS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upload:
    """What to make of which file."""

    id: str
    size_bytes: int
    container: Container
    opened: pb.Opened
    last_attempt: bool


class DraftAudio(Protocol):
    """Where the audio of drafts is kept until they are healed."""

    heals: bool
    """Whether there is an engine that will hear them again."""

    async def keep(self, session_id: str, offset: int, pcm: bytes) -> int:
        """Make audio durable and return the sequence of its first message; 0 if it is not kept. Raises AppError."""


class AudioStreamDrafts:
    """The audio log, in the form that `logs.AudioLog.read` reads.

    Half of it is left to live audio: then uploads wait, or if nobody is there to hear drafts again, do without.
    """

    def __init__(self, broker: bus.Bus, *, heals: bool, room_share: float = 0.5) -> None:
        self._bus = broker
        self.heals = heals
        self._room_share = room_share
        self._room_until = 0.0

    async def keep(self, session_id: str, offset: int, pcm: bytes) -> int:
        """See `DraftAudio`."""
        if not await self._has_room():
            if not self.heals:
                return 0
            words = "There is no space for audio that is to be heard again."
            raise AppError(Kind.INSUFFICIENT_STORAGE, words, retry_after_s=60.0)
        first = 0
        for start, part in audio.pieces(pcm, offset, _MESSAGE_BYTES_MAX):
            ack = await self._bus.publish(f"audio.{session_id}", audio.pack(start, part))
            first = first or ack.seq
        return first

    async def _has_room(self) -> bool:
        """Look now and then only: what comes meanwhile is little against half of the log."""
        now = asyncio.get_running_loop().time()
        if now < self._room_until:
            return True
        try:
            info = await self._bus.js.stream_info("AUDIO")
        except bus.FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        has_room = info.state.bytes < self._room_share * (info.config.max_bytes or 0)
        self._room_until = now + _ROOM_S if has_room else 0.0
        return has_room


class Uploads:
    """Works on uploads, any number at a time; who calls limits them."""

    def __init__(
        self,
        objects: Objects,
        decoder: MediaDecoder,
        recordings: Recordings,
        transcripts: TranscriptLog,
        drafts: DraftAudio,
        ask_to_heal: Callable[[str], Awaitable[object]],
        replica: str,
    ) -> None:
        self._objects = objects
        self._decoder = decoder
        self._recordings = recordings
        self._transcripts = transcripts
        self._drafts = drafts
        self._ask_to_heal = ask_to_heal
        self._replica = replica

    async def transcribe(self, upload: Upload, report: Callable[[float], None]) -> pb.Closed:
        """Make the session of an upload, or the rest of it, and remove the file. Return the accounts.

        `report` is told the progress, 0 to 1. Raises UnreadableError; AppError; Fenced if another has taken over.
        """
        journal = UploadJournal(upload.id, self._transcripts, self._drafts, self._replica)
        closed = await journal.catch_up()
        if closed is None:
            try:
                closed = await self._from_file(upload, journal, report)
            except AppError as fault:
                # Who had the job before may have finished it, and removed the file, after we looked.
                if fault.kind is not Kind.NOT_FOUND or (closed := await journal.catch_up()) is None:
                    raise
        if journal.ledger.drafts:
            await self._ask_to_heal(upload.id)
        await self._objects.remove(upload.id)
        report(1.0)
        return closed

    async def _from_file(self, upload: Upload, journal: UploadJournal, report: Callable[[float], None]) -> pb.Closed:
        with self._decoder.scratch() as source, self._decoder.scratch() as sound:
            async for piece in self._objects.read(upload.id, upload.size_bytes):
                await asyncio.to_thread(write_all, source, piece)
            try:
                recording = await self._decoder.decode(source, upload.container, sound)
            except UnreadableError as fault:
                metrics.UNREADABLE.labels(fault.reason).inc()
                raise
            await journal.begin(upload.opened)
            size = recording.pcm_bytes

            def tell(accounted: int) -> None:
                report(_DECODED_SHARE + (1.0 - _DECODED_SHARE) * accounted / size)

            journal.watch(tell)
            await self._recordings.transcribe(recording, journal, gaps=upload.last_attempt)
            return await journal.close(size)


class UploadJournal:
    """Writes the transcript of an upload into its log."""

    def __init__(self, session_id: str, transcripts: TranscriptLog, drafts: DraftAudio, replica: str) -> None:
        self.ledger = Ledger(session_id)
        self._transcripts = transcripts
        self._drafts = drafts
        self._replica = replica
        self._last_sequence = 0
        self._tell: Callable[[int], None] = lambda _accounted: None

    async def catch_up(self) -> pb.Closed | None:
        """Read the log. Return the accounts if it is closed already."""
        history = await self._transcripts.read(self.ledger.session_id)
        self.ledger = fold(self.ledger.session_id, (entry for _, entry in history))
        self._last_sequence = history[-1][0] if history else 0
        return self.ledger.closed

    async def begin(self, opened: pb.Opened) -> None:
        """Open the session, or take it over from whoever has begun with it.

        Raises Fenced if others take it over at the same time again and again.
        """
        for _ in range(_OPENING_ATTEMPTS):
            try:
                if self.ledger.position == 0:
                    opened.upload = True
                    opened.resume_token_hash = b""
                    await self._append(opened=opened)
                else:
                    # No token leads here; the field is what the entry always has.
                    nobody = token_hash(ids.new_id())
                    await self._append(resumed=pb.Resumed(resume_token_hash=nobody, adopted=True))
            except Fenced:
                await self.catch_up()
                if self.ledger.closed is not None:
                    raise
            else:
                return
        raise Fenced(self.ledger.session_id)

    def watch(self, tell: Callable[[int], None]) -> None:
        """Take whom to tell how far it is, in bytes of PCM."""
        self._tell = tell

    async def tell(self, told: Told) -> None:
        """Write down the next utterance. Raises Fenced, AppError."""
        utterance = told.utterance
        kind = entry_kind(
            self.ledger,
            utterance,
            ids.derived_id(self.ledger.session_id, "segment", utterance.start_byte),
            told.recognition,
            pcm=told.pcm[utterance.start_byte - utterance.context_start_byte :],
            resumption={"audio_sequence": 0, "entry_point": None},
            settings=FilterSettings(),
            heals=self._drafts.heals,
        )
        segment = kind.get("segment")
        if isinstance(segment, pb.Segment) and segment.quality == pb.QUALITY_DRAFT:
            start, session_id = utterance.context_start_byte, self.ledger.session_id
            segment.audio_sequence = await _patiently(lambda: self._drafts.keep(session_id, start, told.pcm))
        await self._append(**kind)
        if isinstance(segment, pb.Segment):
            metrics.SEGMENTS.labels(segment.engine, "draft" if segment.quality == pb.QUALITY_DRAFT else "final").inc()
        self._tell(self.ledger.accounted_offset)

    async def close(self, size: int) -> pb.Closed:
        """Write the accounts of a recording of `size` bytes of PCM and return them."""
        if self.ledger.closed is None:
            accounts = self.ledger.accounts(pb.CLOSE_REASON_FINISHED, size, size, heals=self._drafts.heals)
            await self._append(closed=accounts)
        assert self.ledger.closed is not None
        return self.ledger.closed

    async def _append(self, **kind: object) -> None:
        entry = self.ledger.draft(self._replica, **kind)
        self._last_sequence = await _patiently(lambda: self._transcripts.append(entry, self._last_sequence))
        self.ledger.apply(entry)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Make attempts until one succeeds, for as long as the broker may take to come back. Raises the last AppError."""
    pause_s = 0.1
    deadline = asyncio.get_running_loop().time() + _APPEND_WITHIN_S
    while True:
        try:
            return await attempt()
        except AppError as fault:
            if asyncio.get_running_loop().time() + pause_s > deadline:
                raise
            log.warning("broker does not take it yet", fault=str(fault))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)


def scratch_folder(data_folder: str) -> Path:
    """Return where scratch files of uploads lie: the folder that the janitor sweeps."""
    return Path(data_folder) / "uploads"

"""Opus in a container becomes the session's audio, in whatever pieces it comes and wherever decoding begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import av
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.cutting import SAMPLE_BYTES, SAMPLE_RATE_HZ
from services.transcriber.decoding import Decoder, Heard, Missing, PcmDecoder, Refused, Stretch
from services.transcriber.marks import Marks
from services.transcriber.ogg import OggDemuxer
from services.transcriber.opus import Damage, Demuxer, Head, Item, OpusHead, Packet, Refusal, packet_samples
from services.transcriber.resampling import FACTOR, Decimator
from services.transcriber.transcript import BYTES_PER_SECOND, Ledger
from services.transcriber.webm import WebmDemuxer

# One call of `decode` does at most this much, whatever it was fed.
_SLICE_SOURCE_BYTES = 4096
_SLICE_PACKETS = 50
_SLICE_PCM_BYTES = BYTES_PER_SECOND
# Of bytes that cannot be read nobody knows how long they sounded: as long as others of this stream did, within what
# Opus can do (RFC 6716: 6 to 510 kbit/s). Before the first packet, at a rate that recorders use for speech.
_USUAL_BYTES_PER_SECOND = 4_000
_BYTES_PER_SECOND_MIN, _BYTES_PER_SECOND_MAX = 750, 63_750
_MISSING_BYTES_MAX = 24 * 3600 * BYTES_PER_SECOND


def decoder_of(ledger: Ledger) -> Decoder:
    """Return the decoder that goes on where a session's log ends."""
    return decoder_from(ledger.opened.encoding, ledger.entry_point, ledger.accounted_offset)


def decoder_from(encoding: pb.Encoding.ValueType, entry_point: pb.EntryPoint | None, pcm_offset: int) -> Decoder:
    """Return the decoder that is fed from an entry point on (None: from the beginning) and gives audio from
    `pcm_offset` on; PCM is fed from there on too."""
    demuxers: dict[pb.Encoding.ValueType, Callable[[int, int | None], Demuxer]] = {
        pb.ENCODING_WEBM_OPUS: WebmDemuxer,
        pb.ENCODING_OGG_OPUS: OggDemuxer,
    }
    demuxer = demuxers.get(encoding)
    if demuxer is None:
        return PcmDecoder(pcm_offset)
    return OpusDecoder(demuxer, entry_point or pb.EntryPoint(), pcm_offset)


class OpusDecoder:
    """Reads the container packet by packet. The time line is the packets' own: their durations, added up.

    What a container says about time is not used: recorders that pause, drift or start again say something else each.
    """

    unit_bytes = 1
    instant = False

    def __init__(
        self, demuxer: Callable[[int, int | None], Demuxer], entry_point: pb.EntryPoint, first_pcm_offset: int
    ) -> None:
        """Begin at an entry point; audio below `first_pcm_offset` is decoded but not returned."""
        self._stream_id = entry_point.stream_id if entry_point.HasField("stream_id") else None
        self._new_demuxer = demuxer
        self._demuxer = demuxer(entry_point.encoded_offset, self._stream_id)
        self._gain = entry_point.gain
        self._voice = _Voice(OpusHead(0, self._gain))
        self._fed: deque[bytes | int] = deque()
        self._fed_offset = self._read_offset = entry_point.encoded_offset
        self.waiting_bytes = 0
        self._dry = True
        self._no_more = False
        self._rest_told = False
        self._pcm_offset = entry_point.pcm_offset
        self._run_up_bytes = 0
        self._first_pcm_offset = first_pcm_offset
        self._marks = Marks(entry_point)
        # The slice under way: audio that is not resampled yet, how much of its beginning is run-up, what goes before.
        self._full_rate: list[bytes] = []
        self._skip_bytes = 0
        self._stretches: list[Stretch] = []

    @property
    def pending(self) -> bool:
        """See `Decoder`."""
        return bool(self._fed) or not self._dry or (self._no_more and not self._rest_told)

    def feed(self, data: bytes) -> None:
        """See `Decoder`."""
        self._fed.extend(data[at : at + _SLICE_SOURCE_BYTES] for at in range(0, len(data), _SLICE_SOURCE_BYTES))
        self.waiting_bytes += len(data)

    def skip(self, size: int) -> None:
        """See `Decoder`."""
        self._fed.append(size)

    def end(self) -> None:
        """See `Decoder`."""
        self._no_more = True

    def decode(self) -> list[Stretch]:
        """See `Decoder`."""
        if self._dry:
            self._feed_next()
        begun_at = self._pcm_offset
        for _ in range(_SLICE_PACKETS):
            item = self._demuxer.read()
            if item is None:
                self._dry = True
                break
            self._take(item)
            if self._pcm_offset - begun_at >= _SLICE_PCM_BYTES:
                break
        self._release_audio()
        stretches, self._stretches = self._stretches, []
        return stretches

    def _feed_next(self) -> None:
        """Give the demuxer the next piece; tell it to give up what is not whole before a hole and at the end."""
        if self._fed and isinstance(piece := self._fed[0], bytes):
            self._fed.popleft()
            self.waiting_bytes -= len(piece)
            self._fed_offset += len(piece)
            self._demuxer.feed(piece)
        elif not self._rest_told and (self._fed or self._no_more):
            self._demuxer.end()
            self._rest_told = True
        elif self._fed and isinstance(size := self._fed.popleft(), int):
            self._leap(size)
        else:
            return
        self._dry = False

    def _leap(self, size: int) -> None:
        """Go on behind a hole with a decoder that knows nothing of what was before, as who adopts the session will."""
        start, self._fed_offset = self._fed_offset, self._fed_offset + size
        start_pcm_offset, stream_id = self._pcm_offset, self._stream_id
        self._miss(start, self._fed_offset, pb.GAP_REASON_CLIENT_MISSING)
        self._demuxer, self._rest_told = self._new_demuxer(self._fed_offset, stream_id), False
        self._voice, self._run_up_bytes = _Voice(OpusHead(0, self._gain)), 0
        behind = pb.EntryPoint(
            encoded_offset=self._fed_offset, pcm_offset=self._pcm_offset, stream_id=stream_id, gain=self._gain
        )
        self._marks.add_hole(start, start_pcm_offset, behind)

    def _take(self, item: Item) -> None:
        match item:
            case Packet():
                self._hear(item)
            case Head():
                self._release_audio()
                self._gain, self._stream_id = item.head.gain, item.stream_id
                self._voice = _Voice(item.head)
                self._run_up_bytes = item.head.pre_skip_samples // FACTOR * SAMPLE_BYTES
                self._marks.add(pb.EntryPoint(encoded_offset=item.start_offset, pcm_offset=self._pcm_offset))
            case Damage():
                self._miss(item.start_offset, item.end_offset, pb.GAP_REASON_UNDECODABLE)
            case Refusal():
                self._stretches.append(Refused(item.reason))

    def _hear(self, packet: Packet) -> None:
        samples = packet_samples(packet.data)
        assert samples is not None, "the demuxer gives packets only"
        if packet.entry_offset is not None and not self._run_up_bytes:
            self._marks.add_now_and_then(packet.entry_offset, self._pcm_offset, packet.stream_id, self._gain)
        self._read_offset, self._stream_id = packet.end_offset, packet.stream_id
        pcm_bytes = samples // FACTOR * SAMPLE_BYTES
        audio = self._voice.decode(packet.data, samples)
        if audio is None:
            start = packet.end_offset - len(packet.data)
            self._pass(pcm_bytes, start, packet.end_offset, pb.GAP_REASON_UNDECODABLE)
            return
        run_up_bytes = min(self._run_up_bytes, pcm_bytes)
        self._run_up_bytes -= run_up_bytes
        self._skip_bytes += run_up_bytes
        self._pcm_offset += pcm_bytes - run_up_bytes
        self._full_rate.append(audio)

    def _miss(self, start: int, end: int, reason: pb.GapReason.ValueType) -> None:
        """Estimate how long bytes [start, end) sounded: as long as others of this stream did."""
        rate = start * BYTES_PER_SECOND / self._pcm_offset if self._pcm_offset else _USUAL_BYTES_PER_SECOND
        rate = min(max(rate, _BYTES_PER_SECOND_MIN), _BYTES_PER_SECOND_MAX)
        samples = max(1, round((end - start) / rate * SAMPLE_RATE_HZ))
        self._pass(min(samples * SAMPLE_BYTES, _MISSING_BYTES_MAX), start, end, reason)

    def _pass(self, pcm_bytes: int, start: int, end: int, reason: pb.GapReason.ValueType) -> None:
        self._release_audio()
        self._read_offset = max(self._read_offset, end)
        self._pcm_offset += pcm_bytes
        if self._pcm_offset > self._first_pcm_offset:
            self._stretches.append(Missing(pcm_bytes, start, end, reason))

    def _release_audio(self) -> None:
        """Resample what was decoded and drop what is run-up or was heard before."""
        pcm = self._voice.resample(b"".join(self._full_rate))[self._skip_bytes :]
        heard_before = self._first_pcm_offset - (self._pcm_offset - len(pcm))
        if pcm and heard_before < len(pcm):
            self._stretches.append(Heard(pcm[max(0, heard_before) :]))
        self._full_rate.clear()
        self._skip_bytes = 0

    def heard_below(self, source_offset: int) -> int:
        """See `Decoder`."""
        return self._pcm_offset if source_offset >= self._read_offset else self._marks.heard_below(source_offset)

    def source_below(self, pcm_offset: int) -> int:
        """See `Decoder`."""
        return self._read_offset if pcm_offset >= self._pcm_offset else self._marks.source_below(pcm_offset)

    def entry_point(self, pcm_offset: int) -> pb.EntryPoint | None:
        """See `Decoder`."""
        return self._marks.entry_point(pcm_offset)


class _Voice:
    """The Opus decoder of one stream, and its audio at the rate that we want."""

    def __init__(self, head: OpusHead) -> None:
        self._context = av.CodecContext.create("libopus", "r")
        self._context.extradata = head.mono()
        self._decimator = Decimator()

    def decode(self, packet: bytes, samples: int) -> bytes | None:
        """Return `samples` samples of one channel at 48 kHz; None if the packet is broken."""
        try:
            frames = self._context.decode(av.Packet(packet))
        except av.FFmpegError:
            return None
        pcm = b"".join(bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES] for frame in frames)
        size = samples * SAMPLE_BYTES
        return pcm[:size].ljust(size, b"\0")

    def resample(self, pcm: bytes) -> bytes:
        """Return a third of the samples."""
        return self._decimator.decimate(pcm)

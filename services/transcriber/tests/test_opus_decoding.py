"""Opus in WebM and Ogg becomes audio: all of it, at one offset whatever the pieces; what is hostile does no harm."""

import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.cutting import BYTES_PER_SECOND
from services.transcriber.decoding import Heard, Missing, Refused, Stretch
from services.transcriber.ogg import CHECKSUM_AT, OggDemuxer, checksum
from services.transcriber.opus import Demuxer, Refusal, packet_samples
from services.transcriber.opus_decoding import OpusDecoder
from services.transcriber.tests import signals
from services.transcriber.tests.recorder import CONTAINERS, Container, record
from services.transcriber.webm import WebmDemuxer

SPEECH = signals.meeting()[: 8 * BYTES_PER_SECOND]
CHROMIUM = Path(__file__).parent / "assets" / "chromium-restarted.webm"
CLUSTER, EBML = bytes.fromhex("1f43b675"), bytes.fromhex("1a45dfa3")
both = pytest.mark.parametrize("container", CONTAINERS)


@cache
def recorded(container: Container, channels: int = 1) -> bytes:
    return record(SPEECH, container, channels=channels)


def decoder(container: Container, entry: pb.EntryPoint | None = None, first: int = 0) -> OpusDecoder:
    demuxer = WebmDemuxer if container == "webm" else OggDemuxer
    return OpusDecoder(demuxer, entry or pb.EntryPoint(), first)


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def drain(one: OpusDecoder) -> list[Stretch]:
    stretches = []
    while one.pending:
        stretches += one.decode()
    return stretches


def decode(one: OpusDecoder, pieces: Iterable[bytes]) -> list[Stretch]:
    """Return all that is heard, neighbouring stretches of audio joined."""
    stretches: list[Stretch] = []
    for piece in pieces:
        one.feed(piece)
        stretches += drain(one)
    one.end()
    return joined([*stretches, *drain(one)])


def joined(stretches: list[Stretch]) -> list[Stretch]:
    rows: list[Stretch] = []
    for stretch in stretches:
        if isinstance(stretch, Heard) and rows and isinstance(rows[-1], Heard):
            rows[-1] = Heard(rows[-1].pcm + stretch.pcm)
        else:
            rows.append(stretch)
    return rows


def heard(stretches: list[Stretch]) -> bytes:
    return b"".join(stretch.pcm for stretch in stretches if isinstance(stretch, Heard))


def missing(stretches: list[Stretch]) -> list[Missing]:
    return [stretch for stretch in stretches if isinstance(stretch, Missing)]


def length(stretches: list[Stretch]) -> int:
    return len(heard(stretches)) + sum(hole.pcm_bytes for hole in missing(stretches))


def likeness(pcm: bytes, original: bytes) -> float:
    """Return the best correlation within 2 ms: codec and filters delay."""
    a, b = (np.frombuffer(part, dtype="<i2").astype(np.float64) for part in (pcm, original))
    size = min(len(a), len(b)) - 64
    return max(float(np.corrcoef(a[lag : lag + size], b[:size])[0, 1]) for lag in range(33))


@pytest.mark.req("R-WS-1")
@both
@pytest.mark.parametrize("channels", [1, 2])
def test_what_was_said_is_heard(container: Container, channels: int) -> None:
    stretches = decode(decoder(container), in_pieces(recorded(container, channels), 1000))
    assert [type(stretch) for stretch in stretches] == [Heard]
    assert abs(len(heard(stretches)) - len(SPEECH)) < BYTES_PER_SECOND // 25  # the last packet is filled up
    assert likeness(heard(stretches), SPEECH) > 0.98


@pytest.mark.req("R-WS-1")
def test_chromium_that_was_started_twice_is_heard_as_one_time_line() -> None:
    """Recorded by Chromium 156 with its own settings: stereo, packets of 60 ms; the recorder was started anew."""
    data = CHROMIUM.read_bytes()
    assert data.count(EBML) == 2
    stretches = decode(decoder("webm"), in_pieces(data, 4000))
    assert [type(stretch) for stretch in stretches] == [Heard]
    assert len(heard(stretches)) == pytest.approx(8.76 * BYTES_PER_SECOND, abs=640)
    # The fake microphone began with half a second of silence.
    first_sentence = heard(stretches)[8_120 * 2 :][: 3 * BYTES_PER_SECOND]
    assert likeness(first_sentence, SPEECH[: 3 * BYTES_PER_SECOND]) > 0.99


@both
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_neither_pieces_nor_damage_in_them_change_what_is_heard(container: Container, data: st.DataObject) -> None:
    whole = bytearray(recorded(container)[:20_000])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        junk = data.draw(st.binary(max_size=40))
        whole[at : at + data.draw(st.integers(0, 400))] = junk
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=60)))
    pieces = [bytes(whole[start:end]) for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    one = decoder(container)
    stretches = decode(one, pieces)
    assert stretches == decode(decoder(container), [bytes(whole)])
    assert length(stretches) == one.heard_below(len(whole))


@both
def test_pieces_of_one_byte_are_enough(container: Container) -> None:
    data = recorded(container)[:12_000]
    assert decode(decoder(container), in_pieces(data, 1)) == decode(decoder(container), [data])


@pytest.mark.req("R-WS-4")
@both
@pytest.mark.parametrize("from_s", [0.01, 1.0, 2.5, 6.1])
def test_decoding_that_begins_again_hears_the_same_at_the_same_offset(container: Container, from_s: float) -> None:
    data = recorded(container)
    one = decoder(container)
    whole = heard(decode(one, [data]))
    start = int(from_s * 16_000) * 2
    entry = one.entry_point(start)
    assert entry is not None
    assert entry.pcm_offset <= start
    assert start - entry.pcm_offset < 3 * BYTES_PER_SECOND
    again = heard(decode(decoder(container, entry, start), in_pieces(data[entry.encoded_offset :], 500)))
    assert len(again) == len(whole) - start
    differences = np.frombuffer(again, "<i2").astype(int) - np.frombuffer(whole[start:], "<i2")
    assert np.abs(differences).max() < 100


@both
def test_offsets_of_both_streams_belong_together(container: Container) -> None:
    data = recorded(container)
    one = decoder(container)
    decode(one, in_pieces(data, 700))
    for source_offset in range(0, len(data), 1_111):
        pcm_offset = one.heard_below(source_offset)
        assert length(decode(decoder(container), [data[:source_offset]])) >= pcm_offset
        assert pcm_offset >= (source_offset / len(data) - 0.15) * len(SPEECH)
    assert one.heard_below(len(data)) == pytest.approx(len(SPEECH), abs=2000)
    told = [one.source_below(pcm_offset) for pcm_offset in range(0, len(SPEECH), 16_000)]
    assert told == sorted(told)
    assert told[-1] > len(data) * 0.8


@pytest.mark.req("R-WS-2")
@both
def test_a_stream_that_is_cut_off_is_heard_to_its_last_whole_packet(container: Container) -> None:
    data = recorded(container)
    cut = data[: len(data) // 2 + 11]
    stretches = decode(decoder(container), [cut])
    whole = heard(decode(decoder(container), [data]))
    assert whole.startswith(heard(stretches))
    (rest,) = missing(stretches)
    assert (rest.source_end, rest.reason) == (len(cut), pb.GAP_REASON_UNDECODABLE)
    assert rest.pcm_bytes < BYTES_PER_SECOND


@both
def test_a_header_alone_is_no_audio_and_no_damage(container: Container) -> None:
    data = recorded(container)
    header = data[: data.index(CLUSTER) if container == "webm" else data.index(b"OggS", data.index(b"OpusTags"))]
    assert decode(decoder(container), [header]) == []


@pytest.mark.req("R-WS-2")
@both
@pytest.mark.parametrize(
    "junk",
    [b"\0" * 3000, b"RIFF....WAVE" * 200, bytes(range(256)) * 20, EBML * 500, b"OggS\0" * 700, CLUSTER * 300],
    ids=["zeros", "riff", "count", "ebml", "ogg", "cluster"],
)
def test_what_is_no_such_container_is_refused_once_and_counted(container: Container, junk: bytes) -> None:
    stretches = decode(decoder(container), in_pieces(junk, 900))
    assert len([stretch for stretch in stretches if isinstance(stretch, Refused)]) <= 1
    assert heard(stretches) == b""
    holes = missing(stretches)
    assert isinstance(stretches[0], Refused) or junk.startswith(EBML)
    assert sum(hole.source_end - hole.source_start for hole in holes) == len(junk)


@pytest.mark.req("R-WS-2")
def test_the_wrong_container_is_refused() -> None:
    assert isinstance(decode(decoder("webm"), [recorded("ogg")])[0], Refused)
    assert isinstance(decode(decoder("ogg"), [recorded("webm")])[0], Refused)


@pytest.mark.req("R-WS-2")
@both
def test_another_codec_or_too_many_channels_are_refused(container: Container) -> None:
    surround = recorded(container).replace(b"OpusHead\x01\x01", b"OpusHead\x01\x06")
    if container == "ogg":
        surround = with_checksums(surround)
    demuxer: Demuxer = WebmDemuxer() if container == "webm" else OggDemuxer()
    demuxer.feed(surround)
    assert isinstance(demuxer.read(), Refusal)


@pytest.mark.req("R-WS-1", "R-WS-3")
@both
@pytest.mark.parametrize("cut_bytes", [0, 1, 33, 150, 4000])
def test_a_recorder_that_starts_anew_goes_on_in_time(container: Container, cut_bytes: int) -> None:
    """Also when the recorder before it was cut off in the midst of a packet, as by a page that is loaded again."""
    first, second = recorded(container), recorded(container, 2)
    first = first[: len(first) - cut_bytes]
    stretches = decode(decoder(container), in_pieces(first + second, 811))
    alone = [heard(decode(decoder(container), [part])) for part in (first, second)]
    assert heard(stretches).endswith(alone[1])
    assert alone[0].startswith(heard(stretches)[: len(alone[0]) - BYTES_PER_SECOND // 10])
    assert length(stretches) == pytest.approx(len(alone[0] + alone[1]), abs=1.2 * BYTES_PER_SECOND)
    assert all(hole.source_end <= len(first) for hole in missing(stretches))


@both
def test_damage_in_the_midst_costs_what_was_damaged(container: Container) -> None:
    data = recorded(container)
    middle = len(data) // 2
    hurt = data[:middle] + b"\xff" * 60 + data[middle + 60 :]
    stretches = decode(decoder(container), in_pieces(hurt, 400))
    lost = sum(hole.pcm_bytes for hole in missing(stretches))
    assert 0 < lost < 2.5 * BYTES_PER_SECOND
    assert length(stretches) == pytest.approx(len(SPEECH), abs=BYTES_PER_SECOND)


@pytest.mark.req("R-WS-4")
@both
def test_a_hole_is_passed_and_decoding_begins_again_behind_it(container: Container) -> None:
    data = recorded(container)
    middle, behind = len(data) // 2, len(data) // 2 + 5000
    one = decoder(container)
    one.feed(data[:middle])
    one.skip(behind - middle)
    stretches = decode(one, in_pieces(data[behind:], 300))
    hole = next(hole for hole in missing(stretches) if hole.reason == pb.GAP_REASON_CLIENT_MISSING)
    assert (hole.source_start, hole.source_end) == (middle, behind)
    assert hole.pcm_bytes / BYTES_PER_SECOND == pytest.approx(5000 / len(data) * 8, rel=0.3)
    assert length(stretches) == pytest.approx(len(SPEECH), abs=BYTES_PER_SECOND // 2)
    # What lies before the hole is heard below where it begins, so that it can be told before the hole is.
    before = stretches.index(hole)
    pcm_at_hole = length(stretches[:before])
    assert one.heard_below(middle) == pcm_at_hole
    after = pcm_at_hole + hole.pcm_bytes
    entry = one.entry_point(after)
    assert entry is not None and (entry.encoded_offset, entry.pcm_offset) == (behind, after)
    assert decode(decoder(container, entry, after), [data[behind:]]) == stretches[before + 1 :]


def test_a_packet_that_cannot_be_decoded_is_a_gap_of_its_length() -> None:
    broken = b"\xff\x83" + b"\xfe" * 4  # three frames of 20 ms, of which the lengths do not fit
    assert packet_samples(broken) == 3 * 960
    data = recorded("webm")
    at = data.index(CLUSTER, data.index(CLUSTER) + 4)
    block = b"\xa3" + bytes([0x80 | len(broken) + 4]) + b"\x81\0\0\x80" + broken
    stretches = decode(decoder("webm"), [data[:at] + block + data[at:]])
    (hole,) = missing(stretches)
    assert hole.pcm_bytes == int(0.06 * BYTES_PER_SECOND)
    assert heard(stretches) != b""


@both
@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 11_999), st.binary(min_size=1, max_size=8)), max_size=30))
def test_no_bytes_make_it_fail(container: Container, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(recorded(container)[:12_000])
    for at, junk in changes:
        data[at : at + len(junk)] = junk
    hostile = bytes(data) if container == "webm" else with_checksums(bytes(data))
    one = decoder(container)
    stretches = decode(one, [hostile])
    assert length(stretches) == one.heard_below(len(hostile))


def test_one_step_does_little_whatever_it_is_fed() -> None:
    """A stream of nothing but headers, and one whose packets are all 120 ms in two bytes."""
    header = recorded("webm")[: recorded("webm").index(CLUSTER)] + CLUSTER + b"\xff"
    for hostile in (b"\xec\x80" * 400_000, b"\xa3\x86\x81\0\0\x80\xfb\x06" * 100_000):
        one = decoder("webm")
        one.feed(header + hostile)
        longest_s = most = 0.0
        for _ in range(100):
            begun = time.thread_time()
            stretches = one.decode()
            longest_s = max(longest_s, time.thread_time() - begun)
            most = max(most, length(stretches))
        assert longest_s < 0.1
        assert most <= 1.2 * BYTES_PER_SECOND
        assert one.waiting_bytes > 0


@pytest.mark.parametrize(
    "element",
    [
        b"\xa3\x01\x00\xff\xff\xff\xff\xff\xff",
        b"\xec\x01\x00\x7f\xff\xff\xff\xff\xff",
        b"\x16\x54\xae\x6b\x17\xff\xff\xff",
    ],
)
def test_an_element_that_says_it_is_huge_is_not_waited_for(element: bytes) -> None:
    data = recorded("webm")
    at = data.index(CLUSTER, len(data) // 2)
    stretches = decode(decoder("webm"), [data[:at] + element + data[at:]])
    assert length(stretches) == pytest.approx(len(SPEECH), abs=BYTES_PER_SECOND // 10)


def with_checksums(data: bytes) -> bytes:
    """Return Ogg pages with checksums that hold, so that what is in them is looked at."""
    start, *pages = data.split(b"OggS")
    mended = [start]
    for rest in pages:
        page = b"OggS" + rest
        if len(page) > CHECKSUM_AT + 4:
            page = page[:CHECKSUM_AT] + checksum(page).to_bytes(4, "little") + page[CHECKSUM_AT + 4 :]
        mended.append(page)
    return b"".join(mended)

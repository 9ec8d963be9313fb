from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Sequence

import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from services.meetings.export import FORMATS, PIECE_BYTES, Pieces, clock
from services.meetings.meetings import Gap, Meeting, Segment

NOON = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
MEETING = Meeting(
    "m", "o", "Plan *B*", "en", ("Ann", "Ben"), "completed", 1, NOON, NOON, NOON, NOON,
    segments=3, draft_segments=1, audio_s=60.0, gap_s=2.0, coverage=0.9,
)  # fmt: skip
HOSTILE = "<b>&amp; --> 00:00:01,000 --> 00:00:02,000\n\n7\n"


def said(index: int, start_s: float, end_s: float, text: str, *, speaker: str = "Ann", draft: bool = False) -> Segment:
    quality = "draft" if draft else "final"
    return Segment(f"s-{index}", "m", "x", index, 1, speaker, start_s, end_s, text, None, "test", quality)


def gap(start_s: float, end_s: float, reason: str = "client_missing") -> Gap:
    return Gap("x", start_s, end_s, reason)


def written(form: str, segments: Sequence[Segment], gaps: Sequence[Gap] = ()) -> str:
    export = FORMATS[form](MEETING, gaps)
    return export.head() + "".join(map(export.segment, segments)) + export.tail()


SEGMENTS = [
    said(0, 0.0, 2.5, "Good morning"),
    said(1, 2.5, 4.0, "we ship on friday", speaker="Ben", draft=True),
    said(2, 4.0, 4.5, "  "),
    said(3, 10.0, 12.0, HOSTILE, speaker="<v>"),
]
GAPS = [gap(5.0, 7.0), gap(58.0, 60.0, "undecodable")]

rows = st.lists(
    st.tuples(st.floats(0, 400_000), st.floats(0, 100), st.text(max_size=40), st.sampled_from(["", "Ann", "B <&>"])),
    max_size=12,
)


def from_rows(drawn: list[tuple[float, float, str, str]]) -> list[Segment]:
    return [
        said(index, start_s, start_s + length_s, text, speaker=speaker)
        for index, (start_s, length_s, text, speaker) in enumerate(sorted(drawn, key=lambda row: row[0]))
    ]


@pytest.mark.req("R-API-1")
def test_srt_is_what_pysubs2_reads() -> None:
    cues = pysubs2.SSAFile.from_string(
        written("srt", SEGMENTS, GAPS), "srt", keep_html_tags=True, keep_unknown_html_tags=True
    )
    assert [(cue.start, cue.end) for cue in cues] == [
        (0, 2500), (2500, 4000), (5000, 7000), (10000, 12000), (58000, 60000),
    ]  # fmt: skip
    assert cues[0].plaintext == "Ann: Good morning"
    assert cues[2].plaintext == "[no audio arrived (client_missing)]"
    assert cues[4].plaintext == "[the audio could not be decoded (undecodable)]"


@pytest.mark.req("R-API-1")
@given(rows)
def test_srt_of_any_transcript_has_a_cue_for_each_text_and_goes_forward(
    drawn: list[tuple[float, float, str, str]],
) -> None:
    segments = from_rows(drawn)
    blocks = [block.split("\n") for block in written("srt", segments).split("\n\n") if block]
    assert [block[0] for block in blocks] == [str(number + 1) for number in range(len(blocks))]
    assert all(len(block) == 3 and block[2].strip() for block in blocks)
    read = pysubs2.SSAFile.from_string(written("srt", segments), "srt")
    assert len(read) == len(blocks)
    starts = [cue.start for cue in read]
    assert starts == sorted(starts)
    assert all(cue.end > cue.start for cue in read)


@pytest.mark.req("R-API-1")
def test_vtt_is_what_webvtt_reads() -> None:
    text = written("vtt", SEGMENTS, GAPS)
    cues = webvtt.from_string(text)
    assert [(cue.start, cue.end) for cue in cues.captions] == [
        ("00:00:00.000", "00:00:02.500"),
        ("00:00:02.500", "00:00:04.000"),
        ("00:00:10.000", "00:00:12.000"),
    ]
    assert cues[0].raw_text == "<v Ann>Good morning"
    assert cues[0].voice == "Ann"
    assert "NOTE gap 00:00:05 to 00:00:07: no audio arrived (client_missing)" in text
    assert "<b>" not in text
    assert "-->" not in cues[2].raw_text


@pytest.mark.req("R-API-1")
@given(rows)
def test_vtt_of_any_transcript_has_a_cue_for_each_text_and_goes_forward(
    drawn: list[tuple[float, float, str, str]],
) -> None:
    segments = from_rows(drawn)
    text = written("vtt", segments)
    webvtt.WebVTT.from_buffer(io.StringIO(text))
    times = [line for line in text.split("\n") if " --> " in line]
    spoken = [segment for segment in segments if written("txt", [segment]).count("\n") == 3]
    assert len(times) == len(spoken)
    assert [line.split(" --> ")[0].rjust(20) for line in times] == sorted(
        line.split(" --> ")[0].rjust(20) for line in times
    )


def test_cue_that_ends_where_it_begins_is_made_visible() -> None:
    assert "00:00:01,000 --> 00:00:01,001" in written("srt", [said(0, 1.0, 1.0, "now")])


def test_more_than_99_hours_are_told_where_the_format_can() -> None:
    late = [said(0, 360_001.5, 360_002.0, "still here"), said(1, 360_003.0, 360_004.0, "and here")]
    assert "100:00:01.500 --> 100:00:02.000" in written("vtt", late)
    assert "[100:00:01] Ann: still here" in written("txt", late)
    cues = pysubs2.SSAFile.from_string(written("srt", late), "srt")
    assert [cue.end for cue in cues] == [359_999_999, 359_999_999]
    assert clock(59.999) == "00:00:59"


def test_txt_has_a_line_for_each_segment_and_gap() -> None:
    assert written("txt", SEGMENTS[:3], GAPS[:1]).split("\n") == [
        "Plan *B*",
        "",
        "[00:00:00] Ann: Good morning",
        "[00:00:02] Ben: we ship on friday",
        "[00:00:05] [gap until 00:00:07: no audio arrived (client_missing)]",
        "",
    ]


def test_markdown_marks_drafts_and_gaps_and_lets_nothing_format_itself() -> None:
    text = written("md", SEGMENTS, GAPS)
    assert text.startswith("# Plan \\*B\\*\n\n- Date: 2026-11-23 12:00 UTC\n- Participants: Ann, Ben\n")
    assert "**00:00:02 Ben:** we ship on friday *(draft)*\n" in text
    assert "> **Gap** 00:00:05 to 00:00:07: no audio arrived (client\\_missing)\n" in text
    assert "\\<b\\>" in text


def test_json_tells_everything() -> None:
    document = json.loads(written("json", SEGMENTS, GAPS))
    assert document["meeting"]["title"] == "Plan *B*"
    assert [segment["text"] for segment in document["segments"]] == [segment.text for segment in SEGMENTS]
    assert [segment["quality"] for segment in document["segments"]] == ["final", "draft", "final", "final"]
    assert [(g["start"], g["end"], g["reason"]) for g in document["gaps"]] == [
        (5.0, 7.0, "client_missing"),
        (58.0, 60.0, "undecodable"),
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_meeting_without_a_word_is_a_valid_file(form: str) -> None:
    text = written(form, [])
    if form == "json":
        assert json.loads(text)["segments"] == []
    elif form == "vtt":
        assert webvtt.from_string(text).captions == []
    elif form == "srt":
        assert text == ""
    else:
        assert "Plan" in text


@given(st.lists(st.text(max_size=100_000), max_size=5))
def test_pieces_are_small_and_whole_together(texts: list[str]) -> None:
    pieces = Pieces()
    cut = [piece for text in texts for piece in pieces.add(text)]
    cut += pieces.rest()
    assert b"".join(cut).decode() == "".join(texts)
    assert all(0 < len(piece) <= PIECE_BYTES for piece in cut)

"""A transcript as a file: txt, md, srt, vtt, json. Written row by row, so that its length does not matter."""

from __future__ import annotations

import datetime as dt
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import orjson

from services.meetings.checks import clean_line
from services.meetings.meetings import Gap, Meeting, Segment

PIECE_BYTES = 64 * 1024

REASONS = {"client_missing": "no audio arrived", "undecodable": "the audio could not be decoded"}
# SubRip has two digits for hours, and its readers take "100:" for "00:".
_SRT_LAST_MS = ((99 * 60 + 59) * 60 + 59) * 1000 + 999
_SRT_TIME = re.compile(r"(\d:\d{1,2}:\d{1,2})[.,](\d)")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~])")


class Export(ABC):
    """Writes one format: `head`, then `segment` for each segment in order of time, then `tail`.

    Gaps are woven in where they belong. A segment without text gives no row, except in json, which tells everything.
    """

    def __init__(self, meeting: Meeting, gaps: Sequence[Gap]) -> None:
        self.meeting = meeting
        self.gaps = sorted(gaps, key=lambda gap: gap.start_s)
        self._next_gap = 0

    def head(self) -> str:
        """Return what comes before the first row."""
        return ""

    def segment(self, segment: Segment) -> str:
        """Return the row of a segment, after those of the gaps that begin before it."""
        text = clean_line(segment.text)
        return self._gaps_until(segment.start_s) + (self.row(segment, text) if text else "")

    def tail(self) -> str:
        """Return what comes after the last segment."""
        return self._gaps_until(float("inf"))

    @abstractmethod
    def row(self, segment: Segment, text: str) -> str:
        """Return the row of a segment whose text, on one line, is `text`."""

    @abstractmethod
    def gap(self, gap: Gap) -> str:
        """Return the row of a gap."""

    def _gaps_until(self, start_s: float) -> str:
        rows = []
        while self._next_gap < len(self.gaps) and self.gaps[self._next_gap].start_s <= start_s:
            rows.append(self.gap(self.gaps[self._next_gap]))
            self._next_gap += 1
        return "".join(rows)


class Text(Export):
    """Plain text: one line for each segment."""

    def head(self) -> str:
        return f"{self.meeting.title}\n\n"

    def row(self, segment: Segment, text: str) -> str:
        return f"[{clock(segment.start_s)}] {_spoken(segment, text)}\n"

    def gap(self, gap: Gap) -> str:
        return f"[{clock(gap.start_s)}] [gap until {clock(gap.end_s)}: {_why(gap)}]\n"


class Markdown(Export):
    """Markdown: a heading, what is known of the meeting, a paragraph for each segment. Drafts are marked."""

    def head(self) -> str:
        lines = [f"# {_escape_markdown(self.meeting.title)}", ""]
        if self.meeting.started_at:
            lines.append(f"- Date: {self.meeting.started_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC")
        if self.meeting.participants:
            lines.append(f"- Participants: {_escape_markdown(', '.join(self.meeting.participants))}")
        if self.meeting.language:
            lines.append(f"- Language: {_escape_markdown(self.meeting.language)}")
        if self.meeting.draft_segments:
            lines.append(f"- Drafts: {self.meeting.draft_segments} of {self.meeting.segments} segments")
        return "\n".join(lines).rstrip() + "\n\n"

    def row(self, segment: Segment, text: str) -> str:
        speaker = _escape_markdown(clean_line(segment.speaker))
        label = f"{clock(segment.start_s)} {speaker}".rstrip()
        draft = " *(draft)*" if segment.is_draft else ""
        return f"**{label}:** {_escape_markdown(text)}{draft}\n\n"

    def gap(self, gap: Gap) -> str:
        return f"> **Gap** {clock(gap.start_s)} to {clock(gap.end_s)}: {_escape_markdown(_why(gap))}\n\n"


class Cues(Export):
    """What SubRip and WebVTT have in common: cues that never go back in time and never end where they begin."""

    last_ms: int | None = None

    def __init__(self, meeting: Meeting, gaps: Sequence[Gap]) -> None:
        super().__init__(meeting, gaps)
        self._started_ms = 0

    def span_ms(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Return start and end of a cue in milliseconds."""
        start_ms = max(self._started_ms, round(start_s * 1000))
        end_ms = max(start_ms + 1, round(end_s * 1000))
        if self.last_ms is not None:
            start_ms, end_ms = min(start_ms, self.last_ms - 1), min(end_ms, self.last_ms)
        self._started_ms = start_ms
        return start_ms, end_ms


class SubRip(Cues):
    """SubRip (srt). It has no comments: a gap is a cue in brackets."""

    last_ms = _SRT_LAST_MS

    def __init__(self, meeting: Meeting, gaps: Sequence[Gap]) -> None:
        super().__init__(meeting, gaps)
        self._number = 0

    def row(self, segment: Segment, text: str) -> str:
        return self._cue(segment.start_s, segment.end_s, _spoken(segment, text))

    def gap(self, gap: Gap) -> str:
        return self._cue(gap.start_s, gap.end_s, f"[{_why(gap)}]")

    def _cue(self, start_s: float, end_s: float, text: str) -> str:
        start_ms, end_ms = self.span_ms(start_s, end_s)
        self._number += 1
        # Readers take any line with an arrow, some any with two times, for the head of a cue.
        line = _SRT_TIME.sub(r"\1 \2", text.replace("-->", "->"))
        return f"{self._number}\n{_stamp(start_ms, ',')} --> {_stamp(end_ms, ',')}\n{line}\n\n"


class WebVtt(Cues):
    """WebVTT. A gap is a note; the speaker is the cue's voice."""

    def head(self) -> str:
        return "WEBVTT\n\n"

    def row(self, segment: Segment, text: str) -> str:
        start_ms, end_ms = self.span_ms(segment.start_s, segment.end_s)
        speaker = clean_line(segment.speaker)
        voice = f"<v {_escape_vtt(speaker)}>" if speaker else ""
        return f"{_stamp(start_ms, '.')} --> {_stamp(end_ms, '.')}\n{voice}{_escape_vtt(text)}\n\n"

    def gap(self, gap: Gap) -> str:
        return f"NOTE gap {clock(gap.start_s)} to {clock(gap.end_s)}: {_why(gap)}\n\n"


class Json(Export):
    """JSON: the meeting, its gaps, and every segment as the API shows it."""

    _comma = ""

    def head(self) -> str:
        m = self.meeting
        meeting = {
            "id": m.id, "title": m.title, "language": m.language, "participants": list(m.participants),
            "status": m.status, "created_at": m.created_at, "started_at": m.started_at, "ended_at": m.ended_at,
            "audio_seconds": m.audio_s, "gap_seconds": m.gap_s, "draft_segments": m.draft_segments,
            "coverage": m.coverage,
        }  # fmt: skip
        gaps = [{"session_id": g.session_id, "start": g.start_s, "end": g.end_s, "reason": g.reason} for g in self.gaps]
        return f'{{"meeting":{_dumps(meeting)},"gaps":{_dumps(gaps)},"segments":['

    def segment(self, segment: Segment) -> str:
        row = self._comma + _dumps({
            "id": segment.id, "session_id": segment.session_id, "index": segment.index, "revision": segment.revision,
            "speaker": segment.speaker, "start": segment.start_s, "end": segment.end_s, "text": segment.text,
            "confidence": segment.confidence, "engine": segment.engine, "quality": segment.quality,
            "edited": segment.edited, "heard": {"text": segment.heard_text, "speaker": segment.heard_speaker},
        })  # fmt: skip
        self._comma = ","
        return row

    def tail(self) -> str:
        return "]}"

    def row(self, segment: Segment, text: str) -> str:
        raise AssertionError("json writes segments whole")

    def gap(self, gap: Gap) -> str:
        raise AssertionError("json writes gaps before the segments")


FORMATS: dict[str, type[Export]] = {"txt": Text, "md": Markdown, "srt": SubRip, "vtt": WebVtt, "json": Json}


class Pieces:
    """Cuts text into pieces of UTF-8 for the wire: none empty, none above 64 KiB."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, text: str) -> Iterator[bytes]:
        """Take text; yield the pieces that are full."""
        self._buffer += text.encode()
        while len(self._buffer) >= PIECE_BYTES:
            yield bytes(self._buffer[:PIECE_BYTES])
            del self._buffer[:PIECE_BYTES]

    def rest(self) -> Iterator[bytes]:
        """Yield what is left."""
        if self._buffer:
            yield bytes(self._buffer)
            self._buffer.clear()


def clock(seconds: float) -> str:
    """Return `01:02:03`; hours take as many digits as they need."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _stamp(ms: int, point: str) -> str:
    return f"{clock(ms // 1000)}{point}{ms % 1000:03d}"


def _spoken(segment: Segment, text: str) -> str:
    speaker = clean_line(segment.speaker)
    return f"{speaker}: {text}" if speaker else text


def _why(gap: Gap) -> str:
    return f"{REASONS.get(gap.reason, 'no transcript')} ({gap.reason})"


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _escape_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _dumps(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()

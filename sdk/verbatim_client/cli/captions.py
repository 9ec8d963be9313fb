"""Captions as people read them: one line per utterance, what is still changing below it on a terminal."""

from __future__ import annotations

import shutil
from typing import Any, TextIO

from verbatim_client.cli.printing import plain

ERASE_LINE = "\r\x1b[K"
ACCOUNTS = ("segments", "audio_seconds", "gap_seconds", "draft_segments", "coverage")

Json = dict[str, Any]


class Captions:
    """Finals and gaps go to `out`; partials, where it is a terminal, and everything else to `messages`."""

    def __init__(self, out: TextIO, messages: TextIO) -> None:
        self._out = out
        self._messages = messages
        self._overwrites = messages.isatty()
        self._shown: set[tuple[Any, Any]] = set()

    def show(self, event: Json) -> None:
        """Show a live event, if it is one that people read."""
        match event["type"]:
            case "segment" | "revised":
                self._segment(event)
            case "gap":
                self._line(self._out, event, f"(missing until {clock(event['end'])}: {plain(event['reason'])})")
            case "partial":
                self._partial(plain(event["text"]))
            case "status" if event["state"] != "ok":
                state = plain(event["state"]).replace("_", " ")
                self._line(self._messages, None, f"({state}: {plain(event.get('reason'))})")
            case "error":
                self._line(self._messages, None, f"({plain(event.get('error'))}: {plain(event.get('message'))})")
            case "disconnected":
                wait_s = event["retry_in_s"]
                when = f"in {wait_s:.0f} s" if wait_s >= 1.0 else "now"
                self._line(self._messages, None, f"(connection lost, trying again {when}: {plain(event['reason'])})")
            case "session_restored":
                self._line(self._messages, None, "(connection restored)")
            case "finished":
                self._accounts(event)

    def _segment(self, segment: Json) -> None:
        """Show what is new to whoever reads: a text, a better one in its place, or that nothing was said there."""
        key = (segment.get("session_id"), segment.get("index"))
        text = plain(segment["text"])
        if key in self._shown and segment["type"] == "revised":
            self._line(self._out, segment, f"(revised) {_speaker(segment)}{text or '(nothing was said)'}")
        elif text:
            mark = "  (draft)" if segment.get("quality") == "draft" else ""
            self._line(self._out, segment, f"{_speaker(segment)}{text}{mark}")
            self._shown.add(key)

    def _line(self, console: TextIO, event: Json | None, text: str) -> None:
        if self._overwrites:
            print(ERASE_LINE, end="", file=self._messages, flush=True)
        when = "     " if event is None else clock(event["start"])
        print(f"{when}  {text}", file=console, flush=True)

    def _partial(self, text: str) -> None:
        if self._overwrites:
            room = max(1, shutil.get_terminal_size().columns - 10)
            print(f"{ERASE_LINE}  ...  {text[-room:]}", end="", file=self._messages, flush=True)

    def _accounts(self, finished: Json) -> None:
        parts = [f"{name.replace('_', ' ')} {finished[name]:g}" for name in ACCOUNTS if finished.get(name) is not None]
        self._line(self._messages, None, f"finished: {', '.join(parts)}")


def clock(seconds: float) -> str:
    """Give a time in the meeting as minutes and seconds."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _speaker(segment: Json) -> str:
    return f"{plain(segment['speaker'])}: " if segment.get("speaker") else ""

"""What was said so far, as the events of a session or of a meeting tell it."""

from __future__ import annotations

from verbatim_client.wire import Event


class Transcript:
    """Of each segment the newest revision. Feed it every event; those that tell of no segment change nothing.

    A segment without text says that nothing was said there, or that nobody could hear it yet (`quality: draft`).
    """

    def __init__(self) -> None:
        self._newest: dict[tuple[str, int], Event] = {}

    def apply(self, event: Event) -> bool:
        """Take an event; True if the transcript reads otherwise now. A repeat, or what is older, changes nothing."""
        if event["type"] not in {"segment", "revised"}:
            return False
        key = (str(event.get("session_id", "")), int(event.get("index", 0)))
        known = self._newest.get(key)
        if known is not None and known.get("revision", 1) >= event.get("revision", 1):
            return False
        self._newest[key] = event
        return known is None or any(known.get(name) != event.get(name) for name in ("text", "quality"))

    @property
    def segments(self) -> list[Event]:
        """The segments in order of time."""
        return sorted(self._newest.values(), key=_place)

    @property
    def text(self) -> str:
        """All that was said."""
        return " ".join(segment["text"] for segment in self.segments if segment.get("text"))

    @property
    def drafts(self) -> int:
        """How many segments the embedded engine wrote, and nobody has heard again."""
        return sum(segment.get("quality") == "draft" for segment in self._newest.values())


def _place(segment: Event) -> tuple[float, str, int]:
    return float(segment.get("start", 0.0)), str(segment.get("session_id", "")), int(segment.get("index", 0))

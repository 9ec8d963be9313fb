"""Revisions take the place of drafts, in whatever order and however often events come."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from verbatim_client import Transcript
from verbatim_client.cli.captions import Captions

pytestmark = pytest.mark.req("R-STT-5", "R-UI-2")


def said(index: int, text: str, revision: int = 1, session: str = "s") -> dict[str, Any]:
    quality = "draft" if revision == 1 else "final"
    kind = "segment" if revision == 1 else "revised"
    return {
        "type": kind, "session_id": session, "index": index, "revision": revision, "start": index * 2.0,
        "text": text, "quality": quality, "speaker": None,
    }  # fmt: skip


EVENTS = [said(0, "rubbish"), said(1, ""), said(0, "sense", 2), said(1, "really", 2)]


@pytest.mark.parametrize("events", list(itertools.permutations(EVENTS)))
def test_the_newest_revision_stands_however_events_come(events: tuple[dict[str, Any], ...]) -> None:
    transcript = Transcript()
    for event in (*events, *events):
        transcript.apply(event)
    assert (transcript.text, transcript.drafts) == ("sense really", 0)


def test_only_what_changes_the_transcript_is_a_change() -> None:
    transcript = Transcript()
    assert transcript.apply(said(0, "rubbish"))
    assert not transcript.apply(said(0, "rubbish"))
    assert not transcript.apply({"type": "ack", "offset": 3})
    assert transcript.drafts == 1
    assert transcript.apply(said(0, "rubbish", 2))  # no draft any more
    assert not transcript.apply(said(0, "other", 1))
    assert transcript.apply(said(0, "theirs", session="t"))
    assert [segment["text"] for segment in transcript.segments] == ["rubbish", "theirs"]


def shown(*events: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    captions = Captions(out, io.StringIO())
    for event in events:
        captions.show(event)
    return out.getvalue().splitlines()


def test_captions_show_revisions_of_what_was_shown_and_nothing_where_nothing_was_said() -> None:
    assert shown(said(0, "rubbish"), said(0, "sense", 2)) == ["00:00  rubbish  (draft)", "00:00  (revised) sense"]
    assert shown(said(0, "rubbish"), said(0, "", 2)) == [
        "00:00  rubbish  (draft)",
        "00:00  (revised) (nothing was said)",
    ]
    assert shown(said(1, ""), said(1, "really", 2)) == ["00:02  really"]
    assert shown(said(1, ""), said(1, "", 2)) == []

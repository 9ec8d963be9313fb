from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import ids
from services.meetings.tests.logbook import Logbook, meeting_log
from services.meetings.transcript import Unreadable, delivered, fold, read, storable


def segment_entry() -> pb.TranscriptEntry:
    log = Logbook(ids.new_id())
    log.say("Hello")
    return log.entries[-1]


def test_every_kind_of_entry_is_read() -> None:
    entries = meeting_log(ids.new_id()).entries
    assert [read(entry.SerializeToString()) for entry in entries] == entries
    kinds = {"opened", "resumed", "segment", "gap", "suppressed", "checkpoint", "closed"}
    assert {entry.WhichOneof("kind") for entry in entries} == kinds


@pytest.mark.parametrize("payload", [b"\xff\xff", b"", b"not protobuf at all"])
def test_bytes_that_are_no_entry_are_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        read(payload)
    message = delivered(7, "transcript.x", payload)
    assert (message.entry, message.reason, message.payload) == (None, "unreadable", payload)


BREAKERS: dict[str, Callable[[pb.TranscriptEntry], object]] = {
    "session_id": lambda e: setattr(e, "session_id", "../etc"),
    "position": lambda e: setattr(e, "position", 0),
    "recorded_at": lambda e: e.ClearField("recorded_at"),
    "start_s": lambda e: setattr(e.segment, "start_s", math.nan),
    "end_s": lambda e: setattr(e.segment, "end_s", -1.0),
    "end_offset": lambda e: setattr(e.segment, "end_offset", 2**63),
    "start_offset": lambda e: setattr(e.segment, "start_offset", e.segment.end_offset + 1),
    "index": lambda e: setattr(e.segment, "index", 2**32 - 1),
    "quality": lambda e: e.segment.ClearField("quality"),
    "confidence": lambda e: setattr(e.segment, "confidence", math.inf),
    "segment_id": lambda e: e.segment.ClearField("segment_id"),
    "kind": lambda e: e.ClearField("segment"),
}


@pytest.mark.parametrize("field", BREAKERS)
def test_entry_that_the_tables_could_not_hold_is_unreadable(field: str) -> None:
    entry = segment_entry()
    read(entry.SerializeToString())
    BREAKERS[field](entry)
    with pytest.raises(Unreadable):
        read(entry.SerializeToString())


def test_problem_of_an_entry_never_quotes_it() -> None:
    entry = segment_entry()
    entry.segment.text = "secret words"
    entry.segment.end_s = math.inf
    message = delivered(1, "transcript.x", entry.SerializeToString())
    assert message.problem
    assert "secret" not in message.problem


def test_folded_batch_keeps_the_highest_revision_of_a_segment() -> None:
    log = Logbook(ids.new_id())
    draft = log.say("draft", draft=True)
    log.heal(draft, "final")
    for entries in (log.entries, log.entries[::-1], log.entries * 2):
        batch = fold(entries)
        assert [entry.segment.text for entry in batch.segments.values()] == ["final"]


def test_watermark_is_how_far_the_log_has_come() -> None:
    log = meeting_log(ids.new_id())
    mark = fold(log.entries).watermarks[log.session_id]
    assert (mark.position, mark.end_offset) == (len(log.entries), log.end_offset)
    assert mark.event == max(entry.event for entry in log.entries)
    assert fold(log.entries[::-1]).watermarks[log.session_id] == mark


def test_nul_is_not_stored() -> None:
    assert storable("a\0b") == "ab"

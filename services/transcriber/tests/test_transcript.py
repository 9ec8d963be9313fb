"""The ledger: what a log says, and that it says the same to everybody."""

from __future__ import annotations

import pytest
from verbatim.transcript.v1 import transcript_pb2 as pb

from services.transcriber.transcript import Ledger, fold, newest, token_hash

SESSION = "01930000-0000-7000-8000-000000000001"
RESUMED = pb.Resumed(resume_token_hash=token_hash("second"), presented_token_hash=token_hash("first"))


def segment(index: int, start: int, end: int, revision: int = 1, *, draft: bool = False) -> pb.Segment:
    segment = pb.Segment(segment_id=f"s{index}", index=index, revision=revision, text=f"text {index}")
    segment.start_offset, segment.end_offset = start, end
    segment.quality = pb.QUALITY_DRAFT if draft else pb.QUALITY_FINAL
    return segment


def write(ledger: Ledger, **kind: object) -> pb.TranscriptEntry:
    entry = ledger.draft("writer", **kind)
    ledger.apply(entry)
    return entry


def a_session() -> tuple[Ledger, list[pb.TranscriptEntry]]:
    ledger = Ledger(SESSION)
    entries = [
        write(ledger, opened=pb.Opened(owner_id="o", meeting_id="m", resume_token_hash=token_hash("first"))),
        write(ledger, segment=segment(0, 1000, 3000, draft=True)),
        write(ledger, suppressed=pb.Suppressed(start_offset=3000, end_offset=3500, reason="noise")),
        write(ledger, checkpoint=pb.Checkpoint(end_offset=5000)),
        write(ledger, gap=pb.Gap(start_offset=5000, end_offset=6000)),
        write(ledger, resumed=RESUMED),
        write(ledger, segment=segment(1, 6500, 8000)),
    ]
    return ledger, entries


@pytest.mark.req("R-WS-4")
def test_two_readers_of_one_log_hold_the_same_ledger() -> None:
    ledger, entries = a_session()
    assert fold(SESSION, entries) == ledger


@pytest.mark.req("R-WS-4", "R-HEAL-2")
def test_a_snapshot_stands_for_the_log_before_it() -> None:
    ledger, entries = a_session()
    again = fold(SESSION, [pb.TranscriptEntry.FromString(ledger.snapshot("writer").SerializeToString())])
    assert [entry.event for entry in again.recent] == [entry.event for entry in entries if entry.event]
    assert again == ledger
    for one in (ledger, again):
        write(one, segment=segment(2, 8000, 9000))
        write(one, segment=segment(0, 1000, 3000, revision=2))
        for entry in one.recent:
            entry.ClearField("recorded_at")
    assert again == ledger
    assert not again.drafts
    with pytest.raises(ValueError, match="after"):
        ledger.apply(ledger.snapshot("writer"))


@pytest.mark.req("R-WS-3")
def test_events_count_what_clients_see_without_holes() -> None:
    _, entries = a_session()
    visible = [entry.event for entry in entries if entry.event]
    assert visible == [1, 2, 3, 4, 5]
    assert [entry.position for entry in entries] == [1, 2, 3, 4, 5, 6, 7]


def test_accounts_add_up_to_what_was_received() -> None:
    ledger, _ = a_session()
    closed = ledger.accounts(pb.CLOSE_REASON_FINISHED, 10_000, 10_000)
    assert (ledger.transcribed_bytes, ledger.gap_bytes, ledger.silence_bytes) == (3500, 1000, 1000 + 500 + 1500 + 500)
    assert closed.transcribed_s + closed.silence_s + closed.gap_s == pytest.approx(closed.audio_s)
    assert closed.coverage == pytest.approx(0.9)
    assert (closed.segments, closed.draft_segments) == (2, 1)


def test_an_empty_session_is_fully_covered() -> None:
    assert Ledger(SESSION).accounts(pb.CLOSE_REASON_FINISHED, 0, 0).coverage == 1.0


def test_entry_that_overlaps_the_checkpoint_is_refused() -> None:
    ledger, _ = a_session()
    with pytest.raises(ValueError, match="overlaps"):
        ledger.apply(ledger.draft("writer", segment=segment(2, 7000, 9000)))


def test_entry_out_of_order_is_refused() -> None:
    ledger, entries = a_session()
    with pytest.raises(ValueError, match="after"):
        ledger.apply(entries[2])


def test_revision_replaces_its_segment_and_moves_no_watermark() -> None:
    ledger, _ = a_session()
    before = (ledger.accounted_offset, ledger.transcribed_bytes, ledger.next_index)
    write(ledger, segment=segment(0, 1000, 3000, revision=2))
    assert (ledger.accounted_offset, ledger.transcribed_bytes, ledger.next_index) == before
    assert ledger.drafts.indexes == []
    missed = ledger.since(0)
    assert missed is not None
    assert [(e.segment.index, e.segment.revision) for e in missed if e.WhichOneof("kind") == "segment"] == [
        (0, 2),
        (1, 1),
    ]


def test_client_gets_only_what_it_has_not_seen() -> None:
    ledger, _ = a_session()
    assert [entry.event for entry in ledger.since(2) or []] == [3, 5]
    assert ledger.since(5) == []


def test_what_is_older_than_memory_is_not_guessed() -> None:
    ledger, _ = a_session()
    for _ in range(300):
        write(ledger, resumed=pb.Resumed())
    assert ledger.since(2) is None


@pytest.mark.req("R-WS-3")
def test_presented_token_stays_good_until_its_successor_is_used() -> None:
    ledger, _ = a_session()
    assert set(ledger.resume_hashes) == {token_hash("first"), token_hash("second")}


def test_newest_keeps_one_row_per_segment_in_order() -> None:
    _, entries = a_session()
    assert [entry.WhichOneof("kind") for entry in newest(entries)] == ["segment", "gap", "segment"]

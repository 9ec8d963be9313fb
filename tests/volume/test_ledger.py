"""What the pieces came to is kept, and added up."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

from tests.volume.accounts import Accounts
from tests.volume.ledger import Ledger
from tests.volume.page import write_page
from tests.volume.run import Outcome


def test_pieces_are_kept_and_added_up(tmp_path: Path) -> None:
    one = Outcome(
        Accounts(*range(1, len(fields(Accounts)) + 1)), Counter({"NATS killed": 2, "process frozen": 1}), 3, 8, 5.0, 7
    )
    first = Ledger(tmp_path / "kept" / "volume.json")
    first.add("piece 0", one)
    first.add("piece 1", one)
    first.add("control", one)
    again = Ledger(tmp_path / "kept" / "volume.json")
    assert again.pieces == first.pieces
    total, pieces = again.sum("piece")
    assert (pieces, total.accounts.put, total.in_stream, total.seconds) == (2, 2, 16, 10.0)
    assert total.faults == Counter({"NATS killed": 4, "process frozen": 2})
    assert "The sum of 2 runs by the seeds 1 to 2" in write_page(total, pieces, 1, one)

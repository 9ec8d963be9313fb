"""What the pieces of a volume run came to, kept in a file: a run that is cut short is gone on with, not begun anew."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import orjson

from tests.volume.accounts import Accounts
from tests.volume.run import Outcome

Pieces = dict[str, Outcome]


class Ledger:
    """Outcomes by the name of their piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.pieces: Pieces = {}
        if path.exists():
            self.pieces = {name: _outcome(kept) for name, kept in orjson.loads(path.read_bytes()).items()}

    def add(self, name: str, outcome: Outcome) -> None:
        """Keep the outcome of a piece."""
        self.pieces[name] = outcome
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(orjson.dumps({name: _kept(one) for name, one in self.pieces.items()}))

    def sum(self, prefix: str) -> tuple[Outcome, int]:
        """Return all pieces whose name begins so, as one outcome, and how many they are."""
        found = [outcome for name, outcome in self.pieces.items() if name.startswith(prefix)]
        accounts = {field.name: sum(getattr(one.accounts, field.name) for one in found) for field in fields(Accounts)}
        faults = sum((one.faults for one in found), Counter[str]())
        totals = (sum(one.restarted for one in found), sum(one.in_stream for one in found))
        return Outcome(Accounts(**accounts), faults, *totals, sum(one.seconds for one in found), 0), len(found)


def _kept(outcome: Outcome) -> dict[str, Any]:
    # asdict would make a Counter of the Counter's items.
    plain = {field.name: getattr(outcome, field.name) for field in fields(Outcome)}
    return plain | {"accounts": asdict(outcome.accounts), "faults": dict(outcome.faults)}


def _outcome(kept: dict[str, Any]) -> Outcome:
    return Outcome(**(kept | {"accounts": Accounts(**kept["accounts"]), "faults": Counter(kept["faults"])}))

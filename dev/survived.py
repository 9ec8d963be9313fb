"""The README's table of what the platform survives, from the last run of `make chaos`. Written by `dev.reference`."""

from __future__ import annotations

import re

BEGIN, END = "<!-- from docs/faults.md by python -m dev.reference -->", "<!-- end -->"

_HEAD = ("| | acknowledged pieces of audio | lost | doubled | longest pause |", "|---|---|---|---|---|")

# The rows that people ask about; the whole table has the rest.
ROWS = {
    "24c": "gateway and transcriber killed in mid-sentence",
    "24d": "all transcribers killed at once",
    "28": "the broker killed, away for up to 8 s",
    "30": "Postgres crashes",
    "21": "partitions between gateway, transcriber and broker",
    "26": "rolling restart of gateways, transcribers and meetings",
    "45": "everything at random (seeded)",
}


def section(faults: str) -> str:
    """Return the table between the README's marks. Raises ValueError if the page has no such rows."""
    found = _rows(faults)
    lines = list(_HEAD)
    for row, what in ROWS.items():
        cells = found.get(row)
        if cells is not None and cells["chunks"].isdigit():  # it was played
            pause_s = next(value for name, value in cells.items() if name.startswith("pause")).split("/")[-1].strip()
            lines.append(f"| {what} | {cells['chunks']} | {cells['lost']} | {cells['doubled']} | {pause_s} s |")
    if len(lines) == len(_HEAD):
        raise ValueError("docs/faults.md has none of the rows that the README tells")
    return "\n".join([BEGIN, *lines, END])


def told(readme: str, faults: str) -> str:
    """Return the README with the table of the last run in it. Raises ValueError if it has no place for it."""
    changed, places = re.subn(re.escape(BEGIN) + r".*?" + re.escape(END), lambda _: section(faults), readme, flags=re.S)
    if places != 1:
        raise ValueError("the README has not one place for what is survived")
    return changed


def _rows(faults: str) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for line in faults.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == "row":
            names = cells
        elif cells and len(cells) == len(names) and not cells[0].startswith("-"):
            rows.setdefault(cells[0], dict(zip(names, cells, strict=True)))
    return rows

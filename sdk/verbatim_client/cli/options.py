"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
MeetingId = Annotated[str, typer.Argument(metavar="MEETING", help="Id of the meeting.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")]

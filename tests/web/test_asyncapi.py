"""docs/asyncapi.yaml itself. Every other test of this folder checks its frames against it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dev.settings import ROOT
from tests.asyncapi import Side, faults

pytestmark = pytest.mark.req("R-RUN-7", "R-WS-1")


def test_every_reference_leads_somewhere() -> None:
    document = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text(encoding="utf-8"))

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [one for value in part.values() for one in references(value)]
        return [one for value in part for one in references(value)] if isinstance(part, list) else []

    for reference in references(document):
        place = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("fromClient", {"type": "start", "sample_rate": 8000}),
        ("fromClient", {"type": "start", "resume": {"session_id": "x"}}),
        ("fromClient", {"type": "gap", "from": 1}),
        ("fromClient", {"type": "shout"}),
        ("fromServer", {"type": "ack", "offset": -1, "stored_offset": 0}),
        ("fromServer", {"type": "status", "state": "fine", "lag_s": 0}),
        ("fromServer", {"type": "segment", "text": "without its place"}),
        ("fromServer", {}),
        ("toViewer", {"type": "partial", "text": "of nobody's session"}),
        ("toViewer", {"type": "ack", "offset": 1, "stored_offset": 0}),
    ],
)
def test_what_is_not_the_protocol_is_found(side: Side, message: dict[str, Any]) -> None:
    assert faults(side, message)

"""What the pages about security and faults claim names tests that are there, and pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.reference import REQUIREMENTS

ROOT = Path(__file__).parents[1]
PAGES = ("docs/compliance.md", "docs/threat-model.md", "docs/faults-edge.md", "SECURITY.md")
_PATH = re.compile(r"`((?:tests|services|chassis|sdk|recovery)/[\w/]+\.(?:py|txt))(?:::(test_\w+))?`")
_LINK = re.compile(r"\]\(([\w./-]+\.md)\)")


@pytest.mark.req("R-RUN-7")
@pytest.mark.parametrize("page", PAGES)
def test_every_claim_names_a_test_that_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    claims = _PATH.findall(text)
    assert len(claims) > 5
    for path, test in claims:
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
    for link in _LINK.findall(text):
        assert ((ROOT / page).parent / link).is_file(), link
    for found in re.findall(r"\bR-[A-Z]+-\d+\b", text):
        assert found in REQUIREMENTS, found

"""Fixtures of tests that run the whole platform."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def stack_folder() -> Iterator[Path]:
    """A folder for the data of stacks. Not pytest's own: only its owner may pass that, and PostgreSQL is not root."""
    with tempfile.TemporaryDirectory(prefix="verbatim-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def nats_binary() -> str | None:
    """The nats-server that the caller names; None for the one that `make run` would take."""
    return os.environ.get("VERBATIM_NATS_SERVER") or None

"""Folders for platforms under fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

_numbers = itertools.count(1)


@pytest.fixture
def new_folder(stack_folder: Path) -> Callable[[], Path]:
    """Name folders that no other platform uses."""
    return lambda: stack_folder / f"chaos-{next(_numbers)}"

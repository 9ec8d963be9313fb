"""A control that does not start would be seen to fail, and prove nothing."""

from __future__ import annotations

import importlib.util

import pytest

from tests.chaos.rows import ROWS

MODULES = sorted({module for row in ROWS if row.control for module in row.control.modules.values()})


@pytest.mark.parametrize("module", MODULES)
def test_module_of_a_control_is_there(module: str) -> None:
    assert importlib.util.find_spec(module) is not None

"""For every test of the repository."""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Collect what broken connections left, before the last plugins are imported.

    A collection in the midst of parsing a module makes CPython before 3.11.8 fail with "AST constructor recursion
    depth mismatch" (https://github.com/python/cpython/issues/106905).
    """
    gc.collect()

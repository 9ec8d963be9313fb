"""For every test of the repository: servers as real processes on free ports, and clean memory between modules."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from chassis.tests.servers import database_url, nats_server, own_postgres, postgres_server, redis_server

__all__ = ["database_url", "nats_server", "own_postgres", "postgres_server", "redis_server"]

# https://github.com/python/cpython/issues/106905
PARSER_DISLIKES_GARBAGE = sys.version_info < (3, 11, 8)


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_for_the_next_module() -> Iterator[None]:
    """Collect what broken connections left behind.

    When it is collected in the midst of parsing a module, CPython before 3.11.8 (Debian 12 has 3.11.2) fails with
    "AST constructor recursion depth mismatch", in whatever test or plugin happens to parse.
    """
    yield
    if PARSER_DISLIKES_GARBAGE:
        gc.collect()

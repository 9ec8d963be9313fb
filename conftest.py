"""For every test of the repository: servers as real processes on free ports, and clean memory between modules."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

# Before gRPC is loaded: its fork handlers run in every child that is started as another user or told to die with us.
# A child was seen to crash there, and what they write into its output was taken for a sign of life.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc.aio
import pytest

from chassis.tests.servers import database_url, nats_server, own_postgres, postgres_server, redis_server
from tests.again import pytest_sessionfinish

__all__ = [
    "database_url", "nats_server", "own_postgres", "postgres_server", "pytest_sessionfinish", "redis_server",
]  # fmt: skip

# https://github.com/python/cpython/issues/106905
PARSER_DISLIKES_GARBAGE = sys.version_info < (3, 11, 8)


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays() -> Iterator[None]:
    """Hold gRPC's poller to the end, as a service does: with the last channel it may stop and never come to its end.

    https://github.com/grpc/grpc/pull/40989
    """
    grpc.aio.init_grpc_aio()
    yield


def pytest_collection_finish() -> None:
    """Look no more at what was imported: most of what a collection would go through, and it stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_for_the_next_module() -> Iterator[None]:
    """Collect what broken connections left behind.

    When it is collected in the midst of parsing a module, CPython before 3.11.8 (Debian 12 has 3.11.2) fails with
    "AST constructor recursion depth mismatch", in whatever test or plugin happens to parse.
    """
    yield
    if PARSER_DISLIKES_GARBAGE:
        gc.collect()

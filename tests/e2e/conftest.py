"""The whole platform, real processes on random ports, reached through its public API only."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient

from dev.people import ADMIN
from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.limits import OPEN_TO_MANY, QUICK_PASSWORDS, RAISED, WEBHOOKS_HERE

PASSWORD = "correct horse battery staple"
HERE = Path(__file__).parent
_numbers = itertools.count(1)

NewClient = Callable[[], Awaitable[VerbatimClient]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in one event loop: the platform's connections outlive a single test."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stack(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Stack]:
    """The platform, started once for all tests here: who breaks it repairs it, or plans a stack of its own.

    It stops when a worker leaves this folder: one that idles takes a fifteenth of a core from the tests that follow.
    """
    env = {"gateway": RAISED, "meetings": OPEN_TO_MANY | QUICK_PASSWORDS | WEBHOOKS_HERE | {"EDITS_REST_S": "1"}}
    plan = Plan(stack_folder / "e2e", Ports.free(), people=(ADMIN,), extra_env=env, nats_server=nats_binary)
    stack = Stack(plan)
    await stack.start()
    yield stack
    await stack.stop()
    for name, refusal in (("nats", "Permissions Violation"), ("gateway", "this user has no permissions")):
        assert refusal not in stack.log(name).read_text(), "a service did what deploy/ does not let it do"


@pytest_asyncio.fixture(loop_scope="session")
async def new_client(stack: Stack) -> AsyncIterator[NewClient]:
    """Make clients, each logged in as an account of its own."""
    async with AsyncExitStack() as clients:

        async def make() -> VerbatimClient:
            client = await clients.enter_async_context(VerbatimClient(stack.url))
            name = f"person{next(_numbers)}"
            await client.register(f"{name}@verbatim.example", name, PASSWORD)
            await client.login(f"{name}@verbatim.example", PASSWORD)
            return client

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def client(new_client: NewClient) -> VerbatimClient:
    """A client logged in as a new account."""
    return await new_client()

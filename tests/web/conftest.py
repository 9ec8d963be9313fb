"""One platform, one browser, and a proxy between them that breaks on demand."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from verbatim_client import VerbatimClient

from dev.plan import Plan
from dev.ports import HOST, Ports
from dev.servers import ServersMissingError
from dev.settings import ROOT
from dev.stack import Stack
from tests.chaos.proxy import Proxy
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED
from tests.web import browser as browsers
from tests.web.listener import Listener
from tests.web.visitor import PASSWORD, Visitor

HERE = Path(__file__).parent
# Ends in a pause between two sentences.
SPOKEN_S = 20.1
_numbers = itertools.count(1)

NewVisitor = Callable[..., Awaitable[Visitor]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in one event loop: platform and browser outlive a single test."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def listener() -> AsyncIterator[Listener]:
    """The speech API: it hears the words of the bundled meeting, and no others."""
    server = Listener()
    async with server.run():
        yield server


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stack(stack_folder: Path, nats_binary: str | None, listener: Listener) -> AsyncIterator[Stack]:
    """The platform with the listener as its speech API; the embedded engine is there when that is away."""
    speech = {
        "OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": listener.url, "SPEECH_RETRY_MIN_S": "0.1",
        "BREAKER_OPEN_S": "1", "BREAKER_RAMP_S": "0",
    }  # fmt: skip
    env = {"gateway": RAISED, "meetings": OPEN_TO_MANY, "transcriber": speech | ONE_ENGINE}
    whole = Stack(Plan(stack_folder / "web", Ports.free(), extra_env=env, nats_server=nats_binary))
    await whole.start()
    yield whole
    await whole.stop()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def network(stack: Stack) -> AsyncIterator[Proxy]:
    """The way between browser and gateway."""
    async with Proxy(0, [(HOST, stack.plan.ports.of("gateway"))]) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser(stack_folder: Path) -> AsyncIterator[Browser]:
    try:
        program = browsers.find_or_install()
    except ServersMissingError as missing:
        pytest.skip(f"no Chromium: {missing}")
    microphone = browsers.record(stack_folder / "microphone.wav", SPOKEN_S)
    async with browsers.launched(program, microphone) as launched:
        yield launched


@pytest_asyncio.fixture(loop_scope="session")
async def new_visitor(stack: Stack, network: Proxy, browser: Browser) -> AsyncIterator[NewVisitor]:
    """Make people with an account, signed in at the page.

    At the end none of their pages may have complained, nor a frame have been another than documented.
    """
    visitors: list[Visitor] = []
    async with AsyncExitStack() as exits:

        async def make(*, bypass_csp: bool = False) -> Visitor:
            client = await exits.enter_async_context(VerbatimClient(stack.url))
            name = f"visitor{next(_numbers)}"
            await client.register(f"{name}@verbatim.example", name, PASSWORD)
            await client.login(f"{name}@verbatim.example", PASSWORD)
            url = f"http://{HOST}:{network.port}"
            email = f"{name}@verbatim.example"
            visitor = await Visitor.arriving(browser, url, client, email, bypass_csp=bypass_csp)
            exits.push_async_callback(visitor.context.close)
            await visitor.sign_in()
            visitors.append(visitor)
            return visitor

        yield make
    network.heal()
    assert [complaint for one in visitors for complaint in one.complaints] == []
    assert [fault for one in visitors for fault in one.frames.faults] == []


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(new_visitor: NewVisitor) -> Visitor:
    """A person who is signed in."""
    return await new_visitor()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the page is built and tested with; installed if Node is there."""
    folder = ROOT / "web/node_modules"
    if not (folder / ".package-lock.json").exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no Node: the page cannot be built or its modules tested here")
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"],
            cwd=ROOT / "web",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm ci failed: {done.stderr.strip()[-300:]}")
    return folder

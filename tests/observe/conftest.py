"""One platform for all tests of what it tells of itself: traced in full, with Sentry, a vendor, and Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from dev.people import ADMIN
from dev.plan import Plan
from dev.ports import Ports
from dev.stack import Stack
from tests.limits import ONE_ENGINE, OPEN_TO_MANY, RAISED
from tests.observe.receivers import Collector, Receiver, SentryServer, Vendor

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in one event loop and one worker: the platform outlives a single test."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass
class Scene:
    """A running platform and everybody whom it tells something."""

    stack: Stack
    collector: Collector
    sentry: SentryServer
    vendor: Vendor


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def scene(stack_folder: Path, nats_binary: str | None) -> AsyncIterator[Scene]:
    collector, sentry, vendor = Collector(), SentryServer(), Vendor()
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(Receiver(collector.take).running())
        events = await stack.enter_async_context(Receiver(sentry.take).running())
        models = await stack.enter_async_context(Receiver(vendor.take).running())
        everywhere = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url,
            "OTEL_TRACES_SAMPLER_ARG": "1",
            "SENTRY_DSN": f"{events.url.replace('://', '://public@')}/7",
        }
        speech = {"OPENAI_API_KEY": "scripted", "OPENAI_BASE_URL": f"{models.url}/v1", "SPEECH_RETRY_MIN_S": "0.1"}
        quick = {"LLM_MODEL": "scripted", "JOB_RETRY_DELAYS_S": "[0.1, 0.1]"}
        plan = Plan(
            stack_folder / "observe", Ports.free(), people=(ADMIN,), nats_server=nats_binary, passed_on=everywhere,
            extra_env={
                "gateway": RAISED, "meetings": OPEN_TO_MANY,
                "transcriber": speech | ONE_ENGINE | {"BREAKER_OPEN_S": "1"},
                "insights": {**speech, **quick},
            },
        )  # fmt: skip
        platform = Stack(plan)
        await platform.start()
        stack.push_async_callback(platform.stop)
        yield Scene(platform, collector, sentry, vendor)

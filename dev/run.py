"""`make run`: the platform in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator

from dev.people import ADMIN, DEMO
from dev.plan import Plan
from dev.ports import Ports
from dev.seed import sow
from dev.settings import Settings
from dev.stack import Stack


async def run(settings: Settings, *, show_logs: bool) -> int:
    """Start, seed, tell, and wait for Ctrl-C, SIGTERM or the death of a process. Gives the exit code.

    Raises what Stack.start raises.
    """
    started = time.monotonic()
    async with ended_by_signals(), local_stack(settings) as stack:
        await sow(stack.url, settings.data_folder, _say)
        print(f"\nready after {time.monotonic() - started:.1f} s\n\n{table(stack)}\n", flush=True)
        console = asyncio.create_task(stack.runner.follow(sys.stdout)) if show_logs else None
        try:
            death = await stack.died()
        finally:
            if console is not None:
                console.cancel()
        print(f"\n{death.tail}\nerror: {death}; stopping the others", file=sys.stderr, flush=True)
        return 1
    return 0


@contextlib.asynccontextmanager
async def local_stack(settings: Settings, *, quiet: bool = False) -> AsyncIterator[Stack]:
    """Run the platform of this checkout on its fixed ports, telling of each step."""

    def silent(*_: object) -> None:
        pass

    plan = Plan(
        settings.data_folder,
        Ports.fixed(settings.port),
        passed_on=settings.passed_on,
        people=(DEMO, ADMIN),
        nats_server=settings.nats_server,
    )
    stack = Stack(plan, progress=silent if quiet else _progress, say=silent if quiet else _say)
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()


@contextlib.asynccontextmanager
async def ended_by_signals() -> AsyncIterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the body in order, and go on behind it.

    A second one ends the clean-up too; the processes then die with this one.
    """
    loop, body = asyncio.get_running_loop(), asyncio.current_task()
    assert body is not None
    asked = False

    def end() -> None:
        nonlocal asked
        asked = True
        print("\nstopping ...", flush=True)
        body.cancel()

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        yield
    except asyncio.CancelledError:
        if not asked:
            raise
        while body.uncancel():
            pass
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def table(stack: Stack) -> str:
    """Say where everything is, in aligned lines."""
    rows = [
        ("page and API", stack.url),
        ("live audio", stack.ws_url),
        ("API docs", f"{stack.url}/docs"),
        ("demo login", f"{DEMO.email}   {DEMO.password}"),
        ("admin login", f"{ADMIN.email}   {ADMIN.password}"),
        *((f"metrics {name}", f"{stack.internal_url(name)}/metrics") for name in stack.plan.names()),
        ("logs", str(stack.plan.log_folder)),
        ("stop", "Ctrl-C stops everything; `make clean` forgets the data"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}   {value}" for name, value in rows)


def _progress(name: str, seconds: float) -> None:
    print(f"  ✓ {name:<20} {seconds:5.1f} s", flush=True)


def _say(text: str) -> None:
    print(f"  · {text}", flush=True)

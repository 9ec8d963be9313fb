"""The life of a service process: start, ready, drain, stop; and the internal port that tells of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

import grpc.aio
import uvicorn
import uvloop
from prometheus_client import disable_created_metrics

from chassis import telemetry
from chassis.internal_port import internal_app
from chassis.orders import Orders
from chassis.resources import Resources
from chassis.sentry import Sentry
from chassis.settings import ServiceSettings
from chassis.threads import ready_pool
from chassis.tracing import Tracing

log = telemetry.logger(__name__)

_THREADS = 6
_UNREAD_MS = 30_000
_UNSENT_BYTES = 128 * 1024
_CANCELLED_WITHIN_S = 2.0
_CANCELLATIONS_MAX = 8

T = TypeVar("T")
Check = Callable[[], Awaitable[None]]
Part = Callable[[], Mapping[str, object]]


class BackgroundTaskEnded(RuntimeError):
    """A task that should run for the life of the process returned."""


class Lifecycle:
    """What a service's `start` function is given: tasks, readiness, and the wait for the end.

    States: *starting* (things are being connected), *ready* (takes work), *draining* (SIGTERM came: takes nothing new,
    finishes what it has), *stopped*.
    """

    def __init__(
        self, service: str, settings: ServiceSettings, tasks: asyncio.TaskGroup, stack: AsyncExitStack
    ) -> None:
        self.service = service
        self.replica = settings.replica or f"{socket.gethostname()}-{os.getpid()}"
        self.state = "starting"
        self.exits = stack
        self.resources = Resources()
        self.orders = Orders(service, self.replica, settings.log_level, self.stop)
        self._tasks = tasks
        self._stop = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self._checks: dict[str, Check] = {}
        self._parts: dict[str, Part] = {}
        self._began = time.monotonic()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` for the life of the process. If it fails, or ends before the process does, the process ends."""
        task = self._tasks.create_task(self._keep(work, name), name=name)
        self._background.append(task)
        return task

    async def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        await work
        if not self._stop.is_set():
            raise BackgroundTaskEnded(name)

    def require(self, name: str, check: Check) -> None:
        """Let readiness depend on `check` (raises if its dependency is not there). Must be bounded in time."""
        self._checks[name] = check

    def tell(self, name: str, part: Part) -> None:
        """Have the internal port tell of a part that readiness does not depend on.

        Its `state` says how it is: "ok", or in a word what is wrong. No secrets, and nothing of people.
        """
        self._parts[name] = part

    def ready(self) -> None:
        """Say that the service takes work."""
        # What is there now stays: looking through it again and again for garbage was 3 % of a busy transcriber.
        gc.collect()
        gc.freeze()
        self.state = "ready"
        log.info("ready")

    def stop(self) -> None:
        """Ask the process to drain and end."""
        self.state = "draining"
        self._stop.set()

    async def until_stop(self) -> None:
        """Wait for SIGTERM or SIGINT."""
        await self._stop.wait()
        log.info("draining")

    @property
    def stopping(self) -> asyncio.Event:
        return self._stop

    async def readiness(self) -> dict[str, str]:
        """Return the faults that keep the service from taking work, by dependency; empty if there are none."""
        if self.state != "ready":
            return {"process": self.state}
        return {name: fault for name, (fault, _) in (await self._checked()).items() if fault}

    async def _checked(self) -> dict[str, tuple[str, float]]:
        """Return of each dependency the name of its fault (empty: none) and how long the check took, in seconds."""
        found = {}
        for name, check in self._checks.items():
            began, fault = time.monotonic(), ""
            try:
                async with asyncio.timeout(1.0):
                    await check()
            except Exception as error:  # noqa: BLE001 - any failure of a check is the answer
                fault = type(error).__name__
            found[name] = (fault, time.monotonic() - began)
        return found

    def ailing(self) -> dict[str, str]:
        """Return of the parts that readiness does not depend on those that are not well, each in a word."""
        states = {name: str(part().get("state", "ok")) for name, part in self._parts.items()}
        return {name: state for name, state in states.items() if state != "ok"}

    async def detail(self) -> dict[str, object]:
        """Return all that an operator may want to know of the process now."""
        checks = await self._checked()
        return {
            "service": self.service,
            "replica": self.replica,
            "version": telemetry.VERSION,
            "state": self.state,
            "up_s": round(time.monotonic() - self._began, 1),
            "checks": {
                name: {"state": fault or "ok", "ms": round(took_s * 1000, 1)}
                for name, (fault, took_s) in checks.items()
            },
            "parts": {name: dict(part()) for name, part in self._parts.items()},
            "resources": self.resources.told(),
            "tasks": len(asyncio.all_tasks()),
        }

    async def end_background(self) -> None:
        """End the background tasks, at the end of the drain."""
        await end(self._background)


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended.

    Before Python 3.12 `asyncio.wait_for`, which libraries of ours wait with, may swallow a cancellation that comes
    together with what it waits for (python/cpython#86296): then it is asked again.
    """
    for _ in range(_CANCELLATIONS_MAX):
        for task in tasks:
            task.cancel()
        if not tasks or not (await asyncio.wait(tasks, timeout=_CANCELLED_WITHIN_S))[1]:
            return
    log.critical("tasks do not end", tasks=[task.get_name() for task in tasks if not task.done()])


class HttpServer(uvicorn.Server):
    """uvicorn inside our own life: the socket is open before `run` begins, signals are not its business."""

    def __init__(self, app: Any, host: str, port: int, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                **options,
            )
        )
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Both are inherited by what is accepted. A peer that takes nothing for so long is gone, whatever its kernel
        # answers; and what it does not take shows here as back-pressure, not after megabytes in our kernel.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self.socket.bind((host, port))
        self.socket.listen(2048)
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the lifecycle."""
        yield

    async def run_until_exit(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self.socket])


def run(service: str, settings: ServiceSettings, start: Callable[[Lifecycle], Awaitable[None]]) -> None:
    """Run a service to its end. `start` connects, calls `ready`, awaits `until_stop`, and drains.

    What `start` leaves on `life.exits` is closed in reverse order after the background tasks have ended. Exits with
    status 1 if a background task died or the drain took longer than `drain_s`.
    """
    replica = settings.replica or f"{socket.gethostname()}-{os.getpid()}"
    telemetry.configure(service, replica=replica, level=settings.log_level, log_format=settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with _told(service, replica, settings):
        try:
            # Never shut down: the end of its last channel may wait for ever for its poller
            # (https://github.com/grpc/grpc/pull/40989), and the end of the process takes both.
            grpc.aio.init_grpc_aio()
            uvloop.run(_supervise(service, settings, start))
        except BaseExceptionGroup as faults:
            log.critical("stopped by a failure", exc_info=faults)
            raise SystemExit(1) from None
        except TimeoutError:
            log.critical("drain took too long")
            raise SystemExit(1) from None


@contextmanager
def _told(service: str, replica: str, settings: ServiceSettings) -> Iterator[None]:
    """Have traces, and failures, go where the settings say; at the end what is left, within seconds."""
    tracing = Tracing(
        service,
        replica=replica,
        version=telemetry.VERSION,
        endpoint=settings.otel_exporter_otlp_endpoint,
        ratio=settings.otel_traces_sampler_arg,
    )
    tracing.install()
    sentry = None
    if dsn := settings.sentry_dsn.get_secret_value():
        sentry = Sentry(
            dsn, service=service, replica=replica, environment=settings.verbatim_env, release=telemetry.VERSION
        )
        sentry.install()
    try:
        yield
    finally:
        tracing.close()
        if sentry is not None:
            sentry.close()


async def _supervise(service: str, settings: ServiceSettings, start: Callable[[Lifecycle], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        # The exits run inside the group: what they close may still need its tasks' connections.
        life = Lifecycle(service, settings, tasks, stack)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_forgotten)
        loop.set_default_executor(ready_pool(_THREADS, "thread"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, life.stop)
        internal = HttpServer(internal_app(life), settings.internal_host, settings.internal_port)
        internal_task = tasks.create_task(internal.run_until_exit(), name="internal port")
        life.spawn(life.resources.run(), "resources")
        body = asyncio.ensure_future(start(life))
        try:
            await _bounded(body, life, settings.drain_s)
        finally:
            life.state = "stopped"
            await life.end_background()
            internal.should_exit = True
            await internal_task
    log.info("stopped")


def _forgotten(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a failure that nobody waited for. asyncio's own words would quote it."""
    log.error("failure in the event loop", exc_info=context.get("exception"))


async def _bounded(body: asyncio.Future[None], life: Lifecycle, drain_s: float) -> None:
    """Let the body run; from the call to stop it has `drain_s`."""
    stop = asyncio.ensure_future(life.stopping.wait())
    try:
        waited: set[asyncio.Future[Any]] = {body, stop}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not body.done():
            async with asyncio.timeout(drain_s):
                await body
        await body
    finally:
        for future in (stop, body):
            if not future.done():
                future.cancel()

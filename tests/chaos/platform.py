"""The platform under test: several replicas, the oracle as its speech engine, and a fault proxy at every seam."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import psutil
from verbatim_client import VerbatimClient

from dev import probes
from dev.environment import database_url, nats_url, plain_environment
from dev.keys import Keys
from dev.plan import Plan, service_of
from dev.ports import HOST, Ports
from dev.runner import Program, Runner
from dev.settings import ROOT
from dev.stack import Stack
from tests.chaos.controls import WHOLE, Control
from tests.chaos.disk import Disk
from tests.chaos.proxy import Proxy
from tests.limits import OPEN_TO_MANY, RAISED

PASSWORD = "a password for the fault tests"
REPLICAS = {"gateway": 2, "transcriber": 2, "meetings": 2}
# Heartbeats are quicker than they ship (20 s), so that rows with half-open clients take seconds; one account speaks for
# many people.
HEARTBEAT_S = 2.0
GATEWAY_ENV = RAISED | {"HEARTBEAT_S": str(HEARTBEAT_S), "SESSIONS_PER_ACCOUNT": "2000", "NOTICE_S": "2"}
BALANCER_LOOKS_S = 0.25
# Long utterances are cut early, so that cuts in running speech are common; gathering is as it ships.
TRANSCRIBER_ENV = {
    "OPENAI_API_KEY": "numbers-only",
    "EMBEDDED_WORKERS": "1",
    "SPEECH_CONCURRENCY": "32",
    "SOFT_CAP_MS": "5000",
    "HARD_CAP_MS": "7000",
}
_accounts = itertools.count(1)


class Platform:
    """Starts everything as real processes; a context manager.

    Proxies: `clients` (a load balancer before all gateways, which asks them whether they are ready), `broker[name]`
    (the way of each transcriber and meetings service to NATS), `relays[name]` (the gateways' way to each transcriber),
    `database` (meetings' way to Postgres).
    """

    def __init__(
        self,
        folder: Path,
        *,
        control: Control = WHOLE,
        replicas: Mapping[str, int] | None = None,
        nats_server: str | None = None,
        through_proxies: bool = True,
        broker_disk: bool = False,
        env: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """`control` says which defence is left out; with `broker_disk` NATS has a file system of its own (`disk`).

        `env` are settings by service.
        """
        self._env: dict[str, dict[str, str]] = {}
        self.plan = Plan(
            folder,
            Ports.free(),
            replicas=REPLICAS | dict(replicas or {}),
            extra_env=self._env,
            modules=control.modules,
            nats_server=nats_server,
        )
        self.stack = Stack(self.plan)
        self.broker: dict[str, Proxy] = {}
        self.relays: dict[str, Proxy] = {}
        self.disk = Disk(folder / "nats") if broker_disk else None
        self._changes = (env or {}, control.env)
        self._oracle_runner = Runner(self.plan.log_folder)
        self._through_proxies = through_proxies
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start everything."""
        of = self.plan.ports.of
        try:
            if self.disk is not None:
                self._exits.enter_context(self.disk)
            self.gateways = {name: (HOST, of(name)) for name in self.plan.names("gateway")}
            self.clients = await self._proxy(*self.gateways.values())
            self.database = await self._proxy((HOST, of("postgres")))
            oracle_port = of("oracle")
            self.oracle_url = f"http://{HOST}:{oracle_port}"
            self._env["gateway"] = dict(GATEWAY_ENV)
            self._env["transcriber"] = TRANSCRIBER_ENV | {"OPENAI_BASE_URL": f"{self.oracle_url}/v1"}
            self._env["meetings"] = dict(OPEN_TO_MANY)
            if self._through_proxies:
                await self._rewire()
            for service, changes in itertools.chain.from_iterable(one.items() for one in self._changes):
                self._env[service] = self._env.get(service, {}) | dict(changes)
            await self.stack.start()
            self._exits.push_async_callback(self.stack.stop)
            self._exits.push_async_callback(self._oracle_runner.stop)
            await self._oracle_runner.start(_oracle(oracle_port))
            balancing = asyncio.create_task(self._balance())
            self._exits.push_async_callback(_ended, balancing)
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        for name in self.stack.runner.running():
            self.stack.kill(name, signal.SIGCONT)  # what a fault left frozen could not end by itself
        await self._exits.aclose()

    @property
    def url(self) -> str:
        """The public API behind the load balancer."""
        return f"http://{HOST}:{self.clients.port}"

    @property
    def services(self) -> list[str]:
        """The processes that are ours."""
        return self.plan.names()

    async def samples(self, name: str) -> dict[str, float]:
        """Read a process's metrics, all at one moment: `name` or `name{label="value"}`, and its value."""
        async with httpx2.AsyncClient(timeout=5.0) as http:
            text = (await http.get(f"{self.plan.internal_url(name)}/metrics")).text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {sample: float(value) for sample, _, value in lines}

    async def figure(self, name: str, metric: str) -> float:
        """Read one sample of a process's metrics; 0 if there is none."""
        return (await self.samples(name)).get(metric, 0.0)

    @property
    def oracle_pid(self) -> int:
        """The process that is the speech API."""
        return self._oracle_runner.pid("oracle") or 0

    async def _balance(self) -> None:
        """Send nobody new to a gateway that says that it is not ready, as a load balancer does."""
        async with httpx2.AsyncClient(timeout=BALANCER_LOOKS_S) as http:
            while True:
                for host, port in self.gateways.values():
                    try:
                        ready = (await http.get(f"http://{host}:{port}/readyz")).status_code == httpx2.codes.OK
                    except httpx2.TransportError:
                        ready = False
                    (self.clients.avoided.discard if ready else self.clients.avoided.add)((host, port))
                await asyncio.sleep(BALANCER_LOOKS_S)

    async def script(self, **changes: Any) -> None:
        """Change how the oracle behaves (see `oracle.Script`)."""
        async with httpx2.AsyncClient() as http:
            (await http.put(f"{self.oracle_url}/script", json=changes)).raise_for_status()

    async def recognitions_under_way(self, name: str) -> int:
        """Ask the oracle how many recognitions of a process it has not answered."""
        pid = self.stack.runner.pid(name)
        own = {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.laddr}
        async with httpx2.AsyncClient() as http:
            ports = (await http.get(f"{self.oracle_url}/healthz")).json()["under_way"]
        return sum(port in own for port in ports)

    async def new_client(self) -> VerbatimClient:
        """Make an account and return its logged-in client; the caller closes it."""
        client = VerbatimClient(self.url)
        name = f"speaker{next(_accounts)}"
        await client.register(f"{name}@verbatim.example", name, PASSWORD)
        await client.login(f"{name}@verbatim.example", PASSWORD)
        return client

    def proxies(self) -> list[Proxy]:
        """Name every proxy."""
        return [self.clients, self.database, *self.broker.values(), *self.relays.values()]

    def heal(self) -> None:
        """Thaw every process and make every proxy honest."""
        for proxy in self.proxies():
            proxy.heal()
        for name in self.stack.runner.running():
            self.stack.kill(name, signal.SIGCONT)

    async def revive(self) -> None:
        """Heal, and start what is dead."""
        if self.disk is not None:
            self.disk.enlarge()
        self.heal()
        running = self.stack.runner.running()
        for name in ("postgres", "nats", "redis", *self.plan.names()):
            if name not in running:
                await self.stack.restart(name)

    async def _proxy(self, *upstreams: tuple[str, int]) -> Proxy:
        return await self._exits.enter_async_context(Proxy(0, upstreams))

    async def _rewire(self) -> None:
        of = self.plan.ports.of
        self.plan.data_folder.mkdir(parents=True, exist_ok=True)
        keys = Keys.kept_in(self.plan.key_folder)
        for name in self.plan.names("transcriber"):
            self.relays[name] = await self._proxy((HOST, of(f"{name} grpc")))
        for name in self.plan.names("transcriber", "meetings"):
            self.broker[name] = await self._proxy((HOST, of("nats")))
            url = nats_url(self.plan, keys, service_of(name))
            proxied = url.replace(f":{of('nats')}", f":{self.broker[name].port}")
            self._env.setdefault(name, {})["NATS_URL"] = proxied
        targets = ",".join(f"{HOST}:{proxy.port}" for proxy in self.relays.values())
        self._env["gateway"]["TRANSCRIBER_TARGETS"] = targets
        url = database_url(self.plan, keys, "meetings")
        proxied = url.replace(f":{of('postgres')}/", f":{self.database.port}/")
        self._env["meetings"]["DATABASE_URL_MEETINGS"] = proxied


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _oracle(port: int) -> Program:
    python_path = os.pathsep.join(str(ROOT / part) for part in (".", "build/gen", "sdk"))
    return Program(
        name="oracle",
        argv=[sys.executable, "-m", "tests.chaos.oracle", str(port)],
        env=plain_environment() | {"PYTHONPATH": python_path},
        cwd=ROOT,
        ready=probes.http(port, "/healthz"),
    )


async def until(condition: Any, within_s: float, what: str) -> None:
    """Wait until `condition()` holds. Raises TimeoutError that says what did not come."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {within_s:g} s") from None

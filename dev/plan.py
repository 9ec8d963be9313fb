"""What a stack consists of: which processes, on which ports, with which data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dev.people import Person
from dev.ports import HOST, Ports
from dev.settings import ROOT

SERVICES = ("gateway", "transcriber", "meetings", "insights", "janitor")
BROKER_USERS = (*SERVICES, "backup")
WITH_GRPC = ("transcriber", "meetings", "insights")
WITH_DATABASE = ("meetings", "insights")


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a stack starts.

    Processes are named `postgres`, `nats`, `redis` and after their service; the second replica of a service
    is `gateway-2` and so on. Replicas default to 1 for each service, 0 leaves it out. `extra_env` is per
    service, per process (`transcriber-2`; the first of its service shares that one's name), or under `*` for
    all; `passed_on` goes to all and gives way to it. `people` can log in from the start. `code` is the checkout whose
    services run; `modules` names what runs in a service's place, as `python -m` takes it.
    """

    data_folder: Path
    ports: Ports
    replicas: Mapping[str, int] = field(default_factory=dict)
    extra_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    passed_on: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    people: tuple[Person, ...] = ()
    nats_server: str | None = None
    code: Path = ROOT

    def __post_init__(self) -> None:
        """Give every process its ports, always in the same order."""
        for name in ("postgres", "nats", "nats http", "redis"):
            self.ports.of(name)
        for name in self.names():
            if service_of(name) == "gateway":
                self.ports.of(name)
            self.ports.of(f"{name} internal")
            if service_of(name) in WITH_GRPC:
                self.ports.of(f"{name} grpc")

    def names(self, *services: str) -> list[str]:
        """Name the processes of some services, or of all."""
        return [
            service if replica == 1 else f"{service}-{replica}"
            for service in services or SERVICES
            for replica in range(1, self.replicas.get(service, 1) + 1)
        ]

    def module(self, name: str) -> str:
        """Name the module that a process runs."""
        service = service_of(name)
        return self.modules.get(service, f"services.{service}")

    @property
    def log_folder(self) -> Path:
        """One log file per process."""
        return self.data_folder / "logs"

    @property
    def key_folder(self) -> Path:
        """The secrets of this stack."""
        return self.data_folder / "keys"

    @property
    def nats_url(self) -> str:
        """Where NATS listens. Without a user, as here, it takes the caller for the operator, who may do everything."""
        return f"nats://{HOST}:{self.ports.of('nats')}"

    @property
    def redis_url(self) -> str:
        """Where Redis listens. Without a user, as here, it takes the caller for the operator, who may do everything."""
        return f"redis://{HOST}:{self.ports.of('redis')}/0"

    def gateway_url(self, name: str = "gateway") -> str:
        """Base of the public API at one of the gateways."""
        return f"http://{HOST}:{self.ports.of(name)}"

    def internal_url(self, name: str) -> str:
        """Where a service tells its health and metrics: /healthz, /readyz, /metrics."""
        return f"http://{HOST}:{self.ports.of(f'{name} internal')}"

    def grpc_addresses(self, service: str) -> list[str]:
        """Where the replicas of a service take calls, as host:port."""
        return [f"{HOST}:{self.ports.of(f'{name} grpc')}" for name in self.names(service)]


def service_of(name: str) -> str:
    """Name the service that a process belongs to."""
    return name.partition("-")[0]

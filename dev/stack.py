"""The platform as local processes: three servers and five services, their data below one folder.

The order of a start: servers, databases, migrations, services behind the edge, the edge. A stop is the
reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from dev import backing, probes
from dev.environment import database_url, nats_url, plain_environment, service_environment
from dev.keys import Keys
from dev.people import open_accounts
from dev.plan import SERVICES, WITH_DATABASE, Plan
from dev.runner import ProcessDiedError, Program, Runner, wait_until
from dev.servers import find_or_install
from dev.settings import ROOT, closed_to_others, needs_other_user

KILLED_STACK_GONE_WITHIN_S = 5.0
MIGRATE_WITHIN_S = 180.0
SERVICE_READY_WITHIN_S = 120.0
SERVICE_STOP_WITHIN_S = 30.0


@dataclass(frozen=True)
class State:
    """What a running stack tells other commands, in `stack.json` of its data folder."""

    pid: int
    url: str
    ws_url: str
    internal: dict[str, str]
    logs: str


class AlreadyRunningError(Exception):
    """Another stack uses the data folder. `state` is what it tells of itself, None while it starts."""

    def __init__(self, folder: Path, pid: int, state: State | None) -> None:
        self.pid, self.state = pid, state
        where = f" at {state.url}" if state else ""
        super().__init__(f"the platform already runs{where} with its data in {folder} (pid {pid}); stop it: kill {pid}")


class Stack:
    """One platform. `start` and `stop` once each; between them `restart` and `kill` as often as wanted."""

    def __init__(
        self,
        plan: Plan,
        *,
        progress: Callable[[str, float], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Take the plan; the machine is not touched yet.

        `progress(name, seconds)` hears of each process that became ready, `say` of steps that take long.
        """
        self.plan = plan
        self.runner = Runner(plan.log_folder, progress=progress)
        self._say = say or (lambda _text: None)
        self._lock: TextIO | None = None
        self._keys: Keys | None = None

    @property
    def url(self) -> str:
        """Base of the public API, at the first gateway."""
        return self.plan.gateway_url()

    @property
    def ws_url(self) -> str:
        """Where live audio goes, at the first gateway."""
        return f"{self.url.replace('http', 'ws', 1)}/transcribe"

    def internal_url(self, name: str) -> str:
        """Where a service tells its health and metrics: /healthz, /readyz, /metrics."""
        return self.plan.internal_url(name)

    def log(self, name: str) -> Path:
        """Give the log file of a process."""
        return self.plan.log_folder / f"{name}.log"

    def env(self, name: str) -> dict[str, str]:
        """Give the whole environment of a service's process. The stack must have been started."""
        assert self._keys is not None, "start makes the secrets"
        return service_environment(self.plan, self._keys, name)

    def database_url(self, service: str) -> str:
        """Give the SQLAlchemy URL of `meetings` or `insights`. The stack must have been started."""
        assert self._keys is not None, "start makes the secrets"
        return database_url(self.plan, self._keys, service)

    def nats_url(self, user: str) -> str:
        """Give the broker's URL for a service, or for `backup`. The stack must have been started."""
        assert self._keys is not None, "start makes the secrets"
        return nats_url(self.plan, self._keys, user)

    async def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises AlreadyRunningError, PortBusyError, ServersMissingError, ProcessDiedError or NotReadyError;
        what had been started is then stopped again.
        """
        self._prepare_folder()
        self._lock = _take_lock(self.plan.data_folder)
        try:
            await self._check_ports()
            await self._start_servers()
            await self._migrate()
            await self._open_accounts()
            await self._start_services()
            self._write_state()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything in reverse order, bounded. Leaves no process; the data stays."""
        await self.runner.stop()
        if self._lock is not None:
            (self.plan.data_folder / "stack.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        self.plan.ports.release()

    async def restart(self, name: str) -> None:
        """Stop a process if it runs, start it again, wait until it is ready."""
        await self.runner.restart(name)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill, freeze (SIGSTOP) or thaw (SIGCONT) a process and its children."""
        self.runner.kill(name, sig)

    async def died(self) -> ProcessDiedError:
        """Wait until a process ends that nobody asked to end."""
        return await self.runner.died()

    def _prepare_folder(self) -> None:
        folder = self.plan.data_folder
        folder.mkdir(parents=True, exist_ok=True)
        # Others may pass it, not list it: PostgreSQL runs as another user when we are root.
        folder.chmod(0o711)
        if needs_other_user() and (closed := closed_to_others(folder)):
            raise PermissionError(
                f"PostgreSQL does not run as root, and its user may not pass {closed}; "
                "name another folder: VERBATIM_DATA_DIR=... make run"
            )
        (folder / "scratch").mkdir(exist_ok=True)

    async def _check_ports(self) -> None:
        state_file = self.plan.data_folder / "stack.json"
        if state_file.exists():
            # The stack before was killed, not stopped: its last processes may still be on their way out.
            state_file.unlink()
            await wait_until(lambda: not self.plan.ports.busy(), KILLED_STACK_GONE_WITHIN_S)
        self.plan.ports.check()

    async def _start_servers(self) -> None:
        plan, of, data = self.plan, self.plan.ports.of, self.plan.data_folder
        servers = await asyncio.to_thread(find_or_install, ROOT / ".run" / "bin", self._say, plan.nats_server)
        keys = self._keys = Keys.kept_in(plan.key_folder)
        env, cluster, password = plain_environment(), data / "postgres", keys.postgres_password
        if not cluster.exists():
            self._say("making the PostgreSQL cluster")
        await asyncio.to_thread(backing.make_cluster, servers.postgres, cluster, password)
        await self.runner.start(
            backing.postgres_program(servers.postgres, cluster, of("postgres"), password, env),
            backing.nats_program(servers.nats, data / "nats", of("nats"), of("nats http"), keys.nats_passwords, env),
            backing.redis_program(servers.redis, data / "redis", of("redis"), keys.redis_password, env),
        )
        owners = {"meetings": keys.meetings_password, "insights": keys.insights_password}
        await backing.make_databases(of("postgres"), password, owners)

    async def _migrate(self) -> None:
        names = [name for name in WITH_DATABASE if name in self.plan.names()]
        await self.runner.finish(
            *(
                Program(
                    name=f"migrate-{name}",
                    argv=[sys.executable, "-m", f"services.{name}", "migrate"],
                    env=self.env(name),
                    cwd=self.plan.code,
                    ready_within_s=MIGRATE_WITHIN_S,
                )
                for name in names
            )
        )

    async def _open_accounts(self) -> None:
        opened = self.plan.data_folder / "accounts"
        known = set(opened.read_text().split()) if opened.exists() else set()
        if new := [person for person in self.plan.people if person.email not in known]:
            await open_accounts(new, self.env("meetings"), self.plan.code)
            opened.write_text("\n".join(person.email for person in self.plan.people))

    async def _start_services(self) -> None:
        for stage in (SERVICES[1:], SERVICES[:1]):  # the edge last
            await self.runner.start(*(self._program(name) for name in self.plan.names(*stage)))

    def _program(self, name: str) -> Program:
        return Program(
            name=name,
            argv=[sys.executable, "-m", self.plan.module(name)],
            env=self.env(name),
            cwd=self.plan.code,
            ready=probes.http(self.plan.ports.of(f"{name} internal"), "/readyz"),
            ready_within_s=SERVICE_READY_WITHIN_S,
            stop_within_s=SERVICE_STOP_WITHIN_S,
        )

    def _write_state(self) -> None:
        internal = {name: self.internal_url(name) for name in self.plan.names()}
        state = State(os.getpid(), self.url, self.ws_url, internal, str(self.plan.log_folder))
        aside = self.plan.data_folder / "stack.json.new"
        aside.write_text(json.dumps(asdict(state), indent=2))
        aside.replace(self.plan.data_folder / "stack.json")


def running_state(data_folder: Path) -> State | None:
    """Read what the running stack of a data folder tells of itself; None if none is ready there."""
    try:
        _take_lock(data_folder).close()
    except AlreadyRunningError as error:
        return error.state
    except FileNotFoundError:
        pass
    return None


def remove_data(data_folder: Path) -> None:
    """Remove what stacks keep in the folder, and nothing else in it. Raises AlreadyRunningError."""
    if not data_folder.exists():
        return
    with _take_lock(data_folder):
        for name in ("postgres", "nats", "redis", "scratch", "logs", "keys"):
            shutil.rmtree(data_folder / name, ignore_errors=True)
        for name in ("seeded", "accounts", "stack.json", "lock"):
            (data_folder / name).unlink(missing_ok=True)


def _read_state(data_folder: Path) -> State | None:
    with contextlib.suppress(FileNotFoundError):
        return State(**json.loads((data_folder / "stack.json").read_text()))
    return None


def _take_lock(folder: Path) -> TextIO:
    """Lock the data folder until the file is closed or this process ends. Raises AlreadyRunningError."""
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = int(lock.read() or 0)
        lock.close()
        raise AlreadyRunningError(folder, holder, _read_state(folder)) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock

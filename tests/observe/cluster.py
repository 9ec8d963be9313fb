"""Local processes in the place of a cluster, so that a runbook's lines can be typed as they stand."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from verbatim_client import VerbatimClient

from dev.backing import superuser_conninfo
from dev.people import ADMIN
from dev.plan import service_of
from dev.settings import ROOT
from dev.stack import Stack
from tests.chaos.disk import Disk
from tests.observe.kubectl import Call, NotUnderstood, parse

TYPED_WITHIN_S = 180.0
ENDED_WITHIN_S = 40.0
TAIL_LINES = 200
PYTHON_PATH = os.pathsep.join(str(ROOT / part) for part in (".", "build/gen", "sdk"))


class Refused(Exception):
    """The cluster would not do it; the message says why."""


@dataclass
class Cluster:
    """A stack, seen as the chart's objects: `deployment/verbatim-gateway` is all gateways, `verbatim-gateway-2` a
    pod.
    """

    stack: Stack
    folder: Path
    disk: Disk | None = None

    def processes(self, kind: str, name: str) -> list[str]:
        """Name the processes of an object. Raises Refused."""
        short = name.removeprefix("verbatim-")
        known = {*self.stack.plan.names(), "nats", "postgres", "redis"}
        if kind == "pod":
            found = [one for one in known if one in {short, short.removesuffix("-0")}]
        else:
            found = sorted(one for one in known if service_of(one) == short)
        if not found:
            raise Refused(f'{kind} "{name}" not found')
        return found

    async def do(self, call: Call) -> str:
        """Do what kubectl is asked for and return what it prints. Raises Refused."""
        match call.verb:
            case "rollout restart" | "delete":
                return "\n".join([await self._restart(kind, name) for kind, name in call.objects])
            case "scale":
                return "\n".join([await self._scale(kind, name, call.replicas) for kind, name in call.objects])
            case "logs":
                return await asyncio.to_thread(self._logs, call)
            case "get" | "describe" | "top":
                return self._list(call)
            case "exec":
                return await asyncio.to_thread(self._execute, call)
            case "create":
                return await self._backup()
            case "patch" if self.disk is not None:
                self.disk.enlarge()
                return "persistentvolumeclaim patched"
        raise Refused(f"not here: {call.verb}")

    async def _restart(self, kind: str, name: str) -> str:
        for process in self.processes(kind, name):
            await self.stack.restart(process)
        return f"{kind} {name} restarted"

    async def _scale(self, kind: str, name: str, replicas: int | None) -> str:
        for number, process in enumerate(self.processes(kind, name)):
            runs = process in self.stack.runner.running()
            if number < (replicas or 0) and not runs:
                await self.stack.restart(process)
            elif number >= (replicas or 0) and runs:
                self.stack.kill(process, signal.SIGTERM)
                await self.stack.runner.ended(process, ENDED_WITHIN_S)
        return f"{kind} {name} scaled"

    def _chosen(self, call: Call) -> list[str]:
        known = [*self.stack.plan.names(), "nats", "postgres", "redis"]
        if call.component:
            return [one for one in known if service_of(one) == call.component]
        named = [name for kind, name in call.objects if kind == "pod" and name]
        return self.processes("pod", named[0]) if named else known

    def _logs(self, call: Call) -> str:
        lines: list[str] = []
        for name in self._chosen(call):
            log = self.stack.log(name)
            lines += log.read_text(errors="replace").splitlines()[-(call.tail or TAIL_LINES) :] if log.exists() else []
        return "\n".join(lines)

    def _list(self, call: Call) -> str:
        rows = []
        for name in self._chosen(call):
            pid = self.stack.runner.pid(name)
            with suppress(psutil.NoSuchProcess):
                rss = psutil.Process(pid).memory_info().rss if pid else 0
                rows.append(f"verbatim-{name:<20} {'Running' if pid else 'Gone':<8} {rss >> 20}Mi")
        return "\n".join(["NAME                          STATUS   MEMORY", *rows])

    def _execute(self, call: Call) -> str:
        (process,) = self.processes(*call.objects[0])
        places = {"/data": "nats", "/var/lib/postgresql/data": "postgres"}
        words = [str(self.stack.plan.data_folder / places[word]) if word in places else word for word in call.command]
        if words[0] == "nats-server":
            words[0] = psutil.Process(self.stack.runner.pid(process)).exe()
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout.strip()

    async def _backup(self) -> str:
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": PYTHON_PATH,
            "DATABASE_URL_MEETINGS": self.stack.database_url("meetings"),
            "DATABASE_URL_INSIGHTS": self.stack.database_url("insights"), "NATS_URL": self.stack.nats_url("backup"),
        }  # fmt: skip
        return await ran([sys.executable, "-m", "recovery", "backup", str(self.folder / "backups")], env)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = {"code": 0, "said": await self.do(parse(json.loads(await reader.readline())))}
        except (Refused, NotUnderstood) as fault:
            answer = {"code": 1, "said": f"error: {fault}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    @asynccontextmanager
    async def typing(self, **env: str) -> AsyncIterator[Terminal]:
        """Sit down at a terminal with `kubectl` and `verbatim`, logged in as an admin."""
        bin_folder, socket = self.folder / "bin", self.folder / "cluster.sock"
        bin_folder.mkdir(parents=True, exist_ok=True)
        for name, module in (("kubectl", "tests.observe.kubectl"), ("verbatim", "verbatim_client")):
            program = bin_folder / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            program.chmod(0o755)
        server = await asyncio.start_unix_server(self._answer, socket)
        try:
            yield Terminal(
                self.stack,
                env
                | {
                    "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": PYTHON_PATH, "HOME": str(self.folder),
                    "VERBATIM_URL": self.stack.url, "VERBATIM_CLUSTER": str(socket), "NO_COLOR": "1",
                },
            )  # fmt: skip
        finally:
            server.close()


@dataclass
class Terminal:
    """Where the lines of a runbook are typed."""

    stack: Stack
    env: dict[str, str]

    async def type(self, line: str, **placeholders: str) -> str:
        """Type a line, `<name>` replaced by its placeholder, and return what it says. AssertionError if it fails."""
        for name, value in placeholders.items():
            line = line.replace(f"<{name}>", value)
        if line.startswith("SELECT "):
            return await self.ask(line)
        if line.startswith("verbatim ") and "VERBATIM_TOKEN" not in self.env:
            async with VerbatimClient(self.stack.url) as client:
                await client.login(ADMIN.email, ADMIN.password)
                assert client.access_token
                self.env["VERBATIM_TOKEN"] = client.access_token
        return await ran(["bash", "-o", "pipefail", "-c", line], self.env)

    async def ask(self, statement: str) -> str:
        """Ask PostgreSQL as its owner would; rows, one a line."""
        async with await psycopg.AsyncConnection.connect(admin_conninfo(self.stack), autocommit=True) as connection:
            cursor = await connection.execute(statement.encode())
            return "\n".join("\t".join(map(str, row)) for row in await cursor.fetchall())


def admin_conninfo(stack: Stack, database: str = "meetings") -> str:
    """Say how the owner of the database server comes in."""
    password = (stack.plan.key_folder / "postgres_password").read_text()
    return superuser_conninfo(stack.plan.ports.of("postgres"), password, database)


async def ran(words: list[str], env: dict[str, str]) -> str:
    """Run a program to its end and return what it says. AssertionError with that if it fails."""
    process = await asyncio.create_subprocess_exec(
        *words, env=env, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), TYPED_WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, f"{shlex.join(words)}\n{said.decode()}"
    return said.decode().strip()

"""The platform with its services as containers, as hard as the chart runs them; the servers are local processes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time

from dev import probes
from dev.plan import SERVICES
from dev.stack import Stack

SETTINGS_OF_THE_HOST = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VERBATIM_DATA_DIR"}
READY_WITHIN_S = 60.0
HARDENED = (
    *("--read-only", "--user", "10001:10001", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "1g", "--pids-limit", "256", "--tmpfs", "/scratch:uid=10001,gid=10001,size=256m"),
)


def engine() -> str | None:
    """Return the container engine's program if one answers."""
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program and subprocess.run([program, "info"], capture_output=True, timeout=20, check=False).returncode == 0:
            return program
    return None


class ContainerStack(Stack):
    """A stack whose services run from the image."""

    image: str
    program: str

    async def docker(self, *arguments: str) -> str:
        """Run the engine. Raises RuntimeError with what it said."""
        process = await asyncio.create_subprocess_exec(
            self.program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 120.0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments[:2])}: {out.decode()}{err.decode()}")
        return out.decode()

    def name_of(self, name: str) -> str:
        """Name a container of this stack."""
        return f"verbatim-{self.plan.ports.of('gateway')}-{name}"

    async def run(self, name: str, *command: str, detached: bool = False, env: dict[str, str] | None = None) -> str:
        """Run the image hardened, with an environment that names nothing of this machine."""
        given = {key: value for key, value in (env or {}).items() if key not in SETTINGS_OF_THE_HOST}
        variables = [part for key, value in given.items() for part in ("--env", f"{key}={value}")]
        end = ("--detach",) if detached else ("--rm",)
        return await self.docker(
            *("run", *end, "--name", self.name_of(name), "--network", "host", *HARDENED, *variables),
            *(self.image, *command),
        )

    async def _migrate(self) -> None:
        for service in ("meetings", "insights"):
            await self.run(f"migrate-{service}", f"services.{service}", "migrate", env=self.env(service))

    async def _start_services(self) -> None:
        self.started_within_s: dict[str, float] = {}
        for service in (*SERVICES[1:], SERVICES[0]):
            began = time.monotonic()
            await self.run(service, f"services.{service}", detached=True, env=self.env(service))
            ready = probes.http(self.plan.ports.of(f"{service} internal"), "/readyz")
            async with asyncio.timeout(READY_WITHIN_S):
                while not await ready():
                    await asyncio.sleep(0.1)
            self.started_within_s[service] = time.monotonic() - began

    async def stop(self) -> None:
        """Stop the containers as Kubernetes does, then the servers."""
        for service in SERVICES:
            try:
                await self.docker("stop", "--time", "30", self.name_of(service))
                await self.docker("rm", "--force", self.name_of(service))
            except RuntimeError:
                continue  # it never started
        await super().stop()

"""compose.yaml with the built image: `make image-test`. Passed over where no image is named or there is no compose."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from verbatim_client import VerbatimClient

from dev.ports import HOST, Ports
from dev.settings import ROOT

IMAGE = os.environ.get("VERBATIM_IMAGE", "")
STARTED_WITHIN_S = 300
PASSWORD = "correct horse battery staple"
DOCTOR = ("python", "-m", "verbatim_client", "--url", "http://127.0.0.1:8000", "doctor", "--throwaway", "--json")


def has_compose() -> bool:
    """Say whether the engine's second compose is here: the first does not read the file."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.req("R-RUN-3"),
    pytest.mark.skipif(not IMAGE, reason="VERBATIM_IMAGE names no image: make image-test"),
    pytest.mark.skipif(bool(IMAGE) and not has_compose(), reason="no docker compose here"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(STARTED_WITHIN_S + 120),
]


@dataclass(frozen=True)
class Compose:
    """One installation by compose.yaml, with secrets and a port of its own."""

    project: str
    env_file: Path
    port: int

    async def __call__(self, *arguments: str, within_s: float = 120.0) -> str:
        """Run compose and return what it wrote. Raises RuntimeError with what it said."""
        process = await asyncio.create_subprocess_exec(
            *("docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file)),
            *("--file", str(ROOT / "deploy/compose.yaml"), *arguments),
            env=os.environ | {"VERBATIM_IMAGE": IMAGE, "PORT": str(self.port)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"compose {arguments[0]}: {out.decode()}{err.decode()}")
        return out.decode()

    async def start(self) -> None:
        """Start it and wait until all of it is well."""
        wait = ("--wait", "--wait-timeout", str(STARTED_WITHIN_S))
        await self("up", "--detach", *wait, within_s=STARTED_WITHIN_S + 30)

    async def doctor(self) -> dict[str, str]:
        """Look at the installation from inside of its gateway, down to a real transcription: verdicts by check."""
        told = await self("exec", "--no-TTY", "gateway", *DOCTOR)
        return {finding["check"]: finding["verdict"] for finding in map(json.loads, told.splitlines())}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the secrets of an installation."""
    file = tmp_path_factory.mktemp("compose") / ".env"
    made = subprocess.run([sys.executable, ROOT / "deploy/compose_secrets.py"], capture_output=True, check=True)
    file.write_bytes(made.stdout)
    return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def compose(secrets: Path) -> AsyncIterator[Compose]:
    port = Ports.free().of("gateway")
    compose = Compose(f"verbatim-{port}", secrets, port)
    try:
        began = time.monotonic()
        await compose.start()
        print(f"compose: ready within {time.monotonic() - began:.0f} s")
        yield compose
    finally:
        await compose("down", "--volumes", "--timeout", "80", within_s=110)


async def test_one_command_starts_a_platform_that_transcribes(compose: Compose) -> None:
    verdicts = await compose.doctor()
    assert verdicts["transcription"] == verdicts["storage"] == "ok"
    assert set(verdicts.values()) <= {"ok", "warn", "skipped"}


async def test_what_was_there_is_there_after_everything_was_stopped_and_started(compose: Compose) -> None:
    async with VerbatimClient(f"http://{HOST}:{compose.port}") as client:
        await client.register("ada@verbatim.example", "ada", PASSWORD)
        await client.login("ada@verbatim.example", PASSWORD)
        meeting = await client.create_meeting("Kept")
        await compose("stop", "--timeout", "80", within_s=110)
        await compose.start()
        await client.login("ada@verbatim.example", PASSWORD)
        assert (await client.meeting(meeting["id"]))["title"] == "Kept"

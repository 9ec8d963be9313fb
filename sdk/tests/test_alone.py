"""The package on its own: installed into an empty environment, without the repository around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.settings import ROOT
from tests.answering import Answering, served

pytestmark = [pytest.mark.req("R-UI-2"), pytest.mark.long, pytest.mark.timeout(900)]

SERVERS = {"fastapi", "uvicorn", "sqlalchemy", "nats-py", "redis", "grpcio", "pydantic-settings", "verbatim"}


class Platform(Answering):
    """Answers whose token it is."""

    def do_GET(self) -> None:  # noqa: N802 - the name is the library's
        self.answer(200, {"email": "ada@example.com", "said": self.headers["Authorization"]})


@pytest.fixture
def url() -> Iterator[str]:
    with served(Platform) as url:
        yield url


def test_it_is_installed_with_four_libraries_and_works(url: str, tmp_path: Path) -> None:
    package = tmp_path / "sdk"
    shutil.copytree(ROOT / "sdk", package, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    python = str(tmp_path / "venv/bin/python")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*argv: str, **more: str) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path, env=env | more
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(package))
    installed = {line.split("==")[0].split(" @")[0].lower() for line in run(python, "-m", "pip", "freeze").splitlines()}
    assert {"httpx2", "rich", "typer", "websockets", "verbatim-client"} <= installed
    assert not installed & SERVERS

    verbatim = str(tmp_path / "venv/bin/verbatim")
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "VERBATIM_URL": url, "VERBATIM_TOKEN": "vbk_1"}
    assert run(verbatim, "--version").strip() == "0.1.0"
    assert json.loads(run(verbatim, "whoami", "--json", **home))["said"] == "Bearer vbk_1"
    assert "complete -o default" in run(verbatim, "completion", "bash")
    program = (
        "from verbatim_client import SyncVerbatimClient\n"
        f"with SyncVerbatimClient({url!r}, access_token='vbk_1') as client:\n"
        "    print(client.me()['email'])\n"
    )
    assert run(python, "-c", program).strip() == "ada@example.com"

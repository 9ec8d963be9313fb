"""The page's own tests on Node, and that what the gateway serves is what its sources build to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dev.settings import ROOT

pytestmark = [pytest.mark.req("R-UI-1", "R-WS-3"), pytest.mark.timeout(900)]

WEB = ROOT / "web"
BUILT = ROOT / "services/gateway/static"


def run(*argv: str) -> str:
    """Run a program in the folder of the page; give what it says."""
    done = subprocess.run(argv, cwd=WEB, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Give the files below a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_socket_buffer_transcript_and_resampler_keep_their_promises(node_modules: Path) -> None:
    compiled = node_modules / ".tests"
    shutil.rmtree(compiled, ignore_errors=True)
    run("npx", "--no-install", "tsc", "-p", "tsconfig.test.json")
    files = [str(path) for path in sorted((compiled / "tests").glob("*.test.js"))]
    said = run("node", "--test", "--test-reporter=tap", *files)
    assert "\n# fail 0" in said
    assert int(said.rpartition("\n# pass ")[2].split()[0]) >= 40


def test_what_is_served_is_what_the_sources_build_to(node_modules: Path, tmp_path: Path) -> None:
    assert node_modules.is_dir()
    run("npx", "--no-install", "tsc", "--noEmit")
    run(
        "npx",
        "--no-install",
        "vite",
        "build",
        "--outDir",
        str(tmp_path / "built"),
        "--emptyOutDir",
        "--logLevel",
        "error",
    )
    built, served = contents(tmp_path / "built"), contents(BUILT)
    assert built.keys() == served.keys(), "make web builds the page anew"
    assert built == served, "make web builds the page anew"


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (WEB / "package-lock.json").read_text(encoding="utf-8")

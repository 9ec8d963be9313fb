"""Make ready what a checkout lacks: the code generated from the contracts, and the servers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dev.servers import find_or_install
from dev.settings import ROOT, Settings

GENERATE_WITHIN_S = 120
STAMP = "contracts.sha256"


def set_up(settings: Settings, say: Callable[[str], None]) -> None:
    """Generate the contracts and find or install the servers. Idempotent. Raises ServersMissingError."""
    generate_contracts(ROOT / "proto", ROOT / "build" / "gen", say)
    find_or_install(ROOT / ".run" / "bin", say, settings.nats_server)


def generate_contracts(proto: Path, target: Path, say: Callable[[str], None]) -> bool:
    """Generate Python from `proto` into `target` if something changed since; say whether it did.

    The types come from mypy-protobuf where the development requirements are installed, else from protoc
    itself. Raises CalledProcessError, with protoc's words on stderr, if the contracts are wrong.
    """
    contracts = sorted(proto.rglob("*.proto"))
    mypy_plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    fingerprint = _fingerprint(proto, contracts, with_mypy=mypy_plugin.exists())
    stamp = target / STAMP
    if stamp.exists() and stamp.read_text() == fingerprint:
        return False
    say(f"generating code from {len(contracts)} contracts")
    aside = target.with_name(f"{target.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    types = ["--mypy_out=quiet:", "--mypy_grpc_out=quiet:"] if mypy_plugin.exists() else ["--pyi_out="]
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}"),
            *(f"{out}{aside}" for out in ("--python_out=", "--grpc_python_out=", *types)),
            *map(str, contracts),
        ],
        # protoc looks for its plugins on the PATH.
        env=os.environ | {"PATH": f"{mypy_plugin.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        check=True,
        timeout=GENERATE_WITHIN_S,
    )
    (aside / STAMP).write_text(fingerprint)
    # Swapped in whole, so that nobody imports half of it.
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    return True


def _fingerprint(proto: Path, contracts: list[Path], *, with_mypy: bool) -> str:
    parts = [f"grpcio-tools {importlib.metadata.version('grpcio-tools')} mypy {with_mypy}"]
    parts += [f"{path.relative_to(proto)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in contracts]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

"""Find or install PostgreSQL, NATS and Redis on this machine.

Nothing here starts a server: a stack runs its own, on its own ports and data. What a Debian package would
start or set up by itself is prevented or undone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NATS_VERSION = "v2.12.4"
NATS_OLDEST = (2, 9)
POSTGRES_OLDEST = 15
INSTALL_WITHIN_S = 600
ASK_VERSION_WITHIN_S = 10
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
POLICY = Path("/usr/sbin/policy-rc.d")


class ServersMissingError(Exception):
    """A server is not there and cannot be installed from here. The message says what to install."""


@dataclass(frozen=True)
class Postgres:
    """Where PostgreSQL's programs are, and as whom they must run (None: as the caller)."""

    initdb: Path
    postgres: Path
    user: str | None


@dataclass(frozen=True)
class Nats:
    """A nats-server and its version, such as (2, 12, 4)."""

    binary: Path
    version: tuple[int, ...]


@dataclass(frozen=True)
class Servers:
    """The three servers a stack stands on."""

    postgres: Postgres
    nats: Nats
    redis: Path


def find_or_install(tools: Path, say: Callable[[str], None], nats_binary: str | None = None) -> Servers:
    """Find the servers; install what is missing into `tools` (NATS) or as Debian packages (when root).

    `nats_binary` names one particular nats-server. Idempotent; takes milliseconds when all is there. Raises
    ServersMissingError with what to install.
    """
    missing = [
        package
        for package, found in (
            ("postgresql", find_postgres()),
            ("redis-server", shutil.which("redis-server")),
        )
        if not found
    ]
    if missing:
        install_debian_packages(missing, say)
    postgres, redis = find_postgres(), shutil.which("redis-server")
    if postgres is None or redis is None:
        raise ServersMissingError(f"PostgreSQL {POSTGRES_OLDEST} or newer and Redis are needed on the PATH")
    return Servers(postgres, find_or_install_nats(tools, say, nats_binary), Path(redis))


def find_postgres() -> Postgres | None:
    """Find initdb and postgres, on the PATH or where Debian keeps them (newest first)."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN_POSTGRES.glob("*/bin"), key=lambda bin_: _numbers(bin_.parent.name), reverse=True)
    for folder in folders:
        initdb, postgres = folder / "initdb", folder / "postgres"
        if initdb.exists() and postgres.exists() and _version(postgres) >= (POSTGRES_OLDEST,):
            # PostgreSQL refuses to run as root.
            return Postgres(initdb, postgres, "postgres" if os.geteuid() == 0 else None)
    return None


def find_or_install_nats(tools: Path, say: Callable[[str], None], binary: str | None = None) -> Nats:
    """Find a nats-server: the named one, else a current one built with Go, else the PATH's, else Debian's.

    Raises ServersMissingError.
    """
    if binary:
        if shutil.which(binary) is None:
            raise ServersMissingError(f"VERBATIM_NATS_SERVER names {binary}, which is not there")
        return Nats(Path(binary), _version(Path(binary)))
    built = tools / "nats-server"
    if not built.exists() and shutil.which("go"):
        _build_nats(tools, say)
    if built.exists():
        return Nats(built, _version(built))
    if not (found := _find_nats_on_path()):
        install_debian_packages(["nats-server"], say)
        found = _find_nats_on_path()
    if found is None or _version(found) < NATS_OLDEST:
        raise ServersMissingError("nats-server 2.9 or newer is needed on the PATH (or Go, to build it)")
    return Nats(found, _version(found))


def install_debian_packages(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """Install packages without starting what is in them. Raises ServersMissingError."""
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise ServersMissingError(f"please install: {wanted} (these are Debian's names of the packages)")
    if os.geteuid() != 0:
        raise ServersMissingError(f"please install: sudo apt-get install {wanted}")
    say(f"installing Debian packages: {wanted}")
    clusters_before = _debian_clusters()
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_held_back():
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", "--quiet", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=INSTALL_WITHIN_S,
                check=False,
            )
            if done.returncode != 0:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise ServersMissingError(f"apt-get {arguments[0]} failed: {' '.join(last)}")
    for version, name in _debian_clusters() - clusters_before:
        subprocess.run(["pg_dropcluster", version, name], check=True, timeout=60)
    if Path("/run/systemd/system").exists():  # a machine with systemd would start them at its next boot
        services = [package for package in packages if package != "postgresql"]
        subprocess.run(["systemctl", "disable", "--quiet", *services], check=False, timeout=60)


def _build_nats(tools: Path, say: Callable[[str], None]) -> None:
    say(f"building nats-server {NATS_VERSION} with Go (once)")
    tools.mkdir(parents=True, exist_ok=True)
    # Built aside and moved in one step: several stacks may do this at once.
    aside = tools / f"build-{os.getpid()}"
    done = subprocess.run(
        ["go", "install", f"github.com/nats-io/nats-server/v2@{NATS_VERSION}"],
        env=os.environ | {"GOBIN": str(aside), "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=INSTALL_WITHIN_S,
        check=False,
    )
    if done.returncode == 0:
        (aside / "nats-server").replace(tools / "nats-server")
    else:
        say(f"Go could not build it ({' '.join(done.stderr.split()[-12:])}); looking for another")
    shutil.rmtree(aside, ignore_errors=True)


def _find_nats_on_path() -> Path | None:
    # Debian keeps it in /usr/sbin, which is not on everybody's PATH.
    found = shutil.which("nats-server", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def _debian_clusters() -> set[tuple[str, str]]:
    configured = Path("/etc/postgresql").glob("*/*/postgresql.conf")
    return {(path.parent.parent.name, path.parent.name) for path in configured}


@contextlib.contextmanager
def _services_held_back() -> Iterator[None]:
    """Forbid Debian's packages to start their services while they are installed (101: by policy)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _version(binary: Path) -> tuple[int, ...]:
    answer = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=ASK_VERSION_WITHIN_S, check=True
    )
    return _numbers(answer.stdout + answer.stderr)


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()

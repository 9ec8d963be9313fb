"""PostgreSQL, NATS and Redis as programs of a stack: loopback only, all data below one folder."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from dev import probes
from dev.ports import HOST
from dev.runner import Program
from dev.servers import Nats, Postgres
from dev.settings import ROOT

INITDB_WITHIN_S = 120
CONNECT_WITHIN_S = 10
MAX_CONNECTIONS = 300
UNIX_SOCKET_PATH_MAX = 107
SUPERUSER = "verbatim"
NATS_PERMISSIONS = ROOT / "deploy" / "helm" / "verbatim" / "files" / "nats-permissions.conf"
REDIS_RULES = ROOT / "deploy" / "helm" / "verbatim" / "files" / "redis-rules.txt"


def make_cluster(postgres: Postgres, folder: Path, password: str) -> None:
    """Run initdb, once. A first start that is killed half-way leaves nothing that looks finished."""
    if folder.exists():
        return
    unfinished, password_file = folder.with_suffix(".unfinished"), folder.with_suffix(".password")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    group = None
    if postgres.user is not None:
        account = pwd.getpwnam(postgres.user)
        group = account.pw_gid
        for path in (unfinished, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    try:
        subprocess.run(
            [
                *(
                    postgres.initdb,
                    "--pgdata",
                    unfinished,
                    "--username",
                    SUPERUSER,
                    "--pwfile",
                    password_file,
                ),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=INITDB_WITHIN_S,
            cwd="/",
            user=postgres.user,
            group=group,
            extra_groups=None if postgres.user is None else [],
        )
    finally:
        password_file.unlink()
    unfinished.rename(folder)


def postgres_program(postgres: Postgres, folder: Path, port: int, password: str, env: Mapping[str, str]) -> Program:
    """Run the cluster in `folder`."""
    sockets = folder  # belongs to the right user already
    if len(f"{sockets}/.s.PGSQL.{port}.lock") > UNIX_SOCKET_PATH_MAX:
        sockets = Path()
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": "" if sockets == Path() else sockets,
        "max_connections": MAX_CONNECTIONS,
        "logging_collector": "off",
    }
    return Program(
        name="postgres",
        argv=[
            str(postgres.postgres),
            *("-D", str(folder)),
            *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
        ],
        env=env,
        cwd=Path("/"),
        ready=probes.postgres(superuser_conninfo(port, password)),
        stop_signal=signal.SIGINT,  # "fast": ends the connections, then writes everything
        death_signal=signal.SIGQUIT,  # "immediate": takes its children along
        user=postgres.user,
    )


def superuser_conninfo(port: int, password: str, database: str = "postgres") -> str:
    """Say how to reach the cluster as its superuser."""
    return (
        f"host={HOST} port={port} dbname={database} user={SUPERUSER} password={password} "
        f"connect_timeout={CONNECT_WITHIN_S}"
    )


async def make_databases(port: int, password: str, owners: Mapping[str, str]) -> None:
    """Make a database for each owner (name to password), which nobody else may enter. Idempotent."""
    conninfo = superuser_conninfo(port, password)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        databases = await connection.execute("SELECT datname FROM pg_database")
        there = {row[0] for row in await databases.fetchall()}
        for name, owner_password in owners.items():
            if name in there:
                continue
            owner = sql.Identifier(name)
            roles = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
            if await roles.fetchone() is None:
                await connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, sql.Literal(owner_password))
                )
            await connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(owner, owner))
            await connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(owner))


def nats_program(
    nats: Nats, folder: Path, port: int, http_port: int, passwords: Mapping[str, str], env: Mapping[str, str]
) -> Program:
    """Run JetStream with its store in `folder`, each service with its `passwords` and the permissions of the chart.

    Who names no user is the operator: here that is whoever sits at this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "permissions.conf").write_text(NATS_PERMISSIONS.read_text())
    users = [f"{{user: operator, password: {_quoted(secrets.token_hex(16))}}}"] + [
        f"{{user: {service}, password: {_quoted(password)}, permissions: ${service.upper()}}}"
        for service, password in passwords.items()
    ]
    config = folder / "nats.conf"
    # Every publish reaches the disk before its PubAck. Servers before 2.10 do not know the setting and
    # reach it every two minutes: there an ack outlives any crash of a process, but not a power cut.
    sync = "sync_interval: always" if nats.version >= (2, 10) else ""
    config.write_text(
        f"server_name: verbatim\n"
        f"listen: {HOST}:{port}\n"
        f"http: {HOST}:{http_port}\n"
        f"pid_file: {_quoted(folder / 'nats.pid')}\n"
        f"jetstream {{\n  store_dir: {_quoted(folder)}\n  {sync}\n}}\n"
        f"include permissions.conf\n"
        f"no_auth_user: operator\n"
        f"authorization {{users: [{', '.join(users)}]}}\n"
    )
    config.chmod(0o600)
    return Program(
        name="nats",
        argv=[str(nats.binary), "--config", str(config)],
        env=env,
        cwd=folder,
        ready=probes.http(http_port, "/healthz?js-enabled-only=true"),
    )


def redis_program(redis: Path, folder: Path, port: int, password: str, env: Mapping[str, str]) -> Program:
    """Run Redis with its append-only file in `folder`; `password` is the gateway's, which may count and no more."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"bind": HOST, "port": port, "dir": folder, "appendonly": "yes", "save": "", "daemonize": "no"}
    return Program(
        name="redis",
        argv=[
            *(str(redis), *(part for key, value in settings.items() for part in (f"--{key}", str(value)))),
            *("--user", "gateway", "on", f">{password}", *REDIS_RULES.read_text().split()),
        ],
        env=env,
        cwd=folder,
        ready=probes.redis(port),
    )


def _quoted(text: Path | str) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""The scripts and configurations that the chart carries, run against the real thing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy.engine import make_url

from chassis.tests.servers import PostgresServer
from deploy import nats_permissions
from dev.environment import GRPC
from dev.servers import find_or_install
from tests.chart.rendering import CHART, ROOT, SERVICES

pytestmark = [pytest.mark.req("R-RUN-2"), pytest.mark.helmless]

SCRIPT = CHART / "files" / "make_secrets.py"


class ClusterWithSecrets(ThreadingHTTPServer):
    """As much of a Kubernetes API as secrets need."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.secrets: dict[str, dict[str, str]] = {}
        self.calls: list[str] = []
        self.raced = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: ClusterWithSecrets

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        found = self.server.secrets.get(name)
        self._answer(200 if found is not None else 404, {"data": found or {}})

    def do_POST(self) -> None:
        body = self._body()
        name = body["metadata"]["name"]
        if self.server.raced:
            self.server.raced = False
            self.server.secrets[name] = {"SERVICE_AUTH_KEY": base64.b64encode(b"theirs").decode()}
        if name in self.server.secrets:
            self._answer(409, {})
        else:
            self._store(name, body["stringData"])

    def do_PATCH(self) -> None:
        name = self.path.rpartition("/")[2]
        self._store(name, self._body()["stringData"])

    def _store(self, name: str, values: dict[str, str]) -> None:
        kept = self.server.secrets.setdefault(name, {})
        kept.update({key: base64.b64encode(value.encode()).decode() for key, value in values.items()})
        self._answer(200, {"data": kept})

    def _body(self) -> dict[str, dict[str, str]]:
        assert self.headers["Authorization"] == "Bearer the-token"
        body: dict[str, dict[str, str]] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _answer(self, status: int, body: object) -> None:
        self.server.calls.append(self.command)
        told = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be quiet."""


@pytest.fixture
def cluster() -> Iterator[ClusterWithSecrets]:
    with ClusterWithSecrets() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_secrets(cluster: ClusterWithSecrets, account: Path) -> str:
    (account / "token").write_text("the-token\n")
    environment = {
        "KUBERNETES_API": cluster.url, "SERVICE_ACCOUNT_FOLDER": str(account), "NAMESPACE": "there",
        "SECRET": "s", "POSTGRES_HOST": "pg", "NATS_HOST": "nats", "REDIS_HOST": "redis",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def told(cluster: ClusterWithSecrets) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in cluster.secrets["s"].items()}


def test_secrets_are_made_once_and_kept(cluster: ClusterWithSecrets, tmp_path: Path) -> None:
    make_secrets(cluster, tmp_path)
    first = told(cluster)
    assert make_secrets(cluster, tmp_path) == f"0 keys made, {len(first)} kept\n"
    assert told(cluster) == first
    assert "PATCH" not in cluster.calls
    assert len(first["SERVICE_AUTH_KEY"]) >= 32
    assert len({value for key, value in first.items() if "PASSWORD" in key}) == 1 + 2 + len(nats_permissions.USERS) + 1


def test_keys_of_the_secret_fit_together(cluster: ClusterWithSecrets, tmp_path: Path) -> None:
    make_secrets(cluster, tmp_path)
    values = told(cluster)
    private = serialization.load_pem_private_key(values["AUTH_PRIVATE_KEY"].encode(), password=None)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert values["AUTH_PUBLIC_KEY"] == public.decode()
    assert values["DATABASE_URL_MEETINGS"] == (
        f"postgresql+psycopg://meetings:{values['POSTGRES_PASSWORD_MEETINGS']}@pg:5432/meetings"
    )


def test_a_newer_chart_adds_keys_and_changes_none(cluster: ClusterWithSecrets, tmp_path: Path) -> None:
    make_secrets(cluster, tmp_path)
    before = told(cluster)
    lost = cluster.secrets["s"].pop("REDIS_URL")
    assert make_secrets(cluster, tmp_path).startswith("1 keys made")
    assert told(cluster) == before
    assert cluster.secrets["s"]["REDIS_URL"] == lost, "made of the password that was kept"


@pytest.mark.req("R-API-7")
def test_secrets_of_webhooks_stay_when_they_get_a_key_of_their_own(cluster: ClusterWithSecrets, tmp_path: Path) -> None:
    make_secrets(cluster, tmp_path)
    assert told(cluster)["WEBHOOK_SIGNING_KEY"] != told(cluster)["SERVICE_AUTH_KEY"]
    del cluster.secrets["s"]["WEBHOOK_SIGNING_KEY"]
    make_secrets(cluster, tmp_path)
    assert told(cluster)["WEBHOOK_SIGNING_KEY"] == told(cluster)["SERVICE_AUTH_KEY"]


def test_two_at_once_agree(cluster: ClusterWithSecrets, tmp_path: Path) -> None:
    cluster.raced = True
    make_secrets(cluster, tmp_path)
    assert told(cluster)["SERVICE_AUTH_KEY"] == "theirs"


def test_every_secret_key_that_a_pod_asks_for_is_made() -> None:
    text = SCRIPT.read_text()
    asked = {
        "POSTGRES_PASSWORD", "REDIS_PASSWORD", "REDIS_URL", "SERVICE_AUTH_KEY", "AUTH_PRIVATE_KEY",
        "WEBHOOK_SIGNING_KEY",
    }  # fmt: skip
    assert all(f'"{key}"' in text for key in asked)


def test_broker_takes_its_configuration(tmp_path: Path) -> None:
    servers = find_or_install(ROOT / ".run" / "bin", lambda _: None, os.environ.get("VERBATIM_NATS_SERVER"))
    configuration = tmp_path / "nats.conf"
    configuration.write_text((CHART / "files" / "nats.conf").read_text().replace("/data", str(tmp_path / "data")))
    (tmp_path / "nats-permissions.conf").write_text(nats_permissions.FILE.read_text())
    if servers.nats.version < (2, 10):
        pytest.skip("Debian's nats-server knows no sync_interval: always; the chart's image is 2.12")
    passwords = {f"NATS_PASSWORD_{user.upper()}": "p" for user in nats_permissions.USERS} | {"MAX_FILE_STORE": "1GB"}
    subprocess.run(
        [servers.nats.binary, "-t", "-c", str(configuration)], env=os.environ | passwords, timeout=10, check=True
    )


def test_permissions_at_the_broker_are_those_of_their_table() -> None:
    assert nats_permissions.FILE.read_text() == nats_permissions.render(), "run: python -m deploy.nats_permissions"
    assert set(nats_permissions.USERS) == {*SERVICES, "backup"}
    writers = [name for name, may in nats_permissions.USERS.items() if "transcript.*" in may.publishes]
    assert writers == ["transcriber"]
    deleters = [name for name, may in nats_permissions.USERS.items() if "$JS.API.>" in may.publishes]
    assert deleters == ["backup"] and "STREAM.DELETE" not in nats_permissions.FILE.read_text()


def test_each_database_is_its_owners_alone(postgres_server: PostgresServer) -> None:
    script = (CHART / "files" / "init-databases.sh").read_text()
    port = make_url(postgres_server.conninfo("postgres")).port
    environment = os.environ | {
        "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres",
        "POSTGRES_PASSWORD_MEETINGS": "it's", "POSTGRES_PASSWORD_INSIGHTS": "x",
    }  # fmt: skip
    subprocess.run(["bash", "-c", script], env=environment, timeout=60, check=True)
    for owner, other, password in (("meetings", "insights", "it's"), ("insights", "meetings", "x")):
        at = {"host": "127.0.0.1", "port": port, "user": owner, "password": password}
        with psycopg.connect(**at, dbname=owner) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE TABLE mine (id int)")
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(**at, dbname=other)  # type: ignore[arg-type]


def test_the_image_is_built_of_what_the_build_is_given() -> None:
    """`recovery` was copied into the image and kept from the build: no image could be made."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [
        source for line in lines if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    ]
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and set(copied) == given
    assert all((ROOT / source).exists() for source in copied)


def test_in_the_image_no_child_waits_for_threads_of_grpc() -> None:
    """See docs/adr/0155. A process that is running heeds it no more."""
    (name, value), *_ = GRPC.items()
    assert f"{name}={value} " in (ROOT / "deploy" / "Dockerfile").read_text()

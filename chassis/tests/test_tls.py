from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from chassis.rpc import Identity, Peer, Server
from chassis.settings import ServiceSettings, load
from chassis.tests.authority import Authority
from chassis.tls import Tls

pytestmark = pytest.mark.req("R-SEC-1")

KEY = "k" * 32


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    opened = Server("127.0.0.1", 0, Identity("meetings", KEY, tls=authority.issue("meetings")))
    await opened.start()
    yield opened
    await opened.stop(0)


async def asked(server: Server, tls: Tls | None) -> grpc.StatusCode:
    door = Peer(f"127.0.0.1:{server.port}", Identity("gateway", KEY, tls=tls))
    try:
        await health_pb2_grpc.HealthStub(door.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as fault:
        return fault.code()
    finally:
        await door.close()
    return grpc.StatusCode.OK


async def test_services_with_certificates_of_one_authority_speak(server: Server, authority: Authority) -> None:
    assert await asked(server, authority.issue("gateway")) is grpc.StatusCode.OK


@pytest.mark.parametrize("caller", ["in the clear", "of another authority", "expired"])
async def test_others_do_not_get_a_word_in(server: Server, authority: Authority, tmp_path: Path, caller: str) -> None:
    if caller == "in the clear":
        assert await asked(server, None) is grpc.StatusCode.UNAVAILABLE
        return
    if caller == "expired":
        with pytest.raises(ValueError, match="expired"):
            await asked(server, authority.issue("gateway", days=-1))
        return
    foreign = Authority(tmp_path, "stranger").issue("gateway")
    assert await asked(server, Tls(foreign.certificate, foreign.key, authority.file)) is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_refuses_a_server_of_another_authority(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    own = authority.issue("gateway")
    stranger = Authority(tmp_path, "stranger")
    assert await asked(server, Tls(own.certificate, own.key, stranger.file)) is grpc.StatusCode.UNAVAILABLE


def serial_shown(port: int, caller: Tls) -> int:
    context = ssl.create_default_context(cafile=str(caller.authority))
    context.load_cert_chain(caller.certificate, caller.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


async def test_a_renewed_certificate_is_shown_without_a_restart(server: Server, authority: Authority) -> None:
    caller = authority.issue("gateway")
    before = serial_shown(server.port, caller)
    assert serial_shown(server.port, caller) == before
    authority.issue("meetings", days=30)
    assert serial_shown(server.port, caller) != before
    expires = REGISTRY.get_sample_value("tls_certificate_expires_timestamp_seconds")
    renewed = x509.load_pem_x509_certificate((authority.file.parent / "meetings.pem").read_bytes())
    assert expires == pytest.approx(renewed.not_valid_after_utc.timestamp())


@pytest.mark.req("R-SVC-7")
def test_half_of_it_is_refused_at_the_start(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = authority.issue("gateway")
    monkeypatch.setenv("SERVICE_AUTH_KEY", KEY)
    for name, file in (("CERT", files.certificate), ("KEY", files.key), ("CA", files.authority)):
        monkeypatch.setenv(f"GRPC_TLS_{name}", str(file))
    assert Tls.of(load(ServiceSettings)) == files
    files.authority.unlink()
    with pytest.raises(SystemExit, match="GRPC_TLS_CA: the file cannot be read"):
        Tls.of(load(ServiceSettings))
    monkeypatch.setenv("GRPC_TLS_KEY", "")
    with pytest.raises(SystemExit):
        load(ServiceSettings)
    assert "GRPC_TLS_KEY and GRPC_TLS_CA belong together" in capsys.readouterr().err

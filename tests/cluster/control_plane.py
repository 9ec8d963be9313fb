"""A control plane on this machine: etcd, the API server, the controllers, and a node that exists on paper.

Everything that an API server decides is real: admission, validation, defaults, ownership of fields, role-based access,
what the controllers make of deployments, jobs and budgets. No container runs.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dev.ports import HOST, Ports
from dev.runner import Program, Runner
from tests.cluster.building import programs

READY_WITHIN_S = 600.0
# Whoever keeps nodes' leases is not there, so nobody may judge by them.
CONTROLLERS = "*,-node-lifecycle-controller,-taint-eviction-controller,-node-ipam-controller"
# The API server makes a certificate for itself there, and keeps it.
CERTIFICATES = "certificates"


@asynccontextmanager
async def control_plane(folder: Path, tools: Path, say: Callable[[str], None]) -> AsyncIterator[Path]:
    """Start a control plane with its data in `folder`; yield its kubeconfig. Raises CannotBuildError."""
    found = programs(tools, say)
    ports = Ports.free()
    runner = Runner(folder / "logs", progress=lambda name, seconds: say(f"{name} ready after {seconds:.1f} s"))
    token = secrets.token_hex(24)
    (folder / "logs").mkdir(parents=True)
    (folder / "tokens.csv").write_text(f'{token},operator,operator,"system:masters"\n')
    (folder / "accounts.key").write_bytes(_private_key())
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
    try:
        await runner.start(_etcd(found["etcd"], folder, ports, env))
        await runner.start(_api_server(found["kube-apiserver"], folder, ports, token, env))
        kubeconfig = _kubeconfig(folder, ports, token)
        await runner.start(
            _controllers(found["kube-controller-manager"], folder, kubeconfig, ports, env),
            _imaginary_node(kubeconfig, folder),
        )
        yield kubeconfig
    finally:
        await runner.stop()
        ports.release()


def _etcd(binary: Path, folder: Path, ports: Ports, env: dict[str, str]) -> Program:
    client, peer = f"http://{HOST}:{ports.of('etcd')}", f"http://{HOST}:{ports.of('etcd peers')}"
    return Program(
        name="etcd",
        argv=[
            *(str(binary), "--name=one", f"--data-dir={folder / 'etcd'}"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}"),
            # What it keeps is thrown away.
            "--unsafe-no-fsync",
        ],
        env=env,
        cwd=folder,
        ready=_answers(f"{client}/health"),
        ready_within_s=READY_WITHIN_S,
    )


def _api_server(binary: Path, folder: Path, ports: Ports, token: str, env: dict[str, str]) -> Program:
    accounts = folder / "accounts.key"
    return Program(
        name="kube-apiserver",
        argv=[
            *(str(binary), f"--etcd-servers=http://{HOST}:{ports.of('etcd')}", f"--bind-address={HOST}"),
            *(f"--secure-port={ports.of('api')}", f"--cert-dir={folder / CERTIFICATES}"),
            *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=Node,RBAC"),
            *(f"--service-account-key-file={accounts}", f"--service-account-signing-key-file={accounts}"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16"),
            # There is no address that pods could reach it at.
            *("--endpoint-reconciler-type=none", "--v=1"),
        ],
        env=env,
        cwd=folder,
        ready=_answers(f"https://{HOST}:{ports.of('api')}/readyz", token),
        ready_within_s=READY_WITHIN_S,
    )


def _controllers(binary: Path, folder: Path, kubeconfig: Path, ports: Ports, env: dict[str, str]) -> Program:
    return Program(
        name="kube-controller-manager",
        argv=[
            *(str(binary), f"--kubeconfig={kubeconfig}", f"--controllers={CONTROLLERS}", "--leader-elect=false"),
            *(f"--service-account-private-key-file={folder / 'accounts.key'}", f"--bind-address={HOST}"),
            *(f"--root-ca-file={folder / CERTIFICATES / 'apiserver.crt'}", f"--secure-port={ports.of('controllers')}"),
            *(f"--cert-dir={folder / 'controllers'}", "--authorization-always-allow-paths=/healthz"),
        ],
        env=env,
        cwd=folder,
        ready=_answers(f"https://{HOST}:{ports.of('controllers')}/healthz"),
        ready_within_s=READY_WITHIN_S,
    )


def _imaginary_node(kubeconfig: Path, folder: Path) -> Program:
    env = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    return Program(
        name="node",
        argv=[sys.executable, "-m", "tests.cluster.imaginary", str(kubeconfig), str(folder / "paused")],
        env=env,
        cwd=Path.cwd(),
    )


def _kubeconfig(folder: Path, ports: Ports, token: str) -> Path:
    certificate = (folder / CERTIFICATES / "apiserver.crt").read_bytes()
    server = {
        "server": f"https://{HOST}:{ports.of('api')}",
        "certificate-authority-data": base64.b64encode(certificate).decode(),
    }
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "control-plane",
                "clusters": [{"name": "here", "cluster": server}],
                "users": [{"name": "operator", "user": {"token": token}}],
                "contexts": [{"name": "control-plane", "context": {"cluster": "here", "user": "operator"}}],
            }
        )
    )
    path.chmod(0o600)
    return path


def _answers(url: str, token: str = "") -> Callable[[], Awaitable[bool]]:
    """Ask without checking certificates: it is our own process, whose certificate is only being made."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310

    def answers() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5, context=context if "https" in url else None) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    async def ask() -> bool:
        return await asyncio.to_thread(answers)

    return ask


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    return key.private_bytes(*form)

"""Make the secret that the chart's services share, if it is not there; add keys that a newer chart wants; change none.

Runs as a hook before install and upgrade, in the image of the services. Whatever rendered the chart (Helm, Argo CD,
Flux), passwords are made once, in the cluster, and appear in no manifest.
"""

import base64
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT_FOLDER", "/var/run/secrets/kubernetes.io/serviceaccount"))
BROKER_USERS = ("gateway", "transcriber", "meetings", "insights", "janitor", "backup")
WITH_DATABASE = ("meetings", "insights")
ATTEMPTS = 3


def _password() -> str:
    # Begins with a letter: NATS would read digits as a number.
    return f"p{secrets.token_hex(24)}"


def wanted(present: dict[str, str]) -> dict[str, str]:
    """Return all keys with their values: those that are present as they are, the others made."""
    values = dict(present)

    def made(key: str, value: str) -> str:
        return values.setdefault(key, value)

    # An installation from before this key derives the secrets of its webhooks from the other: they must stay.
    made("WEBHOOK_SIGNING_KEY", present.get("SERVICE_AUTH_KEY") or secrets.token_hex(32))
    made("SERVICE_AUTH_KEY", secrets.token_hex(32))
    private = made("AUTH_PRIVATE_KEY", _new_private_key())
    made("AUTH_PUBLIC_KEY", _public_key(private))
    made("POSTGRES_PASSWORD", _password())
    for service in WITH_DATABASE:
        password = made(f"POSTGRES_PASSWORD_{service.upper()}", _password())
        url = f"postgresql+psycopg://{service}:{password}@{os.environ['POSTGRES_HOST']}:5432/{service}"
        made(f"DATABASE_URL_{service.upper()}", url)
    for user in BROKER_USERS:
        password = made(f"NATS_PASSWORD_{user.upper()}", _password())
        made(f"NATS_URL_{user.upper()}", f"nats://{user}:{password}@{os.environ['NATS_HOST']}:4222")
    password = made("REDIS_PASSWORD", _password())
    made("REDIS_URL", f"redis://:{password}@{os.environ['REDIS_HOST']}:6379/0")
    return values


def _new_private_key() -> str:
    key = Ed25519PrivateKey.generate()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def _public_key(private: str) -> str:
    key = serialization.load_pem_private_key(private.encode(), password=None)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form).decode()


class Cluster:
    """The Kubernetes API, as far as one secret is concerned."""

    def __init__(self, server: str, namespace: str, name: str) -> None:
        self._url = f"{server}/api/v1/namespaces/{namespace}/secrets"
        self._name = name
        self._token = (ACCOUNT / "token").read_text().strip()
        self._tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")) if server.startswith("https") else None

    def read(self) -> dict[str, str] | None:
        """Return the secret's keys and values, or None if there is no such secret."""
        try:
            answer = self._call("GET", f"{self._url}/{self._name}")
        except urllib.error.HTTPError as fault:
            if fault.code == 404:
                return None
            raise
        return {key: base64.b64decode(value).decode() for key, value in (answer.get("data") or {}).items()}

    def create(self, values: dict[str, str]) -> None:
        """Make the secret. Raises HTTPError 409 if somebody else just has."""
        labels = {"app.kubernetes.io/name": "verbatim", "app.kubernetes.io/part-of": "verbatim"}
        metadata = {"name": self._name, "labels": labels}
        self._call("POST", self._url, {"metadata": metadata, "type": "Opaque", "stringData": values})

    def add(self, values: dict[str, str]) -> None:
        """Add keys to the secret."""
        self._call("PATCH", f"{self._url}/{self._name}", {"stringData": values})

    def _call(self, method: str, url: str, body: object = None) -> dict[str, dict[str, str]]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind, "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - the cluster's own address
        with urllib.request.urlopen(request, timeout=10, context=self._tls) as answer:  # noqa: S310
            told: dict[str, dict[str, str]] = json.load(answer)
        return told


def main() -> None:
    """Make or complete the secret."""
    server = os.environ.get("KUBERNETES_API") or (
        f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    )
    cluster = Cluster(server, os.environ["NAMESPACE"], os.environ["SECRET"])
    for _ in range(ATTEMPTS):
        present = cluster.read()
        values = wanted(present or {})
        new = sorted(set(values) - set(present or {}))
        try:
            if present is None:
                cluster.create(values)
            elif new:
                cluster.add({key: values[key] for key in new})
        except urllib.error.HTTPError as fault:
            if fault.code != 409:
                raise
            continue
        sys.stdout.write(f"{len(new)} keys made, {len(values) - len(new)} kept\n")
        return
    raise SystemExit("somebody else keeps changing the secret")


if __name__ == "__main__":
    main()

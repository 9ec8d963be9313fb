"""Secrets of one stack: made on its first start, kept in its data folder, never in the repository."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dev.plan import BROKER_USERS


@dataclass(frozen=True)
class Keys:
    """Passwords as text (the broker's by service), the service key as 64 hex digits, the Ed25519 pair as PEM."""

    postgres_password: str
    meetings_password: str
    insights_password: str
    nats_passwords: Mapping[str, str]
    redis_password: str
    service_auth_key: str
    auth_private_key: str
    auth_public_key: str

    @classmethod
    def kept_in(cls, folder: Path) -> Keys:
        """Read the secrets of the folder, making (mode 0600) those that are not there yet."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_pem = _kept(folder / "auth_private_key.pem", _new_private_key)
        return cls(
            postgres_password=_kept(folder / "postgres_password", _new_password),
            meetings_password=_kept(folder / "meetings_password", _new_password),
            insights_password=_kept(folder / "insights_password", _new_password),
            nats_passwords={name: _kept(folder / f"nats_{name}_password", _new_password) for name in BROKER_USERS},
            redis_password=_kept(folder / "redis_password", _new_password),
            service_auth_key=_kept(folder / "service_auth_key", lambda: secrets.token_hex(32)),
            auth_private_key=private_pem,
            auth_public_key=_public_key(private_pem),
        )


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        aside = path.with_suffix(".new")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(make())
        aside.replace(path)
    return path.read_text()


def _new_password() -> str:
    return secrets.token_urlsafe(24)


def _new_private_key() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _public_key(private_pem: str) -> str:
    key = serialization.load_pem_private_key(private_pem.encode(), password=None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )

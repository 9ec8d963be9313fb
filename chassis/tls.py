"""Mutual TLS between services: who has no certificate of this installation's authority does not get a word in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from prometheus_client import Gauge

from chassis.settings import ServiceSettings

EXPIRES = Gauge("tls_certificate_expires_timestamp_seconds", "When this process's certificate expires; 0: it has none.")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files (PEM): this process's certificate chain, its key, and the authority that signed everybody's.

    They may be replaced while the process runs. A server shows and demands what the files hold when a connection is
    made; a channel keeps what they held when it was opened, so callers are restarted before their own expires.
    """

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of(cls, settings: ServiceSettings) -> Tls | None:
        """Return what the settings name; None if services speak in the clear. Exits if a file cannot be read."""
        if not settings.grpc_tls_cert:
            return None
        for name in ("grpc_tls_cert", "grpc_tls_key", "grpc_tls_ca"):
            if not os.access(getattr(settings, name), os.R_OK):
                raise SystemExit(f"{name.upper()}: the file cannot be read")
        return cls(Path(settings.grpc_tls_cert), Path(settings.grpc_tls_key), Path(settings.grpc_tls_ca))

    def channel(self) -> grpc.ChannelCredentials:
        """Return what a caller shows and demands. Raises OSError or ValueError for files that do not hold."""
        self._note_expiry()
        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )

    def server(self) -> grpc.ServerCredentials:
        """Return what a server shows and demands. Raises OSError or ValueError for files that do not hold."""
        return grpc.dynamic_ssl_server_credentials(self._shown(), self._shown, require_client_authentication=True)

    def _shown(self) -> grpc.ServerCertificateConfiguration:
        self._note_expiry()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self.authority.read_bytes())

    def _note_expiry(self) -> None:
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        EXPIRES.set(certificate.not_valid_after_utc.timestamp())
        if certificate.not_valid_after_utc < datetime.now(UTC):
            raise ValueError(f"the certificate in {self.certificate.name} has expired")

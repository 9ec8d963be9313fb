"""Configuration from the environment only, checked before anything starts."""

from __future__ import annotations

import sys
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What every service can be told. Field names in capitals are the environment variables."""

    model_config = SettingsConfigDict(case_sensitive=False, extra="ignore", frozen=True, populate_by_name=True)

    verbatim_env: Literal["development", "production"] = Field("development", description="Kind of installation.")
    verbatim_data_dir: str = Field(".run", description="Folder for scratch files.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Lowest level logged."
    )
    log_format: Literal["json", "console"] = Field("json", description="Shape of log lines.")
    internal_host: str = Field("127.0.0.1", description="Address of the internal port.")
    internal_port: int = Field(9100, ge=0, le=65535, description="Port for metrics, liveness and readiness.")
    replica: str = Field("", description="Name of this replica; default: host name and process id.")
    drain_s: float = Field(20.0, ge=0, le=18000, description="Longest time from SIGTERM to exit.")
    service_auth_key: SecretStr = Field(
        min_length=32, description="Shared key that signs calls between services; at least 32 characters."
    )
    grpc_tls_cert: str = Field(
        "",
        description="File with this service's certificate chain (PEM). With it, calls between services are mutual TLS.",
    )
    grpc_tls_key: str = Field("", description="File with the key of that certificate (PEM).")
    grpc_tls_ca: str = Field("", description="File with the authority that signed every service's certificate (PEM).")
    nats_url: str = Field("nats://127.0.0.1:4222", description="Broker, comma-separated for a cluster.")
    otel_exporter_otlp_endpoint: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="Base address of an OTLP/HTTP receiver of traces; empty: none."
    )
    otel_traces_sampler_arg: float = Field(
        0.1, ge=0, le=1, description="Share of requests, sessions and jobs that are traced."
    )
    sentry_dsn: SecretStr = Field(SecretStr(""), description="Where failures are told; empty: nowhere.")
    nats_replicas: int = Field(1, ge=1, le=5, description="Copies of each stream.")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServiceSettings:
        if len({bool(self.grpc_tls_cert), bool(self.grpc_tls_key), bool(self.grpc_tls_ca)}) > 1:
            raise ValueError("GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CA belong together")
        return self


class DatabaseSettings(ServiceSettings):
    """What a service with a database can be told besides."""

    db_pool_size: int = Field(0, ge=0, le=1000, description="Connections kept open; 0: 5, in production 30.")
    db_pool_max: int = Field(0, ge=0, le=1000, description="Most connections of one process; 0: 10, in production 90.")
    db_pool_recycle_s: float = Field(300.0, gt=0, description="Age at which a connection is replaced.")
    db_pool_wait_s: float = Field(
        1.0, gt=0, le=30, description="How long a call waits for a connection before it is refused with 503."
    )
    db_connection_timeout_s: float = Field(
        30.0, gt=0, le=300, description="How long work in the background waits for a connection, or for the database."
    )
    db_statement_timeout_s: float = Field(5.0, gt=0, le=300, description="Longest statement.")
    db_lock_timeout_s: float = Field(3.0, gt=0, le=300, description="Longest wait of a statement for a lock.")
    db_idle_in_transaction_s: float = Field(15.0, gt=0, le=300, description="Longest pause inside a transaction.")
    db_slow_query_s: float = Field(1.0, gt=0, description="Statements from here on are counted and logged as slow.")

    @model_validator(mode="after")
    def _pool_fits(self) -> DatabaseSettings:
        if self.db_pool_max and self.db_pool_size > self.db_pool_max:
            raise ValueError("DB_POOL_SIZE is more than DB_POOL_MAX")
        return self

    @property
    def production(self) -> bool:
        return self.verbatim_env == "production"


S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S]) -> S:
    """Read settings of one service from the environment.

    Exits with status 2 and one line per fault (`VARIABLE: what is wrong`), never with the value, if they do not hold.
    """
    try:
        return cls()
    except ValidationError as fault:
        for error in fault.errors(include_input=False, include_url=False, include_context=False):
            name = "_".join(str(part) for part in error["loc"]).upper()
            sys.stderr.write(f"{name}: {error['msg']}\n")
        raise SystemExit(2) from None


def variables(cls: type[ServiceSettings]) -> list[tuple[str, str, str]]:
    """Return (variable, default, meaning) of each setting, for the table in the documentation."""
    rows = []
    for name, field in cls.model_fields.items():
        # What a factory gives differs from machine to machine: its description says what it is.
        told = "" if field.default_factory is not None else str(field.default)
        rows.append((name.upper(), "required" if field.is_required() else told, field.description or ""))
    return rows

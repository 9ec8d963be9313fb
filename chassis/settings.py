"""Configuration from the environment only, checked before anything starts."""

from __future__ import annotations

import sys
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
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
    nats_url: str = Field("nats://127.0.0.1:4222", description="Broker, comma-separated for a cluster.")
    nats_replicas: int = Field(1, ge=1, le=5, description="Copies of each stream.")


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
        if field.is_required():
            default = "required"
        else:
            # What a factory gives differs from machine to machine: its description says what it is.
            default = "" if field.default_factory is not None else str(field.default)
        rows.append((name.upper(), default, field.description or ""))
    return rows

"""What each service is told through its environment: a contract with `services/*/settings.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dev.keys import Keys
from dev.plan import WITH_GRPC, Plan, service_of
from dev.ports import HOST

# Else gRPC starts threads in each child before that becomes another program, and waits while there are none to be had;
# the event loop of the parent waits for the child (docs/adr/0155).
GRPC = {"GRPC_ENABLE_FORK_SUPPORT": "0"}


def plain_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Keep of the caller's environment what any program needs, so that nothing else of it changes a stack.

    And what lets `make coverage` see which lines the processes of a stack execute.
    """
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
    return {name: environ[name] for name in kept if name in environ} | GRPC


def service_environment(plan: Plan, keys: Keys, name: str) -> dict[str, str]:
    """Give the whole environment of one service's process; later parts win over earlier ones."""
    service = service_of(name)
    own = {"gateway": _gateway, "meetings": _meetings, "insights": _insights, "janitor": _janitor}.get(service)
    return (
        plain_environment()
        | _common(plan, keys, name)
        | (_grpc(plan, name) if service in WITH_GRPC else {})
        | (own(plan, keys, name) if own else {})
        | dict(plan.passed_on)
        | dict(plan.extra_env.get("*", {}))
        | dict(plan.extra_env.get(service, {}))
        | (dict(plan.extra_env.get(name, {})) if name != service else {})
    )


def database_url(plan: Plan, keys: Keys, service: str) -> str:
    """Give the SQLAlchemy URL of the database that a service owns."""
    password = {"meetings": keys.meetings_password, "insights": keys.insights_password}[service]
    return f"postgresql+psycopg://{service}:{password}@{HOST}:{plan.ports.of('postgres')}/{service}"


def nats_url(plan: Plan, keys: Keys, user: str) -> str:
    """Give the broker's URL for one of its users: a service, or `backup`."""
    return f"nats://{user}:{keys.nats_passwords[user]}@{HOST}:{plan.ports.of('nats')}"


def redis_url(plan: Plan, keys: Keys) -> str:
    """Give the URL of Redis as the gateway knows it."""
    return f"redis://gateway:{keys.redis_password}@{HOST}:{plan.ports.of('redis')}/0"


def _common(plan: Plan, keys: Keys, name: str) -> dict[str, str]:
    return {
        "VERBATIM_ENV": "development",
        "VERBATIM_DATA_DIR": str(plan.data_folder / "scratch"),
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "json",
        "INTERNAL_HOST": HOST,
        "INTERNAL_PORT": str(plan.ports.of(f"{name} internal")),
        "NATS_URL": nats_url(plan, keys, service_of(name)),
        "SERVICE_AUTH_KEY": keys.service_auth_key,
        "PYTHONPATH": os.pathsep.join(str(plan.code / part) for part in (".", "build/gen", "sdk")),
        "PYTHONUNBUFFERED": "1",
    }


def _grpc(plan: Plan, name: str) -> dict[str, str]:
    return {"GRPC_HOST": HOST, "GRPC_PORT": str(plan.ports.of(f"{name} grpc"))}


def _gateway(plan: Plan, keys: Keys, name: str) -> dict[str, str]:
    return {
        "HOST": HOST,
        "PORT": str(plan.ports.of(name)),
        "TRANSCRIBER_TARGETS": ",".join(plan.grpc_addresses("transcriber")),
        "MEETINGS_TARGET": _target(plan, "meetings"),
        "INSIGHTS_TARGET": _target(plan, "insights"),
        "AUTH_PUBLIC_KEY": keys.auth_public_key,
        "REDIS_URL": redis_url(plan, keys),
        "NOTICE_S": "0",  # nobody balances the load of a single gateway
    }


def _meetings(plan: Plan, keys: Keys, _name: str) -> dict[str, str]:
    return {
        "DATABASE_URL_MEETINGS": database_url(plan, keys, "meetings"),
        "AUTH_PRIVATE_KEY": keys.auth_private_key,
        "TRANSCRIBER_TARGET": _target(plan, "transcriber"),
    }


def _insights(plan: Plan, keys: Keys, _name: str) -> dict[str, str]:
    return {
        "DATABASE_URL_INSIGHTS": database_url(plan, keys, "insights"),
        "MEETINGS_TARGET": _target(plan, "meetings"),
    }


def _janitor(plan: Plan, _keys: Keys, _name: str) -> dict[str, str]:
    return {
        "TRANSCRIBER_TARGETS": ",".join(plan.grpc_addresses("transcriber")),
        "MEETINGS_TARGET": _target(plan, "meetings"),
    }


def _target(plan: Plan, service: str) -> str:
    addresses = plan.grpc_addresses(service)
    # Several addresses in one target are written in gRPC's own way.
    return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"

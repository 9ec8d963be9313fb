"""compose.yaml says the same as the chart: every variable is a setting, every service as hard."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import nats_permissions
from tests.chart.rendering import CHART, ROOT, SERVICES
from tests.chart.test_policies import settings_of

pytestmark = [pytest.mark.req("R-RUN-3"), pytest.mark.helmless]

PERMISSIONS = {user.upper() for user in nats_permissions.USERS}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting_and_every_required_setting_is_given(service: str) -> None:
    fields = settings_of(service).model_fields
    given = set(COMPOSE["services"][service]["environment"])
    assert given <= {name.upper() for name in fields}
    assert {name.upper() for name, field in fields.items() if field.is_required()} <= given


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_hardened_and_watched(service: str) -> None:
    told = COMPOSE["services"][service]
    assert told["read_only"] and told["cap_drop"] == ["ALL"] and told["user"] == "10001:10001"
    assert told["mem_limit"] and told["pids_limit"] and told["healthcheck"]["test"]
    drain_s = float(told["environment"]["DRAIN_S"])
    assert float(told["stop_grace_period"].removesuffix("s")) > drain_s


def test_only_the_gateway_has_a_port() -> None:
    assert [name for name, told in COMPOSE["services"].items() if "ports" in told] == ["gateway"]


def test_images_are_those_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "deploy/helm/verbatim/values.yaml").read_text())
    for store, told in values["bundled"].items():
        assert COMPOSE["services"][store]["image"] == f"{told['image']['repository']}:{told['image']['tag']}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_comes_to_the_broker_as_itself(service: str) -> None:
    password = f"NATS_PASSWORD_{service.upper()}"
    assert COMPOSE["services"][service]["environment"]["NATS_URL"] == f"nats://{service}:${{{password}:?}}@nats:4222"


def test_broker_and_redis_have_the_rules_of_the_chart() -> None:
    broker, counters = COMPOSE["services"]["nats"], COMPOSE["services"]["redis"]
    configuration = (CHART / "files" / "nats.conf").read_text()
    assert {variable for variable in re.findall(r"\$([A-Z_]+)", configuration) if variable not in PERMISSIONS} == set(
        broker["environment"]
    )
    for mounted in broker["volumes"][1:]:
        assert (ROOT / "deploy" / mounted.split(":")[0]).is_file(), mounted
    rules = (CHART / "files" / "redis-rules.txt").read_text().split()
    assert counters["command"][counters["command"].index("--user") :] == [
        *("--user", "default", "on", "resetpass", ">${REDIS_PASSWORD:?}", *rules),
    ]


def test_a_file_of_before_gets_what_it_lacks(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "compose_secrets.py"
    file = tmp_path / ".env"

    def told(*arguments: str) -> str:
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    file.write_text(told())
    assert told(str(file)) == ""
    kept = [line for line in file.read_text().splitlines() if not line.startswith("REDIS_PASSWORD=")]
    file.write_text("\n".join(kept))
    assert re.fullmatch(r"REDIS_PASSWORD='[0-9a-f]{48}'\n", told(str(file)))


def test_secrets_that_are_asked_for_are_made() -> None:
    text = (ROOT / "deploy/compose.yaml").read_text()
    asked, known = set(re.findall(r"\$\{(\w+):\?", text)), set(re.findall(r"\$\{(\w+):", text))
    script = ROOT / "deploy" / "compose_secrets.py"
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=True).stdout
    made = {line.partition("=")[0] for line in told.splitlines()}
    assert asked <= made <= known

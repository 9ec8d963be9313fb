"""Who is told of which alert: amtool reads the shipped configuration."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.alerts.test_rules import ALERTS

pytestmark = pytest.mark.req("R-OBS-2")

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
RECEIVERS = {"P1": "pager,chat", "P2": "chat", "ticket": "mail"}


def amtool(*arguments: str) -> str:
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("amtool is not installed (Debian: prometheus-alertmanager)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_configuration_is_valid() -> None:
    assert "SUCCESS" in amtool("check-config", str(CONFIGURATION))


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_goes_to_whom_its_severity_says(alert: str) -> None:
    severity = ALERTS[alert]["labels"]["severity"]
    wanted = "deadman" if alert == "Watchdog" else RECEIVERS[severity]
    arguments = ("config", "routes", "test", f"--config.file={CONFIGURATION}", f"alertname={alert}")
    assert amtool(*arguments, f"severity={severity}", "service=gateway") == wanted


def test_inhibition_names_alerts_that_there_are_and_labels_that_both_have() -> None:
    for rule in yaml.safe_load(CONFIGURATION.read_text())["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            name, _, values = matcher.partition("alertname")
            if not name and values:
                for value in values.lstrip("=~!").strip('"').split("|"):
                    assert value in ALERTS, value
        assert rule["equal"] == ["service"]

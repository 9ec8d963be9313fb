"""Every alert fires when it should, does not when it nearly should, and ends: promtool evaluates the shipped rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.cases import CASES, STEP_S, Case
from tests.alerts.promql import unknown

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "alerts").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ("Meaning", "Impact", "Diagnosis", "Mitigation", "Verify", "Escalate")
SEVERITIES = {"P1", "P2", "ticket", "none"}
ALWAYS = {"Watchdog"}

pytestmark = pytest.mark.req("R-OBS-2")


def alerts() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert rule["alert"] not in found, rule["alert"]
                    found[rule["alert"]] = rule
    return found


ALERTS = alerts()


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=110, check=False)


def file_of(alert: str) -> list[str]:
    """The file of an alert, and that of the recorded series."""
    holds = [str(path) for path in RULES if f"- alert: {alert}\n" in path.read_text()]
    recorded = [str(path) for path in RULES if path.name == "slo.yaml"] if "service:" in str(ALERTS[alert]) else []
    return sorted({*holds, *recorded})


def firing(folder: Path, series: dict[str, str], alert: str, at: str, step_s: int = STEP_S) -> bool:
    """Tell whether an alert fires at a time, by what promtool says of the expectation that it does not."""
    test = {
        "rule_files": file_of(alert),
        "evaluation_interval": f"{step_s}s",
        "tests": [
            {
                "interval": f"{step_s}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", str(path))
    told = done.stdout + done.stderr
    assert done.returncode == 0 or "got:[" in re.sub(r"\s", "", told), told
    return done.returncode != 0


@pytest.mark.parametrize(
    "alert",
    # Three days at the step of a minute take promtool half a minute.
    [
        pytest.param(alert, marks=pytest.mark.long if alert == "SLOSlowBurn" else ())
        for alert in sorted(ALERTS.keys() - ALWAYS)
    ],
)
def test_alert_fires_not_too_early_and_ends(alert: str, tmp_path: Path) -> None:
    case: Case = CASES[alert]
    assert firing(tmp_path, case.fires, alert, case.at, case.step_s), "does not fire"
    assert not firing(tmp_path, case.quiet, alert, case.at, case.step_s), "fires below its boundary"
    if case.recovers:
        assert not firing(tmp_path, case.recovers, alert, case.over, case.step_s), "does not end"


def test_watchdog_always_fires(tmp_path: Path) -> None:
    assert firing(tmp_path, {"up": "1x10"}, "Watchdog", "1m")


def test_every_alert_has_a_case_and_every_case_an_alert() -> None:
    assert CASES.keys() | ALWAYS == ALERTS.keys()


def test_rules_are_valid() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_says_what_it_means_and_where_its_runbook_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"
    assert rule["annotations"]["summary"] and rule["annotations"]["description"] and rule["annotations"]["dashboard"]
    runbook = RUNBOOKS / f"{alert}.md"
    assert runbook.exists(), f"{runbook} is missing"
    text = runbook.read_text()
    assert text.startswith(f"# {alert}\n")
    assert [s for s in SECTIONS if f"\n## {s}\n" not in text] == []


def test_every_runbook_is_of_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("[A-Z]*.md")} <= ALERTS.keys()


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_metric_that_an_alert_asks_for_is_declared(alert: str) -> None:
    assert unknown(ALERTS[alert]["expr"]) == set()


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_query_of_a_runbook_can_be_asked(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    queries = [line for block in re.findall(r"```promql\n(.*?)```", text, re.S) for line in block.splitlines()]
    for query in queries:
        assert unknown(query) == set(), query

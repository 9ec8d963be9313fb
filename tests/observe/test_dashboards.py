"""The dashboards say what they show, ask for what exists, and are what the tables make of them."""

from __future__ import annotations

import json
from typing import Any

import promql_parser
import pytest
import yaml

from dev.dashboards import BUDGETS, FOLDER, files
from dev.panels import DASHBOARDS, RANGE, Panel
from dev.slos import SLOS, WINDOWS
from tests.alerts.promql import unknown
from tests.alerts.test_rules import ALERTS

pytestmark = pytest.mark.req("R-OBS-3")
PANELS = [(board.name, panel) for board in DASHBOARDS for panel in board.panels]


def shipped(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def test_what_is_shipped_is_what_the_tables_make() -> None:
    for path, contents in files().items():
        assert path.read_text() == contents, f"{path.name}: python -m dev.dashboards"
    assert {path.name for path in FOLDER.glob("*.json")} == {p.name for p in files() if p != BUDGETS}


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=[f"{b}/{p.title}" for b, p in PANELS])
def test_a_panel_says_what_it_means_and_asks_for_what_exists(board: str, panel: Panel) -> None:
    found = next(one for one in shipped(board)["panels"] if one["title"] == panel.title)
    assert found["description"].endswith((".", "`.")) and found["fieldConfig"]["defaults"]["unit"]
    assert found["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for target in found["targets"]:
        expression = target["expr"].replace(RANGE, "5m")
        promql_parser.parse(expression)
        assert unknown(expression) == set()
    assert set(panel.alerts) <= ALERTS.keys()
    assert len(found["links"]) == len(panel.alerts)


def test_every_alert_is_on_the_dashboard_that_it_names() -> None:
    places = {f"verbatim-{board.name}" for board in DASHBOARDS}
    for name, rule in ALERTS.items():
        assert rule["annotations"]["dashboard"] in places, name


def test_panels_of_a_dashboard_do_not_lie_on_each_other() -> None:
    for board in DASHBOARDS:
        cells = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in shipped(board.name)["panels"]]
        assert len(cells) == len(set(cells)), board.name


@pytest.mark.req("R-OBS-7")
def test_every_objective_has_its_ratios_its_budget_and_alerts() -> None:
    rules = [rule for group in _groups() for rule in group["rules"]]
    for slo in SLOS:
        recorded = {rule["record"] for rule in rules if rule.get("labels", {}).get("slo") == slo.name}
        assert {f"slo:errors:ratio_rate{window}" for window in WINDOWS} <= recorded
        assert {"slo:budget:remaining_ratio", "slo:objective:ratio"} <= recorded
        for rule in rules:
            assert unknown(rule["expr"]) == set(), rule
    assert {"ErrorBudgetFastBurn", "ErrorBudgetSlowBurn", "SessionAudioMissing"} <= ALERTS.keys()


def _groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(BUDGETS.read_text())["groups"]
    return found

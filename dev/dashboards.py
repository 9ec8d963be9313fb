"""Grafana's dashboards and the rules of the error budgets, from the tables. `python -m dev.dashboards` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from dev.panels import DASHBOARDS, Dashboard, Panel
from dev.settings import ROOT
from dev.slos import rules

FOLDER = ROOT / "deploy" / "dashboards"
BUDGETS = ROOT / "deploy" / "alerts" / "budgets.yaml"
RUNBOOKS = "https://github.com/verbatim/verbatim/blob/main/docs/runbooks"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TRACES = {"type": "tempo", "uid": "${traces}"}
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
# Less is worse.
_FALLING = frozenset({"Error budget left", "Disk free"})


def files() -> dict[Path, str]:
    """Return every generated file with its contents."""
    made = {FOLDER / f"{one.name}.json": json.dumps(_dashboard(one), indent=1) + "\n" for one in DASHBOARDS}
    head = "# Made from dev/slos.py: python -m dev.dashboards\n"
    made[BUDGETS] = head + yaml.safe_dump(rules(), sort_keys=False, width=1000)
    return made


def _dashboard(one: Dashboard) -> dict[str, Any]:
    panels = [_panel(number, panel) for number, panel in enumerate(one.panels)]
    variables = [_variable("datasource", "Metrics", "prometheus")]
    if one.traces:
        variables += [_variable("traces", "Traces", "tempo"), _text("id", "Session, meeting or segment id")]
        panels.append(_trace_search(len(panels)))
    return {
        "uid": f"verbatim-{one.name}",
        "title": one.title,
        "description": one.about,
        "tags": ["verbatim"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "links": [
            {"type": "dashboards", "tags": ["verbatim"], "title": "Verbatim", "asDropdown": True, "keepTime": True}
        ],
        "annotations": {"list": [_alerts_shown(one)]},
        "templating": {"list": variables},
        "panels": panels,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    links = [
        {"title": f"Runbook: {name}", "url": f"{RUNBOOKS}/{name}.md", "targetBlank": True} for name in panel.alerts
    ]
    shown: dict[str, Any] = {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": _place(number),
        "links": links,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": _thresholds(panel), "custom": _style(panel)},
            "overrides": [],
        },
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expr, "legendFormat": legend,
                "exemplar": panel.kind == "timeseries", "instant": panel.kind != "timeseries",
            }
            for place, (legend, expr) in enumerate(panel.queries)
        ],
    }  # fmt: skip
    return shown


def _place(number: int) -> dict[str, int]:
    return {
        "x": number % _COLUMNS * _WIDTH, "y": number // _COLUMNS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT
    }  # fmt: skip


def _thresholds(panel: Panel) -> dict[str, Any]:
    bounds = [panel.worry, panel.alarm]
    colours = ["green", "yellow", "red"]
    if panel.title in _FALLING:
        bounds.reverse()
        colours.reverse()
    steps: list[dict[str, Any]] = [{"color": colours[0], "value": None}]
    steps += [{"color": c, "value": b} for c, b in zip(colours[1:], bounds, strict=True) if b is not None]
    return {"mode": "absolute", "steps": steps}


def _style(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    return {"fillOpacity": 5, "showPoints": "never", "thresholdsStyle": {"mode": "line" if panel.alarm else "off"}}


def _alerts_shown(one: Dashboard) -> dict[str, Any]:
    names = "|".join(sorted({name for panel in one.panels for name in panel.alerts})) or "none"
    return {
        "name": "Alerts", "datasource": _SOURCE, "enable": True, "iconColor": "red", "titleFormat": "{{alertname}}",
        "expr": f'ALERTS{{alertstate="firing",alertname=~"{names}"}}', "step": "30s",
    }  # fmt: skip


def _variable(name: str, label: str, kind: str) -> dict[str, Any]:
    return {"name": name, "label": label, "type": "datasource", "query": kind, "hide": 0}


def _text(name: str, label: str) -> dict[str, Any]:
    return {"name": name, "label": label, "type": "textbox", "query": "", "hide": 0}


def _trace_search(number: int) -> dict[str, Any]:
    query = (
        '{ span.verbatim.session_id = "$id" || span.verbatim.segment_id = "$id" || span.verbatim.request_id = "$id" }'
    )
    return {
        "id": number + 1, "type": "table", "title": "Traces", "datasource": _TRACES, "gridPos": _place(number),
        "description": "Every trace of the id: the session from its opening to its minutes, and each utterance.",
        "fieldConfig": {"defaults": {"unit": "none", "thresholds": {"mode": "absolute", "steps": []}}, "overrides": []},
        "links": [], "options": {},
        "targets": [{
            "refId": "A", "datasource": _TRACES, "queryType": "traceql", "query": query, "limit": 50,
            "tableType": "traces",
        }],
    }  # fmt: skip


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for path, contents in files().items():
        path.write_text(contents)


if __name__ == "__main__":
    main()

"""What watches the platform: the operator's objects say what our files say; the bundled Prometheus finds and judges."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import ROOT, SERVICES, Object, release

pytestmark = [pytest.mark.req("R-OBS-2", "R-RUN-2"), pytest.mark.timeout(300)]

OURS: Object = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())
_CAMEL = re.compile(r"_([a-z])")
_MATCHER = re.compile(r'(?P<name>\w+)(?P<type>=~|!~|!=|=)"(?P<value>.*)"')


def spelt(route: Object) -> Object:
    """Return a route of our file in the operator's spelling."""
    found: Object = {}
    for key, value in route.items():
        camel = _CAMEL.sub(lambda letter: letter[1].upper(), key)
        found[camel] = value
    if "matchers" in route:
        found["matchers"] = matchers(route["matchers"])
    if "routes" in route:
        found["routes"] = [spelt(inner) for inner in route["routes"]]
    return found


def matchers(told: list[str]) -> list[dict[str, str]]:
    read = [match for one in told if (match := _MATCHER.fullmatch(one))]
    assert len(read) == len(told)
    return [{"name": one["name"], "matchType": one["type"], "value": one["value"]} for one in read]


def data(case: str, name: str) -> dict[str, str]:
    [found] = [one for one in release(case).of("ConfigMap") if one["metadata"]["name"] == name]
    told: dict[str, str] = found["data"]
    return told


def test_operators_alertmanager_tells_whom_our_file_tells() -> None:
    [config] = release("alertmanager-config").of("AlertmanagerConfig")
    assert config["spec"]["route"] == spelt(OURS["route"])
    assert config["spec"]["inhibitRules"] == [
        {
            "sourceMatch": matchers(rule["source_matchers"]),
            "targetMatch": matchers(rule["target_matchers"]),
            "equal": rule["equal"],
        }
        for rule in OURS["inhibit_rules"]
    ]
    kinds = {"pagerduty_configs": "pagerdutyConfigs", "slack_configs": "slackConfigs", "email_configs": "emailConfigs"}
    for ours, theirs in zip(OURS["receivers"], config["spec"]["receivers"], strict=True):
        [way] = ours.keys() - {"name"}
        assert theirs.keys() == {"name", kinds.get(way, "webhookConfigs")}
        assert theirs["name"] == ours["name"]


def test_bundled_prometheus_takes_its_configuration_and_the_alerts(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    for name, text in data("bundled-monitoring", "v-verbatim-alerts").items():
        (tmp_path / name).write_text(text)
    text = data("bundled-monitoring", "v-verbatim-prometheus")["prometheus.yml"].replace("/rules/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(text)
    told = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"SUCCESS: {len(list((ROOT / 'deploy' / 'alerts').glob('*.yaml')))} rule files found" in told.stdout


def test_bundled_prometheus_finds_every_service_under_its_name() -> None:
    rendered = release("bundled-monitoring")
    headless = {one["metadata"]["name"] for one in rendered.of("Service") if one["spec"].get("clusterIP") == "None"}
    config: Object = yaml.safe_load(data("bundled-monitoring", "v-verbatim-prometheus")["prometheus.yml"])
    jobs: dict[str, Any] = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs.keys() == set(SERVICES)
    for service, job in jobs.items():
        [found] = job["dns_sd_configs"]
        assert found["names"] == [f"v-verbatim-{service}-metrics"] and set(found["names"]) <= headless
        assert job["relabel_configs"] == [{"target_label": "service", "replacement": service}]


def test_bundled_monitoring_carries_our_files_untouched() -> None:
    alerts = data("bundled-monitoring", "v-verbatim-alerts")
    assert {name: text.rstrip() for name, text in alerts.items()} == {
        file.name: file.read_text().rstrip() for file in (ROOT / "deploy" / "alerts").glob("*.yaml")
    }
    told = data("bundled-monitoring", "v-verbatim-alertmanager")
    assert {name: text.rstrip() for name, text in told.items()} == {
        file.name: file.read_text().rstrip() for file in (ROOT / "deploy" / "alertmanager").iterdir()
    }
    pods = dict(release("bundled-monitoring").pods())
    [dashboards] = [one for one in pods["v-verbatim-grafana"]["spec"]["volumes"] if one["name"] == "dashboards"]
    assert {source["configMap"]["name"] for source in dashboards["projected"]["sources"]} == {
        f"v-verbatim-dashboard-{file.stem}" for file in (ROOT / "deploy" / "dashboards").glob("*.json")
    }


def test_nothing_watches_unless_it_is_asked_for() -> None:
    names = {found["metadata"]["name"] for found in release("default").objects}
    assert not {name for name in names if re.search(r"prometheus|alertmanager|grafana|metrics", name)}

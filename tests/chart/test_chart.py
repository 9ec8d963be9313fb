"""The chart renders, is valid for Kubernetes, refuses what makes no sense, and changes only in sight."""

from __future__ import annotations

import difflib
import json

import kubernetes_validate
import pytest
import yaml

from dev import chart as derived
from tests.chart import golden
from tests.chart.rendering import CASES, CHART, NEWEST, OLDEST, SERVICES, Object, Refused, release, render, run

pytestmark = [pytest.mark.req("R-RUN-2"), pytest.mark.timeout(600)]

CUSTOM = {"AlertmanagerConfig", "Certificate", "PodMonitor", "PrometheusRule", "HTTPRoute", "ScaledObject"}


def test_lint_has_nothing_to_say() -> None:
    assert "0 chart(s) failed" in run("lint", "--strict", str(CHART))


@pytest.fixture(scope="module")
def checked() -> set[tuple[str, str]]:
    """What Kubernetes knows: version and object."""
    return set()


@pytest.mark.parametrize("kube", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str, kube: str, checked: set[tuple[str, str]]) -> None:
    objects = release(case).objects if kube == NEWEST else render(CASES[case], kube=kube)
    assert objects
    for found in objects:
        # Most objects are the same in every case.
        known = (kube, json.dumps(found, sort_keys=True))
        if found["kind"] not in CUSTOM and known not in checked:
            kubernetes_validate.validate(found, ".".join(kube.split(".")[:2]), strict=True)
            checked.add(known)


def test_validation_sees_a_wrong_field() -> None:
    wrong: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"bundled": {"postgres": {"enabled": False}}}, "external.postgres.existingSecret"),
        ({"bundled": {"nats": {"enabled": False}}}, "external.nats.existingSecret"),
        ({"bundled": {"redis": {"enabled": False}}}, "external.redis.existingSecret"),
        ({"external": {"nats": {"existingSecret": "x"}}}, "bundled.nats.enabled"),
        ({"secrets": {"generate": False}}, "secrets.existingSecret"),
        ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.host"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.parentRefs"),
        ({"tls": {"enabled": True}}, "tls.issuerRef.name"),
        ({"tls": {"enabled": True, "issuerRef": {"name": "a"}, "existingSecretPrefix": "b"}}, "existingSecretPrefix"),
        ({"backup": {"enabled": True}}, "backup.existingClaim"),
        ({"metrics": {"alertmanagerConfig": {"enabled": True}}}, "alertmanagerConfig.existingSecret"),
        ({"services": {"gateway": {"autoscaling": {"min": 5, "max": 2}}}}, "services.gateway.autoscaling.min"),
        ({"defaults": {"drainSeconds": 20000}}, "drainSeconds"),
        ({"replicaCount": 3}, "replicaCount"),
        ({"services": {"gatway": {}}}, "gatway"),
        ({"services": {"gateway": {"replicas": "three"}}}, "replicas"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"gateway": {"service": {"type": "Loadbalancer"}}}, "type"),
    ],
)
def test_nonsense_is_refused_with_the_key_to_set(values: Object, key: str) -> None:
    with pytest.raises(Refused, match=key):
        render(values)


def test_an_old_kubernetes_is_refused() -> None:
    with pytest.raises(Refused, match=r"1\.28"):
        render(kube="1.28.0")


def test_every_service_is_the_same_template() -> None:
    found = release("default")
    assert set(found.services()) == set(SERVICES)


@pytest.mark.helmless
def test_table_and_schema_of_values_are_current() -> None:
    values = (CHART / "values.yaml").read_text()
    assert (CHART / "README.md").read_text() == derived.readme(values), "run: python -m dev.reference"
    assert (CHART / "values.schema.json").read_text() == derived.schema(values), "run: python -m dev.reference"


@pytest.mark.helmless
def test_chart_depends_on_no_other() -> None:
    assert "dependencies" not in yaml.safe_load((CHART / "Chart.yaml").read_text())


@pytest.mark.parametrize("case", golden.CASES)
def test_what_is_rendered_changes_only_in_sight(case: str) -> None:
    expected, actual = golden.path(case).read_text(), golden.text(release(case).objects)
    difference = "\n".join(difflib.unified_diff(expected.splitlines(), actual.splitlines(), lineterm="", n=1))
    assert not difference, f"{difference}\nif it is meant: python -m tests.chart.golden"

"""A run of steps tells what was not run, and a step that fails fails the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart.rendering import CHART
from tests.cluster.building import CannotBuildError, programs
from tests.cluster.imaginary import running
from tests.cluster.kube import Cluster, Nodes, Refused
from tests.cluster.steps import Scene, Step, play, table

pytestmark = pytest.mark.req("R-RUN-2")


def scene(nodes: Nodes) -> Scene:
    return Scene(Cluster("kubectl", "helm"), nodes, CHART, CHART, "today", {})


def seen(_scene: Scene) -> str:
    return "seen"


def missing(_scene: Scene) -> str:
    raise AssertionError("a | b\nis not there")


def refused(_scene: Scene) -> str:
    raise Refused("forbidden")


def test_what_needs_containers_is_not_run_on_paper_and_does_not_count_as_passed() -> None:
    steps = [Step("api", "Api", seen), Step("live", "Live", seen, containers=True)]
    assert [one.verdict for one in play(scene(Nodes.IMAGINARY), steps, print)] == ["passed", "not run"]
    assert [one.verdict for one in play(scene(Nodes.REAL), steps, print)] == ["passed", "passed"]


def test_a_step_that_fails_keeps_no_other_from_being_played() -> None:
    told: list[str] = []
    outcomes = play(
        scene(Nodes.REAL), [Step("a", "A", missing), Step("b", "B", refused), Step("c", "C", seen)], told.append
    )
    assert [one.verdict for one in outcomes] == ["FAILED", "FAILED", "passed"]
    assert "| A | FAILED | a \\| b is not there |" in table(outcomes)
    assert len(told) == 3


def test_without_etcd_or_go_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuildError, match="etcd"):
        programs(tmp_path, print, system_folders="")
    etcd = tmp_path / "etcd"
    etcd.touch(mode=0o755)
    with pytest.raises(CannotBuildError, match="no Go to build it with"):
        programs(tmp_path, print, system_folders="")


def test_a_pod_on_paper_is_ready() -> None:
    status = running({"spec": {"containers": [{"name": "one", "image": "i"}]}}, "10.244.0.1")
    assert status["phase"] == "Running"
    assert {"type": "Ready", "status": "True"}.items() <= status["conditions"][-1].items()
    assert [one["ready"] for one in status["containerStatuses"]] == [True]

"""What a step is, and how a run of them is told."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.kube import Cluster, Nodes, Object, Refused


@dataclass
class Scene:
    """What a step is given: the cluster, the chart to upgrade from, values that every install gets."""

    cluster: Cluster
    nodes: Nodes
    chart: Path
    previous: Path
    previous_name: str
    values: Object
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="verbatim-cluster-")))
    # Holds the node on paper back from running more; None where nodes are real.
    pause: Path | None = None

    @property
    def real(self) -> bool:
        """Whether containers run."""
        return self.nodes is Nodes.REAL


Play = Callable[[Scene], str]


@dataclass(frozen=True)
class Step:
    """`play` returns what was seen, or raises AssertionError or Refused.

    `pods`: only where there are nodes, if only on paper; `containers`: only where containers run.
    """

    name: str
    title: str
    play: Play
    pods: bool = False
    containers: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a step went."""

    step: Step
    verdict: str
    told: str
    seconds: float


def play(scene: Scene, steps: Iterable[Step], say: Callable[[str], None]) -> list[Outcome]:
    """Play the steps one after the other; a step that fails does not keep the next from being played."""
    outcomes = []
    for step in steps:
        began = time.monotonic()
        if step.containers and not scene.real:
            verdict, told = "not run", f"needs containers; this is {scene.nodes.value}"
        elif step.pods and scene.nodes is Nodes.NONE:
            verdict, told = "not run", f"needs nodes; this is {scene.nodes.value}"
        else:
            try:
                verdict, told = "passed", step.play(scene)
            except (AssertionError, Refused, subprocess.TimeoutExpired) as fault:
                verdict, told = "FAILED", str(fault)
        outcomes.append(Outcome(step, verdict, told, time.monotonic() - began))
        say(f"{verdict:7} {step.name}: {told} ({outcomes[-1].seconds:.0f} s)")
    return outcomes


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as a table for people."""
    rows = [f"| {one.step.title} | {one.verdict} | {_cell(one.told)} | {one.seconds:.0f} |" for one in outcomes]
    return "\n".join(["| step | result | what was seen | s |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:400]

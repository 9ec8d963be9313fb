"""`make cluster-test`: the chart in a cluster, step by step; what cannot be run there is said with the reason.

The cluster is that of the current kubeconfig (kind, k3d, any), or with `--cluster control-plane` one that is started
here.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chart import rendering
from tests.chart.rendering import CHART, ROOT
from tests.cluster import admission, people, releases
from tests.cluster.building import CannotBuildError, programs
from tests.cluster.control_plane import control_plane
from tests.cluster.kube import Cluster, Nodes, Refused, until
from tests.cluster.steps import Outcome, Scene, Step, play, table

TOOLS = ROOT / ".run" / "control-plane"
MARKS = ("<!-- results -->", "<!-- end of results -->")
STEPS = [*admission.STEPS, *releases.STEPS]


def main() -> int:
    """Run the steps; return 0 if none failed."""
    options = _options()
    steps = [step for step in STEPS if not options.steps or step.name in options.steps.split(",")]
    if rendering.helm() is None:
        print("skipped: Helm is not on the PATH, and there is no Go to build it with")
        return 0
    try:
        if options.cluster == "control-plane":
            outcomes, where = asyncio.run(_here(options, steps))
        else:
            outcomes, where = _there(options, steps)
    except (CannotBuildError, Refused) as fault:
        print(f"skipped: {str(fault).splitlines()[-1]}")
        return 0
    told = f"{where}\n\n{table(outcomes)}"
    print(told)
    if options.out:
        _write(Path(options.out), told)
    failed = [one for one in outcomes if one.verdict == "FAILED"]
    print(f"{sum(one.verdict == 'passed' for one in outcomes)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--cluster", choices=("current", "control-plane"), default="current")
    parser.add_argument("--image", default="verbatim:0.1.0", help="the image that real nodes run")
    parser.add_argument("--previous", default="", help="git revision of the chart to upgrade from")
    parser.add_argument("--steps", default="", help="names, comma-separated; all by default")
    parser.add_argument("--out", default="", help="document whose table of results is written anew")
    return parser.parse_args()


async def _here(options: argparse.Namespace, steps: list[Step]) -> tuple[list[Outcome], str]:
    with tempfile.TemporaryDirectory(prefix="verbatim-control-plane-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with control_plane(folder, TOOLS, print) as kubeconfig:
            kubectl = programs(TOOLS, print)["kubectl"]
            cluster = Cluster(str(kubectl), rendering.helm() or "", kubeconfig)
            await asyncio.to_thread(until, lambda: cluster.nodes() is Nodes.IMAGINARY, 60.0, "the node on paper")
            return await asyncio.to_thread(_play, options, cluster, steps, folder / "paused")


def _there(options: argparse.Namespace, steps: list[Step]) -> tuple[list[Outcome], str]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CannotBuildError("kubectl is not on the PATH")
    return _play(options, Cluster(kubectl, rendering.helm() or ""), steps, None)


def _play(
    options: argparse.Namespace, cluster: Cluster, steps: list[Step], pause: Path | None
) -> tuple[list[Outcome], str]:
    nodes, helm = cluster.nodes(), cluster.helm("version", "--template", "{{ .Version }}")
    where = f"Kubernetes {cluster.version()}, {nodes.value}; Helm {helm}."
    print(where)
    values = {}
    if nodes is Nodes.REAL:
        print(people.load_image(cluster, options.image))
        values = people.values(options.image)
    with tempfile.TemporaryDirectory(prefix="verbatim-previous-") as name:
        revision = options.previous or _previous()
        previous = _chart_of(revision, Path(name))
        scene = Scene(cluster, nodes, CHART, previous, f"revision {revision[:9]}", values, pause=pause)
        return play(scene, steps, print), where


def _previous() -> str:
    """Return the newest release, or else the oldest revision in which the chart had today's version number."""
    tagged = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tagged.returncode == 0:
        return tagged.stdout.strip()
    file = str((CHART / "Chart.yaml").relative_to(ROOT))
    return _git("log", "--format=%H", "--", file).decode().split()[-1]


def _chart_of(revision: str, folder: Path) -> Path:
    archive = _git("archive", revision, "deploy")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True, timeout=60)
    return folder / CHART.relative_to(ROOT)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


def _write(document: Path, told: str) -> None:
    head, _, rest = document.read_text().partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    document.write_text(f"{head}{MARKS[0]}\n\n{told}\n\n{MARKS[1]}{tail}")


if __name__ == "__main__":
    sys.exit(main())
